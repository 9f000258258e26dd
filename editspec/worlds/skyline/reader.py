"""An independent reader of Skyline pictures, trained on rendered pictures only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editspec.worlds.skyline import READER
from editspec.worlds.skyline.world import TOPS, Scene
from editspec_runtime.io.files import read_tensors

ATTRIBUTES = {
    "left_top": len(TOPS),
    "right_top": len(TOPS),
    "windows_lit": 2,
    "reflection": 2,
    "left_tree": 2,
    "right_tree": 2,
    "people": 2,
    "middle_watermark": 2,
    "bottom_watermark": 2,
}
"""The attributes that are read, each with the number of its classes in `Scene`."""


class Reader(nn.Module):
    """A convolutional classifier of pictures, with one head for all attributes.

    `attributes` are those that it reads, each with the number of its classes.
    """

    def __init__(self, attributes: Mapping[str, int] = ATTRIBUTES) -> None:
        super().__init__()
        self.attributes = dict(attributes)
        widths = (3, 24, 48, 64, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1)
            for before, after in itertools.pairwise(widths)
        )
        self.head = nn.Linear(widths[-1] * 16, sum(self.attributes.values()))

    def features(self, images: Tensor) -> list[Tensor]:
        """Compute the activated maps of the convolutions, [n, c, h, h].

        They have 32, 16, 8 and 4 positions a side.
        """
        maps, features = [], images
        for convolution in self.convolutions:
            features = F.leaky_relu(convolution(features), 0.1)
            maps.append(features)
        return maps

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute logits [n, classes] of each attribute of `images` [n, 3, 64, 64]."""
        logits = self.head(self.features(images)[-1].flatten(1))
        classes = list(self.attributes.values())
        return dict(zip(self.attributes, logits.split(classes, 1), strict=True))

    @torch.no_grad()
    def read(self, images: Tensor) -> dict[str, Tensor]:
        """Read the class of each attribute in `images` [n, 3, 64, 64], [n] integers."""
        return {name: logits.argmax(1) for name, logits in self(images).items()}


def load_reader() -> Reader:
    """Load the reader that ships with the package."""
    reader = Reader()
    reader.load_state_dict(read_tensors(READER))
    return reader.eval()


def truth(scene: Scene) -> dict[str, Tensor]:
    """Return the classes that a perfect reader reads, [n] integers of each attribute."""
    return {name: getattr(scene, name).long() for name in ATTRIBUTES}
