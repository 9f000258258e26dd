"""The language of texts: prompts, subjects, what a model is to go on with. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from editspec_compiler.schema import (
    AnySpec,
    Check,
    Edit,
    Finite,
    Pair,
    PatchSize,
    PredictedCollateral,
    Retention,
    Solver,
    Spec,
    TargetError,
    choose_tag,
    describe_edit,
    measures_of,
)
from editspec_compiler.visit import FILE, Role
from editspec_runtime.core.fields import Count, Natural, Number, Part
from editspec_runtime.errors import UsageError
from editspec_runtime.methods.registry import suggest_method

PLACE, SOURCE, PAIR, CONTEXT = "place", "text-source", "text-pair", "text-context"
CORPUS = "corpus"
"""The roles of values that this modality looks up."""

BLANK = "{}"
"""What stands for the subject in a prompt."""

GENERATED = "builtin:generated"
"""The corpus that the model itself makes."""

Prompt = Annotated[str, Field(min_length=1, max_length=10_000)]
Subject = Annotated[str, Field(min_length=1, max_length=1000)]


class Fact(Part):
    """A prompt about a subject; the key is that of the subject's last token."""

    prompt: Prompt = Field(description="A text with {} where the subject stands.")
    subject: Subject = Field(description="Whom or what the prompt is about.")


class PreservedFact(Fact):
    """A fact that must stay as it is."""

    weight: Number = Field(
        1.0, gt=0, le=1e6, description="How much it counts beside others that are preserved."
    )


Place = Annotated[Fact, Role(PLACE)]
PreservedPlace = Annotated[PreservedFact, Role(PLACE)]


class Wanted(Part):
    """What the model is to go on with."""

    text: Subject = Field(description="What is to follow the prompt; a blank is put before it.")
    was: Subject | None = Field(
        None, description="What the model goes on with now; of effect on checks alone."
    )


class Others(Part):
    """Other subjects of the same prompt."""

    subjects: list[Subject] = Field(min_length=1, description="Their names.")


class Mean(Part):
    """The mean value of other subjects: a fact becomes like theirs."""

    mean: Others = Field(description="Whose values.")


class Forgotten(Part):
    """A text that the model is to find no likelier than it does of others."""

    text: Subject = Field(description="What the model goes on with now.")
    subjects: list[Subject] = Field(
        min_length=1, description="Others, of whom it goes on so as often as it is to."
    )


class Forget(Part):
    """A value after which the model no longer goes on with a text."""

    erase: Forgotten = Field(description="What is to be forgotten.")


def _source_tag(given: Any) -> str | None:
    keys = {"text": "@wanted", "prompt": "@copy", "mean": "@mean", "erase": "@erase"}
    return choose_tag(given, {}, keys | {"subject": "@copy", "was": "@wanted"})


Source = Annotated[
    Annotated[Wanted, Tag("@wanted")]
    | Annotated[Fact, Tag("@copy"), Role(PLACE)]
    | Annotated[Mean, Tag("@mean")]
    | Annotated[Forget, Tag("@erase")],
    Discriminator(_source_tag),
    Role(SOURCE),
]


class Prefixes(Part):
    """Texts that the unedited model makes, which stand before the prompt."""

    prefixes: Natural = Field(10, le=1000, description="How many.")
    length: Count = Field(8, le=200, description="How many tokens each has.")
    seed: Natural = Field(1, description="Names their stream.")
    bare_weight: Number | None = Field(
        None,
        ge=0,
        le=1,
        description=(
            "The share of the prompt without a text before it in the mean key. Default: a half."
        ),
    )


def _context_tag(given: Any) -> str | None:
    return choose_tag(given, {list: "@texts"}, dict.fromkeys(Prefixes.model_fields, "@prefixes"))


Context = Annotated[
    Annotated[list[Annotated[str, Field(max_length=10_000)]], Tag("@texts")]
    | Annotated[Prefixes, Tag("@prefixes")],
    Discriminator(_context_tag),
    Role(CONTEXT),
]


