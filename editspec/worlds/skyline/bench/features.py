"""The features by which a bench measures the perceptual change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export.passes import move_to_device_pass

from editspec.worlds.skyline import READER
from editspec.worlds.skyline.efficacy import Features
from editspec.worlds.skyline.reader import load_reader
from editspec_runtime.core.method import OutputLoss
from editspec_runtime.errors import FileError
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import file_digest
from editspec_runtime.io.programs import read_program
from editspec_runtime.methods.losses import absolute_difference

FEATURE_WEIGHT = 0.01
"""The authors' weight of the features' squared error in the loss of outputs."""


@dataclass(frozen=True)
class NamedFeatures:
    """Feature maps with what they are called, and the digest of what computes them."""

    maps: Features
    name: str
    digest: str


def load_features(backbone: Path | None, device: torch.device) -> NamedFeatures:
    """Load the feature maps of an exported program, or of the reader that ships.

    Parameters
    ----------
    backbone
        A ``torch.export`` file of a program that takes images [n, 3, 64, 64] to a list of feature
        maps; None for the reader.
    device
        Where the features compute.

    Raises
    ------
    FileError
        The file is missing, or torch cannot read it, or it holds more than a program, or one
        that takes or gives something else.
    """
    if backbone is None:
        reader = load_reader()
        digest = tensors_digest(reader.state_dict())
        return NamedFeatures(reader.to(device).features, READER.name, digest)
    program, _ = read_program(backbone)
    maps = move_to_device_pass(program, device).module()
    _require_maps(maps, backbone, device)
    return NamedFeatures(maps, backbone.name, file_digest(backbone))


def _require_maps(maps: Callable[..., object], backbone: Path, device: torch.device) -> None:
    """Raise `FileError` where a program does not take images to feature maps."""
    hint = "Export one that takes any number of images [n, 3, 64, 64] to a list of maps."
    for count in (1, 2):
        images = torch.zeros(count, 3, 64, 64, device=device)
        try:
            found = maps(images)
        except Exception as error:  # errors of any kind, from the operators of others
            raise FileError(f"{backbone} does not take {count} x 3 x 64 x 64.", hint) from error
        several = list(found) if isinstance(found, list | tuple) else []
        shapes = [each.shape for each in several if isinstance(each, Tensor)]
        if not shapes or any(len(shape) != 4 or shape[0] != count for shape in shapes):
            raise FileError(f"{backbone} gives no list of feature maps [n, c, h, w].", hint)


def make_image_loss(features: Features) -> OutputLoss:
    """Make the loss of outputs (Eqn. 3), in pixels and in features.

    The loss is the L1 of pixels plus `FEATURE_WEIGHT` times the squared error of features, both
    where pixels count.
    """

    def loss(images: Tensor, wanted: Tensor, area: Tensor) -> Tensor:
        total = absolute_difference(images, wanted, area)
        for one, other in zip(features(images * area), features(wanted * area), strict=True):
            total = total + FEATURE_WEIGHT * F.mse_loss(one, other)
        return total

    return loss
