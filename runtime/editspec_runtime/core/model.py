"""The protocol of a model of any modality: keys, values, and functions of them.

A batch is whatever a modality's sample yields and its models take: latents, token ids, prompts.
Only the model looks into a batch.
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
        The weight of each position, [n, positions]; 0 for padding. None: each counts once.
    """

    values: Tensor
    weight: Tensor | None = None

    def rows(self) -> tuple[Tensor, Tensor | None]:
        """The keys that count, [p, in_features], and their weights, [p].

        The weights are None where each key counts once. Keys of weight 0 are left out, whatever
        numbers they hold: 0 times an infinite padding would not be 0.
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
        The inputs of the layer's function besides key and weight, by name. For StyleGAN2:
        ``style`` [n, in_features] and ``noise`` [1 or n, 1, value_size, value_size].
    carried
        The inputs of the rest of the model besides the value. Only the family looks into them.
    """

    key: Tensor
    arguments: Mapping[str, Tensor]
    carried: Any


class LayerFunction(Protocol):
    """A function f(k; W): from key and weight to value (paper section 3.1).

    It is differentiable in both.
    """

    @abstractmethod
    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        """Compute the value of a key.

        Parameters
        ----------
        key
            As `Trace.key`, or a part of it: [n, positions, in_features], or maps
            [n, in_features, height, width]. The arguments say where the part lies.
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
        """Fix the key, and return the function of the weight alone.

        Everything that depends only on the key is computed here, once for many weights.
        """
        return lambda weight: self(key, weight, arguments)


@runtime_checkable
class ByChannels(Protocol):
    """The power of a layer's function on maps to compute some of its output channels alone."""

    def with_key_by_channels(
        self, key: Tensor, arguments: Mapping[str, Tensor]
    ) -> Callable[[Tensor, slice], Tensor]:
        """Fix the key, and return the function of the weight of some output channels.

        It takes the weight of these channels, and where they lie among all. It gives their values.
        Everything that depends only on the key is computed here, once.
        """


@runtime_checkable
class Model(Protocol):
    """A model whose layers can be read and edited.

    Attributes
    ----------
    architecture
        The editable layers.
    weights
        The tensors by their names in the checkpoint, in the precision of the computation.
    """

    @property
    def architecture(self) -> Architecture:
        """The editable layers."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors by their names in the checkpoint."""

    def keys(self, layer: str, batch: Any) -> Keys:
        """Compute the keys of `layer` and the weight of each position.

        Nothing after the keys is computed.
        """

    def trace(self, layer: str, batch: Any) -> Trace:
        """Compute all that reaches `layer`."""

    def function(self, layer: str) -> LayerFunction:
        """The layer's function f(k; W)."""

    def layer_value(self, layer: str, trace: Trace) -> Tensor:
        """Compute the value of `layer` with its own weight."""

    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        """Compute the output that follows from `value` at `layer`.

        The output is differentiable in `value`. `trace` is the trace at `layer`.
        """

    def outputs(self, batch: Any) -> Tensor:
        """Compute the outputs of a batch, such as images or logits: [n, ...]."""

    def weight(self, layer: str) -> Tensor:
        """The edited parameter of `layer`, its output axis before its input axis."""

    def to_checkpoint(self, layer: str, kernel: Tensor) -> Tensor:
        """Bring a tensor of the shape of `weight` into the shape of the checkpoint."""

    def upstream(self, layer: str) -> Mapping[str, Tensor]:
        """The tensors that the keys of `layer` depend on, by name."""

    def with_weights(self, weights: Mapping[str, Tensor]) -> Model:
        """Make the model with other `weights`: all tensors, which are not copied."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything besides the tensors that changes the numbers, as plain values."""


@runtime_checkable
class TiledKeys(Protocol):
    """The power to compute keys in parts, where memory is short."""

    def most_tiles(self, layer: str) -> int:
        """The largest number of tiles that the keys of `layer` may be split into."""

    def key_tiles(self, layer: str, tiles: int) -> Callable[[Any], Iterator[Keys]]:
        """The keys of `layer`, tile by tile, as a function of a batch.

        Everything that depends only on the weights is computed here, once. One tile gives the bits
        of `Model.keys`. Each of several tiles equals its part of these keys up to rounding.
        """


@runtime_checkable
class Separable(Protocol):
    """The power to be used by several threads at once."""

    def separate(self) -> Model:
        """Make an equal model for another thread: itself, unless it holds state while it runs."""


@runtime_checkable
class MappedKeys(Protocol):
    """The power to give keys as maps: the positions of an item have neighbours."""

    def key_maps(self, layer: str) -> Callable[[Any], Tensor]:
        """The key maps of `layer` as a function of a batch.

        Maps are [n, in_channels, height, width]. Everything that depends only on the weights is
        computed here, once.
        """


class MappedModel(Model, MappedKeys, Protocol):
    """A model whose keys are maps."""


@runtime_checkable
class Convolutional(Protocol):
    """The power of a layer's function to convolve whole maps with a kernel."""

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        """Convolve key maps [n, c, h, w] with a `kernel` [out, c, kh, kw].

        Neither noise, bias, demodulation nor activation is applied.
        """


@runtime_checkable
class Observable(Protocol):
    """The power to compute at a later layer what an earlier layer's value leads to."""

    def output_at(self, layer: str, value: Tensor, trace: Trace, observe: str) -> Tensor:
        """Compute the output of `observe` when the value at `layer` is `value`.

        `observe` is `layer` or a layer after it. `trace` is the trace at `layer`.
        """

    def carried_tensors(self, trace: Trace) -> dict[str, Tensor]:
        """The tensors of a trace that `output_at` needs besides key and arguments."""

    def trace_from_tensors(self, key: Tensor, tensors: Mapping[str, Tensor]) -> Trace:
        """Make a trace for `output_at` from a key and its `carried_tensors`."""


@runtime_checkable
class Trainable(Protocol):
    """The power of a model to be trained as a whole."""

    def trainable(self) -> list[str]:
        """The names of the tensors that training changes: no buffers, no averages."""


class ObservableModel(Model, Observable, Protocol):
    """A model that can be observed at later layers."""


@dataclass(frozen=True)
class ObservedFunction(LayerFunction):
    """A function from a layer's key and weight to the output of a later layer.

    Its arguments are those of the layer's own function and the `Observable.carried_tensors`. The
    key is always whole, never a part.
    """

    model: ObservableModel
    layer: str
    observe: str

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        """Compute the output of `observe`."""
        value = self.model.function(self.layer)(key, weight, arguments)
        trace = self.model.trace_from_tensors(key, arguments)
        return self.model.output_at(self.layer, value, trace, self.observe)
