"""The language of text-to-image models: prompts, their tokens, concepts. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from editspec_compiler.schema import (
    AnySpec,
    Check,
    Edit,
    Finite,
    Pair,
    PatchSize,
    PredictedCollateral,
    Rank,
    Retention,
    Solver,
    Spec,
    TargetError,
    describe_edit,
    measures_of,
)
from editspec_compiler.visit import FILE, Role
from editspec_runtime.core.fields import Count, Natural, Number, Part
from editspec_runtime.errors import UsageError
from editspec_runtime.methods.registry import DEFAULT_METHOD

PLACE, TARGET, SOURCE, FOUND = "place", "target", "prompt-source", "check-prompt"
"""The roles of values that this modality looks up."""

ALL_LAYERS = "cross-attention"
"""What stands for all layers."""

Prompt = Annotated[str, Field(max_length=10_000)]
Tokens = Literal["last", "content", "all", "aligned"]

BEGIN = '"" is the model\'s begin-of-text token, which is the same in every prompt'


class Prompted(Part):
    """A prompt, and which of its tokens are meant."""

    prompt: Prompt = Field(description=f"A text; {BEGIN}.")
    tokens: Tokens | None = Field(
        None,
        description=(
            "last: the last token of the text. content: each of its tokens. all: these and what "
            "follows them. aligned: those that target and source share. Default: last, or as the "
            "compatibility has it."
        ),
    )


class Target(Prompted):
    """The prompt whose tokens get another value."""


class Addend(Part):
    """A prompt whose value is added, times a factor."""

    prompt: Annotated[Prompt, Field(min_length=1)] = Field(description="A text.")
    by: Number = Field(description="The factor of its value; negative to take it out.")


class Source(Part):
    """Where the value comes from."""

    prompt: Prompt = Field(description=f"The text whose value is taken; {BEGIN}.")
    add: list[Addend] | None = Field(
        None, min_length=1, description="Prompts whose values are added, each times a factor."
    )


class Context(Prompted):
    """A further phrasing of the target, which gets the same value."""


class Preserved(Prompted):
    """A prompt whose values must stay."""

    weight: Number | None = Field(
        None,
        gt=0,
        le=1e9,
        description="How much it counts. Default: 1, or as the compatibility has it.",
    )


PlaceOf = Annotated[Context, Role(PLACE)]
TargetOf = Annotated[Target, Role(TARGET)]
SourceOf = Annotated[Source, Role(SOURCE)]
PreservedOf = Annotated[Preserved, Role(PLACE)]


class ConceptPair(Pair[TargetOf, SourceOf]):
    """One concept of several."""

    weight: Number = Field(1.0, gt=0, le=1e9, description="How much it counts beside others.")


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


LayerNames = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]


def _weigh_collateral(given: Any) -> Any:
    """Write out the weight of the collateral, which has another default here."""
    values = {"method": given} if isinstance(given, str) else given
    if not isinstance(values, dict) or values.get("method") != DEFAULT_METHOD.name:
        return given
    if {"collateral", "collateral_weight"} & set(values):
        return given
    return {**values, "collateral_weight": 1.0}


class ConceptEdit(Edit[TargetOf, SourceOf, list[PlaceOf], PreservedOf]):
    """One rule change: what the cross-attention reads for a concept, or for several."""

    model_config = ConfigDict(json_schema_extra=describe_edit)

    layer: str = Field("", description="One layer, in place of layers.")
    layers: LayerNames = Field(
        [ALL_LAYERS],
        min_length=1,
        description=(
            f"{ALL_LAYERS}: all of them. to_k or to_v: all keys or all values. Or names, in which "
            "* stands for anything; `editspec inspect WEIGHTS` lists them."
        ),
    )
    rank: Rank | None = Field(  # type: ignore[assignment]
        None,
        description="How many directions the change may have. Default: one for each edited token.",
    )
    pairs: list[ConceptPair] | None = Field(  # type: ignore[assignment]
        None,
        min_length=1,
        description="Several sources and targets in place of one; or {file: …}.",
    )
    context: list[PlaceOf] | None = Field(
        None,
        min_length=1,
        description="More phrasings of the target, which get the value of the source, too.",
    )
    preserve: list[PreservedOf] | None = Field(
        None,
        min_length=1,
        description=(
            "Prompts whose values must stay; {file: artists.txt, weight: 0.5} stands for the lines "
            "of a file."
        ),
    )
    solver: Annotated[Solver, BeforeValidator(_weigh_collateral)] = Field(
        DEFAULT_METHOD.make_settings(collateral_weight=1.0),
        description=(
            "How the rule is solved: a method, or its settings. The weight of the collateral is "
            "beside the sum of squares of what the edited tokens lack."
        ),
    )

    @property
    def layer_names(self) -> list[str]:
        """The names of the layers whose weights change, in the order of computation."""
        return [self.layer] if self.layer else list(self.layers)

    @property
    def rank_limit(self) -> int | None:
        """The rank that is given; None where it follows from the tokens of the prompts."""
        return self.rank if isinstance(self.rank, int) else None

    @property
    def pair_weights(self) -> list[float]:
        """How much each pair counts."""
        if self.pairs is None:
            return [1.0]
        return [pair.weight for pair in self.pairs]


class Statistics(Part):
    """The prompts that the second moment of the keys is taken over, and what C has besides."""

    prompts: Annotated[str, Field(min_length=1), Role(FILE)] | None = Field(
        None,
        description="A file of prompts, one to a line (.txt), relative to the spec.",
    )
    weight: Number = Field(
        0.1, ge=0, le=1e12, description="The weight of the mean of k k^T over their tokens."
    )
    ridge: Number | None = Field(
        None,
        ge=0,
        le=1e12,
        description="What every direction costs. Default: 0.5, or as the compatibility has it.",
    )


class Efficacy(Check):
    """Share of the way from the old answer to the new one, over phrasings of the concept."""

    measure: Literal["efficacy"] = Field(description="What is measured.")
    prompts: list[Annotated[Prompt, Role(FOUND)]] | None = Field(
        None,
        min_length=1,
        description=(
            "Phrasings that the edit has not seen, whose last token is asked. Default: the edit's "
            "own."
        ),
    )
    at_least: Number = Field(description="The smallest mean share that passes.")


class Locality(Check):
    """Relative change of what prompts that must stay are answered."""

    measure: Literal["locality"] = Field(description="What is measured.")
    prompts: list[Annotated[Prompt, Role(FOUND)]] | None = Field(
        None, min_length=1, description="Prompts. Default: those that the edit preserves."
    )
    file: Annotated[str, Field(min_length=1), Role(FILE)] | None = Field(
        None, description="A file of prompts, one to a line, besides."
    )
    of: Literal["values", "pictures"] = Field(
        "values",
        description="values: what the layers say for every token. pictures: the pixels.",
    )
    seed: Natural = Field(0, description="Of pictures: names their noise.")
    at_most: Number = Field(ge=0, description="The largest mean change that passes.")


class Resistance(Check):
    """Share of an edit that the best key of an adversary leaves in place."""

    measure: Literal["resistance"] = Field(description="What is measured.")
    adversary: Literal["regzero", "both", "target"] = Field(
        "regzero",
        description=(
            "How far the key is held: regzero, near zero. both: near zero and near the concept's. "
            "target: near that of the source."
        ),
    )
    ridge: Number = Field(0.1, gt=0, description="How strongly it is held.")
    at_least: Number = Field(ge=0, description="The smallest share that passes.")


AnyCheck = (
    TargetError
    | Efficacy
    | Locality
    | Resistance
    | PredictedCollateral
    | Retention
    | PatchSize
    | Finite
)
CHECKS = measures_of(*AnyCheck.__args__)
"""The checks of prompts by the names of their measures."""


class Drawn(Part):
    """How pictures are drawn, for people and for checks of pictures."""

    prompts: list[Annotated[Prompt, Role(FOUND)]] | None = Field(
        None, min_length=1, description="What `render` draws. Default: the prompts of the edits."
    )
    steps: Count = Field(20, le=1000, description="Steps of the model's scheduler.")
    guidance: Number = Field(
        7.5, ge=0, le=100, description="How far pictures are led away from those of no prompt."
    )


class PromptSpec(Spec[ConceptEdit, Annotated[AnyCheck, Field(discriminator="measure")]]):
    """An edit spec: which concepts of a text-to-image model change, and how."""

    statistics: Statistics = Field(
        Statistics(), description="What every change costs: the second moment of the keys."
    )
    pictures: Drawn = Field(Drawn(), description="How pictures are drawn; of no effect on edits.")
    compatibility: Literal["uce-2024", "uce-2023", "time-2023"] | None = Field(
        None, description="Do as a paper's own code does."
    )


def prompt_spec(spec: AnySpec) -> PromptSpec:
    """Return a spec as one of prompts.

    Raises `UsageError` where its family does not draw what a prompt says.
    """
    if not isinstance(spec, PromptSpec):
        raise UsageError(
            f"The family {spec.model.family} does not draw what a prompt says.",
            "Give a spec of a text-to-image model.",
        )
    return spec
