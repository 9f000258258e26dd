"""The language: its models, and what is said where a spec does not fit them."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from editspec_compiler.document import Document, kind
from editspec_compiler.problems import Path, Problem

Natural = Annotated[int, Field(ge=0, lt=2**64)]
Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Corners = Annotated[list[Number], Field(min_length=4, max_length=4)]
Point = Annotated[list[Number], Field(min_length=2, max_length=2)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _tagged(given: Any, by_type: dict[type, str], by_key: dict[str, str]) -> str | None:
    """Which member of a union is meant, by the type of a value or by a key that it has."""
    if isinstance(given, BaseModel):
        return next((tag for key, tag in by_key.items() if key in type(given).model_fields), None)
    if isinstance(given, dict):
        return next((tag for key, tag in by_key.items() if key in given), None)
    return by_type.get(type(given))


# The tags of unions become parts of pydantic's paths; the mark keeps them apart from keys.
MARK = "@"


def _whole(given: Any) -> Any:
    # A literal takes everything that is equal to it: true and 1.0 are equal to 1, and are not
    # meant.
    if type(given) is not int:
        raise PydanticCustomError("literal_error", "not 1", {"expected": "1"})
    return given


class LatentFile(_Part):
    """A latent in a file."""

    file: str = Field(description="A .safetensors or .npy file, relative to the spec.")
    key: str | None = Field(
        None, description="The tensor's name; may be left out where the file holds one tensor."
    )


def _latent_kind(given: Any) -> str | None:
    return _tagged(
        given, {int: "@number", list: "@vector"}, {"file": "@latent-file", "key": "@latent-file"}
    )


Latent = Annotated[
    Annotated[Natural, Tag("@number")]
    | Annotated[list[Number], Tag("@vector")]
    | Annotated[LatentFile, Tag("@latent-file")],
    Discriminator(_latent_kind),
]


class Box(_Part):
    """A rectangle."""

    box: Corners = Field(description="[left, top, right, bottom] in output pixels.")


class Ellipse(_Part):
    """The ellipse inside a rectangle."""

    ellipse: Corners = Field(description="[left, top, right, bottom] in output pixels.")


class Polygon(_Part):
    """A polygon."""

    polygon: list[Point] = Field(description="[[x, y], …] in output pixels.", min_length=3)


class Union(_Part):
    """Everything that lies in any of several masks."""

    union: list[Mask] = Field(description="The masks.", min_length=1)


def _mask_kind(given: Any) -> str | None:
    keys = {"box": "@box", "ellipse": "@ellipse", "polygon": "@polygon", "union": "@union"}
    return _tagged(given, {str: "@image"}, keys)


Mask = Annotated[
    Annotated[str, Tag("@image")]
    | Annotated[Box, Tag("@box")]
    | Annotated[Ellipse, Tag("@ellipse")]
    | Annotated[Polygon, Tag("@polygon")]
    | Annotated[Union, Tag("@union")],
    Discriminator(_mask_kind),
]
Union.model_rebuild()


class Intervention(_Part):
    """Units that are set to a value while an image is drawn."""

    layer: str = Field(
        description="At the output of which layer; one before the layer that is edited."
    )
    units: list[Natural] = Field(min_length=1, description="Which channels of that output, from 0.")
    value: Number = Field(description="What they are set to.")
    mask: Mask = Field(description="Where: an image file, a data URL, or shapes in output pixels.")


class Scene(_Part):
    """A generated image."""

    latent: Latent = Field(
        description="Which image: a number in the latent stream, a vector, or a file."
    )
    intervene: Intervention | None = Field(
        None, description="Units that are set to a value while it is drawn."
    )


class Copied(Scene):
    """A value that is copied from an image."""

    mask: Mask | None = Field(
        None,
        description="Where in it; the values then go to the middle of the target. Default: the target's own place.",
    )


class Place(Scene):
    """A region of a generated image."""

    mask: Mask = Field(
        description="Where in it: an image file, a data URL, or shapes in output pixels."
    )


class ContextPlace(Place):
    """A region in which the new rule holds; several may lie in the same image."""

    weight: Number = Field(1.0, gt=0, description="How much its keys count, beside the mask.")
    exclude: Mask | None = Field(None, description="What is cut out of the mask.")


class ErasedUnits(_Part):
    """The units that an erased value does without."""

    units: int = Field(
        ge=0, description="How many: those of the key that respond most to the context."
    )


class Erase(_Part):
    """A value without some units: the layer's output at the target where these units of its key are
    zero.
    """

    erase: ErasedUnits = Field(description="Which units (paper section 5.2).")


def _source_kind(given: Any) -> str:
    keys = {"erase": "@erasing"} | dict.fromkeys(("latent", "mask", "intervene"), "@copied")
    return _tagged(given, {}, keys) or "@copied"


Source = Annotated[
    Annotated[Copied, Tag("@copied")] | Annotated[Erase, Tag("@erasing")],
    Discriminator(_source_kind),
]


class Pair(_Part):
    """One K* -> V* of several."""

    source: Source = Field(
        description="Where the value V* comes from: an image that is copied from, or erase."
    )
    target: Place = Field(description="Whose keys K* get that value.")


COLLATERAL_WEIGHT = 0.02
"""The collateral_weight of ``least-squares`` where a spec gives none; docs/bench.md says how it was
chosen.
"""


class ProjectedGradient(_Part):
    """Adam on the weight, projected into the directions every few steps (paper section 3.4)."""

    method: Literal["projected-gradient"] = Field(description="The solver.")
    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description="The rate of Adam.")
    project_every: Count = Field(10, description="Steps between two projections.")
    project_gradient: bool = Field(
        False, description="Project every gradient, too (paper section 5.2)."
    )


class Direct(_Part):
    """Adam on the coefficients of the directions (paper Eqn. 17 and 18)."""

    method: Literal["direct"] = Field(description="The solver.")
    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description="The rate of Adam.")


class ClosedForm(_Part):
    """Least squares in the directions, in closed form, for layers linear from key to value (paper
    Eqn. 14 and 15).
    """

    method: Literal["closed-form"] = Field(description="The solver.")


class LowRank(_Part):
    """Adam on the weight, whose change is cut to the rank by SVD every few steps (paper section
    5.3).
    """

    method: Literal["low-rank"] = Field(description="The solver.")
    steps: Count = Field(10_001, description="Steps of Adam.")
    learning_rate: Number = Field(0.01, gt=0, description="The rate of Adam.")
    project_every: Count = Field(10, description="Steps between two cuts.")


class OneLayer(_Part):
    """Adam on the whole weight of the layer, without directions (paper Eqn. 6)."""

    method: Literal["layer"] = Field(description="The solver.")
    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description="The rate of Adam.")


class AllWeights(_Part):
    """Adam on every weight of the generator, towards the composited image (paper Eqn. 3)."""

    method: Literal["all-weights"] = Field(description="The solver.")
    steps: Count = Field(20_001, description="Steps of Adam.")
    learning_rate: Number = Field(0.01, gt=0, description="The rate of Adam.")


class Ablate(_Part):
    """The weights from the erased units are set to zero (GAN Dissection)."""

    method: Literal["ablate"] = Field(description="The solver.")


class LeastSquares(_Part):
    """Damped least squares on the coefficients, channel by channel, against the predicted
    collateral (Eqn. 4 to 6).
    """

    method: Literal["least-squares"] = Field(description="The solver.")
    collateral: Number | None = Field(
        None, gt=0, description="A budget: tr(dW C dW^T) may be this share of tr(W C W^T)."
    )
    collateral_weight: Number | None = Field(
        COLLATERAL_WEIGHT,
        ge=0,
        description="The weight of the predicted collateral, where no budget is given.",
    )

    @model_validator(mode="before")
    @classmethod
    def _budget_instead(cls, given: Any) -> Any:
        return (
            {"collateral_weight": None} | given
            if isinstance(given, dict) and "collateral" in given
            else given
        )


AnySolver = (
    ProjectedGradient
    | Direct
    | LeastSquares
    | ClosedForm
    | LowRank
    | OneLayer
    | AllWeights
    | Ablate
)

SOLVERS: dict[str, type[_Part]] = {
    "projected-gradient": ProjectedGradient,
    "direct": Direct,
    "least-squares": LeastSquares,
    "closed-form": ClosedForm,
    "low-rank": LowRank,
    "layer": OneLayer,
    "all-weights": AllWeights,
    "ablate": Ablate,
}
"""Each solver method and the settings it takes; a setting that its model lacks is an error."""

SolverName = Literal[
    "projected-gradient",
    "direct",
    "least-squares",
    "closed-form",
    "low-rank",
    "layer",
    "all-weights",
    "ablate",
]

OPTIONAL, ERROR = "optional", "error"

METHOD_FIELDS: dict[str, dict[str, str]] = {
    "projected-gradient": {
        "rank": OPTIONAL,
        "context": OPTIONAL,
        "directions": OPTIONAL,
        "observe": OPTIONAL,
    },
    "direct": {"rank": OPTIONAL, "context": OPTIONAL, "directions": OPTIONAL, "observe": OPTIONAL},
    "least-squares": {
        "rank": OPTIONAL,
        "context": OPTIONAL,
        "directions": OPTIONAL,
        "observe": ERROR,
    },
    "closed-form": {
        "rank": OPTIONAL,
        "context": OPTIONAL,
        "directions": OPTIONAL,
        "observe": ERROR,
    },
    "low-rank": {"rank": OPTIONAL, "context": ERROR, "directions": ERROR, "observe": OPTIONAL},
    "layer": {"rank": ERROR, "context": ERROR, "directions": ERROR, "observe": OPTIONAL},
    "all-weights": {"rank": ERROR, "context": ERROR, "directions": ERROR, "observe": ERROR},
    "ablate": {"rank": ERROR, "context": OPTIONAL, "directions": ERROR, "observe": ERROR},
}
"""Which fields of an edit each solver method takes. An erased value takes a context whatever the
method: it ranks the units.
"""


def _named_solver(given: Any) -> Any:
    return {"method": given} if isinstance(given, str) else given


Solver = Annotated[
    Annotated[AnySolver, Field(discriminator="method")],
    BeforeValidator(_named_solver, json_schema_input_type=SolverName | AnySolver),
]


class LayerPoints(_Part):
    """Where a layer of a torch network begins and ends, by the names of its modules."""

    key: str | None = Field(
        None, description="Whose input is the key; default: the module of the parameter."
    )
    value: str | None = Field(
        None, description="Whose output is the value; default: the module of the parameter."
    )
    parameter: str | None = Field(
        None, description="The edited weight; default: that of the key's module."
    )


class Model(_Part):
    """The generator that is edited."""

    family: str = Field(description="An adapter; `editspec families` lists them.")
    weights: str = Field(
        description="builtin:skyline, a path relative to the spec, https://… (with digest) or hf://…"
    )
    digest: str | None = Field(
        None,
        pattern=r"^(sha256:)?[0-9a-f]{64}$",
        description="What the weights must be: the digest of their tensors, or sha256: and that of the file's bytes.",
    )
    truncation: Number = Field(
        1.0, ge=0, le=1, description="w becomes avg + truncation * (w - avg)."
    )
    module: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="Of the family torch: package.module:factory, which makes the network; needs --allow-code.",
    )
    layers: dict[str, LayerPoints] | None = Field(
        None,
        description="Of the family torch: layers whose value lies behind their own module, by names of yours.",
    )
    latent_shape: list[Count] | None = Field(
        None,
        min_length=1,
        max_length=3,
        description="Of the family torch: the shape of one latent, such as [100, 1, 1].",
    )
    class_label: Natural | None = Field(
        None, description="The class that is drawn, of a class-conditional generator."
    )


class Latents(_Part):
    """The stream that integer latents index."""

    seed: Natural = Field(1, lt=2**32, description="Names the stream.")
    sampler: Literal["keyed", "numpy-legacy"] = Field(
        "keyed", description="numpy-legacy is the authors' stream."
    )


class Statistics(_Part):
    """The sample that the second moment of the keys is taken over."""

    samples: Count = Field(1000, description="How many latents.")
    seed: Natural = Field(
        2, lt=2**32, description="Names their stream; the sampler is that of latents."
    )


class Edit(_Part):
    """One rule change."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["source", "target"]}, {"required": ["pairs"]}]}
    )

    name: str = Field(pattern=NAME, description="Unique; part of file names.")
    layer: str = Field(
        description="The layer whose weight changes; `editspec inspect WEIGHTS` lists them."
    )
    rank: Count = Field(1, description="How many directions the change may have.")
    source: Source | None = Field(
        None, description="Where the value V* comes from: an image that is copied from, or erase."
    )
    target: Place | None = Field(None, description="Paste: whose keys K* get that value.")
    pairs: list[Pair] | None = Field(
        None,
        min_length=1,
        description="Several sources and targets in place of one: a rule that holds for all of them.",
    )
    observe: str | None = Field(
        None,
        description="A later layer, at whose output the values are compared, over the whole map.",
    )
    context: list[ContextPlace] | None = Field(
        None,
        min_length=1,
        description="Where the rule holds: the keys that give the directions D. Default: the target.",
    )
    directions: Literal["zca", "mean", "svd", "units"] = Field(
        "zca", description="How the context's keys give the directions D."
    )
    query: Place | None = Field(
        None,
        description="What `editspec search` looks for; of no effect on the edit. Default: the context.",
    )
    solver: Solver = Field(
        ProjectedGradient(method="projected-gradient"),
        description="How the rule is solved: a method, or its settings.",
    )

    @property
    def sides(self) -> list[Pair]:
        """The pairs of source and target: those of `pairs`, or the one that is given without
        them.
        """
        if self.pairs is not None:
            return self.pairs
        assert self.source is not None
        assert self.target is not None
        return [Pair(source=self.source, target=self.target)]

    @property
    def rank_limit(self) -> int | None:
        """The rank that the change may have, None where there is no limit. Of an ablation, the
        number of units.
        """
        if self.solver.method == "ablate":
            return next(
                (pair.source.erase.units for pair in self.sides if isinstance(pair.source, Erase)),
                None,
            )
        return None if METHOD_FIELDS[self.solver.method]["rank"] == ERROR else self.rank

    @property
    def erases(self) -> bool:
        """Whether any value is one without some units."""
        return any(isinstance(pair.source, Erase) for pair in self.sides)


