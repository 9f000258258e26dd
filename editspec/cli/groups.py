"""Commands in groups: ``ci`` and ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.options import (
    AllowCode,
    Debug,
    Device,
    Json,
    OutFolder,
    SpecArguments,
    Threads,
)
from editspec.cli.output import answer, run_command

bench = typer.Typer(
    name="bench",
    help="Measure methods where the perfect edit is known.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ci = typer.Typer(
    name="ci",
    help="Review and apply specs in continuous integration.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@bench.command()
def paper(
    out: OutFolder,
    images: Annotated[
        int, typer.Option("--images", min=8, help="How many images a row is measured on.")
    ] = 10_000,
    world: Annotated[
        str, typer.Option("--world", metavar="NAME", help="The generator: skyline, skyline-plain.")
    ] = "skyline",
    backbone: Annotated[
        Path | None,
        typer.Option("--backbone", metavar="FILE", help="Other features, saved by torch.export."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the paper's tables on Skyline, and go on where a run was interrupted."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.bench_paper(
            out, images=images, world=world, backbone=backbone, device=device, progress=progress
        )
        answer(result, as_json)


@ci.command()
def review(
    specs: SpecArguments,
    out: OutFolder,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="REVISION", help="Say what has changed since its locks."),
    ] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Validate, plan, build, check and draw specs, and write DIR/summary.md."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.ci_review(specs, out, base=base, device=device, progress=progress)
        answer(result, as_json)


@ci.command()
def apply(
    specs: SpecArguments,
    out: OutFolder,
    reviewed: Annotated[
        Path | None,
        typer.Option("--reviewed", metavar="DIR", help="The -o folder of the review."),
    ] = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check and apply the patches that were reviewed, and write DIR/summary.md."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.ci_apply(specs, out, reviewed=reviewed, device=device, progress=progress)
        answer(result, as_json)
