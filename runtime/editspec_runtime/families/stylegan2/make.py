"""The maker of a StyleGAN2 generator from its tensors and the fields of a spec."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.compatibility import image_compatibility
from editspec_runtime.modalities.image.fields import GeneratorFields, require_average


def make_stylegan2(
    weights: Mapping[str, Tensor],
    fields: GeneratorFields,
    origin: Origin,
    compatibility: Compatibility,
) -> StyleGAN2:
    """Make the generator.

    Raises `WeightsError` where a truncation has no mean of w to truncate to.
    """
    del origin
    model = StyleGAN2(
        weights, fields.truncation, image_compatibility(compatibility), fields.class_label
    )
    require_average(fields, model.architecture)
    return model
