"""The engine of images: their part of a build session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from editspec.engine.attempts import TuningProcess
from editspec.engine.built import BuiltEdit
from editspec.engine.model_session import ModelSession
from editspec.engine.opened import OpenedModel
from editspec.engine.questions import Asked
from editspec.engine.session import BuildSession
from editspec.engine.sweeping import Judge
from editspec.engine.tuning import TuningRun
from editspec.modalities.image.drawing import statistics_stream
from editspec.modalities.image.example_tuning import ExampleTuning
from editspec.modalities.image.given_examples import GivenExamples, has_many_examples
from editspec.modalities.image.judge import ImageJudgeMaker, make_judge
from editspec.modalities.image.measures import ImageMeasures
from editspec.modalities.image.opened import OpenedGenerator
from editspec.modalities.image.questions import ImageQuestion, ask_about_image
from editspec.modalities.image.render import draw_edits
from editspec.modalities.image.report import ReportPictures
from editspec.modalities.image.tuner import ImageTuner
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.resolve import compile_edit
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.core.rule import CompiledEdit
from editspec_runtime.modalities.image.architecture import require_images
from editspec_runtime.modalities.image.compatibility import ImageCompatibility, compatibility_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentSample

JUDGED = 200
"""The images that judge a sweep where no number is given."""

LOOKED_THROUGH, MOST_LOOKED_THROUGH = 256, 2048
"""The images that a tuning looks through where no number is given, and where few match."""


LOOKED_THROUGH_FOR_MANY = 1024
"""Those of an edit that has many examples: they are only drawn."""


class ImageEngine:
    """The engine of generators that draw images from latents."""

    has_ranks = True
    outside = "change elsewhere: mean absolute, on a scale of -1 to 1"

    def compatibility(self, name: str | None) -> ImageCompatibility:
        """Return the numerics of a name: ours for None, or the paper's authors'."""
        return compatibility_of(name)

    def sample(self, session: ModelSession, model: Generator) -> LatentSample:
        """Return the sample of latents that ``statistics`` names."""
        loaded = session.loaded
        count = image_spec(loaded.spec).statistics.samples
        return LatentSample(statistics_stream(loaded, model), count)

    def compile(self, session: ModelSession, number: int, parent: str) -> CompiledEdit:
        """Compile an edit that copies, pastes or erases to rules about maps."""
        return compile_edit(session.loaded, number, session.base, parent, session.moment)

    def measures(self, session: BuildSession, built: Sequence[BuiltEdit]) -> ImageMeasures:
        """Return the measures of a stack of edits on images."""
        return ImageMeasures(session, built)

    def draw(self, session: BuildSession, count: int, seed: int) -> Image.Image:
        """Draw the images of a latent stream before and after all edits."""
        return draw_edits(session, count, seed)

    def require_packages(self) -> None:
        """Do nothing: images are drawn by the model itself."""

    def report_pictures(self, session: BuildSession) -> ReportPictures:
        """Return the pictures of a report."""
        return ReportPictures(session)

    def preview(self, session: BuildSession, count: int) -> Image.Image:
        """Draw the first images of the stream of reports before and after all edits."""
        return draw_edits(session, count)

    def tabulate(self, session: BuildSession, count: int) -> None:
        """Return None: images are drawn."""

    def start_tuning(
        self,
        session: BuildSession,
        number: int,
        inputs: int | None,
        layers: Sequence[str],
        progress: ProgressCallback,
    ) -> TuningProcess:
        """Look for images that are examples of an edit's rule, or take those that it has."""
        if has_many_examples(image_spec(session.loaded.spec).edits[number]):
            looked = LOOKED_THROUGH_FOR_MANY if inputs is None else inputs
            examples = GivenExamples(session, number, looked, layers)
            return ExampleTuning(session, number, examples, progress)
        count = LOOKED_THROUGH if inputs is None else inputs
        tuner = ImageTuner(session, number, count, layers)
        while inputs is None and tuner.is_scarce and count < MOST_LOOKED_THROUGH:
            count *= 2
            tuner = ImageTuner(session, number, count, layers)
        return TuningRun(session, number, tuner, progress, named=bool(layers))

    def make_judge(
        self, session: BuildSession, images: int | None, experiment: ImageJudgeMaker | None
    ) -> Judge:
        """Return the judge of a sweep, on images that no edit has seen."""
        return make_judge(session, JUDGED if images is None else images, experiment)

    def question(self, session: BuildSession, asked: Asked) -> ImageQuestion:
        """Return the question about an image of the stream of a spec, and a place in it."""
        return ask_about_image(session, asked)

    def open_model(self, opened: OpenedModel, loaded: LoadedSpec | None) -> OpenedGenerator:
        """Add the drawing of images, with the sampler of the spec."""
        require_images(opened.model.architecture)
        generator = OpenedGenerator(
            opened.model, opened.checkpoint, opened.place, opened.patches, opened.precision
        )
        if loaded is None:
            return generator
        return replace(generator, sampler=image_spec(loaded.spec).latents.sampler)


ENGINE = ImageEngine()
