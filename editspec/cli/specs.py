"""Commands on specs: validate, build, check, lock, update, plan and others."""

from __future__ import annotations

from glob import has_magic
from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.command import Progress, Work, of_a_model, of_files, of_workers
from editspec.cli.options import BuildFolder, JUnit, Markdown, OutFolder, SpecArgument
from editspec.engine.result import CommandResult


@of_files
def validate(
    specs: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC...", help="Edit specs, YAML or JSON; or their locks."),
    ],
) -> CommandResult:
    """Validate specs, everything that they name, and their locks."""
    return editspec.validate(specs)


@of_workers
def compile(work: Work, spec: SpecArgument, out: OutFolder) -> CommandResult:
    """Resolve every edit into the tensors of a rule.

    Writes DIR/rules/NN-name.safetensors.
    """
    return editspec.compile(spec, out, **work)


@of_workers
def build(
    work: Work,
    spec: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC...", help="Edit specs; of several also patterns: 'specs/**'."),
    ],
    out: OutFolder,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            metavar="NAME+|state:modified+",
            help="Of several specs: those with such an edit, or that changed since their lock.",
        ),
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Obey SPEC.lock: fail where an input has changed.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Then check; exit with 1 where a check fails.")
    ] = False,
    junit: JUnit = None,
    markdown: Markdown = None,
    report: Annotated[
        bool, typer.Option("--report", help="Show all of the build in one file: DIR/report.html.")
    ] = False,
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance",
            help="List what it was built from, for in-toto and SLSA: DIR/provenance.json.",
        ),
    ] = False,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto",
            help="Show the choice of collateral_weight: DIR/pareto.json and DIR/pareto.png.",
        ),
    ] = False,
    pick: Annotated[
        str | None,
        typer.Option(
            "--pick",
            metavar="[NAME=]N",
            help="First write the collateral_weight of point N of it into the spec.",
        ),
    ] = None,
) -> CommandResult:
    """Build the patch of every edit.

    Writes DIR/patches, DIR/manifest.json and SPEC.lock; of several specs, DIR/SPEC/patches.
    """
    is_pattern = has_magic(str(spec[0])) and not spec[0].exists()
    is_one = len(spec) == 1 and not select and not is_pattern
    specs: Path | list[Path] = spec[0] if is_one else spec
    return editspec.build(
        specs,
        out,
        select=select or (),
        frozen=frozen,
        check=check,
        junit=junit,
        markdown=markdown,
        report=report,
        provenance=provenance,
        pareto=pareto,
        pick=pick,
        **work,
    )


@of_workers
def check(
    work: Work,
    spec: SpecArgument,
    out: BuildFolder = None,
    junit: JUnit = None,
    markdown: Markdown = None,
) -> CommandResult:
    """Measure the checks of a spec against their bounds.

    Exits with 1 where one of severity error fails.
    """
    return editspec.check(spec, out, junit=junit, markdown=markdown, **work)


@of_workers
def lock(
    work: Work,
    spec: SpecArgument,
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing; fail where an input has changed.")
    ] = False,
) -> CommandResult:
    """Write the digests of a build to SPEC.lock.

    The spec is built into the cache.
    """
    return editspec.lock(spec, check=check, **work)


@of_files
def update(
    work: Progress,
    spec: SpecArgument,
    edits: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Edits whose sources are asked; default: all."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where a source has moved.")
    ] = False,
) -> CommandResult:
    """Take what tags and branches of used edits are now.

    Writes their commits to SPEC.lock. Builds nothing.
    """
    return editspec.update(spec, edits or (), check=check, **work)


@of_a_model
def plan(
    work: Work,
    spec: SpecArgument,
    out: BuildFolder = None,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode",
            help="Exit with 3 where there is something to build, 0 where not.",
        ),
    ] = False,
) -> CommandResult:
    """Show the work, the cost and the conflicts of a build.

    Solves nothing.
    """
    return editspec.plan(spec, out, detailed_exitcode=detailed_exitcode, **work)


@of_workers
def statistics(work: Work, spec: SpecArgument) -> CommandResult:
    """Compute the second moments of the layers of a spec.

    They are cached.
    """
    return editspec.statistics(spec, **work)
