"""Commands on specs: validate, compile, build, check, lock, plan, statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import editspec
from editspec.cli.options import (
    AllowCode,
    BuildFolder,
    Debug,
    Device,
    Json,
    JUnit,
    Markdown,
    OutFolder,
    SpecArgument,
    Threads,
)
from editspec.cli.output import answer, fail, leave, report_errors, run_command
from editspec.engine.result import TO_BUILD


def validate(
    specs: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC...", help="Edit specs, YAML or JSON; or their locks."),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Validate specs, everything that they name, and their locks."""
    with report_errors(as_json, debug):
        result = editspec.validate(specs)
        if not result.valid:
            fail(result.to_text(), result.to_dict(), as_json, result.exit_code)
        answer(result, as_json)


def compile(
    spec: SpecArgument,
    out: OutFolder,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Resolve every edit into the tensors of a rule: DIR/rules/NN-name.safetensors."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.compile(spec, out, device=device, progress=progress)
        answer(result, as_json)


def build(
    spec: SpecArgument,
    out: OutFolder,
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
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build the patch of every edit: DIR/patches, DIR/manifest.json and SPEC.lock."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.build(
            spec,
            out,
            frozen=frozen,
            check=check,
            junit=junit,
            markdown=markdown,
            report=report,
            provenance=provenance,
            pareto=pareto,
            pick=pick,
            device=device,
            progress=progress,
        )
        answer(result, as_json)


def check(
    spec: SpecArgument,
    out: BuildFolder = None,
    junit: JUnit = None,
    markdown: Markdown = None,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the checks of a spec; exit 1 where one of severity error fails."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.check(
            spec, out, junit=junit, markdown=markdown, device=device, progress=progress
        )
        answer(result, as_json)


def lock(
    spec: SpecArgument,
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing; fail where an input has changed.")
    ] = False,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a spec into the cache, and write the digests of the build to SPEC.lock."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.lock(spec, check=check, device=device, progress=progress)
        answer(result, as_json)


def plan(
    spec: SpecArgument,
    out: BuildFolder = None,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode",
            help="Exit with 3 where there is something to build, 0 where not.",
        ),
    ] = False,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the work, the cost and the conflicts of a build. Solves nothing."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.plan(spec, out, device=device, progress=progress)
        answer(result, as_json)
    if detailed_exitcode and result.to_build:
        leave(TO_BUILD)


def statistics(
    spec: SpecArgument,
    allow_code: AllowCode = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute and cache the second moment of every layer that a spec edits."""
    with run_command(as_json, debug, threads) as progress:
        result = editspec.statistics(spec, device=device, progress=progress)
        answer(result, as_json)
