"""A generator of images as a model, whose keys and values are maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from torch import Tensor

from editspec_runtime.core.model import Keys, LayerFunction, Model, Trace
from editspec_runtime.modalities.image.architecture import (
    ImageArchitecture,
    ImageLayer,
    require_images,
)
from editspec_runtime.modalities.image.maps import Box


def keys_of_map(key_map: Tensor) -> Keys:
    """The positions of maps [n, in_channels, height, width] as keys, row by row."""
    return Keys(key_map.flatten(2).mT)


def make_picture(image: Tensor) -> Tensor:
    """The picture [n, 3, h, w] of an image of 1, 3 or 4 channels, in -1..1.

    Gray becomes three equal channels. Of four, the last is opacity, and what is transparent is
    white. Differentiable.
    """
    channels = image.shape[1]
    if channels == 1:
        return image.expand(-1, 3, -1, -1)
    if channels == 4:
        opacity = ((image[:, 3:] + 1) / 2).clamp(0, 1)
        return image[:, :3] * opacity + (1 - opacity)
    return image


def require_generator(model: Model) -> Generator:
    """Narrow a model to a generator of images.

    Raises `UsageError` where its family does not draw images.
    """
    require_images(model.architecture)
    return cast(Generator, model)


class Generator(ABC):
    """A generator of images whose layers can be read and edited.

    It is a `Model` with the powers `Separable`, `TiledKeys`, `MappedKeys`, `Observable` and
    `Trainable`. A family implements the abstract methods, and the others follow from these.

    Attributes
    ----------
    architecture
        Its layers, image size and latent size.
    weights
        Its tensors by their names in the checkpoint, in the precision that it computes in.
    """

    architecture: ImageArchitecture
    weights: Mapping[str, Tensor]

    @abstractmethod
    def trace(self, layer: str, latents: Tensor) -> Trace:
        """Compute all that reaches `layer` for `latents` [n, latent_size], and no more.

        Of a model with styles, latents may also be w of every layer, [n, styles, style_size].
        The key is a map, [n, in_channels, key_size, key_size], one row of it for `ImageLayer.row`.
        """

    @abstractmethod
    def function(self, layer: str) -> LayerFunction:
        """The layer's function f(k; W), from key maps to value maps.

        With the argument `HALO`, a key has a ring of width 1 that lends the convolution its
        surroundings: [n, in_channels, h + 2, w + 2] gives values [n, out_channels, h * scale,
        w * scale].
        """

    @abstractmethod
    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        """Compute images [n, 3, image_size, image_size] in -1..1 from `value` at `layer`.

        `trace` is that of `layer`. Differentiable in `value`.
        """

    @abstractmethod
    def forward_between(self, start: str, output: Tensor, trace: Trace, layer: str) -> Trace:
        """Compute the trace of `layer` from the `output` of an earlier layer `start`.

        `trace` is that of `start`.
        """

    @abstractmethod
    def carried_tensors(self, trace: Trace) -> dict[str, Tensor]:
        """The tensors of a trace that `forward_between` needs, besides key and arguments."""

    @abstractmethod
    def trace_from_tensors(self, key: Tensor, tensors: Mapping[str, Tensor]) -> Trace:
        """Make a trace for `forward_between` from a key map and `carried_tensors`.

        An image that the layers before have drawn is not in these tensors.
        """

    @abstractmethod
    def crop(self, layer: str, trace: Trace, region: Box) -> tuple[Tensor, dict[str, Tensor]]:
        """Cut a `region` out of the key map, with its halo, and the arguments for it.

        The key is [n, in_channels, h + 2, w + 2].
        """

    @abstractmethod
    def images(self, latents: Tensor) -> Tensor:
        """Draw images [n, 3, image_size, image_size] of `latents` [n, latent_size].

        Numbers are about -1..1.
        """

    @abstractmethod
    def upstream(self, layer: str) -> dict[str, Tensor]:
        """The tensors that the key of `layer` depends on, by name."""

    @abstractmethod
    def trainable(self) -> list[str]:
        """The names of the tensors that training changes: no noise, filter or average."""

    @abstractmethod
    def with_weights(self, weights: Mapping[str, Tensor]) -> Generator:
        """Make the generator anew around other weights, which are taken as they are."""

    def styles(self, latents: Tensor) -> Tensor:
        """Map z [n, latent_size] to w of every layer, [n, styles, style_size].

        Whatever takes latents takes these, too. Only a model whose architecture has styles is
        asked.
        """
        raise NotImplementedError(f"{self.architecture.family} has no w")

    def separate(self) -> Generator:
        """Make a generator of the same weights for another thread.

        This generator itself, unless the family's network holds state while it runs.
        """
        return self

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """The settings that the numbers depend on, as plain values by name.

        The family, the truncation, the kind of noise; the tensors have digests of their own.
        """

    def outputs(self, batch: Tensor) -> Tensor:
        """Draw the images of a batch of latents, as `images`."""
        return self.images(batch)

    def keys(self, layer: str, batch: Tensor) -> Keys:
        """Compute the keys of `layer` for latents [n, latent_size], each of weight 1."""
        return keys_of_map(self.key_maps(layer)(batch))

    def key_maps(self, layer: str) -> Callable[[Tensor], Tensor]:
        """The key maps of `layer` as a function of latents [n, latent_size].

        [n, in_channels, key_size, key_size]. For many latents: what depends on the weights only is
        computed here, once. Nothing that only the image needs is computed.
        """
        return lambda latents: self.trace(layer, latents).key

    def most_tiles(self, layer: str) -> int:
        """Into how many tiles of rows the key map of `layer` may be split.

        1 where a family knows only whole maps.
        """
        return 1

    def map_tiles(self, layer: str, tiles: int) -> Callable[[Tensor], Iterator[Tensor]]:
        """The key maps of `layer` in `tiles` of rows, as a function of latents.

        Each is [n, in_channels, rows, key_size]. For maps that do not fit into memory: a tile is
        computed with the halo that the layers before need, and equals these rows of the whole map
        up to rounding. A single tile is the whole map, bit for bit.
        """
        keys = self.key_maps(layer)
        return lambda latents: iter([keys(latents)])

    def key_tiles(self, layer: str, tiles: int) -> Callable[[Tensor], Iterator[Keys]]:
        """The keys of `layer` in `tiles` of rows, as a function of latents."""
        tiles_of = self.map_tiles(layer, tiles)
        # `map` drops a tile before the next one is computed: two may not fit into memory.
        return lambda latents: map(keys_of_map, tiles_of(latents))

    def weight(self, layer: str) -> Tensor:
        """The edited parameter of `layer`, [1, out_channels, in_channels, kh, kw]."""
        return self.weights[self.layer(layer).parameter]

    def to_model(self, latents: Tensor) -> Tensor:
        """Bring latents to the device and into the precision of the weights."""
        # Those of a layer: a checkpoint may hold integers, too.
        return latents.to(self.weight(next(iter(self.architecture.layers))))

    def to_checkpoint(self, layer: str, kernel: Tensor) -> Tensor:
        """Bring a kernel [1, out, in, kh, kw] of `layer` into the shape of the checkpoint."""
        return kernel.reshape(self.weights[self.layer(layer).parameter].shape)

    def layer(self, name: str) -> ImageLayer:
        """The layer `name` of the architecture."""
        return self.architecture.layers[name]

    def layer_output(self, layer: str, value: Tensor) -> Tensor:
        """Compute the output of a layer from its `value`, in the same shape.

        The output is the value itself, unless the family says otherwise.
        """
        return value

    def forward_from_output(self, layer: str, output: Tensor, trace: Trace) -> Tensor:
        """Compute images [n, 3, image_size, image_size] from the `output` of `layer`.

        `trace` is that of `layer`.
        """
        return self.forward_from(layer, output, trace)

    def output_at(self, layer: str, value: Tensor, trace: Trace, observe: str) -> Tensor:
        """Compute the output of `observe` when the value at `layer` is `value`.

        `observe` is `layer` or comes after it; `trace` is that of `layer`.
        """
        output = self.layer_output(layer, value)
        if observe == layer:
            return output
        later = self.forward_between(layer, output, trace, observe)
        return self.layer_output(observe, self.layer_value(observe, later))

    def layer_value(self, layer: str, trace: Trace) -> Tensor:
        """Compute the value map of `layer` with its own weight.

        [n, out_channels, value_size, value_size].
        """
        return self.function(layer)(trace.key, self.weight(layer), trace.arguments)
