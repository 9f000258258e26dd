"""The bodies that the API is sent, and its answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel

from editspec_compiler.modalities.image.schema import BoxMask

Latent = Annotated[int, Field(ge=0, lt=2**63)]
Shift = Annotated[int, Field(ge=-8192, le=8192)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class OnRevision(_Body):
    """A change that needs nothing but the revision that it was made on."""

    revision: int = Field(ge=0)


class NewText(OnRevision):
    """The text of the spec."""

    text: str


class EditChange(OnRevision):
    """Fields of an edit that are to change; fields that are left out stay."""

    name: str | None = None
    layer: str | None = None
    rank: int | None = Field(None, ge=1, lt=2**31)
    solver: dict[str, Any] | str | None = None
    off: bool | None = None
    position: int | None = Field(None, ge=0)


class PlaceChange(OnRevision):
    """A place that was painted: a data URL of a PNG, or a box in pixels."""

    latent: Latent
    mask: str | BoxMask
    index: int | None = Field(None, ge=0)


class Paste(_Body):
    """A place for the copied value: an image, and a shift of the mask in pixels."""

    latent: Latent
    right: Shift
    down: Shift


class PasteChange(OnRevision, Paste):
    """A paste as a change of the spec."""


class SaveRequest(OnRevision):
    """A request to save.

    `overwrite` allows to save over a file that another program has changed meanwhile.
    """

    overwrite: bool = False


class FoundProblem(BaseModel):
    """A problem with its line and column from 1, or 0 where it has no place.

    `unfinished` says that a step is still to be done, and nothing is wrong.
    """

    message: str
    path: str
    line: int
    column: int
    hint: str
    code: str
    unfinished: bool = False


class Failure(BaseModel):
    """The reason why something was not done, and what to do."""

    message: str
    hint: str
    problems: list[FoundProblem]


class PlaceState(BaseModel):
    """A source, a target, or a place of a context.

    Its image is given by number, or in words where it has none. Its mask is given by a digest of
    its text, empty where there is no mask.
    """

    latent: int | None
    words: str
    mask: str


class EditState(BaseModel):
    """An edit, as far as the text gives it.

    `id` stays the same through all changes of the text, undo and redo. `preserved` is the number of
    images that it preserves, and `found` what a search at its layer has found.
    """

    id: int
    name: str
    layer: str
    rank: int | Literal["full"]
    solver: dict[str, Any]
    off: bool
    line: int
    source: PlaceState | None
    target: PlaceState | None
    context: list[PlaceState]
    preserved: int
    note: str
    found: list[Match]


class CurvePoint(BaseModel):
    """A point of a curve: the numbers that Execute has with this collateral weight."""

    collateral_weight: float
    loss: float
    residual: float
    collateral: float


class Traces(BaseModel):
    """The share of unseen images that visibly change where the key does not match.

    `low` and `high` are the ends of its interval of 95 %, `images` is their count, and `worst` are
    the numbers of those that change most.
    """

    share: float
    low: float
    high: float
    images: int
    worst: list[int]


class EditResult(BaseModel):
    """The result of Execute for the edit with the id `edit`.

    `current` tells whether the edit, those before it and the model are still as they were executed;
    `high` whether the predicted collateral is.
    """

    edit: int
    current: bool
    name: str
    layer: str
    rank: int | None
    method: str
    status: str
    loss: float
    residual: float | None
    collateral: float
    high: bool
    traces: Traces | None
    warnings: list[str]
    seconds: float
    digest: str
    curve: list[CurvePoint] | None


class Results(BaseModel):
    """The result of Execute.

    `current` tells whether the present spec was executed; `after` names the generator that draws
    the result.
    """

    current: bool
    after: str
    edits: list[EditResult]


class LayerState(BaseModel):
    """A layer that can be edited: channels and positions of its keys and values."""

    name: str
    in_channels: int
    out_channels: int
    key_size: int
    value_size: int


class ModelState(BaseModel):
    """The model.

    `modality` says what its edits are of, and so which canvas shows them. `name` is that of its
    generator, `seed` the stream that the spec numbers, and `fresh_seed` a stream that no edit has
    seen.
    """

    modality: str
    name: str
    weights: str
    digest: str
    layers: list[LayerState]
    image_size: int
    seed: int
    fresh_seed: int


class SolverState(BaseModel):
    """A solver: its settings with their defaults, and the fields of its edits.

    An edit may have a rank, a context, images to preserve, and a curve of loss against collateral.
    """

    method: str
    about: str
    settings: dict[str, Any]
    rank: bool
    context: bool
    preserve: bool
    curve: bool


class Match(BaseModel):
    """A place like those of a context: its image, its response, and a box in pixels."""

    latent: int
    score: float
    box: list[float]


class JobState(BaseModel):
    """Work that is under way: the task that was reported last, and its steps.

    Work that is `yielding` is given up for other work.
    """

    kind: str
    yielding: bool
    what: str
    done: int
    total: int


class State(BaseModel):
    """All that the page shows.

    Where `readable` is false, `edits` are those of the last text that could be read.
    """

    revision: int
    file: str
    text: str
    readable: bool
    saved: bool
    changed_outside: bool
    problems: list[FoundProblem]
    edits: list[EditState]
    model: ModelState
    solvers: list[SolverState]
    collateral_weight: list[float]
    can_undo: bool
    can_redo: bool
    results: Results | None
    job: JobState | None
    failure: Failure | None


class Changed(BaseModel):
    """The event of a change of the spec."""

    event: Literal["changed"]
    revision: int


class Worked(JobState):
    """The event of the beginning or the progress of work."""

    event: Literal["begun", "progress"]


class Ended(BaseModel):
    """The event of the end of work."""

    event: Literal["ended"]
    kind: str
    failure: Failure | None


class Stopping(BaseModel):
    """The event of the end of the studio."""

    event: Literal["stopping"]


class StudioEvent(
    RootModel[Annotated[Changed | Worked | Ended | Stopping, Discriminator("event")]]
):
    """An event of the stream of events."""
