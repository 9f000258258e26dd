"""What a model of any modality provides: keys, values, the function between them, the way on.

A batch is whatever a modality's sample gives and its models take: latents, token ids, prompts. Only
the model looks into it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from editspec_runtime.core.architecture import Architecture


@dataclass(frozen=True)
class Keys:
    """The keys of a layer for one batch.

    Attributes
    ----------
    values
        [n, positions, in_features].
    weight
        How much each position counts, [n, positions]; 0 for padding. None: each counts once.
    """

    values: Tensor
    weight: Tensor | None = None

    def rows(self) -> tuple[Tensor, Tensor | None]:
        """Keys that count, [p, in_features], and their weights, [p]; None where each counts once.

        Keys of weight 0 are left out, whatever numbers stand there.
        """
        rows = self.values.reshape(-1, self.values.shape[-1])
        if self.weight is None:
            return rows, None
        weight = self.weight.reshape(-1)
        counting = weight > 0
        return rows[counting], weight[counting]


@dataclass(frozen=True)
class Trace:
    """All that reaches a layer for one batch.

    Attributes
    ----------
    key
        The keys as the layer's function takes them: [n, positions, in_features], or maps
        [n, in_features, height, width].
    arguments
        What the layer's function takes besides key and weight, by name. For StyleGAN2: ``style``
        [n, in_features] and ``noise`` [1 or n, 1, value_size, value_size].
    carried
        What the model needs on its way on besides the value; only the family looks into it.
    """

    key: Tensor
    arguments: Mapping[str, Tensor]
    carried: Any


class LayerFunction(Protocol):
    """f(k; W): a layer's value as a function of its key and its weight (paper section 3.1).

    Differentiable in both.
    """

    @abstractmethod
    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        """Compute the value of a key.

        Parameters
        ----------
        key
            As `Trace.key`, or a part of it: [n, positions, in_features], or maps
            [n, in_features, height, width]. Where the part lies is said by the arguments.
        weight
            The edited parameter, as `Model.weight` gives it or in the shape of the checkpoint.
        arguments
            As `Trace.arguments`, for this key.

        Returns
        -------
        Tensor
            [n, value positions, out_features], or maps [n, out_features, height, width].
        """

    def with_key(self, key: Tensor, arguments: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Fix the key: the function of the weight alone, for many weights.

        What depends on the key only is computed here, once.
        """
        return lambda weight: self(key, weight, arguments)


class Model(Protocol):
    """A model whose layers can be read and edited.

    Attributes
    ----------
    architecture
        Its editable layers.
    weights
        Its tensors by their names in the checkpoint, in the precision that it computes in.
    """

    @property
    def architecture(self) -> Architecture:
        """The editable layers."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors by their names in the checkpoint."""

    def keys(self, layer: str, batch: Any) -> Keys:
        """Compute the keys of `layer`, and how much each position counts.

        Nothing behind the keys is computed.
        """

    def trace(self, layer: str, batch: Any) -> Trace:
        """Compute all that reaches `layer`."""

    def function(self, layer: str) -> LayerFunction:
        """The layer's function f(k; W)."""

    def layer_value(self, layer: str, trace: Trace) -> Tensor:
        """Compute the value of `layer` with its own weight."""

    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        """Compute the output that follows from `value` at `layer`, differentiable in `value`.

        `trace` is that of `layer`.
        """

    def outputs(self, batch: Any) -> Tensor:
        """Compute the output of a batch: images, logits."""

    def weight(self, layer: str) -> Tensor:
        """The edited parameter of `layer`, output axis before input axis."""

    def to_checkpoint(self, layer: str, kernel: Tensor) -> Tensor:
        """Bring a tensor of the shape of `weight` into the shape of the checkpoint."""

    def upstream(self, layer: str) -> Mapping[str, Tensor]:
        """The tensors that the keys of `layer` depend on, by name."""

    def with_weights(self, weights: Mapping[str, Tensor]) -> Model:
        """Make the model anew around all of its `weights`, which are taken as they are."""

    def fingerprint(self) -> Mapping[str, Any]:
        """What the numbers depend on besides the tensors, as plain values by name."""


@runtime_checkable
class TiledKeys(Protocol):
    """The power to compute the keys of many batches, and in parts where memory is short."""

    def most_tiles(self, layer: str) -> int:
        """Into how many tiles the keys of `layer` may be split; 1 where they are always whole."""

    def key_tiles(self, layer: str, tiles: int) -> Callable[[Any], Iterator[Keys]]:
        """The keys of `layer`, tile by tile, as a function of a batch.

        What depends on the weights only is computed here, once. One tile gives the bits of
        `Model.keys`; of more, each equals its part of these keys up to rounding.
        """


@runtime_checkable
class MappedKeys(Protocol):
    """The power to give keys as maps: the positions of an item have neighbours."""

    def key_maps(self, layer: str) -> Callable[[Any], Tensor]:
        """The key maps of `layer` as a function of a batch, [n, in_channels, height, width].

        What depends on the weights only is computed here, once.
        """


class MappedModel(Model, MappedKeys, Protocol):
    """A model whose keys are maps."""


@runtime_checkable
class Convolutional(Protocol):
    """The power of a layer's function to say what a kernel answers to whole maps."""

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        """Convolve key maps [n, c, h, w] with a `kernel` [out, c, kh, kw], and nothing else."""


@runtime_checkable
class Observable(Protocol):
    """The power of a model to show at a later layer what a value at an earlier one leads to."""

    def output_at(self, layer: str, value: Tensor, trace: Trace, observe: str) -> Tensor:
        """Compute the output of `observe` when the value at `layer` is `value`.

        `observe` is `layer` or comes after it; `trace` is that of `layer`.
        """

    def carried_tensors(self, trace: Trace) -> dict[str, Tensor]:
        """What `output_at` needs of a trace besides key and arguments, as tensors by name."""

    def trace_from_tensors(self, key: Tensor, tensors: Mapping[str, Tensor]) -> Trace:
        """Make a trace for `output_at` from a key and `carried_tensors`."""


@runtime_checkable
class Trainable(Protocol):
    """The power of a model to be trained as a whole."""

    def trainable(self) -> list[str]:
        """The tensors that training changes, by name: no buffers, no averages."""


class ObservableModel(Model, Observable, Protocol):
    """A model that can be observed at later layers."""


@dataclass(frozen=True)
class ObservedFunction(LayerFunction):
    """A layer's function seen at a later layer: the output there, of key and weight here.

    Takes the arguments of the layer's own function and the `Observable.carried_tensors`. The key is
    always the whole one.
    """

    model: ObservableModel
    layer: str
    observe: str

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        """Compute the output of `observe`."""
        value = self.model.function(self.layer)(key, weight, arguments)
        trace = self.model.trace_from_tensors(key, arguments)
        return self.model.output_at(self.layer, value, trace, self.observe)