class Images(_Part):
    """Images, and what in them an edit is meant to change."""

    latents: list[Latent] = Field(
        min_length=1, description="Which images: numbers in the latent stream, or vectors."
    )
    mask: Mask | None = Field(
        None, description="What in them is left out of the measure. Default: nothing."
    )


class Places(_Part):
    """The same region of several images."""

    latents: list[Latent] = Field(
        min_length=1, description="Which images: numbers in the latent stream, or vectors."
    )
    mask: Mask = Field(
        description="Where in them: an image file, a data URL, or shapes in output pixels."
    )


class _Check(_Part):
    name: str | None = Field(
        None, pattern=NAME, description="What the check is called. Default: its measure."
    )
    severity: Literal["warn", "error"] = Field(
        "error", description="Whether a check that fails fails the whole."
    )
    edit: str | None = Field(
        None, description="Of which edit; default: of each that has the measure."
    )


class TargetError(_Check):
    """The loss of the rule with the weights right after its edit, as `build` reports it."""

    measure: Literal["target-error"] = Field(description="What is measured.")
    at_most: Number = Field(ge=0, description="The largest loss that passes.")


class Efficacy(_Check):
    """How much of what the rule asks for comes out in pictures, right after its edit."""

    measure: Literal["efficacy"] = Field(description="What is measured.")
    images: list[Places] | None = Field(
        None, min_length=1, description="Which images. Default: the edit's targets."
    )
    at_least: Number = Field(ge=0, le=1, description="The smallest share that passes.")


