"""Images of latents as a modality of the studio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from editspec.engine.session import BuildSession
from editspec.studio.base import Base
from editspec.studio.draft import Draft
from editspec.studio.modalities.image.images import generator_in, latents_of
from editspec.studio.modalities.image.states import PlaceState
from editspec.studio.modality_registry import Answering, Question
from editspec_compiler.modalities.image.proposals import propose_rule
from editspec_compiler.modalities.image.schema import PLURALS, ImageEdit, Mask
from editspec_compiler.schema import AnyEdit
from editspec_compiler.validation import fit
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.io.digests import digest
from editspec_runtime.methods.registry import METHODS
from editspec_runtime.modalities.image.architecture import ImageLayer, require_images
from editspec_runtime.modalities.image.streams import CHECKS

SIDES = ("source", "target")

RANK = 4
"""The rank of a new edit."""


class ImageStudio:
    """Images of latents, whose places are painted."""

    parts = ("latents", "statistics")
    edit_type: type[AnyEdit] = ImageEdit
    methods: Sequence[str] = tuple(METHODS)
    has_images = True

    def describe_model(self, base: Base) -> dict[str, int]:
        """Return the size of the images, and the seeds of their streams."""
        size = generator_in(base).architecture.image_size
        return {"image_size": size, "seed": latents_of(base).seed, "fresh_seed": CHECKS}

    def map_sizes(self, layer: Layer) -> tuple[int, int]:
        """Return the sides of the maps of keys and values."""
        assert isinstance(layer, ImageLayer)
        return layer.key_size, layer.value_size

    def new_edit(self, architecture: Architecture) -> dict[str, Any]:
        """Write the fields of a new edit, which nothing was painted for yet."""
        layer, solver = propose_rule(require_images(architecture))
        return {"layer": layer, "rank": RANK, "solver": solver}

    def describe_edit(self, draft: Draft, number: int, base: Base) -> dict[str, Any]:
        """Describe the places of an edit, as far as the text gives them."""
        del base
        edit = draft.shown_edit(number)
        context = edit.get("context")
        entries = context if isinstance(context, list) else []
        return {
            "source": _describe_place(edit.get("source")),
            "target": _describe_place(edit.get("target")),
            "context": list(filter(None, map(_describe_entry, entries))),
            "preserved": _count_preserved(edit.get("preserve")),
            "note": _note_of(edit),
        }

    def questions(self, draft: Draft, number: int, base: Base) -> list[Question]:
        """List nothing: the gallery shows images before and after."""
        return []

    def answering(self, session: BuildSession, keep_going: Callable[[], None]) -> Answering:
        """Return a function that is never called, as nothing is asked."""
        return lambda model, asked: ""


IMAGE = ImageStudio()
"""The only instance."""


def digest_mask(edit: dict[str, Any], role: str, index: int) -> str:
    """Return the digest that the page has of a mask; empty where there is no such place."""
    given = edit.get(role)
    if role == "context":
        entries = given if isinstance(given, list) else []
        given = entries[index] if index < len(entries) else None
    place = _describe_entry(given)
    return "" if place is None else place.mask


def _count_preserved(given: Any) -> int:
    """Count the images that an edit preserves, as far as the text gives them."""
    count = 0
    for place in given if isinstance(given, list) else []:
        fields = place if isinstance(place, dict) else {}
        several = fields.get("latents")
        count += len(several) if isinstance(several, list) else int("latent" in fields)
    return count


def _note_of(edit: dict[str, Any]) -> str:
    """Name the parts of an edit that the page cannot show."""
    notes = []
    if edit.get("pairs") is not None or any(_names_several(edit.get(side)) for side in SIDES):
        notes.append("several pairs of sources and targets")
    if isinstance(edit.get("source"), dict) and "erase" in edit["source"]:
        notes.append("a value that is erased, not copied")
    if isinstance(edit.get("source"), list):
        notes.append("several copies into one target")
    if isinstance(edit.get("source"), dict) and "nearest" in edit["source"]:
        notes.append("the most alike of several images")
    if edit.get("observe") is not None:
        notes.append(f"observed at {edit['observe']}")
    return " and ".join(notes)


def _names_several(given: Any) -> bool:
    """Tell whether a place of the text stands for several."""
    return isinstance(given, dict) and any(key in given for key in PLURALS)


def _describe_entry(given: Any) -> PlaceState | None:
    """Describe an entry of a context, which may stand for the rows of a file."""
    if isinstance(given, dict) and isinstance(given.get("file"), str):
        return PlaceState(latent=None, words=f"the rows of {given['file']}", mask="")
    return _describe_place(given)


def _describe_place(given: Any) -> PlaceState | None:
    several = _names_several(given)
    if not isinstance(given, dict) or not (several or "latent" in given):
        return None
    latent, mask = given.get("latent"), given.get("mask")
    mask_digest = ""
    if fit(Mask, mask) is not None:
        mask_digest = digest(mask)[:16]
    if several:
        return PlaceState(latent=None, words="several images", mask=mask_digest)
    if type(latent) is int and 0 <= latent < 2**63:
        return PlaceState(latent=latent, words=str(latent), mask=mask_digest)
    words = "a vector" if isinstance(latent, list) else "from a file"
    return PlaceState(latent=None, words=words, mask=mask_digest)
