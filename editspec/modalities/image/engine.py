"""What images add to a build session."""

from __future__ import annotations

from collections.abc import Sequence

from editspec.engine.built import BuiltEdit
from editspec.engine.modality_registry import Moment
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import statistics_stream
from editspec.modalities.image.measures import ImageMeasures
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.resolve import compile_edit
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.core.rule import CompiledEdit
from editspec_runtime.modalities.image.compatibility import ImageCompatibility, compatibility_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentSample


class ImageEngine:
    """Generators of images, which take latents."""

    def compatibility(self, name: str | None) -> ImageCompatibility:
        """Our way, or that of the paper's authors."""
        return compatibility_of(name)

    def sample(self, loaded: LoadedSpec, model: Generator) -> LatentSample:
        """The first latents of the stream that ``statistics`` names."""
        return LatentSample(
            statistics_stream(loaded, model), image_spec(loaded.spec).statistics.samples
        )

    def compile(
        self, loaded: LoadedSpec, number: int, base: str, parent: str, moment: Moment
    ) -> CompiledEdit:
        """Copy, paste and erase: an edit as rules about maps."""
        return compile_edit(loaded, number, base, parent, moment)

    def measures(self, session: BuildSession, built: Sequence[BuiltEdit]) -> ImageMeasures:
        """What comes out in pictures, and what changes in others."""
        return ImageMeasures(session, built)


ENGINE = ImageEngine()
