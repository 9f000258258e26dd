"""Image files and data URLs -> masks, as 8-bit grey images. Imports no torch."""

from __future__ import annotations

import base64
import io
import warnings
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from PIL import Image, ImageOps, UnidentifiedImageError

from editspec_compiler.document import find_path_problem
from editspec_compiler.modalities.image.mask_pixels import (
    MaskError,
    read_as_authors,
    read_inside,
)
from editspec_compiler.spec_folder import Folder
from editspec_runtime.io.file_kinds import (
    BMP,
    GIF,
    HEAD,
    JPEG,
    PNG,
    POINTER,
    TEXT,
    WEB_PAGE,
    WEBP,
    find_kind,
)

MAX_PIXELS = 16 * 2**20
"""The most pixels of a mask: 4096 x 4096. A pixel takes up to 8 bytes while it is decoded."""

DECODED = 8
"""The masks of files and data URLs that are kept decoded, as places often share one."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""The formats that are decoded. PIL knows more, such as EPS, for which it runs Ghostscript."""

FILMS = ("PNG", "WEBP", "GIF")
"""The formats of films. The second picture of a JPEG is a small copy of the first."""

SMALLER = "save the mask smaller: it is scaled to the layer's resolution anyway"

PREFIX = "data:image/png;base64,"


def open_mask(mask: str, folder: Folder, *, legacy: bool) -> Image.Image:
    """Decode the image of a file name or data URL; it is shared, so never drawn on.

    Parameters
    ----------
    mask
        The name, relative to `folder`, or the data URL.
    folder
        What file names are relative to.
    legacy
        Decode as the authors did: alpha is dropped, the red channel counts, and EXIF does not.

    Raises
    ------
    MaskError
        The mask is missing, no image, a film, damaged, too large, of another aspect, or nowhere
        bright.
    """
    if mask.startswith("data:"):
        return _decode_url_once(mask, legacy)
    if problem := find_path_problem(mask, folder):
        raise MaskError(*problem)
    path = folder / mask
    state = path.stat()
    # A file that is replaced, or written again, is decoded again.
    return _decode_path_once(path, legacy, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=DECODED)
def _decode_path_once(path: Path, legacy: bool, state: tuple[int, ...]) -> Image.Image:
    """Decode a file; `state` tells its versions apart."""
    with path.open("rb") as file:
        return _decode_file(str(path), file, legacy=legacy)


@lru_cache(maxsize=DECODED)
def _decode_url_once(url: str, legacy: bool) -> Image.Image:
    return _decode_file("the data URL", io.BytesIO(_decode_url(url)), legacy=legacy)


def _decode_file(name: str, file: BinaryIO, *, legacy: bool) -> Image.Image:
    """Decode an image file; `name` stands in messages. Raises `MaskError`."""
    head = file.read(HEAD)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # Of large images, which are refused, and of odd palettes.
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=FORMATS)
            _require_one_square(image, name)
            image.load()
            return read_as_authors(image) if legacy else read_inside(_turn_upright(image))
    except MaskError:
        raise
    except Image.DecompressionBombError as error:
        message = f"{name} has far too many pixels; the most is {MAX_PIXELS}"
        raise MaskError(message, SMALLER) from error
    except UnidentifiedImageError as error:
        raise _foreign(name, head) from error
    except Exception as error:  # PIL's readers meet damage with errors of many kinds
        raise MaskError(f"{name} is a damaged image", "save it again") from error


def _foreign(name: str, head: bytes) -> MaskError:
    """Say what a file is that begins with `head`, where it is not an image that is read."""
    taken = f"masks are {', '.join(FORMATS)}"
    kind = find_kind(head)
    if kind is None or kind == TEXT:
        return MaskError(f"{name} is not an image", taken)
    if kind in (POINTER, WEB_PAGE):
        return MaskError(f"{name} is {kind.name}", kind.as_picture)
    if kind in (PNG, JPEG, WEBP, BMP, GIF):
        return MaskError(f"{name} is a damaged image", "save it again")
    return MaskError(f"{name} is {kind.name}, and {taken}", kind.as_picture)


def _require_one_square(image: Image.Image, name: str) -> None:
    """Raise `MaskError` for what cannot be a mask; only the header has been read so far."""
    frames = getattr(image, "n_frames", 1)
    if image.format in FILMS and frames > 1:
        message = f"{name} is a film of {frames} frames, and a mask is one picture"
        raise MaskError(message, "save the frame that is meant as PNG")
    if image.width * image.height > MAX_PIXELS:
        raise MaskError(
            f"{name} has {image.width} x {image.height} pixels; the most is {MAX_PIXELS}", SMALLER
        )
    if image.width != image.height:
        raise MaskError(
            f"{name} has {image.width} x {image.height} pixels, and the model's images are square",
            "paint masks on images that the model made (any size will do)",
        )


def _turn_upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say, which is how people see it."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # what is damaged here are notes about the picture
        return image


def _decode_url(url: str) -> bytes:
    """Return the bytes of a data URL of an image."""
    head, _, text = url.partition(",")
    kind = head.removeprefix("data:").partition(";")[0].strip().lower()
    if kind.startswith("image/") and not head.endswith(";base64"):
        # Pictures that are text, such as SVG, come without base64: the kind is what is wrong.
        data = unquote_to_bytes(text)
        found = find_kind(data[:HEAD])
        if found is not None and kind == "image/svg+xml":
            raise _foreign("the data URL", data[:HEAD])
    if not kind.startswith("image/") or not head.endswith(";base64"):
        message = "a data URL of a mask is an image in base64"
        raise MaskError(message, f"begin it with {PREFIX}")
    try:
        # A long one is often broken into lines.
        return base64.b64decode(b"".join(unquote_to_bytes(text).split()), validate=True)
    except ValueError as error:
        hint = "copy the whole of it: base64 has letters, digits, +, / and ends in up to two ="
        raise MaskError("the data URL is not base64", hint) from error
