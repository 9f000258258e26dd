"""Commands on files: inspect, import, export, convert, schema, families."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.options import AllowCode, Debug, Family, Json
from editspec.cli.output import answer, report_errors, run_command


def inspect(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A spec, a lock, a build, a patch, a mask or weights."),
    ],
    family: Family = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the kind of a file and its contents."""
    with report_errors(as_json, debug):
        answer(editspec.inspect(file, family), as_json)


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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make specs of edit records that were made in the authors' notebook."""
    with report_errors(as_json, debug):
        result = editspec.import_records(
            record, out, family=family, weights=weights, layer=layer, compatibility=compatibility
        )
        answer(result, as_json)


def export(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC|PATCH...", help="A spec, or patches in their order."),
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="record|peft|delta|full",
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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a spec or patches in the formats of other tools."""
    with report_errors(as_json, debug):
        answer(editspec.export(files, format, out, model=model), as_json)


def convert(
    weights: Annotated[
        str, typer.Argument(metavar="IN", help="A checkpoint: .pt, .pth, .pkl or .safetensors.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.safetensors", help="Where the weights go; or OUT.pt.")
    ],
    family: Family = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the model of a checkpoint as safetensors or .pt; names and digest stay."""
    with run_command(as_json, debug) as progress:
        answer(editspec.convert(weights, out, family, progress=progress), as_json)


def schema(debug: Debug = False) -> None:
    """Print the JSON Schema of the language, for editors."""
    with report_errors(False, debug):
        answer(editspec.schema(), as_json=False)


def families(as_json: Json = False, debug: Debug = False) -> None:
    """List the families of generators, and what each can load."""
    with report_errors(as_json, debug):
        answer(editspec.families(), as_json)


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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show where the cache is and how large, or prune it."""
    with report_errors(as_json, debug):
        result = editspec.cache(action, older_than=older_than, larger_than=larger_than)
        answer(result, as_json)
