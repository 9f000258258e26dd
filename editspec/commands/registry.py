"""The registry of commands, which imports none of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

COMMANDS = {
    "validate": "editspec.commands.validate:validate",
    "compile": "editspec.commands.compile:compile",
    "build": "editspec.commands.build:build",
    "check": "editspec.commands.check:check",
    "lock": "editspec.commands.lock:lock",
    "plan": "editspec.commands.plan:plan",
    "verify": "editspec.commands.verify:verify",
    "sign": "editspec.commands.sign:sign",
    "apply": "editspec.commands.apply:apply",
    "compose": "editspec.commands.compose:compose",
    "rebase": "editspec.commands.rebase:rebase",
    "diff": "editspec.commands.diff:diff",
    "audit": "editspec.commands.audit:audit",
    "inspect": "editspec.commands.inspect:inspect",
    "import": "editspec.commands.import_records:import_records",
    "export": "editspec.commands.export:export",
    "convert": "editspec.commands.convert:convert",
    "sample": "editspec.commands.sample:sample",
    "render": "editspec.commands.render:render",
    "search": "editspec.commands.search:search",
    "compare-layers": "editspec.commands.compare_layers:compare_layers",
    "blame": "editspec.commands.blame:blame",
    "bisect": "editspec.commands.bisect:bisect",
    "statistics": "editspec.commands.statistics:statistics",
    "schema": "editspec.commands.schema:schema",
    "families": "editspec.commands.families:families",
    "cache": "editspec.commands.cache:cache",
    "studio": "editspec.studio:studio",
    "sweep": "editspec.commands.sweep:sweep",
    "tune": "editspec.commands.tune:tune",
    "bench paper": "editspec.worlds.skyline.bench.run:bench_paper",
    "ci review": "editspec.commands.ci:ci_review",
    "ci apply": "editspec.commands.ci:ci_apply",
}
"""``module:function`` of each command, in the order in which the command line lists them."""


def function_name(command: str) -> str:
    """The name that a command has in Python: ``ci review`` is `ci_review`."""
    return COMMANDS[command].partition(":")[2]


def load_command(command: str) -> Callable[..., Any]:
    """The function of a command, imported now."""
    module, _, name = COMMANDS[command].partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function
