"""A text-to-image model as one whose cross-attention can be read and edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.core.model import Keys, Trace
from editspec_runtime.families.diffusion.architecture import DiffusionArchitecture
from editspec_runtime.families.diffusion.encoder import TextEncoder
from editspec_runtime.io.parts import ENCODERS
from editspec_runtime.maths.channelwise import MatrixFunction
from editspec_runtime.modalities.text_to_image.batches import PromptBatch


class DiffusionModel:
    """The text encoders of a model, and the matrices that read what they give.

    A batch is a `PromptBatch`. The U-Net itself is never run: keys come before all of its layers.
    Outputs are the values of all layers, one behind the other, [n, positions, all outputs].

    Parameters
    ----------
    weights
        The tensors by their names, with the folder of their model before them.
    architecture
        The layers, with the configuration.
    encoders
        The text encoders, in the order in which what they give is joined.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        architecture: DiffusionArchitecture,
        encoders: tuple[TextEncoder, ...],
    ) -> None:
        self.weights = weights
        self.architecture = architecture
        self.encoders = encoders

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(iter(self.weights.values())).device

    @torch.no_grad()
    def encode(self, batch: PromptBatch) -> Tensor:
        """Compute the keys of a batch, [n, positions, width]."""
        parts = []
        for encoder, tokens in zip(self.encoders, batch.tokens, strict=True):
            parts.append(encoder(tokens.to(self.device)))
        return torch.cat(parts, -1)

    def keys(self, layer: str, batch: PromptBatch) -> Keys:
        """Compute the keys, which are those of every layer; each token counts once."""
        del layer
        return Keys(self.encode(batch))

    def trace(self, layer: str, batch: PromptBatch) -> Trace:
        """Compute all that reaches a layer."""
        del layer
        return Trace(self.encode(batch), {}, None)

    def function(self, layer: str) -> MatrixFunction:
        """W k, and a bias where the matrix has one, which never changes."""
        parameter = self.architecture.layers[layer].parameter
        return MatrixFunction(self.weights.get(parameter.removesuffix("weight") + "bias"))

    def layer_value(self, layer: str, trace: Trace) -> Tensor:
        """Compute the value of a layer with its own weight."""
        return self.function(layer)(trace.key, self.weight(layer), trace.arguments)

    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        """Compute the values of all layers, that of `layer` being another."""
        values = []
        for name in self.architecture.layers:
            values.append(value if name == layer else self.layer_value(name, trace))
        return torch.cat(values, -1)

    def outputs(self, batch: PromptBatch) -> Tensor:
        """Compute the values of all layers."""
        first = next(iter(self.architecture.layers))
        trace = self.trace(first, batch)
        return self.forward_from(first, self.layer_value(first, trace), trace)

    def weight(self, layer: str) -> Tensor:
        """The matrix [out, in]."""
        return self.weights[self.architecture.layers[layer].parameter]

    def to_checkpoint(self, layer: str, kernel: Tensor) -> Tensor:
        """The matrix itself: a checkpoint has it in this order."""
        del layer
        return kernel

    def upstream(self, layer: str) -> dict[str, Tensor]:
        """The tensors of the text encoders."""
        del layer
        folders = tuple(f"{name}/" for name in ENCODERS)
        found = self.weights.items()
        return {name: tensor for name, tensor in found if name.startswith(folders)}

    def with_weights(self, weights: Mapping[str, Tensor]) -> DiffusionModel:
        """Make the model with other matrices, and the text encoders as they are."""
        return DiffusionModel(weights, self.architecture, self.encoders)

    def separate(self) -> DiffusionModel:
        """The model itself: it holds no state while it runs."""
        return self

    def fingerprint(self) -> dict[str, Any]:
        """The configurations of the text encoders."""
        config = self.architecture.config
        assert config is not None
        return {
            "family": self.architecture.family,
            "encoders": [dict(encoder.content) for encoder in config.encoders],
            "penultimate": config.penultimate,
        }
