"""Commands in groups: ``ci``, ``git`` and ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.command import Work, of_files, of_own_code, of_workers
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

git = typer.Typer(
    name="git",
    help="Let git merge locks and compare patches.",
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


@git.command(cls=Command)
@of_files
def install(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The project; default: the working folder.")
    ] = Path(),
) -> CommandResult:
    """Let git merge locks edit by edit, and compare patches.

    Once in each clone: .gitattributes is shared, and what git runs is not.
    """
    return editspec.git_install(folder)


@git.command(cls=Command)
@of_files
def merge_lock(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="What both sides come from.")],
    ours: Annotated[Path, typer.Argument(metavar="OURS", help="Our lock, which is replaced.")],
    theirs: Annotated[Path, typer.Argument(metavar="THEIRS", help="The other lock.")],
    path: Annotated[
        Path | None, typer.Option("--path", metavar="PATH", help="Its place in the repository.")
    ] = None,
) -> CommandResult:
    """Merge two locks, edit by edit. git runs it."""
    return editspec.git_merge_lock(base, ours, theirs, path=path)


@git.command(cls=Command)
@of_files
def show_patch(
    file: Annotated[Path, typer.Argument(metavar="PATCH", help="A patch.")],
) -> CommandResult:
    """Show a patch as lines. git log -p runs it."""
    return editspec.git_show_patch(file)


@git.command(cls=Command)
@of_files
def diff_patch(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Its place in the repository.")],
    old: Annotated[str, typer.Argument(metavar="OLD", help="The version before.")] = "",
    new: Annotated[str, typer.Argument(metavar="NEW", help="The version after.")] = "",
) -> CommandResult:
    """Show how two versions of a patch differ. git diff runs it."""
    return editspec.git_diff_patch(path, old, new)