class Optimise(Part):
    """The search for the value after which the model goes on with a text."""

    evaluations: Count | None = Field(None, le=100_000, description="How often the loss is taken.")
    learning_rate: Number | None = Field(None, gt=0, description="The rate of Adam.")
    decay: Number | None = Field(
        None, ge=0, description="The weight of the norm of the shift of the value."
    )
    kl: Number | None = Field(
        None, ge=0, description="The weight of the change of what follows the subject elsewhere."
    )
    clamp: Number | None = Field(
        None, gt=0, description="The largest shift, as a share of the value or the block's output."
    )
    enough: Number | None = Field(None, ge=0, description="The loss at which the search ends.")
    keep: Number | None = Field(
        None, ge=0, description="The weight of the change of what follows prompts that are kept."
    )


class Examined(Part):
    """What reports and checks need of one fact of several."""

    id: str | None = Field(None, description="What reports call it. Default: its prompt.")
    paraphrases: list[Prompt] | None = Field(
        None,
        description='Other prompts with {} that ask for the same; in a table as ["…", "…"].',
    )
    neighbours: list[Subject] | None = Field(
        None,
        description=(
            'Other subjects of the prompt, whose answers must stay; in a table as ["…", "…"].'
        ),
    )


class TextPair(Pair[Place, Source], Examined):
    """One fact of several."""


class FactRow(Fact, Examined):
    """One fact of several, as rows of a file have it."""

    text: Subject = Field(description="What is to follow the prompt; a blank is put before it.")
    was: Subject | None = Field(
        None, description="What the model goes on with now; of effect on checks alone."
    )

    @property
    def target(self) -> Fact:
        """The prompt and its subject."""
        return Fact(prompt=self.prompt, subject=self.subject)

    @property
    def source(self) -> Wanted:
        """What the model is to go on with."""
        return Wanted(text=self.text, was=self.was)


def _pair_tag(given: Any) -> str | None:
    keys = {"source": "@pair", "target": "@pair"}
    return choose_tag(given, {}, keys | dict.fromkeys(FactRow.model_fields, "@row"))


AnyPair = Annotated[
    Annotated[TextPair, Tag("@pair")] | Annotated[FactRow, Tag("@row"), Role(PLACE)],
    Discriminator(_pair_tag),
    Role(PAIR),
]


def _describe_layers(schema: dict[str, Any]) -> None:
    """Say in a JSON Schema that an edit has one layer or several."""
    describe_edit(schema)
    layers = [{"required": ["layer"]}, {"required": ["layers"]}]
    schema["allOf"] = [{"oneOf": schema.pop("oneOf")}, {"oneOf": layers}]


class TextEdit(Edit[Place, Source, Context, PreservedPlace]):
    """One rule change: one fact, or several."""

    model_config = ConfigDict(json_schema_extra=_describe_layers)

    layer: str = Field(
        "", description="The layer whose weight changes; `editspec inspect WEIGHTS` lists them."
    )
    layers: list[str] | None = Field(
        None, min_length=1, description="Several layers in order, over which the change is spread."
    )
    pairs: list[AnyPair] | None = Field(  # type: ignore[assignment]
        None,
        min_length=1,
        description=(
            "Several facts in place of one source and target; or {file: …}, whose rows have "
            "prompt, subject, text, and where they like was, id, paraphrases, neighbours."
        ),
    )
    context: Context | None = Field(
        None,
        description=(
            "Texts before the prompt in which the rule holds: a list of them, each with its last "
            "blank; or how many the model makes. Default: {prefixes: 10, seed: 1}."
        ),
    )
    keep: list[Prompt] | None = Field(
        None,
        min_length=1,
        description=(
            "Other prompts with {} about the subject of each fact, after which the model is to go "
            "on as before: the search for values keeps to them."
        ),
    )
    optimise: Optimise = Field(
        Optimise(), description="How values are found. Default: as the compatibility has it."
    )
    solver: Solver = Field(
        suggest_method(linear=True).make_settings(),
        description="How the rule is solved: a method, or its settings.",
    )

    @property
    def layer_names(self) -> list[str]:
        """The names of the layers whose weights change, in the order of computation."""
        return [self.layer] if self.layers is None else list(self.layers)

    @property
    def rank_limit(self) -> int:
        """The number of facts: each adds at most one direction."""
        return len(self.sides)


