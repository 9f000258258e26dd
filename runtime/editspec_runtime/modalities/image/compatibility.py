"""The two ways to make the numbers of image generators: ours and the authors'.

Imports no torch before `positional_noise` is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from editspec_runtime.core.compatibility import Compatibility

if TYPE_CHECKING:
    from torch import Tensor


LEGACY_LENGTH = 1_000_000
"""Items of the ``numpy-legacy`` latent stream, which can be drawn from its beginning alone."""


@dataclass(frozen=True)
class ImageCompatibility(Compatibility):
    """One way to make the numbers of an image generator.

    Attributes
    ----------
    positional_noise
        Whether noise is drawn by the position in the batch and the size of the map, crops included;
        else the noise is the checkpoint's.
    halo
        Whether a target region is evaluated with the ring of keys that its convolution needs; else
        with zeros around it.
    legacy_masks
        Whether masks are decoded without alpha, as 8-bit numbers.
    truncation
        Whether a truncation that a spec asks for is applied.
    erase_everywhere
        Whether a value is erased on the whole map; else inside of the target's mask.
    box_share
        The share of a mask's peak from which on a position counts for its bounding box; with 0,
        every position that the mask covers at all.
    """

    positional_noise: bool = False
    halo: bool = True
    legacy_masks: bool = False
    truncation: bool = True
    erase_everywhere: bool = False
    box_share: float = 0.1


EDITSPEC = ImageCompatibility()
"""Our way."""

REWRITING_2020 = ImageCompatibility(
    chunk=10,
    fixed_chunk=True,
    keep_best=False,
    absolute_rate=True,
    states_added=True,
    positional_noise=True,
    halo=False,
    legacy_masks=True,
    truncation=False,
    erase_everywhere=True,
    box_share=0.0,
)
"""The way of the paper's authors (Bau et al. 2020)."""


def compatibility_of(name: str | None) -> ImageCompatibility:
    """The way that a spec's ``compatibility`` names; ours for None."""
    return {None: EDITSPEC, "rewriting-2020": REWRITING_2020}[name]


def image_compatibility(given: Compatibility) -> ImageCompatibility:
    """The way for image generators; ours where `given` says nothing of images."""
    return given if isinstance(given, ImageCompatibility) else EDITSPEC


def positional_noise(batch: int, height: int, width: int) -> Tensor:
    """The authors' noise, [batch, 1, height, width] float32.

    Sample j of a batch gets row j, and a crop gets other noise than the whole map.
    """
    # Imported here, as specs are checked without numpy and torch.
    import numpy as np
    import torch

    rows = np.random.RandomState(0).randn(batch, height * width).astype(np.float32)
    return torch.from_numpy(rows).view(batch, 1, height, width)
