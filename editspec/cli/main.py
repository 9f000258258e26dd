"""The command line: a skin over the functions of `editspec`.

Each command parses its options, calls the function of its name, prints the result, and exits with
the result's code. No ``--help`` and no ``validate`` imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from editspec.cli import explore, files, groups, patches, specs
from editspec.cli.output import report_errors

app = typer.Typer(
    name="editspec",
    help="Compile small edit specs into weight patches for generative models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS: dict[str, Callable[..., None]] = {
    "validate": specs.validate,
    "compile": specs.compile,
    "build": specs.build,
    "check": specs.check,
    "lock": specs.lock,
    "plan": specs.plan,
    "verify": patches.verify,
    "sign": patches.sign,
    "apply": patches.apply,
    "compose": patches.compose,
    "rebase": patches.rebase,
    "diff": patches.diff,
    "audit": patches.audit,
    "inspect": files.inspect,
    "import": files.import_records,
    "export": files.export,
    "convert": files.convert,
    "sample": explore.sample,
    "render": explore.render,
    "search": explore.search,
    "compare-layers": explore.compare_layers,
    "blame": explore.blame,
    "bisect": explore.bisect,
    "statistics": specs.statistics,
    "schema": files.schema,
    "families": files.families,
    "cache": files.cache,
    "studio": explore.studio,
    "sweep": explore.sweep,
    "tune": explore.tune,
}
"""The commands in the order of ``--help``, which lists groups behind them."""

for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(groups.bench)
app.add_typer(groups.ci)


def main() -> None:
    """Run the command line.

    Where torchrun starts several processes, the first runs the command, and the others help.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        app()
    from editspec.engine.resources import use_executor
    from editspec_runtime.executors import processes

    if os.environ.get("RANK", "0") != "0":
        sys.exit(processes.serve_first_process())
    try:
        as_json, debug = "--json" in sys.argv, "--debug" in sys.argv
        with (
            report_errors(as_json, debug),
            processes.lead_processes() as executor,
            use_executor(executor),
        ):
            app()
    except typer.Exit as end:
        # The processes did not meet, so that no command ran and typer cannot catch this itself.
        sys.exit(end.exit_code)


if __name__ == "__main__":
    main()
