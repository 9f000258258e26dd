"""The language of images: latents, masks, interventions. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from editspec_compiler.problems import SpecPath
from editspec_compiler.schema import (
    AnySpec,
    Check,
    Edit,
    Erase,
    Finite,
    Pair,
    PatchSize,
    PredictedCollateral,
    Retention,
    Spec,
    SpecHead,
    TargetError,
    choose_tag,
    measures_of,
)
from editspec_compiler.visit import FILE, Role
from editspec_runtime.core.fields import Natural, Number, Part
from editspec_runtime.io.foreign_code import REFERENCE
from editspec_runtime.modalities.image.architecture import draws_nothing
from editspec_runtime.modalities.image.streams import SPECS, STATISTICS


# Left out of digests, so that specs without these fields have the digests that they had.
def _is_none(given: object) -> bool:
    return given is None


def _is_z(given: object) -> bool:
    return given == "z"


LATENT, MASK, INTERVENTION = "latent", "mask", "intervention"
"""The roles of values that this modality looks up."""

Corners = Annotated[list[Number], Field(min_length=4, max_length=4)]
Side = Annotated[float, Field(allow_inf_nan=False, gt=0, le=10**6)]
Point = Annotated[list[Number], Field(min_length=2, max_length=2)]
PictureSize = Annotated[
    Annotated[list[Side], Field(min_length=2, max_length=2)] | None,
    Field(
        exclude_if=_is_none,
        description=(
            "[width, height] of the picture that the coordinates are pixels of. Default: those of "
            "the model's images."
        ),
    ),
]


STYLES = "w"
"""The space of latents behind the mapping, one for each layer."""


class LatentFile(Part):
    """A latent in a file."""

    file: Annotated[str, Role(FILE)] = Field(
        description="A .safetensors, .npy, .npz or .pt file, relative to the spec."
    )
    key: str | None = Field(
        None, description="The tensor's name; may be left out where the file holds one tensor."
    )
    index: Natural | None = Field(
        None, exclude_if=_is_none, description="Which of several latents in the tensor, from 0."
    )
    space: Literal["z", "w"] = Field(
        "z",
        exclude_if=_is_z,
        description=(
            "z: what the stream of latents has. w: what the mapping of a StyleGAN2 makes of it, "
            "as projectors and encoders find it; one for all layers, or one for each."
        ),
    )


def _latent_tag(given: Any) -> str | None:
    keys = dict.fromkeys(LatentFile.model_fields, "@latent-file")
    return choose_tag(given, {int: "@number", list: "@vector"}, keys)


Latent = Annotated[
    Annotated[Natural, Tag("@number")]
    | Annotated[list[Number], Tag("@vector")]
    | Annotated[LatentFile, Tag("@latent-file")],
    Discriminator(_latent_tag),
    Role(LATENT),
]


class BoxMask(Part):
    """A rectangle."""

    box: Corners = Field(description="[left, top, right, bottom] in output pixels.")
    of: PictureSize = None


class EllipseMask(Part):
    """The ellipse inside a rectangle."""

    ellipse: Corners = Field(description="[left, top, right, bottom] in output pixels.")
    of: PictureSize = None


class PolygonMask(Part):
    """A polygon."""

    polygon: list[Point] = Field(description="[[x, y], …] in output pixels.", min_length=3)
    of: PictureSize = None


class UnionMask(Part):
    """Everything that lies in any of several masks."""

    union: list[Mask] = Field(description="The masks.", min_length=1)


def _mask_tag(given: Any) -> str | None:
    keys = {"box": "@box", "ellipse": "@ellipse", "polygon": "@polygon", "union": "@union"}
    return choose_tag(given, {str: "@image"}, keys)


Mask = Annotated[
    Annotated[str, Tag("@image"), Role(FILE)]
    | Annotated[BoxMask, Tag("@box")]
    | Annotated[EllipseMask, Tag("@ellipse")]
    | Annotated[PolygonMask, Tag("@polygon")]
    | Annotated[UnionMask, Tag("@union")],
    Discriminator(_mask_tag),
    Role(MASK),
]
UnionMask.model_rebuild()


class Intervention(Part):
    """Units that are set to a value while an image is drawn."""

    layer: str = Field(
        description="At the output of which layer; one before the layer that is edited."
    )
    units: list[Natural] = Field(min_length=1, description="Which channels of that output, from 0.")
    value: Number = Field(description="What they are set to.")
    mask: Mask = Field(description="Where: an image file, a data URL, or shapes in output pixels.")


PLURALS = {"latents": "latent"}
"""The key of a place that stands for several, and the key of one."""


def _describe_plurals(schema: dict[str, Any]) -> None:
    """Say in a JSON Schema that a place may name several images in place of one."""
    properties = schema["properties"]
    for plural, singular in PLURALS.items():
        several = "Several images: a place of each."
        items = {key: part for key, part in properties[singular].items() if key != "description"}
        properties[plural] = {
            "type": "array",
            "items": items,
            "minItems": 1,
            "description": several,
        }
        required = [key for key in schema.get("required", ()) if key != singular]
        schema["required"] = required
        schema["oneOf"] = [{"required": [singular]}, {"required": [plural]}]


class Scene(Part):
    """Generated image."""

    model_config = ConfigDict(json_schema_extra=_describe_plurals)

    latent: Latent = Field(
        description="Which image: a number in the latent stream, a vector, or a file."
    )
    intervene: Annotated[Intervention, Role(INTERVENTION)] | None = Field(
        None, description="Units that are set to a value while it is drawn."
    )


COPIED_MASK = "Where in it; the values then go to the middle of the target. "
COPIED_MASK += "Default: the target's own place."
Shift = Annotated[
    Annotated[list[Number], Field(min_length=2, max_length=2)] | None,
    Field(
        exclude_if=_is_none,
        description=(
            "[right, down] in output pixels: how far from the middle of the target the values go."
        ),
    ),
]


class Copied(Scene):
    """A value that is copied from an image."""

    mask: Mask | None = Field(None, description=COPIED_MASK)
    shift: Shift = None


class Candidates(Part):
    """Images, of which the one is taken that is most alike the target."""

    latents: list[Latent] = Field(
        min_length=1, description="The images: numbers in the latent stream, vectors, or files."
    )
    other_than: Mask | None = Field(
        None,
        alias="except",
        description="Where they need not be alike. Default: the target's mask.",
    )


class CopiedFromNearest(Part):
    """A value that is copied from the image of a list that is most alike the target."""

    nearest: Candidates = Field(description="The images, and where they need not be alike.")
    mask: Mask | None = Field(None, description=COPIED_MASK)
    shift: Shift = None


class Place(Scene):
    """A region of a generated image."""

    mask: Mask = Field(
        description="Where in it: an image file, a data URL, or shapes in output pixels."
    )


class ContextPlace(Place):
    """A region in which the new rule holds; several may lie in the same image."""

    weight: Number = Field(
        1.0, gt=0, le=1e6, description="How much its keys count, besides the mask."
    )
    exclude: Mask | None = Field(None, description="What is cut out of the mask.")


class PreservedPlace(Part):
    """A region, or a whole image, that must stay as it is."""

    model_config = ConfigDict(json_schema_extra=_describe_plurals)

    latent: Latent = Field(
        description="Which image: a number in the latent stream, a vector, or a file."
    )
    mask: Mask | None = Field(None, description="Where in it. Default: the whole image.")
    weight: Number = Field(
        1.0, gt=0, le=1e6, description="How much each of its positions counts, besides the mask."
    )


def _copy_tag(given: Any) -> str:
    return choose_tag(given, {}, {"nearest": "@nearest"}) or "@copied"


def _source_tag(given: Any) -> str:
    return choose_tag(given, {list: "@several"}, {"erase": "@erasing"}) or _copy_tag(given)


Copy = Annotated[
    Annotated[Copied, Tag("@copied")] | Annotated[CopiedFromNearest, Tag("@nearest")],
    Discriminator(_copy_tag),
]

Source = Annotated[
    Annotated[Copied, Tag("@copied")]
    | Annotated[CopiedFromNearest, Tag("@nearest")]
    | Annotated[Annotated[list[Copy], Field(min_length=1)], Tag("@several")]
    | Annotated[Erase, Tag("@erasing")],
    Discriminator(_source_tag),
]

ImagePair = Pair[Place, Source]


def list_copies(source: Source) -> list[tuple[Copy, SpecPath]]:
    """List what a source copies, in the order of pasting, with its path below the pair.

    What is erased copies nothing.
    """
    if isinstance(source, Erase):
        return []
    if isinstance(source, list):
        return [(copy, ("source", index)) for index, copy in enumerate(source)]
    return [(source, ("source",))]


class ImageEdit(Edit[Place, Source, list[ContextPlace], PreservedPlace]):
    """One rule change."""


class Images(Part):
    """Images, and what in them an edit is meant to change."""

    latents: list[Latent] = Field(
        min_length=1, description="Which images: numbers in the latent stream, or vectors."
    )
    mask: Mask | None = Field(
        None, description="What in them is left out of the measure. Default: nothing."
    )


class Places(Part):
    """Region that lies at one place in several images."""

    latents: list[Latent] = Field(
        min_length=1, description="Which images: numbers in the latent stream, or vectors."
    )
    mask: Mask = Field(
        description="Where in them: an image file, a data URL, or shapes in output pixels."
    )


class Efficacy(Check):
    """Share of the wanted change that pictures show right after the edit."""

    measure: Literal["efficacy"] = Field(description="What is measured.")
    images: list[Places] | None = Field(
        None, min_length=1, description="Which images. Default: the edit's targets."
    )
    at_least: Number = Field(ge=0, le=1, description="The smallest share that passes.")


class Collateral(Check):
    """Change of pictures outside of what is meant to change.

    The change is that of all edits together, or of one.
    """

    OF_ALL: ClassVar[bool] = True

    measure: Literal["collateral"] = Field(description="What is measured.")
    edit: str | None = Field(None, description="Of which edit; default: of all edits together.")
    images: list[Images] = Field(min_length=1, description="Which images.")
    at_most: Number = Field(
        ge=0, description="The largest mean absolute change of a pixel that passes."
    )


class VisibleTrace(Check):
    """Share of pictures that visibly change where the edit's rule does not hold."""

    measure: Literal["trace"] = Field(description="What is measured.")
    images: list[Images] | None = Field(
        None,
        min_length=1,
        description=(
            "Which images, and what else in them may change. Default: 64 of a stream of their own."
        ),
    )
    at_most: Number = Field(ge=0, le=1, description="The largest share that passes.")


