"""The engine of text-to-image models: their part of a build session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from editspec.engine.built import BuiltEdit
from editspec.engine.estimates import Estimate, Overlap
from editspec.engine.measures import Measures
from editspec.engine.model_session import ModelSession
from editspec.engine.opened import OpenedModel
from editspec.engine.questions import Asked, Question
from editspec.engine.session import BuildSession
from editspec.modalities.text_to_image.drawing import EXTRA
from editspec.modalities.text_to_image.estimate import estimate_edit, find_overlaps
from editspec.modalities.text_to_image.measures import PromptMeasures
from editspec.modalities.text_to_image.prompts import find_sample
from editspec.modalities.text_to_image.questions import ask_about_values
from editspec.modalities.text_to_image.sheets import PromptPictures, draw_prompts
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.text_to_image.resolve import compile_edit
from editspec_runtime.core.rule import CompiledEdit
from editspec_runtime.errors import UsageError
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.modalities.text_to_image.compatibility import (
    COMPATIBILITIES,
    PromptCompatibility,
)
from editspec_runtime.modalities.text_to_image.model import PromptedModel
from editspec_runtime.modalities.text_to_image.samples import PromptSample

if TYPE_CHECKING:
    from editspec.modalities.text.layers import CausalTraceResult


class TextToImageEngine:
    """The engine of models that draw what a prompt says."""

    def compatibility(self, name: str | None) -> PromptCompatibility:
        """Return the numerics of a name: ours for None, or those of a paper's authors."""
        return COMPATIBILITIES[name]

    def sample(self, session: ModelSession, model: PromptedModel) -> PromptSample:
        """Return the prompts that ``statistics`` names."""
        del model
        return find_sample(session)

    def compile(self, session: ModelSession, number: int, parent: str) -> CompiledEdit:
        """Compile an edit of concepts to rules about keys and values."""
        return compile_edit(session.loaded, number, session.base, parent)

    def measures(self, session: BuildSession, built: Sequence[BuiltEdit]) -> Measures:
        """Return the measures of a stack of edits of concepts."""
        return PromptMeasures(session, built)

    def preview(self, session: BuildSession, count: int) -> Image.Image | None:
        """Return None: drawing takes the whole U-Net, which a preview does not load."""
        return None

    def tabulate(self, session: BuildSession, count: int) -> None:
        """Return None: prompts are drawn, not tabulated."""

    def draw(self, session: BuildSession, count: int, seed: int) -> Image.Image:
        """Draw prompts before and after all edits."""
        return draw_prompts(session, count, seed)

    def require_packages(self) -> None:
        """Raise a `UsageError` where the library that draws is not installed."""
        load_extra(EXTRA)

    def report_pictures(self, session: BuildSession) -> PromptPictures:
        """Return the pictures of a report."""
        return PromptPictures(session)

    def question(self, session: BuildSession, asked: Asked) -> Question:
        """Return the question about the values that the layers give for a prompt."""
        return ask_about_values(session, asked)

    def known_sample(self, session: ModelSession) -> PromptSample:
        """Return the prompts that ``statistics`` names, which are read."""
        return find_sample(session)

    def estimate(self, session: BuildSession, number: int, *, follows: bool) -> Estimate:
        """Estimate the cost of edit `number`; no other edit bears on it."""
        del follows
        return estimate_edit(session, number)

    def find_overlaps(self, session: BuildSession) -> list[Overlap]:
        """Find concepts whose keys are nearly parallel."""
        return find_overlaps(session)

    def trace_layers(self, session: BuildSession, number: int) -> CausalTraceResult:
        """Raise a `UsageError`: all layers have the same keys."""
        del session, number
        raise UsageError(
            "The layers of a text-to-image model all read the same keys, those of its text "
            "encoders, so that none tells a prompt from others better than another one.",
            "Write layers: cross-attention; to compare changes, build with some of them left out.",
        )

    def open_model(self, opened: OpenedModel, loaded: LoadedSpec | None) -> OpenedModel:
        """Return the model as it is."""
        return opened


ENGINE = TextToImageEngine()
