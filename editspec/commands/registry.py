"""The registry of commands, which imports none of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

COMMANDS = {
    "init": "editspec.commands.init:init",
    "studio": "editspec.studio:studio",
    "inspect": "editspec.commands.inspect:inspect",
    "sample": "editspec.commands.sample:sample",
    "search": "editspec.commands.search:search",
    "compare-layers": "editspec.commands.compare_layers:compare_layers",
    "validate": "editspec.commands.validate:validate",
    "import": "editspec.commands.import_records:import_records",
    "schema": "editspec.commands.schema:schema",
    "families": "editspec.commands.families:families",
    "plan": "editspec.commands.plan:plan",
    "build": "editspec.commands.build:build",
    "compile": "editspec.commands.compile:compile",
    "statistics": "editspec.commands.statistics:statistics",
    "lock": "editspec.commands.lock:lock",
    "update": "editspec.commands.update:update",
    "render": "editspec.commands.render:render",
    "check": "editspec.commands.check:check",
    "sweep": "editspec.commands.sweep:sweep",
    "tune": "editspec.commands.tune:tune",
    "blame": "editspec.commands.blame:blame",
    "bisect": "editspec.commands.bisect:bisect",
    "apply": "editspec.commands.apply:apply",
    "verify": "editspec.commands.verify:verify",
    "adopt": "editspec.commands.adopt:adopt",
    "audit": "editspec.commands.audit:audit",
    "diff": "editspec.commands.diff:diff",
    "compose": "editspec.commands.compose:compose",
    "rebase": "editspec.commands.rebase:rebase",
    "sign": "editspec.commands.sign:sign",
    "card": "editspec.commands.card:card",
    "push": "editspec.commands.push:push",
    "export": "editspec.commands.export:export",
    "convert": "editspec.commands.convert:convert",
    "cache": "editspec.commands.cache:cache",
    "git install": "editspec.commands.git_locks:git_install",
    "git merge-lock": "editspec.commands.git_locks:git_merge_lock",
    "git show-patch": "editspec.commands.git_patches:git_show_patch",
    "git diff-patch": "editspec.commands.git_patches:git_diff_patch",
    "ci review": "editspec.commands.ci:ci_review",
    "ci apply": "editspec.commands.ci:ci_apply",
    "bench paper": "editspec.worlds.skyline.bench.run:bench_paper",
    "bench concepts": "editspec.worlds.skyline.captions.bench:bench_concepts",
    "bench facts": "editspec.worlds.atlas.bench.run:bench_facts",
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
