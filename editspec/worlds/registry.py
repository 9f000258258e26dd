"""The worlds that ship with the package, one line each. Imports no torch."""

from __future__ import annotations

from editspec.worlds import skyline
from editspec.worlds.world import JudgeMaker, World
from editspec_runtime.errors import UsageError
from editspec_runtime.io.builtins import register_builtin

WORLDS: dict[str, World] = {world.name: world for world in (skyline.WORLD,)}

DEFAULT_WEIGHTS = skyline.WORLD.builtin
"""The weights that commands take where none are named."""


def register_builtins() -> None:
    """Register the weights of every world as ``builtin:NAME``."""
    for world in WORLDS.values():
        register_builtin(world.name, world.weights)


def find_experiment(name: str) -> tuple[World, JudgeMaker]:
    """Find the world that has an experiment, and the maker of its judges.

    Raises
    ------
    UsageError
        No world has an experiment of this name.
    """
    known: list[str] = []
    for world in WORLDS.values():
        experiments = world.load_experiments()
        if name in experiments:
            return world, experiments[name]
        known += experiments
    raise UsageError(f"There is no experiment {name}.", f"Known here: {', '.join(known)}.")
