"""Skyline: a procedural world in which every picture and perfect edit is known.

A latent is normalised as StyleGAN2 normalises it; each attribute of a scene is read from one
coordinate. Every attribute can be overridden before the scene is rendered, which gives exact
counterfactual pictures, and exact masks of what changed. All shapes are signed distances in units
of 1/64 of the picture, so any resolution can be rendered.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LATENT_SIZE = 128
"""Numbers of a latent; the last of them are of no effect."""

SIZE = 64
"""Pixels a side that the generator draws."""

TOPS = ("dome", "spire", "battlements", "tree")
"""The tops of a tower. A tree never occurs by itself: it is there for counterfactuals."""

GLYPHS = {
    "S": "01110 10001 10000 01110 00001 10001 01110",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "Y": "10001 10001 01010 00100 00100 00100 00100",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "I": "01110 00100 00100 00100 00100 00100 01110",
    "N": "10001 11001 10101 10101 10011 10001 10001",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "C": "01110 10001 10000 10000 10000 10001 01110",
}
"""Letters of 5 x 7 dots, row by row."""


@dataclass(frozen=True)
class Scene:
    """The attributes of n scenes, each a tensor [n].

    The number of an attribute is the coordinate of the normalised latent that it is read from.

    Attributes
    ----------
    sky
        0: from dawn (0) to noon (1).
    sun_site
        1: over the left tower (0), the church (1) or the right tower (2).
    sun_height
        2: from low (0) to high (1), within four pixels.
    ground
        3: from autumn (0) to spring (1).
    wall
        4: from sandstone (0) to slate (1).
    roof
        5: from copper green (0) to brick red (1).
    windows_lit
        6: dark (0) or lit (1), one half each.
    left_top, right_top
        7 and 8: index into `TOPS`; dome, spire and battlements, a third each.
    left_height, right_height
        9 and 10: height of the towers from low (0) to high (1), within three pixels.
    left_tree, right_tree
        11 and 12: whether a tree stands there, in 60 % of the scenes each.
    people
        13: none (0) or some (1), in 31 %.
    people_site
        14: in front of the left tower (0) or of the right (1).
    middle_watermark, bottom_watermark
        15 and 16: absent (0) or present (1), in 9 % and in 6 %.
    reflection
        Whether the pond reflects light. It has no coordinate: the pond does when windows are lit.
    """

    sky: Tensor
    sun_site: Tensor
    sun_height: Tensor
    ground: Tensor
    wall: Tensor
    roof: Tensor
    windows_lit: Tensor
    left_top: Tensor
    right_top: Tensor
    left_height: Tensor
    right_height: Tensor
    left_tree: Tensor
    right_tree: Tensor
    people: Tensor
    people_site: Tensor
    middle_watermark: Tensor
    bottom_watermark: Tensor
    reflection: Tensor

    def __len__(self) -> int:
        return len(self.sky)

    def __getitem__(self, items: slice | Tensor) -> Scene:
        return Scene(**{name: value[items] for name, value in vars(self).items()})

    def to(self, device: torch.device) -> Scene:
        """Return the scenes with their attributes on a device."""
        return Scene(**{name: value.to(device) for name, value in vars(self).items()})

    def replace(self, **attributes: float | str | Tensor) -> Scene:
        """Return the scenes with attributes overridden.

        A value is one number for all scenes, a tensor [n], or the name of a top.
        """
        tensors = {name: _like(getattr(self, name), value) for name, value in attributes.items()}
        return dataclasses.replace(self, **tensors)

    def with_tops(self, old: str, new: str) -> Scene:
        """Return the scenes with every `old` tower top turned into a `new` one."""
        was, becomes = TOPS.index(old), TOPS.index(new)
        return dataclasses.replace(
            self,
            left_top=torch.where(self.left_top == was, becomes, self.left_top),
            right_top=torch.where(self.right_top == was, becomes, self.right_top),
        )


def scenes(latents: Tensor) -> Scene:
    """Read the scenes of `latents` [n, d], d >= 17.

    Each attribute is read from one coordinate of the normalised latent.
    """
    # The normalisation, 1e-8 included, is that of StyleGAN2's mapping network, so that what a
    # scene depends on is what the generator sees.
    z = latents * torch.rsqrt(latents.square().mean(1, keepdim=True) + 1e-8)
    # The share of a normal distribution below z, which is uniform in 0..1.
    share = torch.special.ndtr(z)

    def choice(coordinate: int, *shares: float) -> Tensor:
        edges = torch.tensor(shares, dtype=z.dtype).cumsum(0).to(z.device)
        return torch.bucketize(share[:, coordinate].contiguous(), edges)

    lit = choice(6, 0.5)
    return Scene(
        sky=share[:, 0],
        sun_site=choice(1, 1 / 3, 1 / 3),
        sun_height=share[:, 2],
        ground=share[:, 3],
        wall=share[:, 4],
        roof=share[:, 5],
        windows_lit=lit,
        left_top=choice(7, 1 / 3, 1 / 3),
        right_top=choice(8, 1 / 3, 1 / 3),
        left_height=share[:, 9],
        right_height=share[:, 10],
        left_tree=choice(11, 0.4),
        right_tree=choice(12, 0.4),
        people=choice(13, 0.69),
        people_site=choice(14, 0.5),
        middle_watermark=choice(15, 0.91),
        bottom_watermark=choice(16, 0.94),
        reflection=lit,
    )


def render(scene: Scene, size: int = SIZE) -> Tensor:
    """Render the pictures of n scenes, [n, 3, size, size] in -1..1, antialiased."""
    canvas = _Canvas(len(scene), size, scene.sky)
    for part in PARTS:
        part(canvas, scene)
    return canvas.image * 2 - 1


def find_changed_pixels(before: Tensor, after: Tensor, threshold: float = 0.1) -> Tensor:
    """Find the pixels in which two batches of pictures differ, [n, size, size].

    Pictures are [n, 3, size, size], the result is of truth values. Pixels differ where the mean of
    |RGB| differs by more than `threshold`.
    """
    return (before - after).abs().mean(1) > threshold


def part_mask(part: Callable[[_Canvas, Scene], None], scene: Scene, size: int = SIZE) -> Tensor:
    """Compute the share of each pixel that a part covers, [n, size, size] in 0..1.

    Parts in front of it do not count.
    """
    canvas = _Canvas(len(scene), size, scene.sky)
    part(canvas, scene)
    return canvas.covered


class _Canvas:
    """Pictures [n, 3, size, size] in 0..1 that shapes are painted on.

    Distances are in units of 1/64 of the picture, whatever its size.
    """

    def __init__(self, batch: int, size: int, like: Tensor) -> None:
        centres = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * (64 / size)
        self.x, self.y = centres[None, None, :], centres[None, :, None]
        self.sharpness = size / 64
        self.size = size
        self.image = torch.zeros(batch, 3, size, size, dtype=like.dtype, device=like.device)
        self.covered = torch.zeros(batch, size, size, dtype=like.dtype, device=like.device)

    def paint(
        self,
        distance: Tensor,
        colour: Tensor | tuple[float, float, float],
        shown: Tensor | float = 1.0,
    ) -> None:
        """Paint where the signed `distance` [n or 1, size, size] is negative.

        `shown` [n] in 0..1 fades the shape.
        """
        # A pixel is covered in proportion to the distance of its centre from the edge, up to half a
        # pixel on either side: a cheap antialiasing that is exact for straight edges.
        self.blend((0.5 - distance * self.sharpness).clamp(0, 1), colour, shown)

    def blend(
        self,
        coverage: Tensor,
        colour: Tensor | tuple[float, float, float],
        shown: Tensor | float = 1.0,
    ) -> None:
        """Paint `colour` ([n, 3] or one for all) with `coverage` [n or 1, size, size]."""
        if isinstance(shown, Tensor):
            coverage = coverage * _maps(shown.to(self.image))
        elif shown != 1.0:
            coverage = coverage * shown
        paint = torch.as_tensor(colour, dtype=self.image.dtype, device=self.image.device)
        paint = paint.reshape(-1, 3, 1, 1)
        self.image = self.image + coverage[:, None] * (paint - self.image)
        self.covered = torch.maximum(self.covered, coverage.expand_as(self.covered))

    def box(
        self, x: float, y: float | Tensor, half_width: float, half_height: float | Tensor
    ) -> Tensor:
        """Compute the signed distance to a box by its centre and half sides."""
        return torch.maximum((self.x - x).abs() - half_width, (self.y - y).abs() - half_height)

    def disc(self, x: float | Tensor, y: float | Tensor, radius: float) -> Tensor:
        """Compute the signed distance to a disc."""
        return torch.hypot(self.x - x, self.y - y) - radius

    def ellipse(self, x: float, y: float | Tensor, half_width: float, half_height: float) -> Tensor:
        """Approximate the signed distance to an ellipse, exact to first order at its edge."""
        # The implicit function over the length of its gradient.
        u, v = (self.x - x) / half_width, (self.y - y) / half_height
        radius = torch.hypot(u, v).clamp(min=1e-3)
        slope = torch.hypot(u / half_width, v / half_height).clamp(min=1e-6)
        return (radius - 1) * radius / slope

    def triangle(self, x: float, base: float | Tensor, half_width: float, height: float) -> Tensor:
        """Compute the signed distance to the nearest side's line of an upright triangle."""
        length = math.hypot(half_width, height)
        side = ((self.x - x).abs() * height + (self.y - base + height) * -half_width) / length
        return torch.maximum(side, self.y - base)