class Collateral(_Check):
    """How much pictures change outside of what is meant to change: by all edits together, or by
    one.
    """

    measure: Literal["collateral"] = Field(description="What is measured.")
    edit: str | None = Field(None, description="Of which edit; default: of all edits together.")
    images: list[Images] = Field(min_length=1, description="Which images.")
    at_most: Number = Field(
        ge=0, description="The largest mean absolute change of a pixel that passes."
    )


class PredictedCollateral(_Check):
    """The collateral that was predicted of an edit when it was built."""

    measure: Literal["predicted-collateral"] = Field(description="What is measured.")
    at_most: Number = Field(ge=0, description="The largest share that passes.")


class Retention(_Check):
    """How much of an edit's efficacy is left after all later edits."""

    measure: Literal["retention"] = Field(description="What is measured.")
    at_least: Number = Field(ge=0, description="The smallest share that passes.")


class PatchSize(_Check):
    """The size of the patch file."""

    measure: Literal["patch-size"] = Field(description="What is measured.")
    at_most: Count = Field(description="The largest number of bytes that passes.")


class Finite(_Check):
    """Whether all numbers are finite: the patch, the weights after it, and the pictures of the
    targets.
    """

    measure: Literal["finite"] = Field(description="What is measured.")


AnyCheck = (
    TargetError | Efficacy | Collateral | PredictedCollateral | Retention | PatchSize | Finite
)

