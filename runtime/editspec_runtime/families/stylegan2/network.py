"""The StyleGAN2 generator in plain torch, around a checkpoint's tensors.

Modulation and demodulation are applied to the input and the output of one shared convolution
(Karras et al. 2020, appendix B), which gives the same numbers as one kernel per sample and is far
faster on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.model import Trace
from editspec_runtime.families.contents import tensor_infos
from editspec_runtime.families.stylegan2.architecture import (
    expected_tensors,
    name_rgb,
    name_skip,
    read_architecture,
    upsamples,
)
from editspec_runtime.families.stylegan2.functions import GAIN, SLOPE, StyledConvolution, upsample
from editspec_runtime.families.stylegan2.nvidia import (
    CLAMP,
    RESIDUAL,
    SKIP,
    canonical_shape,
    find_wiring,
    is_nvidia,
    nvidia_name,
)
from editspec_runtime.modalities.image.architecture import ImageLayer
from editspec_runtime.modalities.image.compatibility import (
    EDITSPEC,
    ImageCompatibility,
    positional_noise,
)
from editspec_runtime.modalities.image.generator import Generator, make_picture
from editspec_runtime.modalities.image.maps import HALO, Box, halo_of
from editspec_runtime.modalities.image.tiles import most_tiles, split_layers, tiles_of_rows

HALF = math.sqrt(0.5)
"""The factor of each of two parts that are added, which leaves their variance as it was."""


@dataclass(frozen=True)
class Carried:
    """The tensors that go past a layer.

    Attributes
    ----------
    image
        The image so far, [n, channels, h, w]; None before the first to-RGB.
    styles
        w, [n, style_dim], or w of every layer, [n, styles, style_dim].
    skip
        The features that a residual connection leads around the layer; None without one.
    """

    image: Tensor | None
    styles: Tensor
    skip: Tensor | None = None


class StyleGAN2(Generator):
    """A StyleGAN2 generator, whose blocks add to the image, to their input, or to nothing.

    Parameters
    ----------
    weights
        The tensors by their names inside ``g_ema`` and ``latent_avg`` where truncation is wanted,
        or by NVIDIA's names.
    truncation
        w becomes avg + truncation * (w - avg).
    compatibility
        The kind of noise, and whether crops are haloed.
    class_label
        The class that is drawn, where the generator is conditioned on classes.

    Raises
    ------
    WeightsError
        The tensors are not a StyleGAN2 generator.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        truncation: float = 1.0,
        compatibility: ImageCompatibility = EDITSPEC,
        class_label: int | None = None,
    ) -> None:
        self.weights = weights
        self.architecture = read_architecture(tensor_infos(weights))
        self.named = _to_canonical(weights)
        self.wiring = find_wiring(weights)
        self.truncation = truncation
        self.compatibility = compatibility
        self.class_label = class_label
        self.clamp = float(weights[CLAMP]) if CLAMP in weights else None

    def mapping(self, latents: Tensor) -> Tensor:
        """Map latents z [n, latent_size] to w [n, style_dim], truncated.

        w of every layer, [n, styles, style_dim], is taken as it is.
        """
        if latents.ndim == 3:
            return latents
        styles = _normalise(latents)
        if self.architecture.classes:
            embedded = _normalise(self._embed_class()[None])
            styles = torch.cat([styles, embedded.expand(len(styles), -1)], dim=1)
        number = 1
        while f"style.{number}.weight" in self.named:
            weight, bias = self.named[f"style.{number}.weight"], self.named[f"style.{number}.bias"]
            # The mapping is trained at a hundredth of the learning rate (Karras et al. 2019).
            styles = F.linear(styles, weight * (0.01 / math.sqrt(weight.shape[1])), bias * 0.01)
            styles = F.leaky_relu(styles, SLOPE) * GAIN
            number += 1
        if self.truncation == 1.0 or not self.compatibility.truncation:
            return styles
        average = self.named["latent_avg"]
        return average + self.truncation * (styles - average)

    def styles(self, latents: Tensor) -> Tensor:
        return self.mapping(latents)[:, None].expand(-1, self.architecture.styles, -1)

    def synthesis(self, styles: Tensor) -> Tensor:
        """Draw pictures [n, 3, image_size, image_size] of w [n, style_dim]."""
        first = self.architecture.layers["layer2"].name
        trace = self._enter(first, self._constant(len(styles)), Carried(None, styles))
        return self.forward_from(first, self.layer_value(first, trace), trace)

    def images(self, latents: Tensor) -> Tensor:
        return self.synthesis(self.mapping(latents))

    def trace(self, layer: str, latents: Tensor) -> Trace:
        first = self.architecture.layers["layer2"].name
        carried = Carried(None, self.mapping(latents))
        trace = self._enter(first, self._constant(len(latents)), carried)
        if layer == first:
            return trace
        return self.forward_between(first, self.layer_value(first, trace), trace, layer)

    def key_maps(self, layer: str) -> Callable[[Tensor], Tensor]:
        if self.wiring == RESIDUAL:
            return super().key_maps(layer)
        names = list(self.architecture.layers)
        functions = {}
        for name in names[: names.index(layer)]:
            functions[name] = self.function(name).with_weight(self.weight(name))

        def compute(latents: Tensor) -> Tensor:
            styles = self.mapping(latents)
            # A copy, as the keys are computed in place.
            features = self._constant(len(latents)).clone()
            for name, function in functions.items():
                style = self._key_style(name, styles)
                noise = self._noise(name, len(features)).to(features)
                key = features.mul_(style[:, :, None, None])
                features = function(key, {"style": style, "noise": noise})
            return features.mul_(self._key_style(layer, styles)[:, :, None, None])

        return compute

    def most_tiles(self, layer: str) -> int:
        # A residual connection would have to be led around the tiles.
        return 1 if self.wiring == RESIDUAL else most_tiles(self.layer(layer))

    def map_tiles(self, layer: str, tiles: int) -> Callable[[Tensor], Iterator[Tensor]]:
        if tiles == 1:
            return super().map_tiles(layer, tiles)
        layers = split_layers(list(self.architecture.layers.values()), self.layer(layer), tiles)
        start = self.key_maps(layers[0].name)
        functions = {}
        for each in layers[:-1]:
            functions[each.name] = self.function(each.name).with_weight(self.weight(each.name))

        def tiles_of(latents: Tensor) -> Iterator[Tensor]:
            mapped = self.mapping(latents)
            styles = {each.name: self._key_style(each.name, mapped) for each in layers}
            noises = {name: self._noise(name, len(latents)).to(latents) for name in functions}

            def advance(
                before: ImageLayer, after: ImageLayer, key: Tensor, first: int, last: int
            ) -> Tensor:
                noise = noises[before.name][:, :, first * before.scale : last * before.scale]
                arguments = {"style": styles[before.name], "noise": noise, HALO: halo_of(key)}
                value = functions[before.name](key, arguments)
                return value.mul_(styles[after.name][:, :, None, None])

            return tiles_of_rows(start(latents), layers, tiles, advance)

        return tiles_of

    def forward_between(self, start: str, output: Tensor, trace: Trace, layer: str) -> Trace:
        names = list(self.architecture.layers)
        features, carried = self._leave(start, output, trace.carried)
        for name in names[names.index(start) + 1 : names.index(layer)]:
            trace = self._enter(name, features, carried)
            features, carried = self._leave(name, self.layer_value(name, trace), trace.carried)
        return self._enter(layer, features, carried)

    def carried_tensors(self, trace: Trace) -> dict[str, Tensor]:
        tensors = {"w": trace.carried.styles}
        if trace.carried.skip is not None:
            tensors["skip"] = trace.carried.skip
        return tensors

    def trace_from_tensors(self, key: Tensor, tensors: Mapping[str, Tensor]) -> Trace:
        return Trace(key, {}, Carried(None, tensors["w"], tensors.get("skip")))

    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        names = list(self.architecture.layers)
        features, carried = self._leave(layer, value, trace.carried)
        for name in names[names.index(layer) + 1 :]:
            trace = self._enter(name, features, carried)
            features, carried = self._leave(name, self.layer_value(name, trace), trace.carried)
        assert carried.image is not None
        return make_picture(carried.image)

    def function(self, layer: str) -> StyledConvolution:
        block = self._block(layer)
        strength, bias = self.named[f"{block}.noise.weight"], self.named[f"{block}.activate.bias"]
        blur = None
        if self._upsamples(layer):
            blur = self._resampling_kernel(f"{block}.conv.blur.kernel")
        if not self._is_added(layer):
            return StyledConvolution(strength, bias, blur, self.clamp)
        # The two parts of a sum are scaled so that it stays as large as they are.
        clamp = None if self.clamp is None else self.clamp * HALF
        return StyledConvolution(strength, bias, blur, clamp, GAIN * HALF)

    def crop(self, layer: str, trace: Trace, region: Box) -> tuple[Tensor, dict[str, Tensor]]:
        shape = self.layer(layer)
        if self.compatibility.halo:
            # Outside of the map lie the zeros that the convolution pads with.
            key = F.pad(trace.key, (1, 1, 1, 1))
            key = key[:, :, region.top : region.bottom + 2, region.left : region.right + 2]
            values = region.scale_up(shape.scale)
            noise = trace.arguments["noise"][:, :, values.rows(), values.columns()]
        else:
            key = F.pad(trace.key[:, :, region.rows(), region.columns()], (1, 1, 1, 1))
            values = region.scale_up(shape.scale)
            height, width = values.bottom - values.top, values.right - values.left
            noise = positional_noise(len(key), height, width).to(key)
        return key, {"style": trace.arguments["style"], "noise": noise, HALO: halo_of(key)}

    def upstream(self, layer: str) -> dict[str, Tensor]:
        names = list(self.architecture.layers)
        before = names[: names.index(layer)]
        prefixes = ["style.", "mapping.", "input.", f"{self._block(layer)}.conv.modulation."]
        prefixes += [f"{self._block(name)}." for name in before]
        prefixes += [f"noises.noise_{_number(name) - 2}" for name in before]
        prefixes += [f"{name_skip(_number(name))}." for name in before if self._is_added(name)]
        if self.truncation != 1.0:
            prefixes.append("latent_avg")
        tensors = {}
        for name, tensor in self.named.items():
            if name.startswith(tuple(prefixes)):
                tensors[name] = tensor
        if self.clamp is not None:
            tensors[CLAMP] = self.weights[CLAMP]
        return tensors

    def trainable(self) -> list[str]:
        fixed = ("noises.", "latent_avg", "mapping.w_avg", CLAMP)
        buffers = (".kernel", ".resample_filter", ".noise_const")
        names = [name for name in self.weights if not name.startswith(fixed)]
        return [name for name in names if not name.endswith(buffers)]

    def with_weights(self, weights: Mapping[str, Tensor]) -> StyleGAN2:
        return StyleGAN2(weights, self.truncation, self.compatibility, self.class_label)

    def fingerprint(self) -> dict[str, Any]:
        noise = "positional" if self.compatibility.positional_noise else "buffers"
        settings = {
            "family": self.architecture.family,
            "truncation": self.truncation,
            "noise": noise,
        }
        # Left out without classes: caches of the time before classes keep their names.
        if self.class_label is not None:
            settings["class_label"] = self.class_label
        if self.wiring != SKIP:
            settings["architecture"] = self.wiring
        return settings

    def weight(self, layer: str) -> Tensor:
        return self.named[f"{self._block(layer)}.conv.weight"]

    def _enter(self, layer: str, features: Tensor, carried: Carried) -> Trace:
        """The trace of a styled convolution: its modulated input, style and noise."""
        style = self._key_style(layer, carried.styles)
        noise = self._noise(layer, len(features)).to(features)
        if self.wiring == RESIDUAL and self._upsamples(layer):
            carried = replace(carried, skip=self._lead_around(layer, features))
        return Trace(features * style[:, :, None, None], {"style": style, "noise": noise}, carried)

    def _lead_around(self, layer: str, features: Tensor) -> Tensor:
        """Bring the input of a block, whose first layer is given, to its output."""
        skip = name_skip(_number(layer) + 1)
        weight = self.named[f"{skip}.weight"]
        narrow = F.conv2d(features, weight * (HALF / math.sqrt(weight.shape[1])))
        return upsample(narrow, self._resampling_kernel(f"{skip}.kernel"))

    def _leave(self, layer: str, value: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """The input of the next layer, and what goes on past it, from a layer's value."""
        features = value
        if self._is_added(layer):
            assert carried.skip is not None
            features = value + carried.skip
            carried = replace(carried, skip=None)
        return features, self._paint(layer, features, carried)

    def _paint(self, layer: str, features: Tensor, carried: Carried) -> Carried:
        """Add the image that to-RGB draws from `features`, behind the layers of even number."""
        name = name_rgb(_number(layer))
        if self._upsamples(layer) or f"{name}.conv.weight" not in self.named:
            return carried
        # To-RGB shares the w of the convolution that follows.
        style = self._style(f"{name}.conv", _style_at(carried.styles, _number(layer) - 1))
        weight = self.named[f"{name}.conv.weight"][0]
        kernel = weight / math.sqrt(weight.shape[1])
        # To-RGB modulates and does not demodulate (Karras et al. 2020, appendix B).
        image = F.conv2d(features * style[:, :, None, None], kernel) + self.named[f"{name}.bias"]
        if self.clamp is not None:
            image = image.clamp(-self.clamp, self.clamp)
        if carried.image is not None:
            taps = self._resampling_kernel(f"{name}.upsample.kernel")
            image = image + upsample(carried.image, taps)
        return replace(carried, image=image)

    def _key_style(self, layer: str, styles: Tensor) -> Tensor:
        """The factors of the channels of a layer's key, [n, in_channels]."""
        own = _style_at(styles, _number(layer) - 2)
        return self._style(f"{self._block(layer)}.conv", own)

    def _style(self, convolution: str, styles: Tensor) -> Tensor:
        weight = self.named[f"{convolution}.modulation.weight"]
        bias = self.named[f"{convolution}.modulation.bias"]
        return F.linear(styles, weight / math.sqrt(weight.shape[1]), bias)

    def _embed_class(self) -> Tensor:
        """The embedding of the class that is drawn, [style_dim]."""
        assert self.class_label is not None
        # The embedding of a one-hot vector, equalised like every linear layer.
        weight = self.named["mapping.embed.weight"]
        column = weight[:, self.class_label] / math.sqrt(weight.shape[1])
        return column + self.named["mapping.embed.bias"]

    def _noise(self, layer: str, batch: int) -> Tensor:
        """The noise map of a layer, [1 or batch, 1, value_size, value_size].

        The checkpoint's buffer; where there is none, noise of the layer's own seed.
        """
        # Never drawn anew: an image must depend on its latent alone.
        index, size = _number(layer) - 2, self.layer(layer).value_size
        if self.compatibility.positional_noise:
            return positional_noise(batch, size, size)
        if f"noises.noise_{index}" in self.named:
            return self.named[f"noises.noise_{index}"]
        drawn = np.random.RandomState(index).standard_normal((1, 1, size, size)).astype(np.float32)
        return torch.from_numpy(drawn)

    def _constant(self, batch: int) -> Tensor:
        constant = self.named["input.input"]
        return constant.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)

    def _resampling_kernel(self, name: str) -> Tensor:
        if name in self.named:
            return self.named[name]
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]).to(self.named["input.input"])
        return torch.outer(taps, taps) / 16

    def _upsamples(self, layer: str) -> bool:
        return upsamples(_number(layer))

    def _is_added(self, layer: str) -> bool:
        """Whether a residual connection is added to the value of a layer."""
        number = _number(layer)
        return self.wiring == RESIDUAL and number > 2 and not upsamples(number)

    def _block(self, layer: str) -> str:
        number = _number(layer)
        return "conv1" if number == 2 else f"convs.{number - 3}"


def _to_canonical(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by rosinality's names and shapes; mostly views of NVIDIA's."""
    if not is_nvidia(weights):
        return dict(weights)
    named = {}
    for canonical in [*expected_tensors(tensor_infos(weights)), "latent_avg"]:
        tensor = weights.get(nvidia_name(canonical))
        if tensor is not None:
            tensor = tensor.reshape(canonical_shape(canonical, tuple(tensor.shape)))
            # NVIDIA scales when it resamples, rosinality scales the kernel beforehand.
            if canonical.endswith(".kernel"):
                tensor = 4 * tensor
            named[canonical] = tensor
        elif canonical.endswith(".noise.weight"):
            named[canonical] = weights["synthesis.b4.const"].new_zeros(1)
    return named


def _normalise(latents: Tensor) -> Tensor:
    """Divide each row of `latents` [n, size] by the root of its mean square."""
    return latents * torch.rsqrt(latents.square().mean(1, keepdim=True) + 1e-8)


def _style_at(styles: Tensor, place: int) -> Tensor:
    """The w of one place [n, style_dim], of one w for all places or one for each."""
    return styles if styles.ndim == 2 else styles[:, place]


def _number(layer: str) -> int:
    return int(layer.removeprefix("layer"))
