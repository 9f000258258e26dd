"""Commands in groups: ``ci`` and ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.command import Work, of_own_code, of_workers
from editspec.cli.layout import Command, Group
from editspec.cli.options import (
    OutFolder,
    SpecArguments,
)
from editspec.engine.result import CommandResult

bench = typer.Typer(
    name="bench",
    help="Measure methods where the perfect edit is known.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)
ci = typer.Typer(
    name="ci",
    help="Review and apply specs in continuous integration.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@bench.command(cls=Command)
@of_own_code
def paper(
    work: Work,
    out: OutFolder,
    images: Annotated[
        int,
        typer.Option("--images", metavar="N", min=8, help="How many images a row is measured on."),
    ] = 10_000,
    world: Annotated[
        str, typer.Option("--world", metavar="NAME", help="The generator: skyline, skyline-plain.")
    ] = "skyline",
    backbone: Annotated[
        Path | None,
        typer.Option("--backbone", metavar="FILE", help="Other features, saved by torch.export."),
    ] = None,
) -> CommandResult:
    """Measure the paper's tables on Skyline.

    Goes on where a run was interrupted.
    """
    return editspec.bench_paper(out, images=images, world=world, backbone=backbone, **work)


@bench.command(cls=Command)
@of_own_code
def concepts(
    work: Work,
    out: OutFolder,
    captions: Annotated[
        int,
        typer.Option(
            "--captions", metavar="N", min=8, help="How many captions a row is measured on."
        ),
    ] = 200,
) -> CommandResult:
    """Measure ways to edit concepts on Skyline by prompt."""
    return editspec.bench_concepts(out, captions=captions, **work)


@bench.command(cls=Command)
@of_own_code
def facts(
    work: Work,
    out: OutFolder,
    count: Annotated[
        int,
        typer.Option(
            "--facts", metavar="N", min=1, max=500, help="How many facts are edited one at a time."
        ),
    ] = 40,
) -> CommandResult:
    """Measure methods that edit facts on Atlas.

    Goes on where a run was interrupted.
    """
    return editspec.bench_facts(out, facts=count, **work)


@ci.command(cls=Command)
@of_workers
def review(
    work: Work,
    specs: SpecArguments,
    out: OutFolder,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="REVISION", help="Say what has changed since its locks."),
    ] = None,
) -> CommandResult:
    """Validate, plan, build, check and draw specs.

    Writes DIR/summary.md.
    """
    return editspec.ci_review(specs, out, base=base, **work)


@ci.command(cls=Command)
@of_workers
def apply(
    work: Work,
    specs: SpecArguments,
    out: OutFolder,
    reviewed: Annotated[
        Path | None,
        typer.Option("--reviewed", metavar="DIR", help="The -o folder of the review."),
    ] = None,
) -> CommandResult:
    """Check and apply the patches that were reviewed.

    Writes DIR/summary.md.
    """
    return editspec.ci_apply(specs, out, reviewed=reviewed, **work)