CHECKS: dict[str, type[_Check]] = {
    "target-error": TargetError,
    "efficacy": Efficacy,
    "collateral": Collateral,
    "predicted-collateral": PredictedCollateral,
    "retention": Retention,
    "patch-size": PatchSize,
    "finite": Finite,
}
"""What can be checked, and what each check takes."""

Check = Annotated[AnyCheck, Field(discriminator="measure")]


class Spec(_Part):
    """An edit spec: which rules of a generative model change, and how."""

    version: Annotated[Literal[1], BeforeValidator(_whole)] = Field(
        description="The version of the language."
    )
    model: Model = Field(description="The generator that is edited.")
    latents: Latents = Field(Latents(), description="The stream that integer latents index.")
    statistics: Statistics = Field(
        Statistics(), description="The sample for the second moment of the keys."
    )
    precision: Literal["float32", "float64"] = Field(
        "float32", description="Of all computation and of the patch."
    )
    compatibility: Literal["rewriting-2020"] | None = Field(
        None, description="Do as the paper's own code does."
    )
    edits: list[Edit] = Field(
        min_length=1, description="Applied in this order; each sees what those before it left."
    )
    checks: list[Check] = Field([], description="What must hold of the result; of no effect on it.")

    def checked(self, check: AnyCheck) -> list[str | None]:
        """The edits that a check is about, one by one; None stands for all edits together."""
        names = [edit.name for edit in self.edits]
        if check.edit is not None or isinstance(check, Collateral):
            return [check.edit]
        return [*(names[:-1] if isinstance(check, Retention) else names)]