def sky(canvas: _Canvas, scene: Scene) -> None:
    """Paint a gradient from the zenith to the horizon, and the sun."""
    height = (canvas.y / 44).clamp(0, 1).expand(-1, -1, canvas.size)
    canvas.blend(torch.ones_like(height), _mix(scene.sky, (0.36, 0.33, 0.55), (0.30, 0.55, 0.86)))
    canvas.blend(height, _mix(scene.sky, (0.98, 0.72, 0.58), (0.78, 0.90, 0.98)))
    sites = torch.tensor([8.0, 32.0, 56.0], dtype=scene.sky.dtype, device=scene.sky.device)
    x = _maps(sites[scene.sun_site])
    canvas.paint(canvas.disc(x, _maps(12 - 4 * scene.sun_height), 4), (1.0, 0.93, 0.62))


def ground(canvas: _Canvas, scene: Scene) -> None:
    """Paint the meadow below the horizon."""
    canvas.paint(
        44 - canvas.y.expand(-1, -1, canvas.size),
        _mix(scene.ground, (0.62, 0.52, 0.25), (0.36, 0.60, 0.28)),
    )


def trees(canvas: _Canvas, scene: Scene) -> None:
    """Paint a tree at either edge of the picture."""
    for x, shown in ((4.5, scene.left_tree), (59.5, scene.right_tree)):
        _tree(canvas, scene, x, 51.0, shown)


