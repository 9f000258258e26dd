"""The sizes of a generator of images: maps, latents, classes; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.errors import UsageError

CHANNELS = (1, 3, 4)
"""The channels that images may have: gray, color, or color with transparency."""


@dataclass(frozen=True, kw_only=True)
class ImageLayer(Layer):
    """A layer whose keys and values are the positions of maps.

    `image_layer` makes one.

    Attributes
    ----------
    key_size, value_size
        Width of the key map and of the value map, in positions.
    row
        Whether a map is a single row; else it is square.
    """

    positions: int
    value_positions: int
    key_size: int
    value_size: int
    row: bool = False

    def facts(self) -> dict[str, str]:
        """The parameter, channels and positions from key to value, and what lies between."""
        facts = {
            "layer": self.name,
            "parameter": self.parameter,
            "channels": f"{self.in_features} -> {self.out_features}",
            "positions": (
                f"{self.key_size}x{self.key_size} -> {self.value_size}x{self.value_size}"
            ),
        }
        if self.steps:
            facts["from key to value"] = ", ".join(self.steps)
        return facts

    @property
    def key_numbers(self) -> int:
        """Numbers of a key map."""
        return self.in_features * self.positions

    @property
    def scale(self) -> int:
        """Value positions per key position along an axis: 2 where the layer upsamples."""
        return self.value_size // self.key_size

    @property
    def key_shape(self) -> tuple[int, int]:
        """Height and width of the key map."""
        return (1 if self.row else self.key_size), self.key_size


def image_layer(
    name: str,
    parameter: str,
    in_channels: int,
    out_channels: int,
    key_size: int,
    value_size: int,
    *,
    linear: bool = False,
    axes: str = "o i y x",
    row: bool = False,
    steps: tuple[str, ...] = (),
) -> ImageLayer:
    """Make a layer from its channels and the width of its maps."""
    axes_of_map = 1 if row else 2
    return ImageLayer(
        name,
        parameter,
        in_channels,
        out_channels,
        positions=key_size**axes_of_map,
        value_positions=value_size**axes_of_map,
        linear=linear,
        axes=axes,
        steps=steps,
        key_size=key_size,
        value_size=value_size,
        row=row,
    )


def require_images(architecture: Architecture) -> ImageArchitecture:
    """Narrow an architecture to one of images.

    Raises `UsageError` where its family does not draw images.
    """
    if not isinstance(architecture, ImageArchitecture):
        raise draws_nothing(architecture.family)
    return architecture


def draws_nothing(family: str) -> UsageError:
    """Make the error of a command of images on a family that draws none."""
    return UsageError(
        f"The family {family} does not draw images from latents, and this is about such images.",
        "Take build, check, plan or verify, which are for every family: search, sweep and sample "
        "are for generators.",
    )


@dataclass(frozen=True)
class ImageArchitecture(Architecture):
    """The layers of a generator, the size of its images and the length of its latents.

    Attributes
    ----------
    image_size
        Height and width of an image.
    latent_size
        Numbers in a latent.
    classes
        The number of classes that the generator is conditioned on; 0 without classes.
    average
        The name of the tensor that holds the mean of w, to which w is truncated; None where there
        is no such tensor.
    styles, style_size
        How many w an image is made of, one for each place where a network of styles takes one, and
        the numbers in each; 0 where the latent goes into the network itself.
    """

    layers: Mapping[str, ImageLayer]
    image_size: int
    latent_size: int
    classes: int = 0
    average: str | None = None
    styles: int = 0
    style_size: int = 0

    def facts(self) -> dict[str, Any]:
        """The sizes, and whether classes and truncation are there."""
        return {
            "image_size": self.image_size,
            "latent_size": self.latent_size,
            "classes": self.classes,
            "truncation": "possible" if self.average else "impossible: no mean of w",
            **self.details,
        }
