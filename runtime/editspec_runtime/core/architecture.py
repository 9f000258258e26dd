"""The shape of a generator, whatever its family: its layers, image and latents. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from editspec_runtime.io.files import TensorInfo


@dataclass(frozen=True)
class Layer:
    """One editable layer: a memory from keys to values (paper section 3.2).

    Attributes
    ----------
    name
        The authors' name, such as ``layer6``.
    parameter
        The edited weight by its name in the checkpoint, such as ``convs.3.conv.weight``.
    in_channels, out_channels
        Channels of the key and of the value.
    key_size, value_size
        Width (and height, where a map is no single row) of the key map and of the value map, in
        positions.
    linear
        Whether the value is linear in the key: a convolution and nothing else, so that closed forms
        hold.
    axes
        The axes of the weight in the checkpoint: output, input, taps y and x; 1 for one that is
        always there alone.
    row
        Whether a map is a single row.
    """

    name: str
    parameter: str
    in_channels: int
    out_channels: int
    key_size: int
    value_size: int
    linear: bool = False
    axes: str = "o i y x"
    row: bool = False

    @property
    def positions(self) -> int:
        """Positions of a key map."""
        return self.key_size if self.row else self.key_size**2

    @property
    def key_numbers(self) -> int:
        """Numbers of a key map."""
        return self.in_channels * self.positions

    @property
    def scale(self) -> int:
        """Value positions per key position along one axis: 2 where the layer upsamples, else 1."""
        return self.value_size // self.key_size


@dataclass(frozen=True)
class Architecture:
    """A generator's layers in the order of computation, the size of its images and the length of
    its latents.

    Attributes
    ----------
    classes
        How many classes the generator is conditioned on; 0 where on none.
    average
        The tensor that holds the mean of w, by its name in the checkpoint; None where there is none
        to truncate to.
    """

    family: str
    layers: dict[str, Layer]
    image_size: int
    latent_size: int
    classes: int = 0
    average: str | None = None


NUMBERS = ("F32", "F16", "BF16", "F64")
"""What the tensors of a generator may hold, by the names of safetensors."""


def wrong_numbers(tensors: Mapping[str, TensorInfo], names: Iterable[str]) -> list[str]:
    """Which of the tensors `names` hold other numbers, in words: one line for each kind."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        if name in tensors and tensors[name].dtype not in NUMBERS:
            kinds.setdefault(tensors[name].dtype, []).append(name)
    return [
        f"{', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''} "
        f"hold{'s' if len(found) == 1 else ''} {kind} numbers, expected {', '.join(NUMBERS[:-1])} or {NUMBERS[-1]}"
        for kind, found in kinds.items()
    ]
