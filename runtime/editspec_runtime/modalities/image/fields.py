"""Fields of ``model:`` that families of image generators share; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.fields import FieldProblem, ModelFields, Natural, Number
from editspec_runtime.errors import WeightsError
from editspec_runtime.modalities.image.architecture import ImageArchitecture
from editspec_runtime.modalities.image.compatibility import compatibility_of


class ImageFields(ModelFields):
    """The fields of a model that draws images."""

    def digest_text(self) -> dict[str, object]:
        """The fields that the bits of an edit depend on.

        Fields of all image families are listed, set or not: digests do not change when a family
        gets a field that others have.
        """
        # This order and these names are part of every digest: a change would make caches and locks
        # of earlier builds void.
        text = {"truncation": 1.0, "class_label": None} | self.model_dump(mode="json")
        network = {name: text.get(name) for name in ("module", "layers", "latent_shape")}
        # Fields that came later count where they are given.
        later = {name: text[name] for name in ("arguments", "inputs") if text.get(name)}
        network |= later
        named = {name: text[name] for name in ("family", "truncation", "class_label")}
        return {**named, "network": network}


class GeneratorFields(ImageFields):
    """The fields of a generator whose network belongs to its family."""

    truncation: Number = Field(
        1.0, ge=0, le=1, description="w becomes avg + truncation * (w - avg)."
    )
    class_label: Natural | None = Field(
        None, description="The class that is drawn, of a class-conditional generator."
    )

    def problems(self, compatibility: str | None) -> Iterator[FieldProblem]:
        """Report a truncation that the compatibility mode never applies."""
        if self.truncation != 1.0 and not compatibility_of(compatibility).truncation:
            message = f"{compatibility} never applies a truncation"
            hint = "leave truncation out, or leave compatibility out"
            yield FieldProblem(("truncation",), message, hint, Code.TRUNCATION_UNFIT)

    def problems_with(self, architecture: Architecture) -> Iterator[FieldProblem]:
        """Report a truncation without a mean of w, and a class that is not there."""
        assert isinstance(architecture, ImageArchitecture)
        if self.truncation != 1.0 and architecture.average is None:
            message = "truncation needs the mean of w, and these weights hold no latent_avg"
            yield FieldProblem(
                ("truncation",), message, "leave truncation out", Code.TRUNCATION_UNFIT
            )
        yield from self._class_problems(architecture)

    def _class_problems(self, architecture: ImageArchitecture) -> Iterator[FieldProblem]:
        """Report a missing, superfluous or unknown class."""
        label, classes = self.class_label, architecture.classes
        message = hint = ""
        if classes and label is None:
            message = f"these weights draw {classes} classes, and none is given"
            hint = "give model.class_label: 0, say"
        elif label is not None and not classes:
            message, hint = "these weights know no classes", "leave class_label out"
        elif label is not None and label >= classes:
            message, hint = f"there is no class {label}", f"the classes are 0 to {classes - 1}"
        if message:
            yield FieldProblem(("class_label",), message, hint, Code.CLASS_UNFIT)


def require_average(fields: GeneratorFields, architecture: Architecture) -> None:
    """Raise a `WeightsError` where a truncation has no mean of w to truncate to."""
    assert isinstance(architecture, ImageArchitecture)
    if fields.truncation != 1.0 and architecture.average is None:
        raise WeightsError(
            "Truncation needs the mean of w, and these weights hold no latent_avg.",
            "Leave model.truncation out, or give a checkpoint with latent_avg.",
        )
