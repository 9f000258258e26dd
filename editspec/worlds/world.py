"""A generated world: its name, weights and experiments. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from editspec.engine.intervals import Estimates

ImageJudge = Callable[["Tensor"], "Estimates"]
"""Edited images [n, 3, size, size] -> ``efficacy``, ``outside``, ``error`` and more."""

JudgeMaker = Callable[["Tensor", "Tensor"], ImageJudge]
"""Latents [n, latent_size] and the unedited images of them -> the judge of their edited images."""


PACKAGE = Path(__file__).parents[1]
"""The folder of the package `editspec`."""


def find_specs(name: str) -> Path:
    """Find a folder of the specs that ship, in the package or next to it in a checkout."""
    inside = PACKAGE / "specs" / name
    return inside if inside.is_dir() else PACKAGE.parent / "specs" / name


@dataclass(frozen=True)
class World:
    """A procedural world in which the perfect edit of every image is known.

    Attributes
    ----------
    name
        Specs name its weights ``builtin:NAME``.
    weights
        The generator that was trained on it.
    experiments
        ``module:name`` of a mapping from an experiment's name to its `JudgeMaker`. It is imported
        when it is asked for. Empty where there are none.
    """

    name: str
    weights: Path
    experiments: str = ""

    @property
    def builtin(self) -> str:
        """The name of the weights in a spec."""
        return f"builtin:{self.name}"

    def load_experiments(self) -> Mapping[str, JudgeMaker]:
        """Import the experiments of this world, which imports torch."""
        if not self.experiments:
            return {}
        module, _, name = self.experiments.partition(":")
        found: Mapping[str, JudgeMaker] = getattr(import_module(module), name)
        return found