OWNERS: dict[str, type[_Part]] = {
    "": Spec,
    "model": Model,
    "latents": Latents,
    "statistics": Statistics,
    "edits": Edit,
    "pairs": Pair,
    "@copied": Copied,
    "intervene": Intervention,
    "@erasing": Erase,
    "erase": ErasedUnits,
    "target": Place,
    "context": ContextPlace,
    "query": Place,
    "@latent-file": LatentFile,
    "@box": Box,
    "@ellipse": Ellipse,
    "@polygon": Polygon,
    "@union": Union,
    "images": Images,
    **SOLVERS,
    **CHECKS,
}
"""The model of each mapping, by the last key (or tag) on the way to it."""


def check(document: Document) -> tuple[Spec | None, list[Problem]]:
    """The spec that a document holds, or None and everything that does not fit the language."""
    try:
        spec = Spec.model_validate(document.data)
    except ValidationError as error:
        problems = [_problem(document, details) for details in error.errors(include_url=False)]
        return None, problems + _incomplete_edits(document)
    if problems := _incomplete_edits(document):
        return None, problems
    problems = (
        _doubled_names(document, spec) + _foreign_fields(document, spec) + _prices(document, spec)
    )
    problems += _unfit_module(document, spec.model) + _unfit_checks(document, spec)
    if spec.compatibility and spec.model.truncation != 1.0:
        problems.append(
            document.problem(
                ("model", "truncation"),
                f"{spec.compatibility} never applies a truncation, whatever it is asked for",
                "leave truncation out, or leave compatibility out",
            )
        )
    return spec, problems


