"""The maker of a text-to-image model from its tensors and its folder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.contents import tensor_infos
from editspec_runtime.families.diffusion.architecture import read_architecture
from editspec_runtime.families.diffusion.config import read_config
from editspec_runtime.families.diffusion.encoder import make_encoder
from editspec_runtime.families.diffusion.network import DiffusionModel
from editspec_runtime.families.origin import Origin


def make_diffusion(
    weights: Mapping[str, Tensor],
    fields: ModelFields,
    origin: Origin,
    compatibility: Compatibility,
) -> DiffusionModel:
    """Make the model.

    Raises
    ------
    UsageError
        The packages of the extra are not installed.
    WeightsError
        The folder is missing, or the tensors do not fit it.
    """
    del fields, compatibility
    if origin.weights is None:
        raise WeightsError(
            "A text-to-image model is not made of tensors alone: its folder says how they are "
            "computed with.",
            "Give the folder as diffusers keeps it.",
        )
    config = read_config(origin.weights)
    architecture = read_architecture(tensor_infos(weights), config)
    encoders = []
    for encoder in config.encoders:
        encoders.append(make_encoder(encoder, weights, penultimate=config.penultimate))
    return DiffusionModel(weights, architecture, tuple(encoders))
