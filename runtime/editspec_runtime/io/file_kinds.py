"""Kinds of files by their first bytes, for what is said about a file of the wrong kind."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 4096
"""The bytes at the beginning of a file that tell its kind."""

AS_PNG = "save it as PNG"
EXPORTED = "export it as PNG, square and in pixels"
ONE_LAYER = "export the layer of the mask alone, as PNG"
NO_PICTURE = "name the picture itself"


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes
    ----------
    name
        The kind in words, such as ``a TIFF image``.
    as_picture
        What to do to get a PNG of it, for somebody who meant a picture.
    """

    name: str
    as_picture: str


POINTER = FileKind("a pointer of git-lfs, which stands for the file", "run git lfs pull")
EMPTY = FileKind("an empty file", "save it again")
WEB_PAGE = FileKind("a web page", "download the file itself: a page about it was saved")
PNG = FileKind("a PNG image", AS_PNG)
JPEG = FileKind("a JPEG image", AS_PNG)
GIF = FileKind("a GIF image", AS_PNG)
BMP = FileKind("a BMP image", AS_PNG)
WEBP = FileKind("a WebP image", AS_PNG)
SVG = FileKind("an SVG drawing", EXPORTED)
NUMPY = FileKind("a numpy array", "write it as an 8-bit PNG, 255 inside and 0 outside")
NPZ = FileKind("an .npz of numpy arrays", NUMPY.as_picture)
ZIP = FileKind("a zip archive", "unpack it, and name the picture inside")
PICKLE = FileKind("a pickle", NUMPY.as_picture)
TORCH = FileKind("a torch checkpoint", NUMPY.as_picture)
TEXT = FileKind("a text", NO_PICTURE)
JSON = FileKind(
    "a JSON text", "draw its outlines as {polygon: [[x, y], …]}, or export them as a PNG"
)
XML = FileKind("an XML text", JSON.as_picture)
RIFF = FileKind("a sound or a video (RIFF)", NO_PICTURE)
DICOM = FileKind("a DICOM image", AS_PNG)
PNM = FileKind("a PNM image", AS_PNG)

_BRANDS = {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"heim": "a HEIC image",
    b"hevc": "a HEIC image",
    b"mif1": "a HEIC image",
    b"msf1": "a HEIC image",
}
"""Images in the container of MP4, by the brand behind ``ftyp``."""

_MARKS = {
    b"version https://git-lfs": POINTER,
    b"\x89PNG\r\n\x1a\n": PNG,
    b"\xff\xd8\xff": JPEG,
    b"GIF8": GIF,
    b"BM": BMP,
    b"II*\0": FileKind("a TIFF image", AS_PNG),
    b"MM\0*": FileKind("a TIFF image", AS_PNG),
    b"II+\0": FileKind("a TIFF image", AS_PNG),
    b"MM\0+": FileKind("a TIFF image", AS_PNG),
    b"8BPS": FileKind("a Photoshop document (PSD)", ONE_LAYER),
    b"8BPB": FileKind("a Photoshop document (PSB)", ONE_LAYER),
    b"gimp xcf": FileKind("a GIMP document (XCF)", ONE_LAYER),
    b"%PDF": FileKind("a PDF document", EXPORTED),
    b"%!PS": FileKind("a PostScript drawing", EXPORTED),
    b"\xc5\xd0\xd3\xc6": FileKind("a PostScript drawing", EXPORTED),
    b"\0\0\x01\0": FileKind("an icon (ICO)", AS_PNG),
    b"icns": FileKind("an icon (ICNS)", AS_PNG),
    b"\0\0\0\x0cjP  ": FileKind("a JPEG 2000 image", AS_PNG),
    b"\xff\x4f\xff\x51": FileKind("a JPEG 2000 image", AS_PNG),
    b"\0\0\0\x0cJXL ": FileKind("a JPEG XL image", AS_PNG),
    b"\xff\x0a": FileKind("a JPEG XL image", AS_PNG),
    b"v/1\x01": FileKind("an OpenEXR image", AS_PNG),
    b"#?RADIANCE": FileKind("a Radiance HDR image", AS_PNG),
    b"DDS ": FileKind("a DDS texture", AS_PNG),
    b"qoif": FileKind("a QOI image", AS_PNG),
    b"SIMPLE  =": FileKind("a FITS image", AS_PNG),
    b"\x1aE\xdf\xa3": FileKind("a video (Matroska or WebM)", "save one frame of it as PNG"),
    b"\x93NUMPY": NUMPY,
    b"\x89HDF": FileKind("an HDF5 file", NUMPY.as_picture),
    b"MATLAB 5.0": FileKind("a MATLAB file", NUMPY.as_picture),
    b"\x1f\x8b": FileKind("a gzip archive", "unpack it, and name the file inside"),
    b"BZh": FileKind("a bzip2 archive", "unpack it, and name the file inside"),
    b"\xfd7zXZ": FileKind("an xz archive", "unpack it, and name the file inside"),
    b"7z\xbc\xaf": FileKind("a 7z archive", ZIP.as_picture),
    b"Rar!": FileKind("a RAR archive", ZIP.as_picture),
}
"""Kinds by the bytes that a file of them begins with."""


