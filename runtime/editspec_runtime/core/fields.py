"""The fields of the ``model:`` mapping of a spec. This module imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.errors import EditError

Natural = Annotated[int, Field(ge=0, lt=2**64)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A mapping of the language: unknown keys and wrong types are errors."""

    # Built when first used: a command pays for the parts of its own spec alone.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


@dataclass(frozen=True)
class FieldProblem:
    """A problem in a mapping of a spec.

    Attributes
    ----------
    path
        The place below the mapping; empty for the mapping as a whole.
    message, hint, code
        One sentence that says what is wrong, one that says what to do, and the stable code.
    at_key
        Whether the key is wrong, and not its value.
    """

    path: tuple[str | int, ...]
    message: str
    hint: str = ""
    code: Code = Code.SPEC
    at_key: bool = False


class FieldError(EditError):
    """A field of ``model:`` that does not fit the network.

    Such a field is found only when the network is made.

    Attributes
    ----------
    path
        The place below ``model``.
    """

    code = Code.FAMILY_FIELD

    def __init__(self, path: tuple[str | int, ...], message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.path = path


class ModelFields(Part):
    """The model that is edited.

    A family adds its own fields in a subclass. It says in `problems`, `problems_with` and `files`
    what must hold between the fields.
    """

    family: str = Field(description="An adapter; `editspec families` lists them.")
    weights: str = Field(
        description=(
            "builtin:skyline, a path relative to the spec, https://… (with digest) or hf://…"
        ),
    )
    key: str | None = Field(
        None,
        min_length=1,
        description="The key of its state dict in a file that holds several, dotted if nested.",
    )
    prefix: str | None = Field(
        None,
        min_length=1,
        description="The text before the names of its tensors, such as `module.` or `generator.`.",
    )
    digest: str | None = Field(
        None,
        pattern=r"^(sha256:)?[0-9a-f]{64}$",
        description=(
            "What the weights must be: the digest of their tensors, or sha256: and that of the "
            "file's bytes."
        ),
    )

    def problems(self, compatibility: str | None) -> Iterator[FieldProblem]:
        """Find fields that contradict each other or the `compatibility` of the spec."""
        yield from ()

    def problems_with(self, architecture: Architecture) -> Iterator[FieldProblem]:
        """Find fields that do not fit the model whose layers are `architecture`."""
        yield from ()

    def files(self, folder: Path) -> Iterator[str]:
        """Yield the relative names of files below `folder` that belong to the model.

        The weights are not among them. The files' bytes are part of the digest of every edit.
        """
        yield from ()

    def digest_text(self) -> dict[str, object]:
        """The fields that the bits of an edit depend on, as plain values by name."""
        return self.model_dump(mode="json", exclude={"weights", "key", "prefix", "digest"})