def fitting(part: Any, given: Any) -> Any:
    """`given` as a part of the language (a model or an annotated type); None where it does not
    fit.
    """
    try:
        return _adapter(part).validate_python(given)
    except ValidationError:
        return None


@cache
def _adapter(part: Any) -> TypeAdapter[Any]:
    return TypeAdapter(part)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the language, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Spec.model_json_schema()


def near(wanted: str, known: list[str]) -> str:
    """A hint that names the nearest of the known words, and all of them."""
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    meant = f'did you mean "{close[0]}"? ' if close else ""
    return f"{meant}known here: {', '.join(known)}"


def _doubled_names(document: Document, spec: Spec) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for number, edit in enumerate(spec.edits):
        if edit.name in first:
            message = f"the name {edit.name} is that of edits[{first[edit.name]}], too"
            problems.append(
                document.problem(
                    ("edits", number, "name"), message, "give every edit a name of its own"
                )
            )
        first.setdefault(edit.name, number)
    return problems


def _incomplete_edits(document: Document) -> list[Problem]:
    """Edits that lack a source or a target, or have them beside pairs."""
    problems = []
    edits = document.data.get("edits")
    for number, edit in enumerate(edits if isinstance(edits, list) else []):
        if not isinstance(edit, dict):
            continue
        for field in ("source", "target"):
            given, pairs = edit.get(field) is not None, edit.get("pairs") is not None
            if not given and not pairs:
                hint = Edit.model_fields[field].description or ""
                problems.append(
                    document.problem(("edits", number, field), f"{field} is missing", hint)
                )
            elif given and pairs:
                hint = f"move {field} into pairs, as an entry {{source: …, target: …}}"
                problems.append(
                    document.problem(
                        ("edits", number, field), f"{field} stands beside pairs", hint, at_key=True
                    )
                )
    return problems


def _foreign_fields(document: Document, spec: Spec) -> list[Problem]:
    """The fields of edits that their solver methods do not take."""
    problems = []
    for number, edit in enumerate(spec.edits):
        method, erases = edit.solver.method, edit.erases
        if method == "ablate" and not all(isinstance(pair.source, Erase) for pair in edit.sides):
            message = "ablate sets units to zero, and this source names none"
            hint = "write source: {erase: {units: N}}, or take another method"
            problems.append(document.problem(("edits", number, "source"), message, hint))
        if method == "all-weights":
            problems += [
                document.problem(
                    ("edits", number), "all-weights takes no intervene", "take another method"
                )
                for pair in edit.sides
                for scene in (pair.source, pair.target)
                if not isinstance(scene, Erase) and scene.intervene is not None
            ][:1]
        for field, state in METHOD_FIELDS[method].items():
            if (
                state != ERROR
                or field not in edit.model_fields_set
                or (field == "context" and erases)
            ):
                continue
            takers = [name for name, fields in METHOD_FIELDS.items() if fields[field] != ERROR]
            message = f"{method} takes no {field}"
            hint = f"leave {field} out, or take a method that has it: {', '.join(takers)}"
            problems.append(document.problem(("edits", number, field), message, hint, at_key=True))
        if edit.directions == "mean" and edit.rank > 1:
            message = f"the mean key is one direction, and the rank is {edit.rank}"
            problems.append(
                document.problem(
                    ("edits", number, "rank"), message, "write rank: 1, or directions: zca"
                )
            )
    return problems


def _prices(document: Document, spec: Spec) -> list[Problem]:
    """The solvers that have not exactly one of a weight of the collateral and a budget of it."""
    return [
        document.problem(
            ("edits", number, "solver", "collateral"),
            "give collateral_weight or collateral: one of the two",
            at_key=True,
        )
        for number, edit in enumerate(spec.edits)
        if isinstance(edit.solver, LeastSquares)
        and (edit.solver.collateral_weight is None) == (edit.solver.collateral is None)
    ]