class Pictures(Part):
    """Whole pictures."""

    latents: list[Latent] = Field(
        min_length=1, description="Which images: numbers in the latent stream, or vectors."
    )


class Recognised(Check):
    """Share of pictures in which a function of the user's own recognises something.

    The pictures are those after all edits together, or after one.
    """

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["at_least"]}, {"required": ["at_most"]}]}
    )

    OF_ALL: ClassVar[bool] = True

    measure: Literal["recognised"] = Field(description="What is measured.")
    edit: str | None = Field(None, description="Of which edit; default: of all edits together.")
    function: str = Field(
        alias="with",
        pattern=REFERENCE,
        description="package.module:function, which looks at pictures; needs --allow-code.",
    )
    images: list[Pictures] = Field(min_length=1, description="Which images.")
    at_least: Number | None = Field(
        None, ge=0, le=1, description="The smallest share of recognised pictures that passes."
    )
    at_most: Number | None = Field(
        None, ge=0, le=1, description="The largest share of recognised pictures that passes."
    )

    @property
    def code(self) -> str | None:
        """The function."""
        return self.function


AnyCheck = (
    TargetError
    | Efficacy
    | Collateral
    | VisibleTrace
    | Recognised
    | PredictedCollateral
    | Retention
    | PatchSize
    | Finite
)
CHECKS = measures_of(*AnyCheck.__args__)
"""The checks of images by the names of their measures."""


