"""The engine of texts: their part of a build session."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from editspec.engine.built import STATISTICS, TARGETS, BuiltEdit, time_stage
from editspec.engine.estimates import Estimate, Overlap
from editspec.engine.measures import Measures
from editspec.engine.model_session import ModelSession
from editspec.engine.opened import OpenedModel
from editspec.engine.questions import Asked, Question
from editspec.engine.session import BuildSession
from editspec.engine.table import Table
from editspec.modalities.text.completions import tabulate_completions
from editspec.modalities.text.corpus import find_known_sample, find_sample
from editspec.modalities.text.estimate import estimate_edit, find_overlaps
from editspec.modalities.text.judge import CHANGED, SweepJudge, require_no_images
from editspec.modalities.text.key_pictures import draw_keys
from editspec.modalities.text.layers import CausalTraceResult, trace_layers
from editspec.modalities.text.measures import TextMeasures
from editspec.modalities.text.questions import ask_about_text
from editspec.modalities.text.report import ReportTexts
from editspec.modalities.text.tuner import TextTuning
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.text.resolve import CompileResources, compile_edit
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.core.rule import CompiledEdit
from editspec_runtime.errors import UsageError
from editspec_runtime.modalities.text.compatibility import COMPATIBILITIES, TextCompatibility
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.samples import TextSample


class TextEngine:
    """The engine of models that go on with texts."""

    has_ranks = False
    outside = CHANGED

    def compatibility(self, name: str | None) -> TextCompatibility:
        """Return the numerics of a name: ours for None, or those of a paper's authors."""
        return COMPATIBILITIES[name]

    def sample(self, session: ModelSession, model: LanguageModel) -> TextSample:
        """Return the texts that ``statistics`` names."""
        del model
        return find_sample(session)

    def compile(self, session: ModelSession, number: int, parent: str) -> CompiledEdit:
        """Compile an edit of facts to rules about keys and values."""
        resources = self._resources(session)
        return compile_edit(session.loaded, number, session.base, parent, resources)

    def _resources(self, session: ModelSession) -> CompileResources:
        """Return what the compiler takes from a session."""

        def find_moment(model: LanguageModel, layer: str) -> Tensor:
            """Find C of a layer, in a stage of its own."""
            with time_stage(session.spent, STATISTICS):
                return session.moment(model, layer)

        return CompileResources(
            lambda: session.base_model,
            lambda count: session.after(count).current_model(),
            find_moment,
            session.cache,
            session.progress,
            lambda: time_stage(session.spent, TARGETS),
            session.travelling,
        )

    def measures(self, session: BuildSession, built: Sequence[BuiltEdit]) -> Measures:
        """Return the measures of a stack of edits of texts."""
        return TextMeasures(session, built)

    def preview(self, session: BuildSession, count: int) -> None:
        """Return None: texts are not drawn."""

    def tabulate(self, session: BuildSession, count: int) -> Table:
        """Tabulate the completions of prompts before and after all edits."""
        return tabulate_completions(session, count)

    def known_sample(self, session: ModelSession) -> TextSample | None:
        """Return the texts that ``statistics`` names; None where the model has to make them."""
        return find_known_sample(session)

    def estimate(self, session: BuildSession, number: int, *, follows: bool) -> Estimate:
        """Estimate the cost of edit `number`; `follows`: after one that is still to be built."""
        return estimate_edit(session, number, self._resources(session), follows=follows)

    def find_overlaps(self, session: BuildSession) -> list[Overlap]:
        """Find facts whose keys are nearly parallel."""
        return find_overlaps(session)

    def start_tuning(
        self,
        session: BuildSession,
        number: int,
        inputs: int | None,
        layers: Sequence[str],
        progress: ProgressCallback,
    ) -> TextTuning:
        """Start to try layers, weights, clamps, contexts and tokens of C."""
        require_no_images(inputs)
        return TextTuning(session, number, layers, progress)

    def make_judge(
        self, session: BuildSession, images: int | None, experiment: object | None
    ) -> SweepJudge:
        """Return the judge of a sweep, by paraphrases and other facts."""
        require_no_images(images)
        if experiment is not None:
            raise UsageError("The experiments of the bench are of images.", "Leave it out.")
        return SweepJudge(session)

    def report_texts(self, session: BuildSession) -> ReportTexts:
        """Return the texts of a report."""
        return ReportTexts(session, self._resources(session))

    def draw_keys(self, session: BuildSession, count: int) -> Image.Image:
        """Draw for every edit in which texts its key matches, and where."""
        return draw_keys(session, self._resources(session), count)

    def question(self, session: BuildSession, asked: Asked) -> Question:
        """Return the question about a prompt, or about a check of the spec."""
        return ask_about_text(session, asked)

    def trace_layers(self, session: BuildSession, number: int) -> CausalTraceResult:
        """Trace which layers hold the facts of an edit."""
        return trace_layers(session, number)

    def open_model(self, opened: OpenedModel, loaded: LoadedSpec | None) -> OpenedModel:
        """Return the model as it is."""
        return opened


ENGINE = TextEngine()
