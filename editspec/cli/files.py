"""Commands on files: init, inspect, import, export, convert, schema, families."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.command import Progress, of_files
from editspec.cli.options import AllowCode, Family
from editspec.engine.result import CommandResult
from editspec.worlds.registry import DEFAULT_WEIGHTS


@of_files
def init(
    work: Progress,
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder; default: the working folder.")
    ] = Path(),
    model: Annotated[
        str, typer.Option("--model", metavar="WEIGHTS", help="The weights, as model.weights.")
    ] = DEFAULT_WEIGHTS,
    family: Family = None,
) -> CommandResult:
    """Begin a folder for edits of a model.

    Writes a spec that validates, .editspec.toml, a workflow for pull requests, a hook of pre-commit
    and .gitignore. Files that are there stay as they are.
    """
    return editspec.init(folder, model=model, family=family, **work)


@of_files
def inspect(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A spec, a lock, a build, a patch, a mask or weights."),
    ],
    family: Family = None,
    allow_code: AllowCode = False,
) -> CommandResult:
    """Show the kind of a file and its contents."""
    return editspec.inspect(file, family)


@of_files
def import_records(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="A record, or a folder of records.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="SPEC", help="The spec; of a folder, a folder of specs."
        ),
    ],
    family: Annotated[
        str, typer.Option("--family", metavar="NAME", help="The family of the weights.")
    ],
    weights: Annotated[
        str, typer.Option("--weights", metavar="WEIGHTS", help="The model.weights of the spec.")
    ],
    layer: Annotated[
        str, typer.Option("--layer", metavar="LAYER", help="The layer that the edit changes.")
    ],
    compatibility: Annotated[
        bool,
        typer.Option(
            "--compatibility", help="For the numbers of the authors' code: its quirks, too."
        ),
    ] = False,
) -> CommandResult:
    """Make specs of edit records of the authors' notebook."""
    return editspec.import_records(
        record, out, family=family, weights=weights, layer=layer, compatibility=compatibility
    )


@of_files
def export(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC|PATCH...", help="A spec, or patches in their order."),
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="record|peft|diffusers|kohya|delta|full",
            help="A record of SPEC, or of PATCH... a LoRA, the changes, the changed parameters.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="OUT", help="Where it goes: a file; of peft, a folder."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="BASE", help="For full: what PATCH... start from."),
    ] = None,
) -> CommandResult:
    """Export a spec or patches in the formats of other tools."""
    return editspec.export(files, format, out, model=model)


@of_files
def convert(
    work: Progress,
    weights: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint, or a .gguf.")],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.safetensors", help="Where the weights go; or OUT.pt, or a folder."
        ),
    ],
    family: Family = None,
) -> CommandResult:
    """Write the model of a checkpoint as .safetensors or .pt.

    Names and digest stay as they are. A .gguf file of a language model becomes a folder.
    """
    return editspec.convert(weights, out, family, **work)


@of_files
def schema() -> CommandResult:
    """Print the JSON Schema of the language, for editors."""
    return editspec.schema()


@of_files
def families() -> CommandResult:
    """List the families of generators, and what each can load."""
    return editspec.families()


@of_files
def cache(
    action: Annotated[
        str | None, typer.Argument(metavar="[prune]", help="Remove entries; all may be made again.")
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", help="Only what was not used for so long."),
    ] = None,
    larger_than: Annotated[
        str | None,
        typer.Option("--larger-than", metavar="SIZE", help="Only what is larger: bytes, 500M, 2G."),
    ] = None,
) -> CommandResult:
    """Show where the cache is and how large, or prune it."""
    return editspec.cache(action, older_than=older_than, larger_than=larger_than)