class Latents(Part):
    """The stream that integer latents index."""

    seed: Natural = Field(SPECS, lt=2**32, description="Names the stream.")
    sampler: Literal["keyed", "numpy-legacy"] = Field(
        "keyed", description="numpy-legacy is the authors' stream."
    )


class Statistics(Part):
    """The sample that the second moment of the keys is taken over."""

    samples: Annotated[int, Field(ge=1, le=10**7)] = Field(1000, description="How many latents.")
    seed: Natural = Field(
        STATISTICS, lt=2**32, description="Names their stream; the sampler is that of latents."
    )


class ImageInputs(SpecHead):
    """The images that a spec works on."""

    latents: Latents = Field(Latents(), description="The stream that integer latents index.")
    statistics: Statistics = Field(
        Statistics(), description="The sample for the second moment of the keys."
    )


class ImageSpec(Spec[ImageEdit, Annotated[AnyCheck, Field(discriminator="measure")]], ImageInputs):
    """An edit spec: which rules of a generative model change, and how."""

    SAME: ClassVar[tuple[str, ...]] = ("latents",)

    compatibility: Literal["rewriting-2020"] | None = Field(
        None, description="Do as the paper's own code does."
    )


def image_spec(spec: AnySpec) -> ImageSpec:
    """Return a spec as one of images.

    Raises `UsageError` where its family does not draw images.
    """
    if not isinstance(spec, ImageSpec):
        raise draws_nothing(spec.model.family)
    return spec
