"""The worlds that ship with the package, one line each. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from editspec.worlds import atlas, skyline
from editspec.worlds.skyline import captions
from editspec.worlds.world import JudgeMaker, World
from editspec_runtime.errors import UsageError
from editspec_runtime.io.builtins import register_builtin

WORLDS: dict[str, World] = {
    **skyline.WORLDS,
    captions.WORLD.name: captions.WORLD,
    atlas.WORLD.name: atlas.WORLD,
}

DEFAULT_WEIGHTS = skyline.WORLD.builtin
"""The weights that commands take where none are named."""


def register_builtins() -> None:
    """Register the weights of every world as ``builtin:NAME``."""
    for world in WORLDS.values():
        register_builtin(world.name, world.weights)


def find_experiment(name: str, weights: Path | str) -> JudgeMaker:
    """Find the maker of the judges of an experiment.

    Parameters
    ----------
    name
        The experiment.
    weights
        The weights that are judged.

    Raises
    ------
    UsageError
        No world has an experiment of this name, or none that has it has these weights.
    """
    having: list[World] = []
    known: dict[str, None] = {}
    for world in WORLDS.values():
        experiments = world.load_experiments()
        known |= dict.fromkeys(experiments)
        if name in experiments:
            having.append(world)
            if world.weights == weights:
                return experiments[name]
    if having:
        names = " and ".join(world.builtin for world in having)
        raise UsageError(
            f"The perfect edit of {name} is known for {names} only, and the spec edits {weights}.",
            "Leave --experiment out.",
        )
    raise UsageError(f"There is no experiment {name}.", f"Known here: {', '.join(known)}.")
