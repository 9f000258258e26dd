"""The unedited model that a text names, and the edited models at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import torch

from editspec.engine.opening import open_model
from editspec.engine.resources import locate_weights
from editspec_compiler import SpecError
from editspec_compiler.document import Document
from editspec_compiler.modalities.image.schema import ImageSpec, Latents, Statistics
from editspec_compiler.registry import family_of, fields_of, spec_type
from editspec_compiler.validation import check, fit
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import read_fields
from editspec_runtime.families.selection import choose_by_fields
from editspec_runtime.io.digests import digest
from editspec_runtime.io.weights import Weights
from editspec_runtime.modalities.image.architecture import draws_nothing
from editspec_runtime.modalities.image.compatibility import ImageCompatibility, compatibility_of
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.latents import LatentStream


@dataclass(frozen=True)
class ModelSettings:
    """The parts of a text that determine how its model draws.

    Attributes
    ----------
    model, latents, statistics
        The parts of the spec.
    precision
        ``float32`` or ``float64``.
    compatibility
        The name of other numerics; None for editspec's own.
    """

    model: ModelFields
    latents: Latents
    statistics: Statistics
    precision: str
    compatibility: str | None

    @staticmethod
    def read(document: Document) -> ModelSettings:
        """Read the settings of a document, whose edits may be wrong.

        Raises `SpecError`, and `UsageError` where the family does not draw images.
        """
        data, family = document.data, family_of(document)
        if not issubclass(spec_type(family), ImageSpec):
            raise draws_nothing(family)
        model = fit(fields_of(family), data.get("model"))
        latents = fit(Latents, data.get("latents", {}))
        statistics = fit(Statistics, data.get("statistics", {}))
        precision = data.get("precision", "float32")
        compatibility = data.get("compatibility")
        parts_fit = None not in (model, latents, statistics)
        if not parts_fit or not _fits("precision", precision):
            raise SpecError(document.file, check(document)[1], document.text)
        if compatibility is not None and not _fits("compatibility", compatibility):
            raise SpecError(document.file, check(document)[1], document.text)
        return ModelSettings(model, latents, statistics, precision, compatibility)

    def digest(self) -> str:
        """Digest the settings."""
        parts = (self.model, self.latents, self.statistics)
        dumped = [part.model_dump(mode="json") for part in parts]
        return digest([*dumped, self.precision, self.compatibility])


@dataclass(frozen=True)
class Base:
    """The unedited model of a text.

    Attributes
    ----------
    key
        The digest of its settings.
    settings
        The parts of the text that determine how it draws.
    checkpoint, weights
        Its tensors, and their digest.
    generator, make
        The model, and a function that makes a model of other tensors.
    compatibility
        The numerics where the paper leaves them open.
    """

    key: str
    settings: ModelSettings
    checkpoint: Weights
    weights: str
    generator: Generator
    make: Callable[[Weights], Generator]
    compatibility: ImageCompatibility

    @staticmethod
    def open(
        settings: ModelSettings, folder: Path, device: torch.device, *, allow_code: bool
    ) -> Base:
        """Open the model that the settings of a spec in `folder` name.

        `allow_code` says whether the spec's own network may be run. Raises `EditError`.
        """
        model, compatibility = settings.model, compatibility_of(settings.compatibility)
        path = locate_weights(model.weights, folder, pin=model.digest)
        fields, origin = read_fields(model), Origin(path, folder, allow_code)
        checkpoint = read_weights(path, choose_by_fields(fields, origin))
        opened = open_model(
            model,
            checkpoint,
            origin,
            precision=settings.precision,
            device=device,
            compatibility=compatibility,
        )
        generator = require_generator(opened)
        for problem in fields.problems_with(generator.architecture):
            raise WeightsError(problem.message, problem.hint)

        def make(tensors: Weights) -> Generator:
            # A network of its own: another generator may be drawing.
            placed = tensors.place(settings.precision, device)
            return generator.separate().with_weights(placed)

        key, weights = settings.digest(), checkpoint.digest()
        return Base(key, settings, checkpoint, weights, generator, make, compatibility)

    @property
    def name(self) -> str:
        """The name of the unedited generator among those that draw."""
        return self.name_of(self.weights)

    def name_of(self, weights: str) -> str:
        """Name the generator with the weights of a digest.

        Other weights or other settings have another name, so that the images of a name never
        change.
        """
        return digest([self.key, weights])[:16]

    def stream(self, seed: int) -> LatentStream:
        """Return a stream of latents of this model."""
        size = self.generator.architecture.latent_size
        return LatentStream(seed, size, self.settings.latents.sampler)


class RecentGenerators:
    """The generators that were used last, by their names."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = RLock()
        self._generators: OrderedDict[str, Generator] = OrderedDict()

    def get(self, name: str, make: Callable[[], Generator]) -> Generator:
        """Return the generator of a name, made where it is not at hand."""
        with self._lock:
            if name not in self._generators:
                self._generators[name] = make()
                while len(self._generators) > self.limit:
                    self._generators.popitem(last=False)
            self._generators.move_to_end(name)
            return self._generators[name]

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._generators.clear()


def _fits(field: str, value: object) -> bool:
    """Tell whether a value fits a field of a spec of images."""
    return fit(ImageSpec.model_fields[field].annotation, value) is not None
