"""The family ``toy``: its fields and its layers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.registry import Family
from editspec_runtime.io.headers import TensorInfo
from tests.toy_text import FAMILY, MODALITY


class ToyFields(ModelFields):
    """The model that is edited: nothing but its weights."""


def read_architecture(tensors: Mapping[str, TensorInfo]) -> Architecture:
    """The two linear layers. Raises `WeightsError` where a tensor is missing."""
    missing = [
        name
        for name in ("embedding.weight", "first.weight", "second.weight")
        if name not in tensors
    ]
    if missing:
        raise WeightsError(f"A toy lacks {', '.join(missing)}.", "Give the weights of a toy.")
    layers = {}
    for name in ("first", "second"):
        out, into = tensors[f"{name}.weight"].shape
        layers[name] = Layer(name, f"{name}.weight", into, out, None, None, linear=True)
    vocabulary = tensors["embedding.weight"].shape[0]
    return Architecture(FAMILY, layers, details={"vocabulary": vocabulary})


TOY = Family(
    name=FAMILY,
    modality=MODALITY,
    fields="tests.toy_text.architecture:ToyFields",
    read_architecture="tests.toy_text.architecture:read_architecture",
    make="tests.toy_text.network:make_toy",
    description="letters, each by itself: an embedding, two linear layers, a softmax",
    loads="embedding.weight, first.weight and second.weight in .safetensors",
)
