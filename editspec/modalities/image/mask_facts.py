"""What a picture is as a mask, for `editspec inspect`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from editspec.engine.facts import FileFacts
from editspec_compiler.modalities.image.mask_doubts import find_doubts
from editspec_compiler.modalities.image.mask_files import FORMATS, open_mask
from editspec_compiler.modalities.image.mask_pixels import HALF, MaskError
from editspec_runtime.errors import FileError

MODES = {
    "1": "black and white",
    "L": "gray",
    "LA": "gray with transparency",
    "P": "colors of a palette",
    "RGB": "color",
    "RGBA": "color with transparency",
    "I": "gray of 16 bits",
    "I;16": "gray of 16 bits",
}
"""Pillow's modes of pictures, in words."""


@dataclass(frozen=True)
class MaskFacts(FileFacts):
    """A picture, and what it covers as a mask.

    Attributes
    ----------
    format, size, mode
        Its format, its width and height in pixels, and what its pixels are.
    brightest
        Its brightest place, of 255; None where it cannot be a mask.
    covered
        The share of its pixels that lie at least half inside; None where it cannot be a mask.
    warnings
        Reasons to doubt that it is what was meant, each with a hint.
    refused
        Why it cannot be a mask, with a hint; None where it can.
    """

    format: str
    size: tuple[int, int]
    mode: str
    brightest: int | None = None
    covered: float | None = None
    warnings: tuple[dict[str, str], ...] = ()
    refused: dict[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, without those that it lacks."""
        fields = super().to_dict()
        given = {name: value for name, value in fields.items() if value not in (None, [])}
        return {"kind": "mask", **given}


def describe_mask(path: Path) -> MaskFacts:
    """Describe a picture as a mask. Raises `FileError` where it is not read at all."""
    try:
        image = open_mask(path.name, path.parent, legacy=False)
    except MaskError as error:
        return _describe_refused(path, error)
    format_name, size, mode = _read_head(path)
    histogram = image.histogram()
    doubts = []
    for each in find_doubts(path.name, path.parent, legacy=False):
        doubts.append({"warning": each.message, "hint": each.hint})
    return MaskFacts(
        format_name,
        size,
        mode,
        brightest=max(value for value, count in enumerate(histogram) if count),
        covered=round(sum(histogram[HALF:]) / (image.width * image.height), 4),
        warnings=tuple(doubts),
    )


def _describe_refused(path: Path, refusal: MaskError) -> MaskFacts:
    """Describe a picture that cannot be a mask."""
    try:
        head = _read_head(path)
    except Exception as error:  # of whatever Pillow meets in a file that is damaged
        message = refusal.message
        raise FileError(f"{message[0].upper()}{message[1:]}.", f"{refusal.hint}.") from error
    return MaskFacts(*head, refused={"because": refusal.message, "hint": refusal.hint})


def _read_head(path: Path) -> tuple[str, tuple[int, int], str]:
    """Read the format, the size and the mode of a picture; no pixel is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, which are refused
        with Image.open(path, formats=FORMATS) as image:
            return str(image.format), image.size, MODES.get(image.mode, image.mode)