def is_picture(kind: FileKind | None) -> bool:
    """Tell whether a kind is one of pictures and drawings."""
    return kind is not None and kind.as_picture in (AS_PNG, EXPORTED, ONE_LAYER)


def find_kind(head: bytes) -> FileKind | None:
    """Tell the kind of a file by its first `HEAD` bytes; None where it is unknown."""
    if not head:
        return EMPTY
    for mark, kind in _MARKS.items():
        if head.startswith(mark):
            return kind
    if head.startswith(b"RIFF"):
        return WEBP if head[8:12] == b"WEBP" else RIFF
    if head[4:8] == b"ftyp":
        return _kind_of_boxes(head)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(head)
    if head[128:132] == b"DICM":
        return DICOM
    if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace():
        return PNM
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE
    return _kind_of_text(head)


def _kind_of_boxes(head: bytes) -> FileKind:
    """Tell a file in the container of MP4 by its brands."""
    length = int.from_bytes(head[:4])
    brands = [head[8:12]]
    for start in range(16, min(length, len(head)), 4):
        brands.append(head[start : start + 4])
    for brand in brands:
        # Both kinds may call themselves mif1; their own brand then comes among the others.
        if brand in _BRANDS and brand not in (b"mif1", b"msf1"):
            return FileKind(_BRANDS[brand], AS_PNG)
    if brands[0] in _BRANDS:
        return FileKind(_BRANDS[brands[0]], AS_PNG)
    return FileKind("a video (MP4 or MOV)", "save one frame of it as PNG")


def _kind_of_archive(head: bytes) -> FileKind:
    """Tell a zip archive by the name and the beginning of its first entries."""
    if b"application/x-krita" in head:
        return FileKind("a Krita document", ONE_LAYER)
    if b"image/openraster" in head:
        return FileKind("an OpenRaster document", ONE_LAYER)
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if name.endswith(b".npy"):
        return NPZ
    if name.endswith((b"data.pkl", b".format_version")):
        return TORCH
    return ZIP


def _kind_of_text(head: bytes) -> FileKind | None:
    """Tell a text by what it begins with; None where it is not a text."""
    try:
        # The last character may be cut.
        text = head.decode("utf-8-sig", errors="strict" if len(head) < HEAD else "ignore")
    except UnicodeDecodeError:
        return None
    if any(character < " " and character not in "\t\n\r\f" for character in text):
        return None
    start = text.lstrip().lower()
    if start.startswith(("<!doctype html", "<html")):
        return WEB_PAGE
    if "<svg" in start:
        return SVG
    if start.startswith("<"):
        return XML if start.startswith("<?xml") else WEB_PAGE
    if start.startswith(("{", "[")):
        return JSON
    return TEXT
