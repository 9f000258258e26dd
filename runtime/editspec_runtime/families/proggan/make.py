"""The maker of a Progressive GAN generator from its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.proggan.network import ProgressiveGAN
from editspec_runtime.modalities.image.compatibility import image_compatibility
from editspec_runtime.modalities.image.fields import GeneratorFields, require_average


def make_proggan(
    weights: Mapping[str, Tensor],
    fields: GeneratorFields,
    origin: Origin,
    compatibility: Compatibility,
) -> ProgressiveGAN:
    """Make the generator.

    Raises `WeightsError` for any truncation, as this family has no w to truncate.
    """
    del origin
    model = ProgressiveGAN(weights, compatibility=image_compatibility(compatibility))
    require_average(fields, model.architecture)
    return model
