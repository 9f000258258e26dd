"""Masks of the language -> areas at the resolution of a layer. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.schema import Mask
from editspec_compiler.spec_folder import Folder

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mask_area(
    mask: Mask, folder: Folder, image_size: int, resolution: int, *, legacy: bool
) -> NDArray[np.float64]:
    """Compute the share of each position that a mask covers.

    The parameters and errors are those of `mask_image`.

    Returns
    -------
    NDArray
        [resolution, resolution] float64 in 0..1. All of it is 0 where the mask is small and the
        resolution low.
    """
    image = mask_image(mask, folder, image_size, legacy=legacy)
    size = (resolution, resolution)
    if legacy:
        area = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(area, dtype=np.float64) / 255
    # A box filter gives each position exactly the share of it that is covered; there is nothing to
    # average where the mask is smaller than the map.
    smaller = image.width >= resolution
    filter_ = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    # In floating point: 8-bit grey would round the shares to 1/255.
    resized = image.convert("F").resize(size, filter_)
    return np.asarray(resized, dtype=np.float64).clip(0, 255) / 255
