"""Edit records of the authors' notebook. Imports no torch.

A record is JSON with ``object``, ``paste``, ``key`` and ``query``. Each is an image number of their
latent stream and a mask as a data URL (``key``: a list of them).
What a record lacks says what kind of edit it is; model, layer, rank and solver are in none.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec_compiler.document import Document, kind, read_document
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.problems import Problem, SpecError, SpecPath, suggest
from editspec_runtime.codes import Code
from editspec_runtime.errors import reading_foreign
from editspec_runtime.modalities.image.compatibility import LEGACY_LENGTH

FIELDS = ("object", "paste", "key", "query")
INTERVENTION_FIELDS = ("value", "intervention", "revert")

IMAGES_OF_THEIRS = "their notebook numbers 1000 images"


@dataclass(frozen=True)
class Region:
    """Part of an image.

    Attributes
    ----------
    image
        The image's number in the authors' stream.
    mask
        The mask as the record holds it: a data URL.
    """

    image: int
    mask: str

    @property
    def suffix(self) -> str:
        """Ending of a file that holds the mask's bytes."""
        media = self.mask.partition(";")[0].removeprefix("data:image/")
        return {"jpeg": ".jpg", "svg+xml": ".svg"}.get(media, f".{media}")

    @property
    def bytes(self) -> bytes:
        """File of the mask, byte for byte."""
        return b64decode(self.mask.partition(",")[2])


@dataclass(frozen=True)
class Record:
    """One edit.

    Attributes
    ----------
    copied
        What is copied (``object``); None where units are erased instead.
    target
        Where it is pasted, or where units are erased: ``paste``, or the first ``key`` where there
        is none.
    context
        Where the rule holds (``key``); None where it is the target alone.
    query
        What the interface searched for; of no effect on the edit.
    meaning
        The kind of edit in words.
    """

    copied: Region | None
    target: Region
    context: list[Region] | None
    query: Region | None
    meaning: str


@dataclass(frozen=True)
class Intervention:
    """One image of the reflection experiment.

    Attributes
    ----------
    image
        The image's number in the authors' stream.
    value
        The value that units are set to.
    switched
        Where they are set.
    reverted
        Where the result is to be as before.
    """

    image: int
    value: float
    switched: Region
    reverted: Region


def read_record(path: Path, *, legacy: bool) -> Record | list[Intervention]:
    """Read an edit record, or the interventions of the reflection experiment.

    `legacy` says how masks will be decoded. Raises `SpecError` with everything that is wrong.
    """
    with reading_foreign(path):
        return _read_record(path, legacy)


def _read_record(path: Path, legacy: bool) -> Record | list[Intervention]:
    document = read_document(path)
    interventions = bool(document.data) and all(map(_is_intervention, document.data.values()))
    reader = _Reader(document, path.parent, legacy, list(document.problems))
    found = reader.interventions() if interventions else reader.record()
    if reader.problems or found is None:
        raise SpecError(document.file, reader.problems, document.text)
    return found


def _is_intervention(entry: Any) -> bool:
    return isinstance(entry, dict) and "intervention" in entry


