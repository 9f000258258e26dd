"""What a family provides: keys, values, the function between them, and the rest of the way to the
image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.architecture import Architecture, Layer


@dataclass(frozen=True)
class Box:
    """A rectangle of map positions: rows top to bottom, columns left to right, the ends
    exclusive.
    """

    top: int
    left: int
    bottom: int
    right: int

    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.top, self.bottom)

    def columns(self) -> slice:
        """The columns as a slice."""
        return slice(self.left, self.right)

    def scaled(self, scale: int) -> Box:
        """The same rectangle on a map with `scale` times as many positions along an axis."""
        return Box(self.top * scale, self.left * scale, self.bottom * scale, self.right * scale)

    def aligned(self, scale: int) -> Box:
        """The smallest rectangle on a map with `scale` times fewer positions along an axis that
        covers this one.
        """
        return Box(
            self.top // scale, self.left // scale, -(-self.bottom // scale), -(-self.right // scale)
        )


@dataclass(frozen=True)
class LayerInput:
    """All that reaches a layer.

    Attributes
    ----------
    key
        The key map, [n, in_channels, key_size, key_size].
    arguments
        What the layer's function takes beside key and weight, by name (for StyleGAN2 ``style`` [n,
        in_channels] and ``noise`` [1 or n, 1, value_size, value_size]).
    carried
        What the rest of the generator needs beside the value; only the family looks into it.
    """

    key: Tensor
    arguments: Mapping[str, Tensor]
    carried: Any


@dataclass(frozen=True)
class ChannelwiseFunction:
    """f(K*; W0 + A D) where the coefficients A alone are unknown, for J images, P positions and O
    output channels.

    With a[o] the n = s * kh * kw coefficients of channel o, the value of image j there is, position
    by position,

        gain * leaky_relu((response[j, o] + design[j] a[o]) * factor[j, o] + offset[j, o], slope)
        factor[j, o] = rsqrt(energy[j, o] + 2 cross[j, o] a[o] + a[o] gram[j] a[o] + 1e-8)

    which equals the function itself up to rounding, and costs s instead of in_channels.

    Attributes
    ----------
    response
        What the unedited weight gives before demodulation, [J, O, P].
    design
        What each coefficient adds to it, the same for all output channels, [J, P, n].
    offset
        What is added after demodulation, [1 or J, O, P].
    energy, cross, gram
        Of the demodulation: [J, O], [J, O, n] and [J, n, n]; all None where the layer has none
        (factor 1).
    multiplier
        What each output channel is multiplied by in place of the demodulation, [1, O], of any sign;
        None for 1.
    slope, gain
        Of the activation; 1 and 1 where the layer has none.
    clamp
        The largest value either way; None where there is no limit.
    scale
        What the weight is multiplied by before it is used.
    """

    response: Tensor
    design: Tensor
    offset: Tensor
    energy: Tensor | None = None
    cross: Tensor | None = None
    gram: Tensor | None = None
    multiplier: Tensor | None = None
    slope: float = 1.0
    gain: float = 1.0
    clamp: float | None = None
    scale: float = 1.0

    def answer(self, coefficients: Tensor) -> Tensor:
        """What the weight gives before demodulation, [J, O, P], of coefficients [O, n]."""
        return torch.baddbmm(
            self.response, coefficients.expand(len(self.design), -1, -1), self.design.mT
        )

    def demodulation(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The factor [J, O] of coefficients [O, n]; of what it is the inverse root of, half the
        gradient [J, O, n].
        """
        if self.energy is None or self.cross is None or self.gram is None:
            shape = self.response.shape[:2]
            factor = (
                self.response.new_ones(shape)
                if self.multiplier is None
                else self.multiplier.expand(shape)
            )
            return factor, self.response.new_zeros(coefficients.shape)[None]
        pull = torch.baddbmm(self.cross, coefficients.expand(len(self.gram), -1, -1), self.gram)
        energy = self.energy + ((self.cross + pull) * coefficients).sum(-1)
        # The sum of squares is never negative; rounding might make it so.
        return (energy.clamp_min_(0) + 1e-8).rsqrt_(), pull

    def loss_and_gradient(self, coefficients: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """mean |V* - f| of coefficients [O, n] and V* [J, O, P], and its gradient [O, n].

        By hand, as for maps of a few hundred positions the bookkeeping of autograd takes longer
        than the numbers.
        """
        answer, (factor, pull) = self.answer(coefficients), self.demodulation(coefficients)
        whole = torch.addcmul(self.offset, answer, factor[..., None])
        value = F.leaky_relu(whole, self.slope).mul_(self.gain)
        residual = (value if self.clamp is None else value.clamp(-self.clamp, self.clamp)) - wanted
        push = residual.sign()
        push = torch.where(whole > 0, push, self.slope * push)
        if self.clamp is not None:
            push *= value.abs() <= self.clamp
        towards = push @ self.design
        if self.energy is not None:
            towards -= (factor.square() * push.mul_(answer).sum(-1))[..., None] * pull
        gradient = (towards * factor[..., None]).sum(0).mul_(self.gain / residual.numel())
        return residual.abs_().mean(), gradient

    def __call__(self, coefficients: Tensor) -> Tensor:
        """The values [J, O, P] of coefficients [O, n]."""
        factor, _ = self.demodulation(coefficients)
        value = (
            F.leaky_relu(self.answer(coefficients) * factor[..., None] + self.offset, self.slope)
            * self.gain
        )
        return value if self.clamp is None else value.clamp(-self.clamp, self.clamp)


def unit_kernels(sizes: Sequence[int], like: Tensor) -> Tensor:
    """One output channel per coefficient of `sizes` [s, kh, kw], whose kernel is one at its own
    direction and tap.

    [s * kh * kw, s, kh, kw], on the device and in the precision of `like`.
    """
    return torch.eye(math.prod(sizes)).to(like).view(-1, *sizes)


class LayerFunction(ABC):
    """f(k; W): a layer's output as a function of its key and its weight, differentiable in both
    (paper section 3.1).
    """

    @abstractmethod
    def __call__(
        self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor], *, haloed: bool = False
    ) -> Tensor:
        """The value map of a key map.

        Parameters
        ----------
        key
            [n, in_channels, h, w]; with `haloed`, [n, in_channels, h + 2, w + 2], whose outer ring
            lends the convolution its surroundings and has no value of its own.
        weight
            The edited parameter, as a kernel [1, out_channels, in_channels, kh, kw] or in the shape
            of the checkpoint.
        arguments
            As in `LayerInput`, for this map or this crop.

        Returns
        -------
        Tensor
            [n, out_channels, h * scale, w * scale].
        """

    @abstractmethod
    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        """The layer's convolution alone, of whole key maps [n, c, h, w] with a `kernel` [out, c,
        kh, kw].
        """

    @property
    def is_channelwise(self) -> bool:
        """Whether each output channel follows from its own weights alone, in the form that
        `channelwise` gives.
        """
        return False

    def bound(
        self, key: Tensor, arguments: Mapping[str, Tensor], *, haloed: bool = False
    ) -> Callable[[Tensor], Tensor]:
        """The function of the weight alone, for many weights: what depends on the key only is
        computed here.
        """
        return lambda weight: self(key, weight, arguments, haloed=haloed)

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
        *,
        haloed: bool = False,
    ) -> ChannelwiseFunction | None:
        """The function with A alone unknown, W = `weight` + A D; None where it is not
        `is_channelwise`.

        `directions` is D [s, in_channels]; the rest is as in the call.
        """
        return None


