"""Commits that a lock holds of what a spec uses from git. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from editspec_compiler.document import LOCK, read_document
from editspec_compiler.problems import SpecError
from editspec_runtime.codes import Code


class Pin(BaseModel):
    """What was found at a source of git.

    Attributes
    ----------
    source
        The source as a spec names it, ``git+ADDRESS@REVISION``.
    commit
        The commit that the revision was when it was resolved.
    files
        The SHA-256 of each library that was read there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: str
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]


PINS = "sources"
"""The key of a lock that holds them."""

_ADAPTER = TypeAdapter(list[Pin])


def read_pins(spec: Path) -> Mapping[str, Pin]:
    """Read the pins in the lock of a spec, by their sources; none where there is no lock.

    Raises `SpecError` where the lock cannot be read.
    """
    path = spec.parent / f"{spec.name}{LOCK}"
    if not path.exists():
        return {}
    document = read_document(path)
    try:
        pins = _ADAPTER.validate_python(document.data.get(PINS, []))
    except ValidationError as error:
        message = "this is not a lock of version 1: its sources are not what a lock has there"
        hint = "remove the lock and build again, or take it from git"
        problem = document.problem((PINS,), message, hint, code=Code.LOCK_UNFIT)
        raise SpecError(document.file, [problem], document.text) from error
    return {pin.source: pin for pin in pins}
