"""The stages of the training: what learns in each, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from editspec.worlds.skyline.world import LATENT_SIZE

SILENT = ("to_rgb1.", "to_rgbs.0.", "to_rgbs.1.")
"""The to-RGB of features below 32 x 32 positions, which stay zero."""


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes
    ----------
    name
        Its name in the log and in the checkpoints.
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
    """Group parameters by their rates, as Adam takes them.

    The mapping is stored at a larger scale than it acts at: its weights by sqrt(size) / 0.01, its
    biases by 1 / 0.01. Their rates are larger by the same factors.
    """
    groups: dict[str, tuple[float, list[Tensor]]] = {
        "style.weight": (stage.rate * math.sqrt(LATENT_SIZE) / 0.01, []),
        "style.bias": (stage.rate / 0.01, []),
        "synthesis": (stage.rate, []),
    }
    for name, tensor in learns.items():
        group = "synthesis"
        if name.startswith("style."):
            group = f"style.{name.rsplit('.', 1)[1]}"
        groups[group][1].append(tensor)
    return [{"params": tensors, "lr": lr} for lr, tensors in groups.values() if tensors]


def learns_in(name: str, stage: Stage) -> bool:
    """Tell whether a stage trains the parameter of a name."""
    if name.startswith("style."):
        return stage.mapping
    return stage.synthesis and not name.startswith(("noises.", *SILENT)) and "kernel" not in name


def cosine_rate(step: int, steps: int) -> float:
    """Compute the share of the highest rate: from 1 to 0.002, after a short warm-up."""
    warm_up = min(1.0, (step + 1) / 100)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    return warm_up * (0.002 + 0.998 * cosine)