def _unfit_module(document: Document, model: Model) -> list[Problem]:
    """What fits the family torch alone, or does not fit it."""
    torch, exported = model.family == "torch", model.weights.partition("#")[0].endswith(".pt2")
    problems = []
    for field in ("module", "layers", "latent_shape", "truncation", "class_label"):
        for_torch = field not in ("truncation", "class_label")
        if field in model.model_fields_set and torch != for_torch:
            message = (
                f"{field} is for the family torch"
                if for_torch
                else f"the family torch takes no {field}"
            )
            problems.append(
                document.problem(("model", field), message, f"leave {field} out", at_key=True)
            )
    if torch and model.module is None and not exported:
        hint = "write package.module:factory, or give a file of torch.export (.pt2) as the weights"
        problems.append(document.problem(("model",), "the family torch needs a module", hint))
    if torch and model.module is not None and exported:
        message = "a file of torch.export holds its network, and module names another"
        problems.append(
            document.problem(("model", "module"), message, "leave module out", at_key=True)
        )
    for name, points in (model.layers or {}).items():
        if points.key is None and points.parameter is None:
            message = "neither key nor parameter says which weight is edited"
            problems.append(
                document.problem(
                    ("model", "layers", name), message, "write key: and a module's name"
                )
            )
    return problems


def _unfit_checks(document: Document, spec: Spec) -> list[Problem]:
    """The checks of edits that there are not, that cannot be measured, or that cannot be told from
    each other.
    """
    names, first = [edit.name for edit in spec.edits], dict[tuple[str, str | None], int]()
    problems = []
    for number, check in enumerate(spec.checks):
        path = ("checks", number)
        if check.edit is not None and check.edit not in names:
            problems.append(
                document.problem(
                    (*path, "edit"), f"there is no edit {check.edit}", near(check.edit, names)
                )
            )
            continue
        if (
            isinstance(check, Efficacy)
            and check.images is not None
            and check.edit is None
            and len(names) > 1
        ):
            message = "images says where, and nothing says which of the edits is to show there"
            problems.append(
                document.problem(
                    (*path, "images"), message, "write edit: and its name", at_key=True
                )
            )
        if isinstance(check, Retention) and (len(names) == 1 or check.edit == names[-1]):
            where = (*path, "edit") if check.edit is not None else (*path, "measure")
            message = f"no edit comes after {names[-1]}, so that there is nothing that it could be kept through"
            problems.append(
                document.problem(where, message, "name an earlier edit, or leave the check out")
            )
        for edit in spec.checked(check):
            row = (check.name or check.measure, edit)
            if row in first:
                message = f"this check is called {row[0]} as checks[{first[row]}] is, and is of the same edit"
                problems.append(
                    document.problem(path, message, "give every such check a name of its own")
                )
                break
            first[row] = number
    return problems


def _problem(document: Document, details: ErrorDetails) -> Problem:
    """pydantic's error in our words, at its place."""
    location = details["loc"]
    what, given, context = details["type"], details["input"], details.get("ctx", {})
    path = _path(location, key_at_end=what == "extra_forbidden")
    if what == "extra_forbidden":
        fields = list(_owner(location).model_fields)
        takers = [name for name, model in SOLVERS.items() if path[-1] in model.model_fields]
        hint = near(str(path[-1]), fields)
        if "solver" in path and takers:
            hint = f"{', '.join(takers)} {'takes' if len(takers) == 1 else 'take'} it; {hint}"
        return document.problem(path, f"unknown key {path[-1]}", hint, at_key=True)
    if what == "missing":
        field = _owner(location).model_fields[str(path[-1])]
        return document.problem(path, f"{path[-1]} is missing", field.description or "")
    if what in ("union_tag_not_found", "union_tag_invalid"):
        return _union_problem(document, path, given)
    return document.problem(
        path, _unfit(what, given, context), _expected_words(what, given, context)
    )


