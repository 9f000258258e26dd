"""The form of functions that compute each output channel from its own weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.model import LayerFunction
from editspec_runtime.maths.low_rank import kernel_of

AnyMovable = TypeVar("AnyMovable", bound="Movable")


class Movable:
    """A dataclass whose tensors are its fields, so that it can go to another device."""

    def to(self: AnyMovable, device: torch.device) -> AnyMovable:
        """Make an equal object with its tensors on a device."""
        tensors = {}
        for each in dataclasses.fields(cast(Any, self)):
            value = getattr(self, each.name)
            if isinstance(value, Tensor):
                tensors[each.name] = value.to(device)
        moved: AnyMovable = dataclasses.replace(cast(Any, self), **tensors)
        return moved


@dataclass(frozen=True)
class ChannelwiseFunction(Movable):
    """The function f(K*; W0 + A D) of the coefficients A alone.

    There are J items, P positions and O output channels. If a[o] are the n = s * kh * kw
    coefficients of channel o, the value of item j at that channel is, position by position,

        gain * leaky_relu((response[j, o] + design[j] a[o]) * factor[j, o] + offset[j, o], slope)
        factor[j, o] = rsqrt(energy[j, o] + 2 cross[j, o] a[o] + a[o] gram[j] a[o] + 1e-8)

    This equals the function up to rounding (paper Eqn. 17), and costs s instead of in_channels.

    Attributes
    ----------
    response
        The answer of the unedited weight before demodulation, [J, O, P].
    design
        The amount that each coefficient adds to the answer, shared by the channels, [J, P, n].
    offset
        The term that is added after demodulation, [1 or J, O, P].
    energy, cross, gram
        The terms of the demodulation: [J, O], [J, O, n] and [J, n, n]; all None for a layer without
        demodulation (factor 1).
    multiplier
        A factor of each output channel in place of the demodulation, [1, O], of any sign; None
        for 1.
    slope, gain
        The negative slope and the gain of the activation; 1 and 1 for a layer without activation.
    clamp
        The largest absolute value; None where there is no limit.
    scale
        The factor that the weight is multiplied by before it is used.
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

    def whiten(self, root: Tensor) -> ChannelwiseFunction:
        """Make the function of the unknowns b = a root [n, n] in place of the coefficients a."""

        def whiten(rows: Tensor) -> Tensor:
            whitened: Tensor = torch.linalg.solve_triangular(root, rows.mT, upper=False).mT
            return whitened

        gram = None if self.gram is None else whiten(whiten(self.gram).mT)
        cross = None if self.cross is None else whiten(self.cross)
        return dataclasses.replace(self, design=whiten(self.design), cross=cross, gram=gram)

    def answer(self, coefficients: Tensor) -> Tensor:
        """Compute the answer before demodulation, [J, O, P], of coefficients [O, n]."""
        repeated = coefficients.expand(len(self.design), -1, -1)
        return torch.baddbmm(self.response, repeated, self.design.mT)

    @cached_property
    def unedited_factor(self) -> Tensor:
        """The factor of the demodulation without a change, [J, O]."""
        if self.energy is not None:
            return _inverse_root(self.energy)
        shape = self.response.shape[:2]
        if self.multiplier is None:
            return self.response.new_ones(shape)
        return self.multiplier.expand(shape)

    @property
    def unedited(self) -> Tensor:
        """The values without a change, [J, O, P]."""
        return self._value(self.response, self.unedited_factor)

    def demodulation(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the factor of the demodulation for coefficients [O, n].

        Returns the factor [J, O], and half the gradient [J, O, n] of the sum of squares whose
        inverse root the factor is.
        """
        if self.energy is None or self.cross is None or self.gram is None:
            return self.unedited_factor, self.response.new_zeros(coefficients.shape)[None]
        pull = torch.baddbmm(self.cross, coefficients.expand(len(self.gram), -1, -1), self.gram)
        return _inverse_root(self.energy + ((self.cross + pull) * coefficients).sum(-1)), pull

    def missing_answer(self, value: Tensor) -> Tensor:
        """Compute the change of the answer before demodulation that gives a value [J, O, P].

        The factor of the demodulation is that without a change. Where a rectifier hides the answer,
        the one that is nearest to the present answer counts.
        """
        factor = self.unedited_factor[..., None]
        wanted = value / self.gain
        if self.slope > 0:
            hidden = wanted / self.slope
        else:
            hidden = (self.response * factor + self.offset).clamp_max(0)
        wanted = torch.where(wanted > 0, wanted, hidden)
        return torch.where(factor != 0, (wanted - self.offset) / factor - self.response, 0)

    def loss_and_gradient(self, coefficients: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean |V* - f| and its gradient [O, n] by the coefficients.

        The coefficients are [O, n], V* (`wanted`) is [J, O, P].

        The gradient is written out by hand because, for maps of a few hundred positions, the
        bookkeeping of autograd takes longer than the arithmetic.
        """
        answer, (factor, pull) = self.answer(coefficients), self.demodulation(coefficients)
        whole = torch.addcmul(self.offset, answer, factor[..., None])
        value = F.leaky_relu(whole, self.slope).mul_(self.gain)
        residual = self._limit(value) - wanted
        # Backwards through the absolute value, the activation, the clamp and the demodulation.
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
        """Compute the values [J, O, P] of coefficients [O, n]."""
        return self._value(self.answer(coefficients), self.demodulation(coefficients)[0])

    def _value(self, answer: Tensor, factor: Tensor) -> Tensor:
        """Compute the values of answers [J, O, P] and their factors [J, O]."""
        whole = answer * factor[..., None] + self.offset
        return self._limit(F.leaky_relu(whole, self.slope) * self.gain)

    def _limit(self, value: Tensor) -> Tensor:
        """Clamp a value where the layer does so."""
        return value if self.clamp is None else value.clamp(-self.clamp, self.clamp)


def _inverse_root(energy: Tensor) -> Tensor:
    """The factor of a demodulation whose sum of squares is `energy`."""
    # A sum of squares is not negative, but rounding may make it so. 1e-8 is StyleGAN2's.
    return energy.clamp_min(0).add_(1e-8).rsqrt_()


def unit_kernels(sizes: Sequence[int], like: Tensor) -> Tensor:
    """Make the kernels that are 1 at one direction and tap, and 0 elsewhere.

    Returns [s * kh * kw, s, kh, kw] for `sizes` [s, kh, kw]: one output channel for each
    coefficient, on the device and in the precision of `like`.
    """
    return torch.eye(math.prod(sizes)).to(like).view(-1, *sizes)


@runtime_checkable
class Channelwise(Protocol):
    """The power of a layer's function to give its form as a `ChannelwiseFunction`."""

    @property
    def is_channelwise(self) -> bool:
        """Whether the function has that form, which may depend on its settings."""

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> ChannelwiseFunction | None:
        """Make the function of A alone, where W = `weight` + A D.

        Returns None if the function has no such form. `directions` is D [s, in_features]. The other
        parameters are those of the call of the function.
        """


@runtime_checkable
class Designed(Protocol):
    """The power of a layer's function to give its design alone, which takes less memory."""

    def design(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> Tensor:
        """Compute `ChannelwiseFunction.design`, [J, P, n].

        The parameters are those of `Channelwise.channelwise`.
        """


@dataclass(frozen=True)
class MatrixFunction(LayerFunction, Movable):
    """The function f(k; W) = W k + b at every position of a sequence.

    Keys are [n, positions, in], values [n, positions, out], W is [out, in].

    Attributes
    ----------
    bias
        b, [out]; None for a layer without a bias.
    """

    bias: Tensor | None = None

    is_channelwise: ClassVar[bool] = True

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        """Compute the values of keys."""
        return F.linear(key, weight, None if self.bias is None else self.bias.to(key))

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> ChannelwiseFunction:
        """Make the function of A alone, where W = `weight` + A D."""
        response = value_by_channel(key @ weight.mT, weight)
        offset = torch.zeros_like(response[:1])
        if self.bias is not None:
            offset = offset + self.bias.to(key)[:, None]
        return ChannelwiseFunction(response, key @ directions.mT, offset)


def value_by_channel(value: Tensor, weight: Tensor) -> Tensor:
    """Bring a value into the shape [J, O, P].

    The values of a matrix [J, P, O] are transposed, those of a kernel [J, O, h, w] are flattened.
    """
    return value.mT if weight.ndim == 2 else value.flatten(2)


def design_of(
    function: LayerFunction,
    key: Tensor,
    weight: Tensor,
    directions: Tensor,
    arguments: Mapping[str, Tensor],
) -> Tensor:
    """Compute the design of a function, [J, P, n], unscaled.

    Row p holds what each coefficient of a change adds to the linear output at value position p, as
    a share of the scale that the weight is multiplied by. For all input units as directions these
    are the keys under every tap of the kernel. The function acts on each output channel alone, or
    is linear from key to value.
    """
    if isinstance(function, Designed):
        return function.design(key, weight, directions, arguments)
    form = channelwise_form(function, key, weight, directions, arguments)
    if form is not None:
        return form.design / form.scale
    return linear_design(function, key, weight, directions, arguments)


def designs_of(
    function: LayerFunction,
    key: Tensor,
    weight: Tensor,
    directions: Tensor,
    arguments: Mapping[str, Tensor],
) -> Iterator[Tensor]:
    """Yield the design of each item, [P, n], in the precision of the weight.

    Item by item, because over all input units one design is in * taps numbers a position. The
    parameters are those of `design_of`.
    """
    for number in range(len(key)):
        item = slice(number, number + 1)
        own = {}
        for name, tensor in arguments.items():
            # Some arguments, such as noise, are one for all items.
            own[name] = (tensor[item] if len(tensor) == len(key) else tensor).to(weight)
        (rows,) = design_of(function, key[item].to(weight), weight, directions, own)
        yield rows


def linear_design(
    function: LayerFunction,
    key: Tensor,
    weight: Tensor,
    directions: Tensor,
    arguments: Mapping[str, Tensor],
) -> Tensor:
    """Compute the design of a function that is linear from key to value, [J, P, n].

    A linear function reveals its own design: it is called with one output channel for each
    coefficient, whose kernel is 1 at the direction and tap of that coefficient and 0 elsewhere.
    """
    unit = unit_kernels((len(directions), *kernel_of(weight).shape[2:]), key)
    if weight.ndim == 5:
        unit = unit[None]
    projected = torch.einsum("ni...,si->ns...", key, directions)
    return function(projected, unit, arguments).flatten(2).mT


def is_channelwise(function: LayerFunction) -> bool:
    """Whether each output channel of a function depends only on its own weights."""
    return isinstance(function, Channelwise) and function.is_channelwise


def channelwise_form(
    function: LayerFunction,
    key: Tensor,
    weight: Tensor,
    directions: Tensor,
    arguments: Mapping[str, Tensor],
) -> ChannelwiseFunction | None:
    """Make the function of A alone, as `Channelwise.channelwise` does.

    Returns None if the function has no such form.
    """
    if not isinstance(function, Channelwise):
        return None
    return function.channelwise(key, weight, directions, arguments)
