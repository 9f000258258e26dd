"""The part of the language that every modality shares. Imports no torch.

A modality says what a place, a source and a context are, and makes its own `Edit` and `Spec` of
those here. `registry.spec_type` gives the spec of a family.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from editspec_runtime.core.fields import Count, ModelFields, Number, Part
from editspec_runtime.core.method import ERASED_UNITS, FULL, RANK, Settings
from editspec_runtime.methods.registry import DEFAULT_METHOD, METHODS, method_of

LONGEST_NAME = 80
"""The number of letters that the name of an edit or of a check may have."""
NAME = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}$"

PlaceT = TypeVar("PlaceT")
SourceT = TypeVar("SourceT")
ContextT = TypeVar("ContextT")
PreservedT = TypeVar("PreservedT")
ParameterType = Literal["integer", "number", "text", "boolean", "mask", "place", "list"]
"""The words for what values a parameter takes."""

EditT = TypeVar("EditT")
CheckT = TypeVar("CheckT")


def choose_tag(given: Any, by_type: dict[type, str], by_key: dict[str, str]) -> str | None:
    """Choose the tag of a union member by a value's type, or by a key that it has."""
    if isinstance(given, BaseModel):
        keys = set(type(given).model_fields)
    elif isinstance(given, dict):
        keys = set(given)
    else:
        return by_type.get(type(given))
    return next((tag for key, tag in by_key.items() if key in keys), None)


def _require_integer(given: Any) -> Any:
    # A literal takes everything that is equal to it: true and 1.0 are equal to 1, and are not
    # meant.
    if type(given) is not int:
        raise PydanticCustomError("literal_error", "not 1", {"expected": "1"})
    return given


class ErasedUnits(Part):
    """The units that an erased value does without."""

    units: int = Field(
        ge=0, description="The number of units: those of the key that respond most to the context."
    )


class Erase(Part):
    """Value without some units (paper section 5.2).

    It is the layer's output at the target where these units of its key are zero.
    """

    erase: ErasedUnits = Field(description="Which units (paper section 5.2).")


class Pair(Part, Generic[PlaceT, SourceT]):
    """One K* -> V* of several."""

    source: SourceT = Field(
        description="Where the value V* comes from: a place that is copied from, or erase."
    )
    target: PlaceT = Field(description="Whose keys K* get that value.")


def solver_union() -> Any:
    """Return the union of the settings of every method that is registered now."""
    return functools.reduce(operator.or_, (each.settings for each in METHODS.values()))


@functools.cache
def _solver_adapter(settings: tuple[type[Settings], ...]) -> TypeAdapter[Settings]:
    union: Any = functools.reduce(operator.or_, settings)
    by_method: Any = Annotated[union, Field(discriminator="method")]
    return TypeAdapter(by_method)


def _read_solver(given: Any) -> Settings:
    values = {"method": given} if isinstance(given, str) else given
    registered = tuple(each.settings for each in METHODS.values())
    return _solver_adapter(registered).validate_python(values)


