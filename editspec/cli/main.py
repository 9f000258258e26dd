"""The command line: a skin over the functions of `editspec`.

Each command parses its options, calls the function of its name, prints the result, and exits with
the result's code. No ``--help`` and no ``validate`` imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from editspec.cli import explore, files, groups, patches, specs
from editspec.cli.completion import SHELLS, VARIABLE, completion_script, enable_completion
from editspec.cli.layout import Command, Group
from editspec.cli.output import report_errors
from editspec_runtime import __version__


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"editspec {__version__}")
        raise typer.Exit


def _print_completion(shell: str | None) -> None:
    if shell is not None:
        with report_errors(as_json=False, debug=False):
            typer.echo(completion_script(shell))
        raise typer.Exit


app = typer.Typer(
    name="editspec",
    help="Compile small edit specs into weight patches for generative models.",
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JUDGE, REVIEW = "Look at it, and judge it", "Review, merge and ship it"

SECTIONS: dict[str, dict[str, Callable[..., None]]] = {
    "Write a spec": {
        "init": files.init,
        "studio": explore.studio,
        "inspect": files.inspect,
        "sample": explore.sample,
        "search": explore.search,
        "compare-layers": explore.compare_layers,
        "validate": specs.validate,
        "import": files.import_records,
        "schema": files.schema,
        "families": files.families,
    },
    "Build it": {
        "plan": specs.plan,
        "build": specs.build,
        "compile": specs.compile,
        "statistics": specs.statistics,
        "lock": specs.lock,
        "update": specs.update,
    },
    JUDGE: {
        "render": explore.render,
        "check": specs.check,
        "sweep": explore.sweep,
        "tune": explore.tune,
        "blame": explore.blame,
        "bisect": explore.bisect,
    },
    REVIEW: {
        "apply": patches.apply,
        "verify": patches.verify,
        "adopt": patches.adopt,
        "audit": patches.audit,
        "diff": patches.diff,
        "compose": patches.compose,
        "rebase": patches.rebase,
        "sign": patches.sign,
        "card": patches.card,
        "push": patches.push,
        "export": files.export,
        "convert": files.convert,
    },
    "Keep house": {
        "cache": files.cache,
    },
}
"""The commands by the sections of ``--help``, in their order."""

COMMANDS = {name for commands in SECTIONS.values() for name in commands}

for section, commands in SECTIONS.items():
    for name, command in commands.items():
        app.command(name, cls=Command, rich_help_panel=section)(command)
app.add_typer(groups.ci, rich_help_panel=REVIEW)
app.add_typer(groups.git, rich_help_panel=REVIEW)
app.add_typer(groups.bench, rich_help_panel=JUDGE)


@app.callback()
def start(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    completion: Annotated[
        str | None,
        typer.Option(
            "--completion",
            metavar="|".join(SHELLS),
            help="Print the completion script of a shell.",
            callback=_print_completion,
            is_eager=True,
        ),
    ] = None,
) -> None:
    """Compile small edit specs into weight patches for generative models."""


def main() -> None:
    """Run the command line.

    A shell that completes a line asks by a variable.
    """
    enable_completion()
    app(complete_var=VARIABLE)


if __name__ == "__main__":
    main()
