"""The registry of modality engines, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from editspec_compiler import LoadedSpec
from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.rule import CompiledEdit
from editspec_runtime.core.sample import Sample
from editspec_runtime.errors import UsageError
from editspec_runtime.families.registry import find_family

if TYPE_CHECKING:
    from PIL import Image

    from editspec.engine.built import BuiltEdit
    from editspec.engine.estimates import Estimate, Overlap
    from editspec.engine.measures import Measures
    from editspec.engine.model_session import ModelSession
    from editspec.engine.opened import OpenedModel
    from editspec.engine.questions import Asked, Question
    from editspec.engine.session import BuildSession
    from editspec.engine.table import Table
    from editspec.modalities.text.layers import CausalTraceResult


class ModalityEngine(Protocol):
    """The part of a build session that depends on the modality of its model."""

    def compatibility(self, name: str | None) -> Compatibility:
        """The choices that papers leave open, by a spec's ``compatibility``."""

    def sample(self, session: ModelSession, model: Any) -> Sample:
        """The inputs that the second moment of the keys is taken over."""

    def compile(self, session: ModelSession, number: int, parent: str) -> CompiledEdit:
        """Compile edit `number` of the spec of a session.

        `parent` is the digest of the weights that the edit is solved on. Raises `SpecError`.
        """

    def measures(self, session: BuildSession, built: Sequence[BuiltEdit]) -> Measures:
        """The measures that the checks of a spec name, on a stack that is built."""

    def preview(self, session: BuildSession, count: int) -> Image.Image | None:
        """Draw what `count` inputs lead to before and after all edits.

        None where the modality has no pictures. Nothing may have been built in the session yet.
        """

    def tabulate(self, session: BuildSession, count: int) -> Table | None:
        """Tabulate what the model says before and after all edits, `count` inputs of each.

        None where the modality has no texts. Nothing may have been built in the session yet.
        """

    def question(self, session: BuildSession, asked: Asked) -> Question:
        """Make the question that the options of a command ask about one item.

        Nothing may have been built in the session yet. Raises `SpecError` where the options do not
        fit, `UsageError` where the modality has no such items.
        """

    def open_model(self, opened: OpenedModel, loaded: LoadedSpec | None) -> OpenedModel:
        """Add the views of the modality to an opened model; `loaded` is its spec, if any."""


@runtime_checkable
class DrawingModality(Protocol):
    """The optional power of a modality to draw for `render` and reports."""

    def draw(self, session: BuildSession, count: int, seed: int) -> Image.Image:
        """Draw `count` pictures before and after all edits, of the noise that a seed names.

        Nothing may have been built in the session yet.
        """

    def require_packages(self) -> None:
        """Raise a `UsageError` where a package that draws is not installed."""

    def report_pictures(self, session: BuildSession) -> Any:
        """The pictures of the report of a build, with their facts."""


@runtime_checkable
class WritingModality(Protocol):
    """The optional power of a modality to show texts in `render` and reports."""

    def report_texts(self, session: BuildSession) -> Any:
        """The texts of the report of a build, with their facts."""

    def draw_keys(self, session: BuildSession, count: int) -> Image.Image:
        """Draw for every edit `count` texts in which its key matches, lit where it does.

        Nothing may have been built in the session yet.
        """


@runtime_checkable
class EstimatingModality(Protocol):
    """The optional power of a modality to say what a build costs before it is done."""

    def known_sample(self, session: ModelSession) -> Sample | None:
        """The inputs of the second moment; None where they have still to be made."""

    def estimate(self, session: BuildSession, number: int, *, follows: bool) -> Estimate:
        """Estimate the cost of edit `number` by measuring for about a second.

        `follows` says whether an edit before it is still to be built.
        """

    def find_overlaps(self, session: BuildSession) -> list[Overlap]:
        """Find what of a spec is nearly the same for the model, the worst first."""


@runtime_checkable
class TracingModality(Protocol):
    """The optional power of a modality to trace which layers hold what an edit changes."""

    def trace_layers(self, session: BuildSession, number: int) -> CausalTraceResult:
        """Trace the layers for edit `number`.

        Raises `UsageError` where the layers cannot be told apart.
        """


ENGINES: dict[str, str] = {}
"""``module:object`` of the engine of each modality, imported when a session needs it."""


def register_engine(modality: str, place: str) -> None:
    """Enter the engine of a modality; `place` is ``module:object``."""
    ENGINES[modality] = place


register_engine("image", "editspec.modalities.image.engine:ENGINE")
register_engine("text", "editspec.modalities.text.engine:ENGINE")
register_engine("text_to_image", "editspec.modalities.text_to_image.engine:ENGINE")


def engine_of(family: str) -> ModalityEngine:
    """The engine of a family's modality. Raises `WeightsError` for an unknown family."""
    return _load_engine(ENGINES[find_family(family).modality])


def require_drawing(family: str) -> DrawingModality:
    """The engine of a family that draws, whose packages are installed.

    Raises `UsageError` where the family draws none, or a package is missing.
    """
    engine = engine_of(family)
    if isinstance(engine, WritingModality):
        raise UsageError(
            f"The family {family} makes texts, and does not draw images.",
            "Give a name that ends in .md for a table, or --key for where keys match.",
        )
    if not isinstance(engine, DrawingModality):
        raise UsageError(
            f"The family {family} does not draw images.",
            "Take build, check, plan or verify, which need none.",
        )
    engine.require_packages()
    return engine


@cache
def _load_engine(place: str) -> ModalityEngine:
    module, _, name = place.partition(":")
    engine: ModalityEngine = getattr(import_module(module), name)
    return engine
