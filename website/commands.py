"""The reference of the commands, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from editspec.cli.main import app
from website.markdown import cell, table

PROGRAM: Any = get_command(app)

HEAD = """# Commands, option by option

Made from the command line: `editspec COMMAND --help` says the same.
[Which command](../docs/commands.md) lists them by task.
"""


def write_commands() -> str:
    """Write the page: for each command its summary, its usage and its options, by task."""
    sections: dict[str, list[str]] = {}
    for name, command in walk_commands():
        sections.setdefault(task_of(name), []).append(write_command(name, command))
    parts = [HEAD]
    for task, texts in sections.items():
        parts += [f"## {task}\n", *texts]
    return "\n".join(parts)


def walk_commands() -> Iterator[tuple[str, Any]]:
    """Walk the commands in the order of ``--help``, those of groups by their full names."""
    for name, command in PROGRAM.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {each}", command.commands[each]) for each in command.commands)
        else:
            yield name, command


def task_of(name: str) -> str:
    """Read from the command line for which task a command, or its group, is."""
    return str(getattr(PROGRAM.commands[name.partition(" ")[0]], "rich_help_panel", "Commands"))


def write_command(name: str, command: Any) -> str:
    """Write the section of one command."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    names = [str(each.metavar or each.human_readable_name) for each in arguments]
    usage = " ".join(["editspec", name, *names, "[OPTIONS]"])
    rows = [(f"`{shown}`", cell(each.help)) for shown, each in zip(names, arguments, strict=True)]
    rows += [(f"`{option_names(each)}`", option_help(each)) for each in options]
    text = f"### {name}\n\n{command.help}\n\n    {usage}\n\n"
    return text + table(("option", "meaning"), rows)


def option_names(option: Any) -> str:
    """The names of an option, the short one first, and what it takes."""
    names = ", ".join(sorted(option.opts, key=len))
    text = f"{names} {option.metavar}" if option.metavar else names
    return text.replace("|", "\\|")


def option_help(option: Any) -> str:
    """The help of an option, and its default."""
    text = cell(option.help)
    if option.required:
        return f"{text} Required."
    if option.is_flag or option.default in (None, ""):
        return text
    return f"{text} Default: `{option.default}`."
