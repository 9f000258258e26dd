"""Parts of maps: boxes, and the halo of keys around them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Box:
    """A rectangle of map positions.

    Rows top to bottom and columns left to right; `bottom` and `right` are exclusive.
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

    def scale_up(self, scale: int) -> Box:
        """The rectangle on a map with `scale` times as many positions along an axis."""
        return Box(self.top * scale, self.left * scale, self.bottom * scale, self.right * scale)

    def join(self, other: Box) -> Box:
        """Return the smallest box that holds this one and another."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def scale_down(self, scale: int) -> Box:
        """The smallest rectangle that covers this one on a map with fewer positions.

        The map has `scale` times fewer positions along an axis.
        """
        # The ends are rounded up.
        bottom, right = -(-self.bottom // scale), -(-self.right // scale)
        return Box(self.top // scale, self.left // scale, bottom, right)


HALO = "halo"
"""The argument of a key that has a ring of surroundings: the width of the ring, [n].

Functions ask only whether the argument is there.
"""


def halo_of(key: Tensor) -> Tensor:
    """The argument `HALO` of a haloed key [n, ...]."""
    return key.new_ones(len(key))
