"""The maker of a transformer from its tensors and its configuration."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.contents import tensor_infos
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.transformer.architecture import read_architecture
from editspec_runtime.families.transformer.config import read_config
from editspec_runtime.families.transformer.network import Transformer
from editspec_runtime.modalities.text.compatibility import text_compatibility


def make_transformer(
    weights: Mapping[str, Tensor],
    fields: ModelFields,
    origin: Origin,
    compatibility: Compatibility,
) -> Transformer:
    """Make the model.

    Raises `WeightsError` where the configuration is missing, or does not fit.
    """
    del fields
    if origin.weights is None:
        raise WeightsError(
            "A transformer is not made of tensors alone: config.json says how they are computed "
            "with.",
            "Give the folder as the hub has it.",
        )
    config = read_config(origin.weights)
    architecture = read_architecture(tensor_infos(weights), config)
    counts_first = text_compatibility(compatibility).counts_first
    return Transformer(weights, architecture, counts_first=counts_first)
