"""The registry of the modalities of the studio, one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from editspec_compiler.schema import AnyEdit
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.errors import UsageError
from editspec_runtime.families.registry import find_family

if TYPE_CHECKING:
    from editspec.engine.session import BuildSession
    from editspec.studio.base import Base
    from editspec.studio.draft import Draft
    from editspec_runtime.core.model import Model

OWN, PARAPHRASE, NEIGHBOUR = "own", "paraphrase", "neighbour"
"""What a question asks about an edit: what it edits, the same in other words, what must stay."""


@dataclass(frozen=True)
class Question:
    """A question about an edit that a model is asked before and after it.

    Attributes
    ----------
    role
        `OWN`, `PARAPHRASE` or `NEIGHBOUR`.
    words
        The question for people.
    wanted
        The answer that the edit asks for; empty where it is to stay, or cannot be told in words.
    asked
        What the model is asked, as plain values: the answer follows from each and the weights.
    """

    role: str
    words: str
    wanted: str
    asked: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class TokenLine:
    """A text of an edit as tokens.

    Attributes
    ----------
    place
        What the text is in the edit, such as ``target`` or ``pairs[3].target``.
    pieces
        The texts of the tokens.
    marked
        The numbers of the tokens that are edited, or whose value is taken.
    padding
        The number of tokens of padding that are marked besides.
    trouble
        Why the text has no such tokens; empty where it has.
    """

    place: str
    pieces: tuple[str, ...] = ()
    marked: tuple[int, ...] = ()
    padding: int = 0
    trouble: str = ""


Answering = Callable[["Model", Mapping[str, Any]], str | bytes]
"""Takes a model and what it is asked, and returns its answer: a text, or a picture as a PNG."""


class StudioModality(Protocol):
    """The part of the studio that depends on the modality of its model."""

    @property
    def parts(self) -> Sequence[str]:
        """The keys of a spec, besides its model, that determine what the model gives."""

    @property
    def edit_type(self) -> type[AnyEdit]:
        """The type of an edit."""

    @property
    def methods(self) -> Sequence[str]:
        """The names of the methods that solve its edits."""

    @property
    def has_images(self) -> bool:
        """Whether its models draw images of latents, which curves and traces are about."""

    def describe_model(self, base: Base) -> dict[str, int]:
        """Return the size of its images, and the seeds of their streams; 0 where it has none."""

    def map_sizes(self, layer: Layer) -> tuple[int, int]:
        """Return the sides of the maps of keys and values of a layer; 0 where there are none."""

    def new_edit(self, architecture: Architecture) -> dict[str, Any]:
        """Write the fields of a new edit that says nothing yet, without its name."""

    def describe_edit(self, draft: Draft, number: int, base: Base) -> dict[str, Any]:
        """Describe edit `number` of a draft by the fields of `EditState` that differ here.

        The text is described while it is typed, so that every part of it may be anything.
        """

    def questions(self, draft: Draft, number: int, base: Base) -> list[Question]:
        """List what a model is asked about edit `number` of a draft."""

    def answering(self, session: BuildSession, keep_going: Callable[[], None]) -> Answering:
        """Return the function that asks models of a session.

        It calls `keep_going` as often as it can, which raises where the work was cancelled.
        """


MODALITIES: dict[str, str] = {}
"""``module:object`` of each modality, imported when a spec needs it."""


def register_studio_modality(modality: str, place: str) -> None:
    """Enter a modality; `place` is ``module:object``."""
    MODALITIES[modality] = place


register_studio_modality("image", "editspec.studio.modalities.image.modality:IMAGE")
register_studio_modality("text", "editspec.studio.modalities.text.modality:TEXT")
register_studio_modality(
    "text_to_image", "editspec.studio.modalities.text_to_image.modality:TEXT_TO_IMAGE"
)


def studio_modality_of(family: str) -> StudioModality:
    """Return the modality of a family.

    Raises `WeightsError` for an unknown family, and `UsageError` where its modality has no place in
    the studio.
    """
    place = MODALITIES.get(find_family(family).modality)
    if place is None:
        raise UsageError(
            f"The studio shows no edits of the family {family}.",
            "Write the spec by hand, and take validate, build and check.",
        )
    return _load(place)


@cache
def _load(place: str) -> StudioModality:
    module, _, name = place.partition(":")
    found: StudioModality = getattr(import_module(module), name)
    return found