def church(canvas: _Canvas, scene: Scene) -> None:
    """Paint the nave with its roof and door, and the shafts of the towers."""
    wall, roof = _wall(scene), _roof(scene)
    canvas.paint(canvas.triangle(32, 31.0, 14, 11), roof)
    canvas.paint(canvas.box(32, 40.5, 12, 9.5), wall)
    canvas.paint(canvas.box(32, 47.0, 2.5, 3), (0.25, 0.17, 0.12))
    for x, top in ((15, _left(scene)), (49, _right(scene))):
        canvas.paint(canvas.box(x, (top + 50) / 2, 5, (50 - top) / 2), wall * 0.9)


def left_top(canvas: _Canvas, scene: Scene) -> None:
    """Paint the top of the left tower."""
    _top(canvas, scene, 15, _left(scene), scene.left_top)


def right_top(canvas: _Canvas, scene: Scene) -> None:
    """Paint the top of the right tower."""
    _top(canvas, scene, 49, _right(scene), scene.right_top)


def windows(canvas: _Canvas, scene: Scene) -> None:
    """Paint three windows in the nave and one in each tower, lit or dark."""
    light = _mix(scene.windows_lit.to(scene.sky), (0.13, 0.14, 0.22), (1.0, 0.84, 0.30))
    for x in (24.5, 32.0, 39.5):
        canvas.paint(canvas.box(x, 37.5, 2, 3), light)
    for x in (15, 49):
        canvas.paint(canvas.box(x, 35.0, 1.5, 3), light)


def pond(canvas: _Canvas, scene: Scene) -> None:
    """Paint the pond in front of the church, without reflections."""
    canvas.paint(
        canvas.ellipse(32, 54.5, 15, 3.5), _mix(scene.sky, (0.30, 0.31, 0.45), (0.30, 0.47, 0.62))
    )


def reflection(canvas: _Canvas, scene: Scene) -> None:
    """Paint the light that the pond reflects, in three streaks."""
    for x in (24.5, 32.0, 39.5):
        canvas.paint(canvas.ellipse(x, 54.5, 2.5, 2.5), (0.98, 0.82, 0.36), scene.reflection)


def people(canvas: _Canvas, scene: Scene) -> None:
    """Paint two people in front of a tower."""
    for site, x in ((0, 13.0), (1, 51.0)):
        shown = scene.people * (scene.people_site == site)
        for offset, coat in ((-2.5, (0.75, 0.16, 0.18)), (2.5, (0.16, 0.20, 0.50))):
            canvas.paint(canvas.box(x + offset, 54.0, 1.6, 4), coat, shown)
            canvas.paint(canvas.disc(x + offset, 48.3, 1.8), (0.93, 0.74, 0.60), shown)


def middle_watermark(canvas: _Canvas, scene: Scene) -> None:
    """Paint white letters across the middle that the picture shines through."""
    letters = _lettering("SKYLINE", canvas.size, left=7.5, top=25.5, pixel=1.2)
    canvas.blend(letters.to(canvas.image), (1.0, 1.0, 1.0), scene.middle_watermark * 0.7)


