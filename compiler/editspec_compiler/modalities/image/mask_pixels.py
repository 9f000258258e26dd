"""Pixels of an image -> how much each of them lies inside of a mask. Imports no torch.

White and opaque is inside. Three kinds of images mean something else, and are read as they are
meant: a palette of labels, a shape that alpha alone cuts out, and grey of 16 bits.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageChops

WHITE = 255
HALF = 127
"""The least that the brightest place of a mask may have, as half of 255 is rounded down, too."""

TINT = 16
"""How far apart the red, green and blue of a grey may be."""

LABELS = 64
"""The brightest place up to which a faint image is taken for a map of labels."""

SHOWN = 8
"""The most labels that a message lists."""

WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")

ONE_LABEL = "save it with {} where the label is that you mean, and 0 elsewhere"


class MaskError(Exception):
    """Mask that cannot be used: what is wrong with it, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def read_inside(image: Image.Image) -> Image.Image:
    """Convert a decoded image to 8-bit grey: 255 is inside.

    Raises
    ------
    MaskError
        Nothing is inside, nothing is at least half inside, or several labels could be meant.
    """
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        return _read_with_alpha(image.convert("RGBA"))
    if image.mode == "P":
        return _read_palette(image)
    if image.mode.startswith("I"):
        # 16 bits: 65535 = 255 * 257. PIL itself would cut off all above 255.
        deep = image.convert("I")
        _require_bright(deep, 65535)
        return deep.point(lambda value: value / 257).convert("L")
    grey = image.convert("L")
    if image.mode != "L":
        _refuse_dark_colour(image.convert("RGB"), grey)
    return _require_bright(grey)


def read_as_authors(image: Image.Image) -> Image.Image:
    """Convert an image as the authors' code does: alpha is dropped, and the red channel counts."""
    return image.convert("RGB").getchannel(0)


def _require_bright(image: Image.Image, full: int = WHITE, *, labels: bool = True) -> Image.Image:
    """Return a grey image whose brightest place is at least half of `full`.

    `labels` says that few and low values may be numbers of labels. Raises `MaskError` for any image
    but one without any light, which is empty.
    """
    peak = _peak(image)
    if peak == 0 or peak * WHITE >= HALF * full:
        return image
    message = f"the brightest place is {peak} of {full}"
    if labels and peak <= LABELS:
        hint = f"multiply it by {full} where you save it" if peak == 1 else ONE_LABEL.format(full)
        raise MaskError(f"{message}: label maps need {full} where the label is", hint)
    raise MaskError(
        f"{message}: less than half of the change would be asked for everywhere",
        f"paint in white: {full} is inside, and 0 outside",
    )


def _refuse_dark_colour(image: Image.Image, grey: Image.Image) -> None:
    """Raise `MaskError` where an image is dark, and its brightest place is a colour."""
    if _peak(grey) >= HALF:
        return
    brightest = _pixel_at_peak(image, grey)
    if max(brightest) - min(brightest) <= TINT:
        return
    colour = ", ".join(map(str, brightest))
    message = (
        f"the brightest place is {_peak(grey)} of {WHITE}: it is painted in the colour "
        f"({colour}), and what counts is brightness"
    )
    raise MaskError(message, "paint in white on black, or on a transparent layer")


def _pixel_at_peak(image: Image.Image, grey: Image.Image) -> tuple[int, int, int]:
    """Return the red, green and blue of an image where `grey` is brightest."""
    peak = _peak(grey)
    found = grey.point(lambda value: WHITE * (value == peak))
    _, top, _, _ = found.getbbox() or (0, 0, 0, 0)
    left, _, _, _ = found.crop((0, top, found.width, top + 1)).getbbox() or (0, 0, 0, 0)
    pixel: Any = image.getpixel((left, top))
    return pixel  # type: ignore[no-any-return]


def _read_with_alpha(image: Image.Image) -> Image.Image:
    """Multiply brightness by alpha; where alpha cuts a shape out, take alpha alone."""
    alpha, grey = image.getchannel("A"), image.convert("RGB").convert("L")
    product = ImageChops.multiply(grey, alpha)
    if not any(alpha.histogram()[:HALF]):  # no place is transparent
        return _require_bright(product)
    # A shape of any colour on a transparent layer, or a photograph that was cut out: neither black
    # nor white was painted to say what is inside.
    visible = grey.histogram(mask=alpha.point(lambda value: WHITE * (value > 0)))
    between = sum(visible[WHITE // 8 : WHITE - WHITE // 8])
    if not any(visible[HALF:]) or 2 * between > sum(visible):
        return _require_bright(alpha, labels=False)
    return _require_bright(product, labels=False)


def _read_palette(image: Image.Image) -> Image.Image:
    """Read greys of a palette as brightness, and its colours as labels."""
    labels = Image.frombytes("L", image.size, image.tobytes())
    colours = _used_colours(image, labels)
    tint = max(max(colour) - min(colour) for colour in colours.values())
    bright = max(map(max, colours.values())) >= HALF
    if tint <= TINT and (bright or list(colours) == [0]):
        return image.convert("L")
    label = _find_label(colours)
    return labels.point(lambda value: WHITE * (value == label))


def _used_colours(image: Image.Image, labels: Image.Image) -> dict[int, list[int]]:
    """Return the red, green and blue of every label that occurs; black where it has none."""
    palette = [*(image.getpalette("RGB") or []), *bytes(3 * 256)]
    counts = labels.histogram()
    colours = {}
    for label in range(256):
        if counts[label]:
            colours[label] = palette[3 * label : 3 * label + 3]
    return colours


def _find_label(colours: dict[int, list[int]]) -> int:
    """Find the one label that is not the background, by the colours of all.

    Raises `MaskError` where there are several.
    """
    outside = 0
    if len(colours) == 2:
        # Those who reduce colours put them in any order: black is outside, wherever it stands.
        black = [label for label, colour in colours.items() if max(colour) < TINT]
        outside = black[0] if len(black) == 1 else outside
    found = [label for label in colours if label != outside]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(str, found[:SHOWN]))
    more = ", …" if len(found) > SHOWN else ""
    message = f"its palette has {len(found)} labels ({listed}{more}), and a mask is of one"
    raise MaskError(message, ONE_LABEL.format(WHITE))


def _peak(image: Image.Image) -> int:
    """Return the largest number of an image of one channel."""
    _, peak = image.getextrema()
    assert not isinstance(peak, tuple)
    return int(peak)
