"""Areas as spans of rows, of which thousands are joined as fast as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from editspec_compiler.modalities.image.mask_pixels import MaskError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Spans:
    """The union of polygons and boxes on an image of `side` x `side` pixels.

    Where each span of pixels begins and ends is counted: a pixel lies in the union where more have
    begun to its left than have ended. numpy is imported for these alone, so that `validate` of most
    specs starts without it.
    """

    def __init__(self, side: int) -> None:
        import numpy as np

        self.side = side
        # One column more than pixels, where the spans end that reach the right edge.
        self.steps: NDArray[Any] = np.zeros((side, side + 1), dtype=np.int32)

    def add_box(self, left: int, top: int, right: int, bottom: int) -> None:
        """Add the pixels from `left` up to `right`, and from `top` up to `bottom`."""
        self.steps[top:bottom, left] += 1
        self.steps[top:bottom, right] -= 1

    def add_polygon(self, points: list[tuple[float, float]]) -> None:
        """Add the pixels whose centres lie inside a polygon, by the even-odd rule.

        PIL's own polygon draws the outline, too, which would spill over into the neighbouring
        positions. Raises `MaskError` where there are none.
        """
        import numpy as np

        centres = np.arange(self.side) + 0.5
        found = []
        # Where each edge crosses a row's centre line; pixels between the first and the second
        # crossing of a row lie inside, between the third and the fourth, and so on.
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            first, last = np.searchsorted(centres, (min(y0, y1), max(y0, y1)))
            x = x0 + (centres[first:last] - y0) * (x1 - x0) / ((y1 - y0) or 1)
            columns = np.ceil(x - 0.5).astype(np.int64)
            found.append(np.arange(first, last) * (self.side + 1) + columns)
        crossings = np.sort(np.concatenate(found))
        begins, ends = crossings[::2], crossings[1::2]
        if not (begins < ends).any():
            raise MaskError("the polygon has no area", "give corners that do not lie on one line")
        steps = self.steps.reshape(-1)
        np.add.at(steps, begins, 1)
        np.add.at(steps, ends, -1)

    def to_image(self) -> Image.Image:
        """An 8-bit grey image of the union, white inside."""
        import numpy as np

        inside = np.cumsum(self.steps, axis=1, dtype=np.int32)[:, :-1] > 0
        return Image.fromarray(inside.astype(np.uint8) * np.uint8(255))