class _RegisteredMethods:
    """Mark of the settings of a method, which the registry is asked for at every use.

    A type that names the methods itself would know only those that were registered before it.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_read_solver)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> Any:
        names: Any = Literal[tuple(METHODS)]
        return handler(TypeAdapter(names | solver_union()).core_schema)


Solver = Annotated[Settings, _RegisteredMethods()]
"""The settings of any method, or the name of one."""


OUTPUT = "output"
"""The value of ``refine.at`` that stands for the outputs themselves."""


class Refine(Part):
    """Steps on outputs: those of the targets, and those of what is preserved."""

    steps: Count = Field(120, description="Steps of Adam.")
    learning_rate: Number = Field(0.03, gt=0, le=1, description="The rate of Adam at first.")
    weight: Number = Field(
        24.0, gt=0, le=1e6, description="How much targets count; what is preserved counts 1."
    )
    at: str | None = Field(
        None,
        description=(
            "Where the values are pasted that give the wanted outputs: at a later layer, or in the "
            "outputs themselves. Default: at the edit's layer, or at the one that it observes."
        ),
    )
    whiten: bool = Field(
        False,
        description="Whether the steps move the change by keys that are whitened: far fewer do.",
    )


def _read_rank(given: Any, check: Callable[[Any], Any]) -> Any:
    if given == FULL:
        return given
    if isinstance(given, str) and not given.isdigit():
        raise PydanticKnownError("literal_error", {"expected": f"a whole number or {FULL}"})
    return check(given)


if TYPE_CHECKING:
    Rank = int | Literal["full"]
else:
    # Not a union, whose errors would speak of its members: whatever is not the word is a count.
    Rank = Annotated[
        Count,
        WrapValidator(
            _read_rank,
            json_schema_input_type=Count | Literal["full"],
        ),
        PlainSerializer(lambda rank: rank),
    ]


LISTS = ("pairs", "context", "preserve")
"""The fields of an edit whose entries may be the rows of a file."""

ROWS_SCHEMA = {
    "type": "object",
    "properties": {
        "file": {
            "type": "string",
            "description": "A .jsonl, .json, .csv or .txt file, each row of which is an entry.",
        }
    },
    "required": ["file"],
}
"""The JSON Schema of what stands for the rows of a file."""


def describe_edit(schema: dict[str, Any]) -> None:
    """Say in a JSON Schema what the fields of an edit do not say."""
    schema["oneOf"] = [{"required": ["source", "target"]}, {"required": ["pairs"]}]
    for name in LISTS:
        forms = schema["properties"][name].get("anyOf", [])
        lists = [form for form in forms if form.get("type") == "array"]
        for form in lists:
            form["items"] = {"anyOf": [form["items"], ROWS_SCHEMA]}
        if lists:
            forms.append(ROWS_SCHEMA)


class Edit(Part, Generic[PlaceT, SourceT, ContextT, PreservedT]):
    """One rule change."""

    model_config = ConfigDict(json_schema_extra=describe_edit)

    name: str = Field(pattern=NAME, description="Unique; part of file names.")
    layer: str = Field(
        description="The layer whose weight changes; `editspec inspect WEIGHTS` lists them."
    )
    rank: Rank = Field(
        1, description="How many directions the change may have; full: as many as the weight."
    )
    source: SourceT | None = Field(
        None, description="Where the value V* comes from: a place that is copied from, or erase."
    )
    target: PlaceT | None = Field(None, description="Paste: whose keys K* get that value.")
    pairs: list[Pair[PlaceT, SourceT]] | None = Field(
        None,
        min_length=1,
        description=(
            "Several sources and targets in place of one: a rule that holds for all of them."
        ),
    )
    observe: str | None = Field(
        None,
        description="A later layer, at whose output the values are compared, over the whole map.",
    )
    context: ContextT | None = Field(
        None,
        min_length=1,
        description=(
            "Where the rule holds: the keys that give the directions D. Default: the target."
        ),
    )
    directions: Literal["zca", "mean", "svd", "units", "learned"] = Field(
        "zca",
        description=(
            "How the context's keys give the directions D; learned: found together with the change "
            "from the rule and what is preserved."
        ),
    )
    preserve: list[PreservedT] | None = Field(
        None, min_length=1, description="What must stay as it is."
    )
    protect: Literal["previous"] | None = Field(
        None,
        description="previous: the targets and contexts of the edits before are preserved, too.",
    )
    refine: Refine | None = Field(
        None, description="Steps on outputs, after the solver and within its rank."
    )
    query: PlaceT | None = Field(
        None,
        description=(
            "What `editspec search` looks for; of no effect on the edit. Default: the context."
        ),
    )
    solver: Solver = Field(
        DEFAULT_METHOD.make_settings(),
        description="How the rule is solved: a method, or its settings.",
    )

    @property
    def layer_names(self) -> list[str]:
        """The names of the layers whose weights change, in the order of computation."""
        return [self.layer]

    @property
    def sides(self) -> list[Pair[PlaceT, SourceT]]:
        """Pairs of source and target: those of `pairs`, or the one that stands alone."""
        if self.pairs is not None:
            return self.pairs
        assert self.source is not None
        assert self.target is not None
        return [Pair[PlaceT, SourceT].model_construct(source=self.source, target=self.target)]

    @property
    def rank_limit(self) -> int | None:
        """Rank that the change may have; None where there is no limit.

        A method that needs erased units has the number of units as its limit.
        """
        method = method_of(self.solver)
        if ERASED_UNITS not in method.needs:
            return self.rank if RANK in method.takes and self.rank != FULL else None
        for pair in self.sides:
            if isinstance(pair.source, Erase):
                return pair.source.erase.units
        return None

    @property
    def erases(self) -> bool:
        """True where a source is a value without some units."""
        return any(isinstance(pair.source, Erase) for pair in self.sides)


class Check(Part):
    """Condition that must hold of the result.

    A subclass has a literal field ``measure``.
    """

    OF_ALL: ClassVar[bool] = False
    """Whether the measure is of all edits together where the check names none."""

    BEFORE_LAST: ClassVar[bool] = False
    """Whether the measure is about what later edits do, so that the last edit has none."""

    if TYPE_CHECKING:
        measure: str  # of each subclass a literal, behind the fields that all share

    name: str | None = Field(
        None, pattern=NAME, description="What the check is called. Default: its measure."
    )
    severity: Literal["warn", "error"] = Field(
        "error", description="Whether a check that fails fails the whole."
    )
    edit: str | None = Field(
        None, description="Of which edit; default: of each that has the measure."
    )

    @property
    def code(self) -> str | None:
        """Foreign code that the measure calls, ``module:function``; None where it calls none."""
        return None

    def bound(self) -> tuple[str, float]:
        """Return the side, ``at most`` or ``at least``, and the limit of what passes.

        A check that names no limit passes at most 0.
        """
        least: float | None = getattr(self, "at_least", None)
        if least is not None:
            return "at least", least
        return "at most", getattr(self, "at_most", 0)

    def select_edits(self, names: Sequence[str]) -> list[str | None]:
        """Select the edits that the check is about, of all `names`.

        None stands for all edits together.
        """
        if self.edit is not None or self.OF_ALL:
            return [self.edit]
        return list(names[:-1] if self.BEFORE_LAST else names)


class TargetError(Check):
    """Loss of the rule with the weights right after its edit, as in `build`."""

    measure: Literal["target-error"] = Field(description="What is measured.")
    at_most: Number = Field(ge=0, description="The largest loss that passes.")


class PredictedCollateral(Check):
    """The collateral that was predicted of an edit when it was built."""

    measure: Literal["predicted-collateral"] = Field(description="What is measured.")
    at_most: Number = Field(ge=0, description="The largest share that passes.")


class Retention(Check):
    """Share of an edit's efficacy that is left after all later edits."""

    BEFORE_LAST: ClassVar[bool] = True

    measure: Literal["retention"] = Field(description="What is measured.")
    at_least: Number = Field(ge=0, description="The smallest share that passes.")


