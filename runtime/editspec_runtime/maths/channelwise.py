"""The form of a layer's function in which each output channel follows from its own weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.model import LayerFunction


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


@runtime_checkable
class Channelwise(Protocol):
    """The power of a layer's function to give its form `ChannelwiseFunction`."""

    @property
    def is_channelwise(self) -> bool:
        """Whether the function has that form: for some modules this follows from their settings."""

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> ChannelwiseFunction | None:
        """Give the function with A alone unknown, W = `weight` + A D.

        None where the function has no such form. `directions` is D [s, in_features]; the rest is
        as in the call of the function.
        """


@dataclass(frozen=True)
class MatrixFunction(LayerFunction):
    """f(k; W) = W k + b at every position: the linear layer of a sequence.

    Keys are [n, positions, in], values [n, positions, out], W is [out, in].

    Attributes
    ----------
    bias
        b, [out]; None for none.
    """

    bias: Tensor | None = None

    is_channelwise: ClassVar[bool] = True

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        """The values of keys."""
        return F.linear(key, weight, None if self.bias is None else self.bias.to(key))

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> ChannelwiseFunction:
        """The function with A alone unknown, W = `weight` + A D."""
        response = value_by_channel(key @ weight.mT, weight)
        offset = torch.zeros_like(response[:1])
        if self.bias is not None:
            offset = offset + self.bias.to(key)[:, None]
        return ChannelwiseFunction(response, key @ directions.mT, offset)


def value_by_channel(value: Tensor, weight: Tensor) -> Tensor:
    """A value as [J, O, P]: of a matrix [J, P, O] turned, of a kernel [J, O, h, w] flattened."""
    return value.mT if weight.ndim == 2 else value.flatten(2)


def is_channelwise(function: LayerFunction) -> bool:
    """Whether each output channel of a function follows from its own weights alone."""
    return isinstance(function, Channelwise) and function.is_channelwise


def channelwise_form(
    function: LayerFunction,
    key: Tensor,
    weight: Tensor,
    directions: Tensor,
    arguments: Mapping[str, Tensor],
) -> ChannelwiseFunction | None:
    """The function with A alone unknown, as `Channelwise.channelwise`; None without that form."""
    if not isinstance(function, Channelwise):
        return None
    return function.channelwise(key, weight, directions, arguments)