@dataclass
class _Reader:
    """Reader of a record, which collects what is wrong with it."""

    document: Document
    folder: Path
    legacy: bool
    problems: list[Problem]

    def record(self) -> Record | None:
        """Read an edit; None where something is wrong."""
        data = self.document.data
        for name in data:
            if name not in FIELDS:
                self._problem(
                    (name,),
                    f"unknown key {name} in an edit record",
                    suggest(name, list(FIELDS)),
                    at_key=True,
                )
        parts = {}
        for name in ("object", "paste", "query"):
            if data.get(name):
                parts[name] = self._region((name,))
        given = data.get("key") or []
        if not isinstance(given, list):
            message = f"expected a list of [image number, mask], found {kind(given)}"
            self._problem(("key",), message, "write [[3, data:image/png;base64,…], …]")
            given = []
        regions = [self._region(("key", index)) for index in range(len(given))]
        keys = [region for region in regions if region is not None]
        copied, paste = parts.get("object"), parts.get("paste")
        if not any(data.get(name) for name in ("paste", "key")):
            missing = "paste and key are missing: nothing says where the rule is to change"
            self._problem((), missing, "a record has a paste, or keys to paste on or to erase")
        target = paste or next(iter(keys), None)
        if self.problems or target is None:
            return None
        what = "copy" if copied else "erase"
        where = "paste" if paste else "the first key"
        meaning = MEANINGS[what, where]
        return Record(copied, target, keys or None, parts.get("query"), meaning)

    def interventions(self) -> list[Intervention] | None:
        """Read the interventions; None where something is wrong."""
        found = []
        for name, entry in self.document.data.items():
            if not name.isascii() or not name.isdigit() or int(name) >= LEGACY_LENGTH:
                message = f"expected an image number below {LEGACY_LENGTH}, found {kind(name)}"
                self._problem((name,), message, IMAGES_OF_THEIRS, at_key=True)
                continue
            intervention = self._intervention(name, entry)
            if intervention is not None:
                found.append(intervention)
        return None if self.problems else found

    def _intervention(self, name: str, entry: dict[str, Any]) -> Intervention | None:
        for key in entry:
            if key not in INTERVENTION_FIELDS:
                message = f"unknown key {key} in an intervention"
                hint = suggest(key, list(INTERVENTION_FIELDS))
                self._problem((name, key), message, hint, at_key=True)
        switched = self._mask((name, "intervention"), entry.get("intervention"))
        reverted = self._mask((name, "revert"), entry.get("revert"))
        value = self._number((name, "value"), entry.get("value"))
        if value is None or switched is None or reverted is None:
            return None
        image = int(name)
        return Intervention(image, value, Region(image, switched), Region(image, reverted))

    def _region(self, path: SpecPath) -> Region | None:
        given: Any = self.document.data
        for part in path:
            given = given[part]
        if not isinstance(given, list) or len(given) != 2:
            found = f"a list of {len(given)}" if isinstance(given, list) else kind(given)
            hint = "write [3, data:image/png;base64,…]"
            self._problem(path, f"expected [image number, mask], found {found}", hint)
            return None
        image = given[0]
        if type(image) is not int or image < 0:
            message = f"expected an image number, 0 or more, found {kind(image)}"
            self._problem((*path, 0), message, IMAGES_OF_THEIRS)
        elif image >= LEGACY_LENGTH:
            message = (
                f"image {image} lies beyond the authors' stream, which ends at "
                f"{LEGACY_LENGTH - 1} here"
            )
            self._problem((*path, 0), message, IMAGES_OF_THEIRS)
        mask = self._mask((*path, 1), given[1])
        return None if self.problems or mask is None else Region(image, mask)

    def _mask(self, path: SpecPath, given: Any) -> str | None:
        if not isinstance(given, str) or not given.startswith("data:"):
            found = "nothing" if given is None else kind(given)
            self._problem(
                path, f"expected a mask as a data URL, found {found}", "data:image/png;base64,…"
            )
            return None
        try:
            mask_image(given, self.folder, 0, legacy=self.legacy)
        except MaskError as error:
            self._problem(path, error.message, error.hint)
            return None
        return given

    def _number(self, path: SpecPath, given: Any) -> float | None:
        # The notebook writes numbers of its form fields as text.
        try:
            value = float(given)
        except (TypeError, ValueError):
            value = float("nan")
        if isinstance(given, bool) or not math.isfinite(value):
            message = f"expected a finite number, found {kind(given)}"
            self._problem(path, message, "give the value that the units are set to, such as 10")
            return None
        return value

    def _problem(self, path: SpecPath, message: str, hint: str, *, at_key: bool = False) -> None:
        problem = self.document.problem(path, message, hint, code=Code.RECORD_UNFIT, at_key=at_key)
        self.problems.append(problem)


MEANINGS = {
    ("copy", "paste"): "copy and paste",
    ("copy", "the first key"): "paste is missing: copy, and paste on the first key",
    ("erase", "paste"): "object is missing: erase on the paste",
    ("erase", "the first key"): "object and paste are missing: erase on the first key",
}


def regions(record: Record) -> Iterator[Region]:
    """Return every region of a record."""
    for part in (record.copied, record.target, *(record.context or ()), record.query):
        if part is not None:
            yield part