class PatchSize(Check):
    """The size of the patch file."""

    measure: Literal["patch-size"] = Field(description="What is measured.")
    at_most: Count = Field(description="The largest number of bytes that passes.")


class Finite(Check):
    """Numbers that are finite: the patch, the weights after it, the targets' outputs."""

    measure: Literal["finite"] = Field(description="What is measured.")


def measures_of(*checks: type[Check]) -> dict[str, type[Check]]:
    """Return classes of checks by the names of their measures."""
    found = {}
    for each in checks:
        (measure,) = get_args(each.model_fields["measure"].annotation)
        found[measure] = each
    return found


class Moved(Part):
    """A former name of an edit."""

    former: str = Field(alias="from", pattern=NAME, description="The name that the edit had.")
    to: str = Field(pattern=NAME, description="The name that it has now.")


class Parameter(Part):
    """A value of a recipe that whoever uses the recipe chooses."""

    type: ParameterType = Field(description="What values it takes.")
    default: Any = Field(
        None, description="The value where none is given. Without any, one has to be given."
    )
    description: str | None = Field(None, description="What it is, for people.")


class UsedEdit(Part):
    """An edit of another spec, used under a name of its own."""

    use: str = Field(
        description="FILE.yaml#NAME, relative to the spec; or git+https://HOST/PATH//FILE@TAG#NAME."
    )
    given: dict[str, Any] = Field(
        {}, alias="with", description="Values of the parameters that the other spec declares."
    )
    name: str | None = Field(
        None, pattern=NAME, description="Unique; default: the name that it has in the other spec."
    )


def _list_one(given: Any) -> Any:
    # A single one may stand without the dash of a list.
    return [given] if isinstance(given, dict) else given


def _expand_nothing(given: Any) -> Any:
    # A key without a value, as it stands there when the last entry is removed.
    return [] if given is None else given


class SpecHead(Part):
    """The version and the model, with which a spec begins."""

    version: Annotated[Literal[1], BeforeValidator(_require_integer)] = Field(
        description="The version of the language: write version: 1."
    )
    model: ModelFields = Field(description="The generator that is edited.")


class Spec(SpecHead, Generic[EditT, CheckT]):
    """An edit spec: which rules of a generative model change, and how.

    A modality makes its own spec of this, with the fields that say what its inputs are.
    """

    SAME: ClassVar[tuple[str, ...]] = ()
    """The fields without which the values of an edit mean something else."""

    precision: Literal["float32", "float64"] = Field(
        "float32", description="Of all computation and of the patch."
    )
    compatibility: str | None = Field(None, description="Do as the paper's own code does.")
    edits: Annotated[list[EditT], BeforeValidator(_expand_nothing)] = Field(
        [],
        description=(
            "Applied in this order; each sees what those before it left. Without any there is "
            "nothing to build, and the spec names a model."
        ),
    )
    checks: list[CheckT] = Field(
        [], description="What must hold of the result; of no effect on it."
    )

    moved: Annotated[
        list[Moved], BeforeValidator(_list_one, json_schema_input_type=Moved | list[Moved])
    ] = Field(
        [], description="Former names of edits, so that a new name does not build an edit again."
    )
    parameters: dict[str, Parameter] = Field(
        {}, description="Values in the edits that a spec which uses them may choose."
    )

    @property
    def former_names(self) -> dict[str, str]:
        """Former names of edits by their present ones."""
        return {each.to: each.former for each in self.moved}

    def edits_of(self, check: Check) -> list[str | None]:
        """Return the edits that a check is about; None stands for all edits together."""
        edits: Sequence[Any] = self.edits
        return check.select_edits([edit.name for edit in edits])


AnyEdit = Edit[Any, Any, Any, Any]
AnySpec = Spec[Any, Any]
