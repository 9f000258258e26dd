"""The header of a rule file, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from editspec_runtime.core.rule import FORMAT, VERSION
from editspec_runtime.errors import FileError
from editspec_runtime.io.files import read_editspec_metadata, read_header

AGAIN = "Build again to write the rule anew."

Word = Annotated[str, Field(min_length=1, max_length=1000)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RefinementValues(_Part):
    """The settings of a refinement."""

    steps: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[Number, Field(gt=0)]
    weight: Annotated[Number, Field(ge=0)]
    whiten: bool = False


class RuleValues(_Part):
    """Everything of the rule of a layer but its tensors."""

    layer: Word
    parameter: Word
    observe: Word | None
    units: list[Annotated[int, Field(ge=0)]]
    details: dict[str, Any]
    refinement: RefinementValues | None = None
    preserved_added: bool = False


class RuleHeader(_Part):
    """Everything of a rule file but its tensors."""

    format: str
    version: int
    name: Word
    family: Word
    rules: Annotated[list[RuleValues], Field(min_length=1)]
    solver: dict[str, Any]
    rank: Annotated[int, Field(ge=0)] | None
    directions: Word | None
    provenance: dict[str, Any]
    shared: dict[Word, Word] = {}


def read_rule_header(path: Path) -> dict[str, Any]:
    """Read the metadata of a rule file, whose fields and types are those of `RuleHeader`.

    Raises `FileError` if the file is damaged, or not a rule of this version.
    """
    metadata: dict[str, Any] = read_editspec_metadata(read_header(path), path)
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise FileError(f"{path} is not a rule of version {VERSION}.", AGAIN)
    try:
        RuleHeader.model_validate(metadata)
    except ValidationError as error:
        raise FileError(f"{path} is a rule with parts missing or unknown.", AGAIN) from error
    return metadata
