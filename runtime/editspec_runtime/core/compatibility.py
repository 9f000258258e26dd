"""How the numbers are made where the paper leaves it open: our way, and the authors'
(``rewriting-2020``).

Each quirk of the authors' code that changes a number is one field here. Their way exists so that
published numbers can be matched, and is off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


LEGACY_LENGTH = 1_000_000
"""Items of the ``numpy-legacy`` latent stream that can be asked for: it can only be drawn from its
beginning.
"""


@dataclass(frozen=True)
class Compatibility:
    """One set of conventions.

    Attributes
    ----------
    statistics_chunk
        Latents per forward batch of the second moment.
    positional_noise
        Noise is not the checkpoint's, but drawn by position in the batch and by the size of the
        map, crops included.
    halo
        A target region is evaluated with the ring of keys that its convolution needs; else with
        zeros around it.
    keep_best
        A solver returns the best iterate that satisfies its constraint; else the last one.
    legacy_masks
        Masks are decoded without alpha, as 8-bit numbers.
    truncation
        Whether a truncation that a spec asks for is applied.
    erase_everywhere
        A value is erased on the whole map; else inside of the target's mask.
    states_added
        The squared loss of several pairs is that of the one state of the scenes and that of the
        other, added up; else the mean over all pairs.
    """

    statistics_chunk: int
    positional_noise: bool
    halo: bool
    keep_best: bool
    legacy_masks: bool
    truncation: bool
    erase_everywhere: bool
    states_added: bool


EDITSPEC = Compatibility(
    statistics_chunk=16,
    positional_noise=False,
    halo=True,
    keep_best=True,
    legacy_masks=False,
    truncation=True,
    erase_everywhere=False,
    states_added=False,
)
REWRITING_2020 = Compatibility(
    statistics_chunk=10,
    positional_noise=True,
    halo=False,
    keep_best=False,
    legacy_masks=True,
    truncation=False,
    erase_everywhere=True,
    states_added=True,
)


def conventions(compatibility: str | None) -> Compatibility:
    """The conventions that a spec's ``compatibility`` names; ours where it names none."""
    return {None: EDITSPEC, "rewriting-2020": REWRITING_2020}[compatibility]


def positional_noise(batch: int, height: int, width: int) -> Tensor:
    """The authors' noise, [batch, 1, height, width] float32: sample j of a batch gets row j, a crop
    other noise.
    """
    import numpy as np
    import torch

    rows = np.random.RandomState(0).randn(batch, height * width).astype(np.float32)
    return torch.from_numpy(rows).view(batch, 1, height, width)
