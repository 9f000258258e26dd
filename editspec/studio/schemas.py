"""The bodies that the API is sent, and its answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel

from editspec.studio.modalities.image.states import Match, PlaceState
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
    """Fields of an edit that are to change; fields that are left out stay.

    `fields` holds any others as the spec has them; null takes one out of the edit.
    """

    name: str | None = None
    layer: str | None = None
    rank: int | None = Field(None, ge=1, lt=2**31)
    solver: dict[str, Any] | str | None = None
    fields: dict[str, Any] | None = None
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

    `unfinished` says that a step is still to be done, and nothing is wrong; `warning` that the spec
    can be executed all the same.
    """

    message: str
    path: str
    line: int
    column: int
    hint: str
    code: str
    unfinished: bool = False
    warning: bool = False


class Failure(BaseModel):
    """The reason why something was not done, and what to do; `code` is the kind of reason."""

    code: str
    message: str
    hint: str
    problems: list[FoundProblem]


class Tokens(BaseModel):
    """A text of an edit as tokens.

    `place` is where it stands in the edit, such as ``pairs[3].target``. `marked` are the numbers of
    the tokens that are edited, or whose value is taken, and `padding` counts those behind the text.
    `trouble` says why there are none.
    """

    place: str
    pieces: list[str]
    marked: list[int]
    padding: int
    trouble: str


class Sample(BaseModel):
    """What the model answers to a question before and after the edits.

    `role` is ``own``, ``paraphrase`` or ``neighbour``. An answer is a text, or the name of a
    picture that ``/api/answers`` gives; null where the model was not asked yet.
    """

    role: str
    words: str
    wanted: str
    before: list[str | None]
    after: list[str | None]


class EditState(BaseModel):
    """An edit, as far as the text gives it.

    `id` stays the same through all changes of the text, undo and redo. `layers` are the names of
    its layers as the text has them. Of images, it has places; `preserved` is the number of images
    that it preserves, and `found` what a search at its layer has found. Of others, `given` is the
    edit as the text has it, with its texts as `tokens`, and `samples` are what the model is asked.
    Of an edit of another spec, `used` says where it is; its values cannot be changed here.
    """

    id: int
    name: str
    layer: str
    layers: list[str]
    rank: int | Literal["full"] | None
    solver: dict[str, Any]
    off: bool
    used: str
    line: int
    source: PlaceState | None
    target: PlaceState | None
    context: list[PlaceState]
    preserved: int
    note: str
    found: list[Match]
    given: dict[str, Any]
    tokens: list[Tokens]
    samples: list[Sample]


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
    """A layer that can be edited: channels and positions of its keys and values.

    The sizes are the sides of maps, and 0 where keys are not on a map.
    """

    name: str
    in_channels: int
    out_channels: int
    key_size: int
    value_size: int


class ModelState(BaseModel):
    """The model.

    `modality` says what its edits are of, and so which canvas shows them. `name` stands for its
    weights and settings, and `groups` are names that stand for several layers. `seed` is the stream
    that the spec numbers, and `fresh_seed` a stream that no edit has seen; these and `image_size`
    are 0 where the model draws no images of latents.
    """

    modality: str
    name: str
    weights: str
    digest: str
    layers: list[LayerState]
    groups: list[str]
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
