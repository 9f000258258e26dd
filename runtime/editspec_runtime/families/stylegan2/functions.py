"""The function of a styled convolution, from its key and its weight to its value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.model import LayerFunction
from editspec_runtime.maths.channelwise import ChannelwiseFunction, Movable, unit_kernels
from editspec_runtime.modalities.image.maps import HALO

SLOPE = 0.2
GAIN = math.sqrt(2)


@dataclass(frozen=True)
class StyledConvolution(LayerFunction, Movable):
    """f(k; W) of one styled convolution.

    Demodulation, noise, bias and leaky ReLU follow the convolution.

    Takes the arguments ``style`` [n, in_channels], which the demodulation needs, and ``noise``
    [1 or n, 1, h * scale, w * scale].
    """

    strength: Tensor
    bias: Tensor
    blur: Tensor | None
    clamp: float | None = None
    gain: float = GAIN

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        kernel = weight.reshape(weight.shape[-4:])
        # The sum over in and taps of (style * w)^2, which the demodulation divides by.
        energy = arguments["style"].square() @ kernel.square().sum((2, 3)).T
        value = self._convolve(key, kernel, HALO in arguments)
        return self._activate(value, energy, arguments, _scale(kernel))

    def with_key(self, key: Tensor, arguments: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        answer = self.with_key_by_channels(key, arguments)
        return lambda weight: answer(weight, slice(None))

    def with_key_by_channels(
        self, key: Tensor, arguments: Mapping[str, Tensor]
    ) -> Callable[[Tensor, slice], Tensor]:
        squares = arguments["style"].square().repeat_interleave(9, 1)
        convolve = self._make_products(key, HALO in arguments)

        def answer(weight: Tensor, channels: slice) -> Tensor:
            kernel = weight.reshape(weight.shape[-4:])
            energy = _WeightedSquares.of(kernel.flatten(1), squares)
            own = replace(self, bias=self.bias[channels])
            return own._activate(convolve(kernel), energy, arguments, _scale(kernel))

        return answer

    def with_weight(self, weight: Tensor) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor]:
        """Fix the weight: the function of key and arguments, for many maps.

        What depends on the weight only is computed here, once.
        """
        kernel = weight.reshape(weight.shape[-4:])
        squares = torch.linalg.vector_norm(kernel, dim=(2, 3)).square().T
        # In the memory layout that the convolution would bring the kernel to at every call; a
        # transposed convolution takes the input axis first.
        if self.blur is None:
            laid = kernel.contiguous(memory_format=torch.channels_last)
        else:
            turned = kernel.transpose(0, 1).contiguous(memory_format=torch.channels_last)
            laid = turned.transpose(0, 1)

        def answer(key: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
            energy = arguments["style"].square() @ squares
            value = self._convolve(key, laid, HALO in arguments)
            return self._activate(value, energy, arguments, _scale(kernel))

        return answer

    def _make_products(self, key: Tensor, haloed: bool) -> Callable[[Tensor], Tensor]:
        """The linear part of an unscaled kernel, as one matrix product each way."""
        if self.blur is not None:
            return self._make_transposed_products(key, haloed)
        # Images, then positions side by side.
        padding = 0 if haloed else 1
        height, width = key.shape[2] + 2 * padding - 2, key.shape[3] + 2 * padding - 2
        columns = F.unfold(key, 3, padding=padding).transpose(0, 1).flatten(1)

        def convolve(kernel: Tensor) -> Tensor:
            products = kernel.flatten(1) @ columns
            return products.view(len(kernel), len(key), height, width).transpose(0, 1)

        return convolve

    def _make_transposed_products(self, key: Tensor, haloed: bool) -> Callable[[Tensor], Tensor]:
        """The linear part of the transposed convolution, with the blur.

        The products of neighbouring positions overlap and are added up.
        """
        padding = 1 if haloed else 0
        size = (2 * key.shape[2] + 1 - 2 * padding, 2 * key.shape[3] + 1 - 2 * padding)
        columns = key.transpose(0, 1).flatten(1)

        def convolve(kernel: Tensor) -> Tensor:
            rows = kernel.movedim(1, -1).flatten(0, 2)
            products = (rows @ columns).view(len(rows), len(key), -1).transpose(0, 1)
            wide = F.fold(products, size, 3, padding=padding, stride=2)
            assert self.blur is not None
            return filter_channels(wide, self.blur, padding=0 if haloed else 1)

        return convolve

    def _activate(
        self, value: Tensor, energy: Tensor, arguments: Mapping[str, Tensor], scale: float
    ) -> Tensor:
        """Apply demodulation, noise, bias and activation to the result of the convolution.

        `value` and `energy` [n, out] are those of a kernel that has not been multiplied by its
        `scale` yet.
        """
        # Scale and gain go with what is multiplied and added anyway: the map is passed over twice
        # in all.
        factor = scale * self.gain * torch.rsqrt(scale**2 * energy + 1e-8)
        factor, offset = factor[:, :, None, None], self.gain * self._offset(arguments)
        if value.requires_grad or energy.requires_grad:
            value = F.leaky_relu(torch.addcmul(offset, value, factor), SLOPE)
            return value if self.clamp is None else value.clamp(-self.clamp, self.clamp)
        # In place without gradients: nobody else has the value, and on large maps new memory takes
        # longer than the numbers.
        if value.is_contiguous(memory_format=torch.channels_last):
            offset = offset.contiguous(memory_format=torch.channels_last)
        value = F.leaky_relu_(torch.addcmul(offset, value, factor, out=value), SLOPE)
        return value if self.clamp is None else value.clamp_(-self.clamp, self.clamp)

    @property
    def is_channelwise(self) -> bool:
        return True

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        if self.blur is None:
            return F.conv2d(key, kernel, padding=1)
        return F.conv_transpose2d(key, kernel.transpose(0, 1), stride=2)

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> ChannelwiseFunction:
        kernel = weight.reshape(weight.shape[-4:])
        scale = _scale(kernel)
        taps = kernel.shape[2:]
        squares = arguments["style"].square()
        # With w = w0 + A D, the energy of the demodulation is quadratic in A: its constant, linear
        # and quadratic parts are energy, cross and gram.
        weighted = squares[:, None] * directions
        gram = weighted @ directions.T
        gram_by_tap = [torch.kron(each, torch.eye(taps.numel()).to(each)) for each in gram]
        return ChannelwiseFunction(
            response=scale * self._make_products(key, HALO in arguments)(kernel).flatten(2),
            design=self._design(key, kernel, directions, arguments, scale),
            offset=self._offset(arguments).flatten(2),
            energy=scale**2 * squares @ torch.linalg.vector_norm(kernel, dim=(2, 3)).square().T,
            cross=scale**2 * (weighted[:, None] @ kernel.flatten(2)).flatten(2),
            gram=scale**2 * torch.stack(gram_by_tap),
            slope=SLOPE,
            gain=self.gain,
            clamp=self.clamp,
            scale=scale,
        )

    def design(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> Tensor:
        kernel = weight.reshape(weight.shape[-4:])
        return self._design(key, kernel, directions, arguments, 1.0)

    def _design(
        self,
        key: Tensor,
        kernel: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
        scale: float,
    ) -> Tensor:
        """What each coefficient adds to the answer, [n, positions, s * 9]."""
        projected = torch.einsum("jihw,si->jshw", key, directions)
        if self.blur is None:
            # What a convolution with unit kernels would copy, without its multiplications by zero.
            padding = 0 if HALO in arguments else 1
            return scale * F.unfold(projected, kernel.shape[2:], padding=padding).mT
        unit = unit_kernels((len(directions), *kernel.shape[2:]), key)
        return self._convolve(projected, scale * unit, HALO in arguments).flatten(2).mT

    def _convolve(self, key: Tensor, kernel: Tensor, haloed: bool) -> Tensor:
        """Convolve with a kernel [out, in, kh, kw], and blur where the layer upsamples."""
        if self.blur is None:
            return F.conv2d(key, kernel, padding=0 if haloed else 1)
        # The halo reaches the blur too, so the transposed convolution drops one ring less.
        wide = F.conv_transpose2d(key, kernel.transpose(0, 1), stride=2, padding=1 if haloed else 0)
        return filter_channels(wide, self.blur, padding=0 if haloed else 1)

    def _offset(self, arguments: Mapping[str, Tensor]) -> Tensor:
        return self.strength * arguments["noise"] + self.bias[:, None, None]


class _WeightedSquares(torch.autograd.Function):
    """The function sum_i s[n, i] w[o, i]^2 -> [n, o] with a gradient of its own.

    It takes less memory and time than a chain of operations.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor, squares: Tensor) -> Tensor:
        """[out, in * taps] and [n, in * taps] -> [n, out]."""
        context.save_for_backward(rows, squares)
        return squares @ rows.square().T

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """[n, out] -> [out, in * taps]."""
        rows, squares = context.saved_tensors
        return (2 * gradients[0].T @ squares).mul_(rows), None

    @staticmethod
    def of(rows: Tensor, squares: Tensor) -> Tensor:
        """Compute the sums, typed."""
        compute: Callable[..., Tensor] = _WeightedSquares.apply  # untyped before torch 2.14
        return compute(rows, squares)


def _scale(kernel: Tensor) -> float:
    """The factor of a kernel [out, in, kh, kw], which is stored unscaled.

    That of the equalised learning rate: training starts from a standard normal distribution.
    """
    return 1 / math.sqrt(kernel[0].numel())


def filter_channels(features: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Convolve each channel of `features` [n, c, h, w] with one `kernel` [4, 4]."""
    channels = features.shape[1]
    weight = kernel.flip(0, 1).to(features).expand(channels, 1, -1, -1)
    return F.conv2d(features, weight, padding=padding, groups=channels)


def upsample(image: Tensor, kernel: Tensor) -> Tensor:
    """Double the resolution of `image` [n, c, h, w].

    Zeros are put between the samples, then they are convolved with `kernel` [4, 4].
    """
    channels = image.shape[1]
    weight = kernel.to(image).expand(channels, 1, -1, -1)
    # A transposed convolution inserts the zeros by itself; cropping one ring puts the samples where
    # the padding (2, 1) of the original puts them.
    return F.conv_transpose2d(image, weight, stride=2, padding=1, groups=channels)
