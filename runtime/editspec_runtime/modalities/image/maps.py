"""Parts of maps: boxes, and the halo of keys around them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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


HALO = "halo"
"""The argument of a key that has a ring of surroundings: the width of the ring, [n]. Functions ask
only whether it is there.
"""


def halo_of(key: Tensor) -> Tensor:
    """The argument `HALO` of a haloed key [n, ...]."""
    return key.new_ones(len(key))