def _union_problem(document: Document, path: Path, given: Any) -> Problem:
    last = next((part for part in reversed(path) if isinstance(part, str)), "")
    if last == "solver":
        if isinstance(given, dict) and "method" in given:
            method = str(given["method"])
            message = f'there is no solver method "{method}"'
            return document.problem((*path, "method"), message, near(method, list(SOLVERS)))
        if isinstance(given, dict):
            return document.problem(path, "method is missing", f"known here: {', '.join(SOLVERS)}")
        return document.problem(path, f"expected a method or its settings, found {kind(given)}")
    if last == "checks":
        if "measure" in given:
            message = f"there is no measure {given['measure']}"
            return document.problem(
                (*path, "measure"), message, near(str(given["measure"]), list(CHECKS))
            )
        return document.problem(path, "measure is missing", f"known here: {', '.join(CHECKS)}")
    if last in ("latent", "latents"):
        wanted = "a number in the latent stream, a list of numbers, or {file: …, key: …}"
    else:
        wanted = (
            "an image file, a data URL, or one of {box: …}, {ellipse: …}, {polygon: …}, {union: …}"
        )
    if isinstance(given, dict) and given:
        known = (
            ["file", "key"]
            if last in ("latent", "latents")
            else ["box", "ellipse", "polygon", "union"]
        )
        hint = near(str(next(iter(given))), known)
        return document.problem(path, f"expected {wanted}; found the key {next(iter(given))}", hint)
    return document.problem(path, f"expected {wanted}; found {kind(given)}")


def _path(location: tuple[int | str, ...], *, key_at_end: bool) -> Path:
    """A location without the tags of unions. A key that the language does not know may look like a
    tag.
    """
    kept = [
        part
        for before, part in zip(("", *location), location, strict=False)
        if not _is_tag(part, before)
    ]
    if key_at_end and _is_tag(location[-1], ("", *location)[-2]):
        kept.append(location[-1])
    return tuple(kept)


WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}


def _unfit(what: str, given: Any, context: dict[str, Any]) -> str:
    """What does not fit, in words."""
    if what == "float_type" and type(given) is int:
        return "too large for a number"
    if what in WANTED:
        return f"expected {WANTED[what]}, found {kind(given)}"
    if what == "literal_error":
        return f"expected {context['expected'].replace(chr(39), '')}, found {kind(given)}"
    if what in ("greater_than_equal", "greater_than", "less_than_equal", "less_than"):
        bound = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        name = next(name for name in bound if name in context)
        return f"must be {bound[name]} {context[name]}, found {kind(given).removeprefix('the number ')}"
    if what == "too_short":
        return (
            f"must have at least {context['min_length']} entries, found {context['actual_length']}"
        )
    if what == "too_long":
        return (
            f"must have at most {context['max_length']} entries, found {context['actual_length']}"
        )
    if what == "string_pattern_mismatch":
        kinds = {"0-9a-f": "a digest", ":[": "package.module:factory"}
        wanted = next(
            (words for mark, words in kinds.items() if mark in context["pattern"]),
            "a name that can be part of a file's",
        )
        return f"{kind(given)} is not {wanted}"
    return f"does not fit: {what.replace('_', ' ')}"


def _expected_words(what: str, given: Any, context: dict[str, Any]) -> str:
    if what == "literal_error" and isinstance(given, str):
        words = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        if given in words:
            return "take the quotes off"
        close = difflib.get_close_matches(given, words, n=1, cutoff=0.5)
        return f'did you mean "{close[0]}"?' if close else ""
    if what == "string_pattern_mismatch":
        digest = "0-9a-f" in context["pattern"]
        return (
            "64 hexadecimal digits, or sha256: and 64 of them"
            if digest
            else "letters, digits, '.', '_' and '-'"
        )
    if what == "int_type" and isinstance(given, str) and given.lstrip("+-").isdigit():
        return "take the quotes off"
    return ""


def _owner(location: tuple[int | str, ...]) -> type[_Part]:
    """The model of the mapping that the last part of a location is a key of."""
    parts = [part for part in location[:-1] if isinstance(part, str)]
    if parts[:2] == ["model", "layers"]:  # whose keys are names of layers
        return LayerPoints
    if parts[-1:] == ["images"] and "efficacy" in parts:
        return Places
    return OWNERS[parts[-1] if parts else ""]


def _is_tag(part: int | str, before: int | str) -> bool:
    """Whether a part of pydantic's path is the tag of a union; the tags of solvers and checks are
    their own words.
    """
    if not isinstance(part, str):
        return False
    return (
        part.startswith(MARK)
        or (before == "solver" and part in SOLVERS)
        or (isinstance(before, int) and part in CHECKS)
    )
