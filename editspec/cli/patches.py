"""Commands on patches: verify, sign, apply, compose, rebase, diff, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.options import (
    AllowCode,
    Base,
    Debug,
    Device,
    Json,
    OutFolder,
    StackArguments,
    Threads,
)
from editspec.cli.output import answer, report_errors, run_command


def verify(
    patches: StackArguments,
    model: Base,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="Build again from it and compare.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", metavar="PEM", help="The build folder must be signed by this key."
        ),
    ] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Verify a stack of patches; with SPEC, solve each patch again and compare."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.verify(
            model, patches, spec, public_key=public_key, device=device, progress=progress
        )
        answer(result, as_json)


def sign(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a build with --provenance.")
    ],
    key: Annotated[
        Path, typer.Option("--key", metavar="PEM", help="A private key of an elliptic curve.")
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sign the patches and the provenance of a build: DIR/model.sig."""
    with report_errors(as_json, debug):
        answer(editspec.sign(folder, key), as_json)


def apply(
    patches: StackArguments,
    model: Base,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="A file as BASE, or as its ending says (.safetensors, .pt); for shards, a folder.",
        ),
    ] = None,
    only_generator: Annotated[
        bool, typer.Option("--only-generator", help="Write the tensors of the generator alone.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would change.")
    ] = False,
    scale: Annotated[
        float, typer.Option("--scale", help="Multiply the change; no patch names the result.")
    ] = 1.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Apply a stack of patches to the weights that it was built from."""
    if (out is None) is not dry_run:
        raise typer.BadParameter("give -o OUT, or --dry-run and no OUT")
    with report_errors(as_json, debug):
        result = editspec.apply(
            model, patches, out, only_generator=only_generator, dry_run=dry_run, scale=scale
        )
        answer(result, as_json)


def compose(
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="Patches that follow one another.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="ONE", help="Where the one patch goes.")
    ],
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Approximate at this rank, best under C.")
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="SPEC", help="With --rank: the spec that C is of."),
    ] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make one patch of a stack."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.compose(
            patches, out, rank=rank, spec=spec, device=device, progress=progress
        )
        answer(result, as_json)


def rebase(
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="The stack as it is to be.")
    ],
    model: Base,
    out: OutFolder,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="Solve again from it.")
    ] = None,
    keep_deltas: Annotated[
        bool, typer.Option("--keep-deltas", help="Rewrite parents, solve nothing.")
    ] = False,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a valid stack of patches in a new order or on another base: DIR/patches."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.rebase(
            patches,
            model,
            out,
            spec=spec,
            keep_deltas=keep_deltas,
            device=device,
            progress=progress,
        )
        answer(result, as_json)


def diff(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="A patch, the folder of a build, or weights.")
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another of the same kind.")],
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="OUT.png", help="Images of A and of B.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="BASE", help="For pictures of patches.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the differences of two patches, two stacks or two files of weights."""
    with report_errors(as_json, debug):
        answer(editspec.diff(first, second, picture=picture, model=model), as_json)


def audit(
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The weights before.")],
    edited: Annotated[str, typer.Option("--edited", metavar="EDITED", help="The weights after.")],
    patches: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATCH...]", help="Patches that may explain it.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Test whether patches explain the difference of two checkpoints; exit 1 if not."""
    with report_errors(as_json, debug):
        answer(editspec.audit(base, edited, patches or ()), as_json)