class Generator(ABC):
    """A generator whose layers can be read and edited.

    Attributes
    ----------
    layout
        Its layers, image size and latent size.
    weights
        Its tensors by their names in the checkpoint, in the precision that it computes in.
    """

    architecture: Architecture
    weights: Mapping[str, Tensor]

    @abstractmethod
    def prefix(self, layer: str, latents: Tensor) -> LayerInput:
        """All that reaches `layer` for `latents` [n, latent_size]; computes nothing behind the
        key.
        """

    def keys(self, layer: str) -> Callable[[Tensor], Tensor]:
        """The key maps [n, in_channels, key_size, key_size] of `layer` as a function of latents [n,
        latent_size].

        For many latents: what depends on the weights only is computed here, and what only the image
        needs not at all.
        """
        return lambda latents: self.prefix(layer, latents).key

    def most_tiles(self, layer: str) -> int:
        """Into how many bands of rows the key map of `layer` may be split: 1 where a family knows
        only whole maps.
        """
        return 1

    def key_tiles(self, layer: str, tiles: int) -> Callable[[Tensor], Iterator[Tensor]]:
        """The key maps of `layer` in `tiles` of rows, [n, in_channels, rows, key_size], as a
        function of latents.

        For maps that do not fit into memory: a band is computed with the halo that the layers
        before need, and equals these rows of the whole map up to rounding; a single one is the
        whole map, bit for bit.
        """
        keys = self.keys(layer)
        return lambda latents: iter([keys(latents)])

    @abstractmethod
    def function(self, layer: str) -> LayerFunction:
        """The layer's function f(k; W)."""

    @abstractmethod
    def rest(self, layer: str, value: Tensor, carried: Any) -> Tensor:
        """The images [n, 3, image_size, image_size] in -1..1 that follow from `value` at
        `layer`.
        """

    @abstractmethod
    def onward(self, start: str, output: Tensor, carried: Any, layer: str) -> LayerInput:
        """All that reaches `layer`, which comes after `start`, when `start` hands on `output`."""

    @abstractmethod
    def pack(self, carried: Any) -> dict[str, Tensor]:
        """What `onward` needs of what is carried past a layer, as tensors by name."""

    @abstractmethod
    def unpack(self, tensors: Mapping[str, Tensor]) -> Any:
        """What was packed, as `onward` takes it."""

    @abstractmethod
    def crop(
        self, layer: str, reached: LayerInput, region: Box
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The haloed key [n, in_channels, h + 2, w + 2] of a `region` of the key map, and the
        arguments for it.
        """

    @abstractmethod
    def images(self, latents: Tensor) -> Tensor:
        """The images [n, 3, image_size, image_size] in -1..1 of `latents` [n, latent_size]."""

    @abstractmethod
    def upstream(self, layer: str) -> dict[str, Tensor]:
        """The tensors that the key of `layer` depends on, by name."""

    @abstractmethod
    def trainable(self) -> list[str]:
        """The tensors that training changes, by name: no noise, no fixed filter, no average."""

    @abstractmethod
    def with_weights(self, weights: Mapping[str, Tensor]) -> Generator:
        """The same generator around other weights, which are taken as they are."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on beside the tensors, as plain values: family, truncation, kind
        of noise.
        """

    def weight(self, layer: str) -> Tensor:
        """The edited parameter of `layer`, [1, out_channels, in_channels, kh, kw]."""
        return self.weights[self.layer(layer).parameter]

    def fitted(self, latents: Tensor) -> Tensor:
        """Latents on the device and in the precision of the weights; a checkpoint may hold integers
        beside them.
        """
        return latents.to(self.weight(next(iter(self.architecture.layers))))

    def stored(self, layer: str, kernel: Tensor) -> Tensor:
        """A kernel [1, out, in, kh, kw] of `layer` in the shape of the checkpoint."""
        return kernel.reshape(self.weights[self.layer(layer).parameter].shape)

    def layer(self, name: str) -> Layer:
        """The layout of layer `name`."""
        return self.architecture.layers[name]

    def output(self, layer: str, value: Tensor) -> Tensor:
        """What a layer hands on, in the shape of its `value`: the value itself, unless the family
        says otherwise.
        """
        return value

    def finished(self, layer: str, output: Tensor, carried: Any) -> Tensor:
        """The images [n, 3, image_size, image_size] that follow when `layer` hands on `output`."""
        return self.rest(layer, output, carried)

    def observed(self, layer: str, value: Tensor, carried: Any, observe: str) -> Tensor:
        """The output of `observe`, which is `layer` or comes after it, when the value at `layer` is
        `value`.
        """
        output = self.output(layer, value)
        if observe == layer:
            return output
        return self.output(
            observe, self.value(observe, self.onward(layer, output, carried, observe))
        )

    def value(self, layer: str, reached: LayerInput) -> Tensor:
        """The value map [n, out_channels, value_size, value_size] of `layer` with its own
        weight.
        """
        return self.function(layer)(reached.key, self.weight(layer), reached.arguments)


@dataclass(frozen=True)
class ObservedFunction(LayerFunction):
    """A layer's function as it is seen at a later layer: the output there, as a function of key and
    weight here.

    Takes the arguments of the layer's own function and what `Generator.pack` gives. The map is
    always a whole one.
    """

    generator: Generator
    layer: str
    observe: str

    def __call__(
        self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor], *, haloed: bool = False
    ) -> Tensor:
        """The output of `observe`, [n, channels, size, size]."""
        value = self.generator.function(self.layer)(key, weight, arguments, haloed=haloed)
        return self.generator.observed(
            self.layer, value, self.generator.unpack(arguments), self.observe
        )

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        """The convolution of the layer itself."""
        return self.generator.function(self.layer).convolution(key, kernel)