class Statistics(Part):
    """The sample that the second moment of the keys is taken over."""

    corpus: Annotated[str, Field(min_length=1), Role(CORPUS)] = Field(
        GENERATED,
        description=(
            f"{GENERATED}: texts of the unedited model; or a file of texts, one to a line (.txt), "
            "relative to the spec."
        ),
    )
    tokens: Count = Field(16_384, description="How many tokens.")
    documents: Count | None = Field(None, description="How many texts of a file at most.")
    seed: Natural = Field(2, description="Names the stream, or the order of a file's texts.")


class Efficacy(Check):
    """Share of the facts of which the model finds the new text likelier than the old one."""

    measure: Literal["efficacy"] = Field(description="What is measured.")
    by: Literal["probability", "argmax", "greedy"] = Field(
        "argmax",
        description=(
            "probability: the new text is likelier than the old one. argmax: each of its tokens is "
            "the likeliest. greedy: the model goes on with it when nothing is forced."
        ),
    )
    at_least: Number = Field(ge=0, le=1, description="The smallest share that passes.")


class Paraphrase(Check):
    """Share of the paraphrases of which the edit holds, too."""

    measure: Literal["paraphrase"] = Field(description="What is measured.")
    prompts: list[Prompt] | None = Field(
        None, min_length=1, description="Prompts with {}. Default: those of the facts."
    )
    by: Literal["probability", "argmax", "greedy"] = Field("argmax", description="As of efficacy.")
    at_least: Number = Field(ge=0, le=1, description="The smallest share that passes.")


class Specificity(Check):
    """Share of other facts whose likeliest next token stays."""

    measure: Literal["specificity"] = Field(description="What is measured.")
    facts: list[Place] | None = Field(
        None,
        min_length=1,
        description="Other facts. Default: the prompts with the neighbours of the facts.",
    )
    at_least: Number = Field(ge=0, le=1, description="The smallest share that passes.")


class Fluency(Check):
    """Entropy of the n-grams of what the model says about the subjects, after over before."""

    measure: Literal["fluency"] = Field(description="What is measured.")
    tokens: Count = Field(60, le=1000, description="How many tokens of each text.")
    texts: Count = Field(8, le=1000, description="How many texts at most.")
    seed: Natural = Field(3, description="Names their stream.")
    at_least: Number = Field(ge=0, description="The smallest ratio that passes.")


class Perplexity(Check):
    """Perplexity on a corpus after all edits, over that before them."""

    OF_ALL: ClassVar[bool] = True

    measure: Literal["perplexity"] = Field(description="What is measured.")
    corpus: Annotated[str, Field(min_length=1), Role(FILE)] = Field(
        description="A file of texts, one to a line, relative to the spec."
    )
    tokens: Count = Field(4096, description="How many tokens.")
    at_most: Number = Field(gt=0, description="The largest ratio that passes.")


AnyCheck = (
    TargetError
    | Efficacy
    | Paraphrase
    | Specificity
    | Fluency
    | Perplexity
    | PredictedCollateral
    | Retention
    | PatchSize
    | Finite
)
CHECKS = measures_of(*AnyCheck.__args__)
"""The checks of texts by the names of their measures."""


class TextSpec(Spec[TextEdit, Annotated[AnyCheck, Field(discriminator="measure")]]):
    """An edit spec: which facts of a language model change, and how."""

    statistics: Statistics = Field(
        Statistics(), description="The sample for the second moment of the keys."
    )
    compatibility: Literal["rome-2022", "memit-2022", "alphaedit-2024"] | None = Field(
        None, description="Do as a paper's own code does."
    )


def text_spec(spec: AnySpec) -> TextSpec:
    """Return a spec as one of texts.

    Raises `UsageError` where its family does not go on with texts.
    """
    if not isinstance(spec, TextSpec):
        raise UsageError(
            f"The family {spec.model.family} does not go on with texts.",
            "Give a spec of a language model.",
        )
    return spec
