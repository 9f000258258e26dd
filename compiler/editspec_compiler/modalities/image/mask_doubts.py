"""Masks that can be used, and may not be what was meant. Imports no torch and no numpy."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from editspec_compiler.modalities.image.mask_files import open_mask
from editspec_compiler.modalities.image.mask_pixels import HALF, WHITE
from editspec_compiler.spec_folder import Folder
from editspec_runtime.codes import Code
from editspec_runtime.modalities.image.compatibility import EDITSPEC

WHOLE = 0.9
"""The share of an image from which on a mask covers nearly all of it."""

SPECK = 0.02
"""The share of all that a mask covers up to which a part that lies apart is a speck."""

CELLS = 64
"""Along an axis: the most cells in which parts of a mask are looked for."""

REACH = 2
"""The cells within which a part belongs to another: noise of JPEG lies beside its edge."""


@dataclass(frozen=True)
class MaskDoubt:
    """A reason to doubt that a mask is what was meant, and what to do."""

    message: str
    hint: str
    code: Code


def find_doubts(mask: str, folder: Folder, *, legacy: bool) -> Iterator[MaskDoubt]:
    """Find what is odd about the mask of a file or a data URL.

    Shapes are written by number, and mean what they say. The parameters and errors are those of
    `open_mask`.
    """
    image = open_mask(mask, folder, legacy=legacy)
    pixels = image.width * image.height
    covered = sum(image.histogram()[HALF:]) / pixels
    if covered >= WHOLE:
        yield MaskDoubt(
            f"the mask covers {covered:.0%} of the image",
            "if black was meant as inside, invert it",
            Code.MASK_NEARLY_WHOLE,
        )
    elif (darkest := _darkest_of(image)) > 0:
        yield MaskDoubt(
            f"the mask is nowhere black, and so covers all of the image a little: its darkest "
            f"place is {darkest} of {WHITE}",
            "paint what lies outside in black",
            Code.MASK_NEARLY_WHOLE,
        )
    side = min(CELLS, image.width)
    cells = array("f", image.convert("F").resize((side, side), Image.Resampling.BOX).tobytes())
    specks = _find_specks(cells, side)
    if specks:
        x, y = _centre_of(specks[0], side, image.width)
        count = "a speck lies" if len(specks) == 1 else f"{len(specks)} specks lie"
        where = "at" if len(specks) == 1 else "one at"
        yield MaskDoubt(
            f"{count} apart from what the mask covers, {where} x = {x}, y = {y}",
            "erase it, or make it larger if it is meant: where it is bright, the bounding box "
            "encloses it; and save masks as PNG, as JPEG makes specks of its own",
            Code.MASK_SPECKS,
        )


def _darkest_of(image: Image.Image) -> int:
    """Return the smallest number of a grey image."""
    return next(value for value, count in enumerate(image.histogram()) if count)


def _find_specks(cells: array[float], side: int) -> list[list[int]]:
    """Find the parts that are faint or tiny beside the whole, the largest first."""
    peak, whole = max(cells), sum(cells)
    specks = []
    for part in _find_parts(cells, side):
        tiny = sum(cells[cell] for cell in part) < SPECK * whole
        faint = max(cells[cell] for cell in part) < EDITSPEC.box_share * peak
        if tiny or faint:
            specks.append(part)
    return sorted(specks, key=len, reverse=True)


def _find_parts(cells: array[float], side: int) -> Iterator[list[int]]:
    """Find the groups of cells with some light that lie within reach of each other."""
    left = {cell for cell, light in enumerate(cells) if light > 0}
    while left:
        part = [left.pop()]
        for cell in part:  # which grows on the way
            row, column = divmod(cell, side)
            for near_row in range(row - REACH, row + REACH + 1):
                for near in range(column - REACH, column + REACH + 1):
                    other = near_row * side + near
                    if 0 <= near < side and other in left:
                        left.remove(other)
                        part.append(other)
        yield part


def _centre_of(part: list[int], side: int, width: int) -> tuple[int, int]:
    """Return the pixel in the middle of a part."""
    rows, columns = [], []
    for cell in part:
        row, column = divmod(cell, side)
        rows.append(row)
        columns.append(column)
    scale = width / side
    x = (min(columns) + max(columns) + 1) / 2 * scale
    y = (min(rows) + max(rows) + 1) / 2 * scale
    return int(x), int(y)
