"""Edit records of the authors' notebook: JSON with ``object``, ``paste``, ``key`` and ``query``.
Imports no torch.

Each is an image number of their latent stream and a mask as a data URL (``key``: a list of them).
What a record lacks says what kind of edit it is; model, layer, rank and solver are in none.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec_compiler.document import Document, kind, read_document
from editspec_compiler.modalities.image.masks import MaskError, mask_image
from editspec_compiler.problems import Problem, SpecError, SpecPath
from editspec_compiler.validation import suggest
from editspec_runtime.codes import Code
from editspec_runtime.modalities.image.compatibility import LEGACY_LENGTH

FIELDS = ("object", "paste", "key", "query")


@dataclass(frozen=True)
class Region:
    """A part of an image: the image's number in the authors' stream, and the mask as the record
    holds it.
    """

    image: int
    mask: str

    @property
    def suffix(self) -> str:
        """The ending of a file that holds the mask's bytes."""
        media = self.mask.partition(";")[0].removeprefix("data:image/")
        return {"jpeg": ".jpg", "svg+xml": ".svg"}.get(media, f".{media}")

    @property
    def bytes(self) -> bytes:
        """The mask's file, byte for byte."""
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
    """One image of the reflection experiment: where units are switched to `value`, and where the
    result reverts.
    """

    image: int
    value: float
    switched: Region
    reverted: Region


def read_record(path: Path, *, legacy: bool) -> Record | list[Intervention]:
    """Read an edit record, or the interventions of the reflection experiment.

    `legacy` says how masks will be decoded. Raises `SpecError` with everything that is wrong.
    """
    document = read_document(path)
    interventions = bool(document.data) and all(
        isinstance(entry, dict) and "intervention" in entry for entry in document.data.values()
    )
    reader = _Reader(document, path.parent, legacy, list(document.problems))
    found = reader.interventions() if interventions else reader.record()
    if reader.problems or found is None:
        raise SpecError(document.file, reader.problems, document.text)
    return found


@dataclass
class _Reader:
    """Takes a record apart and collects what is wrong with it."""

    document: Document
    folder: Path
    legacy: bool
    problems: list[Problem]

    def record(self) -> Record | None:
        data = self.document.data
        for name in data:
            if name not in FIELDS:
                self._problem(
                    (name,),
                    f"unknown key {name} in an edit record",
                    suggest(name, list(FIELDS)),
                    at_key=True,
                )
        parts = {
            name: self._region((name,)) for name in ("object", "paste", "query") if data.get(name)
        }
        given = data.get("key") or []
        if not isinstance(given, list):
            self._problem(("key",), f"expected a list of [image number, mask], found {kind(given)}")
            given = []
        keys = [region for index in range(len(given)) if (region := self._region(("key", index)))]
        copied, paste = parts.get("object"), parts.get("paste")
        if not any(data.get(name) for name in ("paste", "key")):
            missing = "paste and key are missing: nothing says where the rule is to change"
            self._problem((), missing, "a record has a paste, or keys to paste on or to erase")
        target = paste or (keys[0] if keys else None)
        if self.problems or target is None:
            return None
        meaning = ("copy" if copied else "erase", "paste" if paste else "the first key")
        return Record(copied, target, keys or None, parts.get("query"), MEANINGS[meaning])

    def interventions(self) -> list[Intervention] | None:
        found = []
        for name, entry in self.document.data.items():
            if not name.isascii() or not name.isdigit() or int(name) >= LEGACY_LENGTH:
                self._problem(
                    (name,),
                    f"expected an image number below {LEGACY_LENGTH}, found {kind(name)}",
                    at_key=True,
                )
                continue
            for key in entry:
                if key not in ("value", "intervention", "revert"):
                    hint = suggest(key, ["value", "intervention", "revert"])
                    self._problem(
                        (name, key), f"unknown key {key} in an intervention", hint, at_key=True
                    )
            masks = [self._mask((name, key), entry.get(key)) for key in ("intervention", "revert")]
            value = self._number((name, "value"), entry.get("value"))
            if value is not None and masks[0] is not None and masks[1] is not None:
                found.append(
                    Intervention(
                        int(name), value, *(Region(int(name), mask) for mask in masks if mask)
                    )
                )
        return None if self.problems else found

    def _region(self, path: SpecPath) -> Region | None:
        given: Any = self.document.data
        for part in path:
            given = given[part]
        if not isinstance(given, list) or len(given) != 2:
            found = f"a list of {len(given)}" if isinstance(given, list) else kind(given)
            self._problem(path, f"expected [image number, mask], found {found}")
            return None
        image = given[0]
        if type(image) is not int or image < 0:
            self._problem((*path, 0), f"expected an image number, 0 or more, found {kind(image)}")
        elif image >= LEGACY_LENGTH:
            message = (
                f"image {image} lies beyond the authors' stream, which ends at "
                f"{LEGACY_LENGTH - 1} here"
            )
            self._problem((*path, 0), message, "their notebook numbers 1000 images")
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
        except (MaskError, binascii.Error) as error:
            self._problem(path, str(error), getattr(error, "hint", ""))
            return None
        return given

    def _number(self, path: SpecPath, given: Any) -> float | None:
        # The notebook writes numbers of its form fields as text.
        try:
            value = float(given)
        except (TypeError, ValueError):
            value = float("nan")
        if isinstance(given, bool) or value - value != 0:
            self._problem(path, f"expected a finite number, found {kind(given)}")
            return None
        return value

    def _problem(
        self, path: SpecPath, message: str, hint: str = "", *, at_key: bool = False
    ) -> None:
        problem = self.document.problem(path, message, hint, code=Code.RECORD_UNFIT, at_key=at_key)
        self.problems.append(problem)


MEANINGS = {
    ("copy", "paste"): "copy and paste",
    ("copy", "the first key"): "paste is missing: copy, and paste on the first key",
    ("erase", "paste"): "object is missing: erase on the paste",
    ("erase", "the first key"): "object and paste are missing: erase on the first key",
}


def regions(record: Record) -> Iterator[Region]:
    """Every region of a record."""
    yield from (
        part
        for part in (record.copied, record.target, *(record.context or ()), record.query)
        if part
    )
