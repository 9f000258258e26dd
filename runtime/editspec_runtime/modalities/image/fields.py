"""Fields of ``model:`` that families of image generators share. Imports no torch."""

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
    """A model that draws images."""

    def digest_text(self) -> dict[str, object]:
        """The fields that the bits of an edit depend on.

        Fields of all image families are listed, set or not: digests do not change when a family
        gets a field that others have.
        """
        text = {"truncation": 1.0, "class_label": None} | self.model_dump(mode="json")
        network = {name: text.get(name) for name in ("module", "layers", "latent_shape")}
        named = {name: text[name] for name in ("family", "truncation", "class_label")}
        return {**named, "network": network}


class GeneratorFields(ImageFields):
    """A generator, by its family and its weights."""

    truncation: Number = Field(
        1.0, ge=0, le=1, description="w becomes avg + truncation * (w - avg)."
    )
    class_label: Natural | None = Field(
        None, description="The class that is drawn, of a class-conditional generator."
    )

    def problems(self, compatibility: str | None) -> Iterator[FieldProblem]:
        """Report a truncation that the compatibility mode never applies."""
        if self.truncation != 1.0 and not compatibility_of(compatibility).truncation:
            yield FieldProblem(
                ("truncation",),
                f"{compatibility} never applies a truncation, whatever it is asked for",
                "leave truncation out, or leave compatibility out",
                Code.TRUNCATION_UNFIT,
            )

    def problems_with(self, architecture: Architecture) -> Iterator[FieldProblem]:
        """Report a truncation without a mean of w, and a class that these weights do not draw."""
        assert isinstance(architecture, ImageArchitecture)
        if self.truncation != 1.0 and architecture.average is None:
            message = "truncation needs the mean of w, and these weights hold no latent_avg"
            yield FieldProblem(
                ("truncation",), message, "leave truncation out", Code.TRUNCATION_UNFIT
            )
        yield from self._class_problems(architecture)

    def _class_problems(self, architecture: ImageArchitecture) -> Iterator[FieldProblem]:
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
