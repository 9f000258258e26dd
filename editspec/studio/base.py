"""The unedited model that a text names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from editspec.engine.modality_registry import engine_of
from editspec.engine.opening import open_model
from editspec.engine.resources import locate_weights
from editspec.studio.modality_registry import studio_modality_of
from editspec_compiler import SpecError
from editspec_compiler.document import Document
from editspec_compiler.registry import family_of, fields_of, spec_type
from editspec_compiler.validation import check, fit
from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.core.model import Model
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import read_fields
from editspec_runtime.families.selection import choose_by_fields
from editspec_runtime.io.digests import digest
from editspec_runtime.io.weights import Weights


@dataclass(frozen=True)
class ModelSettings:
    """The parts of a text that determine what its model gives.

    Attributes
    ----------
    model
        The model of the spec.
    parts
        Further parts of the spec that its modality names, by their keys.
    precision
        ``float32`` or ``float64``.
    compatibility
        The name of other numerics; None for editspec's own.
    """

    model: ModelFields
    parts: dict[str, BaseModel]
    precision: str
    compatibility: str | None

    @staticmethod
    def read(document: Document) -> ModelSettings:
        """Read the settings of a document, whose edits may be wrong. Raises `SpecError`."""
        data, family = document.data, family_of(document)
        spec = spec_type(family)

        def read_field(name: str, usual: Any) -> Any:
            """Read a field of the spec; None where it does not fit."""
            return fit(spec.model_fields[name].annotation, data.get(name, usual))

        model = fit(fields_of(family), data.get("model"))
        parts: dict[str, Any] = {}
        for name in studio_modality_of(family).parts:
            parts[name] = read_field(name, {})
        precision = data.get("precision", "float32")
        compatibility = data.get("compatibility")
        is_fitting = None not in (model, *parts.values(), read_field("precision", precision))
        if compatibility is not None and read_field("compatibility", None) is None:
            is_fitting = False
        if model is None or not is_fitting:
            raise SpecError(document.file, check(document)[1], document.text)
        return ModelSettings(model, parts, precision, compatibility)

    def digest(self) -> str:
        """Digest the settings."""
        parts = (self.model, *self.parts.values())
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
        The parts of the text that determine what it gives.
    path
        Where its weights lie.
    checkpoint, weights
        Its tensors, and their digest.
    model
        The model.
    compatibility
        The numerics where papers leave them open.
    """

    key: str
    settings: ModelSettings
    path: Path
    checkpoint: Weights
    weights: str
    model: Model
    compatibility: Compatibility

    @staticmethod
    def open(
        settings: ModelSettings, folder: Path, device: torch.device, *, allow_code: bool
    ) -> Base:
        """Open the model that the settings of a spec in `folder` name.

        `allow_code` says whether the spec's own network may be run. Raises `EditError`.
        """
        named = settings.model
        compatibility = engine_of(named.family).compatibility(settings.compatibility)
        path = locate_weights(named.weights, folder, pin=named.digest)
        fields, origin = read_fields(named), Origin(path, folder, allow_code)
        checkpoint = read_weights(path, choose_by_fields(fields, origin), whole=False)
        model = open_model(
            named,
            checkpoint,
            origin,
            precision=settings.precision,
            device=device,
            compatibility=compatibility,
        )
        for problem in fields.problems_with(model.architecture):
            raise WeightsError(problem.message, problem.hint)
        key, weights = settings.digest(), checkpoint.digest()
        return Base(key, settings, path, checkpoint, weights, model, compatibility)

    @property
    def name(self) -> str:
        """The name of the unedited model."""
        return self.name_of(self.weights)

    def name_of(self, weights: str) -> str:
        """Name the model with the weights of a digest.

        Other weights or other settings have another name, so that what a name gives never changes.
        """
        return digest([self.key, weights])[:16]
