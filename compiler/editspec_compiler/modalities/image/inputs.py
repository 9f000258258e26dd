"""Masks and latents of a loaded spec as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.image.latent_tensors import open_tensors
from editspec_compiler.modalities.image.latents import read_latent
from editspec_compiler.modalities.image.mask_areas import mask_area
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.schema import LatentFile, Mask
from editspec_compiler.problems import SpecPath
from editspec_runtime.codes import Code
from editspec_runtime.errors import FileError
from editspec_runtime.modalities.image.architecture import ImageArchitecture

if TYPE_CHECKING:
    from numpy.typing import NDArray


def spec_mask(
    loaded: LoadedSpec, mask: Mask, where: SpecPath, image_size: int, resolution: int
) -> NDArray[np.float64]:
    """Compute the area of a mask of a spec, [resolution, resolution] float64 in 0..1.

    Raises `SpecError` at `where`.
    """
    legacy = loaded.spec.compatibility is not None
    try:
        return mask_area(mask, loaded.folder, image_size, resolution, legacy=legacy)
    except MaskError as error:
        raise loaded.error(where, error.message, error.hint, Code.MASK_UNFIT) from error


def spec_latent(
    loaded: LoadedSpec,
    latent: list[float] | LatentFile,
    where: SpecPath,
    architecture: ImageArchitecture,
) -> NDArray[np.float32]:
    """Read a latent that a spec gives as numbers or in a file, as `read_latent` does.

    Raises `SpecError` at `where`.
    """
    try:
        return read_latent(latent, loaded.folder, architecture, open_tensors)
    except FileError as error:
        raise loaded.error(where, error.message, error.hint, Code.LATENT_UNFIT) from error
