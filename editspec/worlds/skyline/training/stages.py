"""The stages of the training: what learns in each, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from editspec.worlds.skyline.world import LATENT_SIZE

SILENT = ("to_rgb1.", "to_rgbs.0.", "to_rgbs.1.")
"""The to-RGB of smaller features."""


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes
    ----------
    name
        What it is called in the log and in the checkpoints.
    steps, rate
        Steps of Adam, and its highest rate; a cosine takes it to almost nothing.
    mapping, synthesis
        Which networks learn. The mapping alone learns attributes, not pictures.
    sharp
        How much of the loss is L1 rather than squared error.
    half
        Whether pictures are drawn in bfloat16.
    """

    name: str
    steps: int
    rate: float
    mapping: bool
    synthesis: bool
    sharp: float = 0.0
    half: bool = True


STAGES = (
    Stage("mapping", 16000, 6e-3, True, False),
    Stage("synthesis", 4000, 3e-3, False, True),
    Stage("mixed", 2500, 2e-3, False, True, 0.5),
    Stage("sharpen", 2000, 1e-3, False, True, 1.0),
    Stage("polish", 300, 2e-4, False, True, 1.0, half=False),
)


def parameter_groups(learns: dict[str, Tensor], stage: Stage) -> list[dict[str, Any]]:
    """Parameters with their rates, as Adam takes them.

    The weights of the mapping are stored so much larger than they count (by sqrt(size) / 0.01, its
    biases by 1 / 0.01) that the same rate in what counts needs as much larger steps.
    """
    groups: dict[str, tuple[float, list[Tensor]]] = {
        "style.weight": (stage.rate * math.sqrt(LATENT_SIZE) / 0.01, []),
        "style.bias": (stage.rate / 0.01, []),
        "synthesis": (stage.rate, []),
    }
    for name, tensor in learns.items():
        groups[f"style.{name.rsplit('.', 1)[1]}" if name.startswith("style.") else "synthesis"][
            1
        ].append(tensor)
    return [{"params": tensors, "lr": lr} for lr, tensors in groups.values() if tensors]


def learns_in(name: str, stage: Stage) -> bool:
    """Whether a stage trains the parameter of a name."""
    if name.startswith("style."):
        return stage.mapping
    return stage.synthesis and not name.startswith(("noises.", *SILENT)) and "kernel" not in name


def cosine_rate(step: int, steps: int) -> float:
    """The share of the highest rate at a step: from 1 to 0.002, after a short warm-up."""
    return min(1.0, (step + 1) / 100) * (
        0.002 + 0.998 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))
    )
