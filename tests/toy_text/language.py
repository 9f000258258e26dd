"""What a spec says of texts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from editspec_compiler import LoadedSpec
from editspec_compiler.document import Document
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.registry import EditFacts, Surroundings
from editspec_compiler.schema import (
    AnySpec,
    Check,
    Edit,
    PatchSize,
    PredictedCollateral,
    Spec,
    TargetError,
    measures_of,
)
from editspec_compiler.visit import Item, Role
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.fields import Count, Natural, Number, Part
from tests.toy_text import MODALITY

TEXT = "text"
LETTERS = "abcdefghijklmnop"

Text = Annotated[str, Field(min_length=1, max_length=64), Role(TEXT)]


class TextPlace(Part):
    """A letter of a text."""

    text: Text = Field(description="Letters from a to p.")
    letter: Natural = Field(0, description="Which of them, from 0.")


class RandomLetters(Part):
    """The sample that the second moment of the keys is taken over."""

    texts: Count = Field(64, description="How many texts.")
    seed: Natural = Field(2, description="Names their stream.")


class Probability(Check):
    """How probable the model finds a letter after a place."""

    measure: Literal["probability"] = Field(description="What is measured.")
    place: TextPlace = Field(description="After which letter.")
    of: str = Field(min_length=1, max_length=1, description="Of which letter.")
    at_least: Number = Field(ge=0, le=1, description="The smallest probability that passes.")


TextCheck = TargetError | PredictedCollateral | PatchSize | Probability


class TextEdit(Edit[TextPlace, TextPlace, list[TextPlace], TextPlace]):
    """One rule change."""


class TextSpec(Spec[TextEdit, Annotated[TextCheck, Field(discriminator="measure")]]):
    """An edit spec of a toy."""

    statistics: RandomLetters = Field(RandomLetters(), description="The sample for C.")


class ToyText:
    """Texts as a modality of the language."""

    name = MODALITY
    checks: Mapping[str, type[Check]] = measures_of(
        TargetError, PredictedCollateral, PatchSize, Probability
    )
    plurals: Mapping[str, str] = {}
    expected: Mapping[str, str] = {TEXT: "a text"}

    def problems(self, document: Document, spec: AnySpec) -> Iterator[Problem]:
        """Letters behind the end of a text."""
        for number, edit in enumerate(spec.edits):
            for side in ("source", "target"):
                place = getattr(edit, side)
                if place is not None and place.letter >= len(place.text):
                    yield document.problem(
                        ("edits", number, side, "letter"),
                        f"{place.text} has {len(place.text)} letters",
                        "letters are counted from 0",
                    )

    def references(self, item: Item, surroundings: Surroundings) -> Iterator[Problem]:
        """Letters that the model does not know."""
        if item.role == TEXT and isinstance(item.value, str):
            unknown = sorted(set(item.value) - set(LETTERS))
            if unknown:
                yield surroundings.document.problem(
                    item.path, f"a toy does not know the letters {' '.join(unknown)}", "a to p"
                )

    def edit_problems(
        self, path: SpecPath, items: list[Item], layer: Layer, surroundings: Surroundings
    ) -> Iterator[Problem]:
        """Nothing."""
        yield from ()

    def edit_facts(self, loaded: LoadedSpec, number: int) -> EditFacts:
        """Nothing."""
        return EditFacts()

    def first_edit(self, architecture: Architecture) -> dict[str, Any]:
        """An edit that copies a letter's value to another letter."""
        return {
            "name": "first-edit",
            "layer": next(iter(architecture.layers)),
            "source": {"text": "abc", "letter": 1},
            "target": {"text": "cba", "letter": 1},
        }


TOY_TEXT = ToyText()
