"""The options that commands share, each declared once. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _allow_code(context: typer.Context, allowed: bool) -> None:
    if allowed:
        # Here, as most commands need no resources to start.
        from editspec.engine.resources import allow_code

        # The permission ends with the command: tests run several in one process.
        context.with_resource(allow_code())


# Arguments

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The edit spec, YAML or JSON.")]
SpecArguments = Annotated[
    list[Path], typer.Argument(metavar="SPEC...", help="Edit specs, below the working folder.")
]
StackArguments = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATCH...",
        help="The whole stack, in order: patches, or a build: DIR or hf://ORG/REPO.",
    ),
]

# Files and folders

OutFolder = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The output folder.")]
BuildFolder = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="DIR", help="The folder of the build.")
]
Patches = Annotated[
    Path | None,
    typer.Option("--patches", metavar="DIR", help="Take the patches of this build."),
]
OutPicture = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="OUT.png", help="Where the picture goes: .png, .jpg, .webp."
    ),
]
ContactSheet = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="OUT.png", help="A contact sheet: .png, .jpg, .webp."),
]
Base = Annotated[
    str,
    typer.Option("--model", metavar="BASE", help="builtin:skyline, or a checkpoint's path."),
]
JUnit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the checks as JUnit XML.")
]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write the checks as Markdown.")
]

# Choices

EditName = Annotated[
    str | None, typer.Option("--edit", metavar="NAME", help="Which edit; default: the first.")
]
Family = Annotated[
    str | None,
    typer.Option(
        "--family", metavar="NAME", help="The family of the weights; default: found by names."
    ),
]

Latent = Annotated[
    int | None,
    typer.Option("--latent", min=0, max=10**9, metavar="N", help="Which image of the stream."),
]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="PROMPT", help="Of a language model: a whole prompt."),
]
Text = Annotated[
    str | None,
    typer.Option("--text", metavar="WORDS", help="What may follow it; default: any next token."),
]
Layers = Annotated[str, typer.Option("--layers", metavar="L,L,…", help="Layers to try.")]

Module = Annotated[
    str | None,
    typer.Option(
        "--module",
        metavar="MODULE:FACTORY",
        help="The code of a torch network, for weights without SPEC; needs --allow-code.",
    ),
]

# Means of the work

AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Import model.module, which runs code of others.",
        callback=_allow_code,
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="Where to compute.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="Parts computed at once; default: all cores."
    ),
]

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Processes of one thread each; default: what the machine has.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="local:N|ADDRESS|FILE",
        help="Workers of a Dask cluster: here, of a scheduler, or as a file says.",
    ),
]

# Output

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

TrustConfig = Annotated[
    Path | None,
    typer.Option("--trust-config", metavar="JSON", help="Your own Sigstore, not the public one."),
]
