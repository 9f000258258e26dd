"""The layout of ``--help`` and of mistakes: sections, one line for a command, no Python types."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from editspec.cli.mistakes import Mistake, describe_mistake
from editspec.cli.output import report_errors
from editspec.engine.result import WRONG_USE

ARGUMENTS, OPTIONS = "Arguments", "Options"


class Command(TyperCommand):
    """A command whose help shows its arguments and options in sections."""

    def collect_usage_pieces(self, context: Any) -> list[str]:
        """The pieces of the line of usage."""
        arguments = [each for each in self.params if each.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(argument.metavar) for argument in arguments)]

    def format_options(self, context: Any, formatter: Any) -> None:
        """Write the arguments and options, a section for each of their panels."""
        write_parameters(self.get_params(context), formatter)


class Group(TyperGroup):
    """A group whose help shows its commands in sections, each command in one line."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **settings: Any) -> Any:
        """Run a command line, and report a wrong one as all other errors are."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            with report_errors(as_json="--json" in given, debug=False):
                code = self._run(given, *others, **settings)
        except typer.Exit as end:
            code = end.exit_code
        sys.exit(code)

    def _run(self, given: Sequence[str], *others: Any, **settings: Any) -> Any:
        """Run a command line, and return its exit code."""
        try:
            return super().main(given, *others, **{**settings, "standalone_mode": False})
        except Mistake as mistake:
            if type(mistake).__name__ != "NoArgsIsHelpError":
                raise describe_mistake(mistake) from mistake
            mistake.show()
            return WRONG_USE

    def format_options(self, context: Any, formatter: Any) -> None:
        """Write the options, then the commands, a section for each of their panels."""
        write_parameters(self.get_params(context), formatter)
        sections: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            summary = command.get_short_help_str(formatter.width)
            # All sections have one column of names.
            sections.setdefault(panel, []).append((name.ljust(width), summary.rstrip(".")))
        _write_sections(sections, formatter)


def write_parameters(parameters: Any, formatter: Any) -> None:
    """Write the help of parameters, a section for each of their panels."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        is_argument = parameter.param_type_name == "argument"
        panel = getattr(parameter, "rich_help_panel", None)
        section = panel or (ARGUMENTS if is_argument else OPTIONS)
        sections.setdefault(section, []).append((_names(parameter), _help(parameter)))
    _write_sections(sections, formatter)


def _write_sections(sections: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def _names(parameter: Any) -> str:
    """The names of a parameter, the short one first, and what it takes."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    names = ", ".join(sorted(parameter.opts, key=len))
    return f"{names} {parameter.metavar}" if parameter.metavar else names


def _help(parameter: Any) -> str:
    """The help of a parameter, with its default."""
    if parameter.required and parameter.param_type_name == "option":
        return f"{parameter.help}  [required]"
    default = parameter.default
    if default is None or default is False or default == "":
        return str(parameter.help)
    return f"{parameter.help}  [default: {default}]"