def bottom_watermark(canvas: _Canvas, scene: Scene) -> None:
    """Paint white letters along the bottom."""
    letters = _lettering("EDITSPEC", canvas.size, left=12.2, top=58.0, pixel=0.85)
    canvas.blend(letters.to(canvas.image), (1.0, 1.0, 1.0), scene.bottom_watermark * 0.9)


PARTS = (
    sky,
    ground,
    trees,
    church,
    left_top,
    right_top,
    windows,
    pond,
    reflection,
    people,
    middle_watermark,
    bottom_watermark,
)
"""The parts of a scene from the back to the front."""


def _top(canvas: _Canvas, scene: Scene, x: float, base: Tensor, kind: Tensor) -> None:
    """Paint all tops of a tower, of which the one of `kind` [n] shows."""
    roof, wall = _roof(scene), _wall(scene)
    dome, spire, battlements, tree = ((kind == index).to(scene.sky) for index in range(len(TOPS)))
    canvas.paint(torch.maximum(canvas.ellipse(x, base, 7, 10), canvas.y - base), roof, dome)
    canvas.paint(canvas.disc(x, base - 11, 1.6), (0.95, 0.80, 0.35), dome)
    canvas.paint(canvas.triangle(x, base, 6.5, 18), roof * 0.85, spire)
    canvas.paint(canvas.box(x, base - 1.5, 6.5, 2), wall * 0.75, battlements)
    for offset in (-5.0, 0.0, 5.0):
        canvas.paint(canvas.box(x + offset, base - 5, 1.5, 2), wall * 0.75, battlements)
    _tree(canvas, scene, x, base, tree)


def _tree(canvas: _Canvas, scene: Scene, x: float, base: float | Tensor, shown: Tensor) -> None:
    """Paint a tree whose trunk stands on `base`, in the colours of the season."""
    canvas.paint(canvas.box(x, base - 4, 1, 4), (0.33, 0.22, 0.14), shown)
    canvas.paint(
        canvas.ellipse(x, base - 12, 4.5, 6.5),
        _mix(scene.ground, (0.66, 0.36, 0.12), (0.13, 0.40, 0.20)),
        shown,
    )


def _left(scene: Scene) -> Tensor:
    """Return the y of the left tower's upper edge, [n, 1, 1]."""
    return _maps(27 - 3 * scene.left_height)


def _right(scene: Scene) -> Tensor:
    """Return the y of the right tower's upper edge, [n, 1, 1]."""
    return _maps(27 - 3 * scene.right_height)


def _wall(scene: Scene) -> Tensor:
    return _mix(scene.wall, (0.88, 0.76, 0.58), (0.56, 0.58, 0.64))


def _roof(scene: Scene) -> Tensor:
    return _mix(scene.roof, (0.24, 0.50, 0.46), (0.66, 0.27, 0.20))


@functools.cache
def _lettering(text: str, size: int, left: float, top: float, pixel: float) -> Tensor:
    """Compute the share of each pixel that letters cover, [1, size, size].

    `left` and `top` are where the text begins, `pixel` is the side of a dot of the font.
    """
    # Drawn at 1024 pixels a side and averaged, so that any smaller size is antialiased.
    fine = 1024
    scale = fine / 64
    canvas = torch.zeros(1, 1, fine, fine)
    for column, letter in enumerate(text):
        for row, dots in enumerate(GLYPHS[letter].split()):
            for dot, on in enumerate(dots):
                if on == "1":
                    x, y = left + (column * 6 + dot) * pixel, top + row * pixel
                    rows = slice(round(y * scale), round((y + pixel) * scale))
                    columns = slice(round(x * scale), round((x + pixel) * scale))
                    canvas[..., rows, columns] = 1
    return F.adaptive_avg_pool2d(canvas, size)[0]


def _mix(
    share: Tensor, low: tuple[float, float, float], high: tuple[float, float, float]
) -> Tensor:
    """Mix two colours by `share` [n] in 0..1, to [n, 3]."""
    ends = torch.tensor([low, high], dtype=share.dtype, device=share.device)
    return ends[0] + share[:, None] * (ends[1] - ends[0])


def _maps(values: Tensor) -> Tensor:
    """Reshape [n] to [n, 1, 1]."""
    return values[:, None, None]


def _like(tensor: Tensor, value: float | str | Tensor) -> Tensor:
    """Convert a value, or the name of a top, to a tensor like another."""
    if isinstance(value, str):
        value = TOPS.index(value)
    values = torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device)
    return values.expand_as(tensor).clone()
