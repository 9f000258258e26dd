"""Images as a modality of the language. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from editspec_compiler.document import Document, find_path_problem
from editspec_compiler.layers import suggest_layer
from editspec_compiler.modalities.image.latent_files import is_of_torch
from editspec_compiler.modalities.image.latents import read_latent
from editspec_compiler.modalities.image.mask_doubts import find_doubts
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.masks import require_sound
from editspec_compiler.modalities.image.proposals import propose_edit
from editspec_compiler.modalities.image.schema import (
    CHECKS,
    INTERVENTION,
    LATENT,
    MASK,
    PLURALS,
    Efficacy,
    ImageEdit,
    Intervention,
    Latent,
    LatentFile,
    Latents,
    Mask,
    Recognised,
    Scene,
    UnionMask,
    image_spec,
    list_copies,
)
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.registry import EditFacts, Surroundings
from editspec_compiler.schema import AnySpec, Check
from editspec_compiler.spec_folder import Folder
from editspec_compiler.validation import fit
from editspec_compiler.visit import Item
from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.fields import FieldProblem
from editspec_runtime.core.method import OUTPUTS
from editspec_runtime.errors import FileError
from editspec_runtime.methods.registry import method_of
from editspec_runtime.modalities.image.architecture import ImageArchitecture
from editspec_runtime.modalities.image.compatibility import LEGACY_LENGTH

if TYPE_CHECKING:
    from editspec_compiler.loaded_spec import LoadedSpec


class ImageModality:
    """Images that a generator draws from latents; places in them are masks."""

    name = "image"
    checks: Mapping[str, type[Check]] = CHECKS
    plurals: Mapping[str, str] = PLURALS
    expected: Mapping[str, str] = {
        LATENT: "a number in the latent stream, a list of numbers, or {file: …, key: …}",
        MASK: (
            "an image file, a data URL, or one of {box: …}, {ellipse: …}, {polygon: …}, {union: …}"
        ),
    }

    def problems(self, document: Document, spec: AnySpec) -> Iterator[Problem]:
        """Find interventions that a method ignores, and checks that name no edit."""
        images = image_spec(spec)
        for number, edit in enumerate(images.edits):
            # Such a method compares whole images from their latents, and no layer is intervened on.
            method = method_of(edit.solver)
            if OUTPUTS in method.needs and _intervenes(edit):
                message, hint = f"{method.name} takes no intervene", "take another method"
                where = ("edits", number)
                yield document.problem(where, message, hint, code=Code.METHOD_FIELD)
            if edit.refine is not None and _intervenes(edit):
                message = "refine takes no intervene: it draws whole images from their latents"
                hint = "leave refine out, or intervene"
                yield document.problem(
                    ("edits", number, "refine"), message, hint, code=Code.METHOD_FIELD, at_key=True
                )
            yield from _find_shifts(document, edit, number)
            yield from _find_preserved_targets(document, edit, number)
        for index, check in enumerate(images.checks):
            named = isinstance(check, Efficacy) and check.images is not None
            if named and check.edit is None and len(images.edits) > 1:
                message = "images says where, and nothing says which of the edits is to show there"
                hint = "write edit: and its name"
                yield document.problem(
                    ("checks", index, "images"), message, hint, code=Code.CHECK_UNFIT, at_key=True
                )
            if not isinstance(check, Recognised):
                continue
            if (check.at_least is None) == (check.at_most is None):
                message = "this check has either at_least or at_most"
                hint = "write one of them; for a range, write two checks with names of their own"
                yield document.problem(("checks", index), message, hint, code=Code.CHECK_UNFIT)

    def references(self, item: Item, surroundings: Surroundings) -> Iterator[Problem]:
        """Open a mask or a latent, and say what is wrong with it."""
        if item.role == MASK:
            yield from _mask_problems(item, surroundings)
        if item.role == LATENT:
            yield from _latent_problems(item, surroundings)

    def edit_problems(
        self, path: SpecPath, items: list[Item], layer: Layer, surroundings: Surroundings
    ) -> Iterator[Problem]:
        """Find interventions at layers that do not exist or come too late."""
        architecture = surroundings.architecture
        assert isinstance(architecture, ImageArchitecture)
        for item in items:
            if item.role != INTERVENTION:
                continue
            change = fit(Intervention, item.value)
            if change is None:
                continue
            found = intervention_problem(change, architecture, layer.name)
            if found is not None:
                yield surroundings.document.misfit(item.path, found)

    def edit_facts(self, loaded: LoadedSpec, number: int) -> EditFacts:
        """Find nothing besides the edit itself."""
        return EditFacts()

    def first_edit(self, architecture: Architecture) -> dict[str, Any]:
        """Write an edit that copies the middle of one image into another."""
        assert isinstance(architecture, ImageArchitecture)
        return propose_edit(architecture)


IMAGE = ImageModality()
"""The only instance."""


def _intervenes(edit: ImageEdit) -> bool:
    scenes: list[object] = []
    for pair in edit.sides:
        scenes += [pair.target, *(copy for copy, _ in list_copies(pair.source))]
    return any(isinstance(each, Scene) and each.intervene is not None for each in scenes)


def _find_shifts(document: Document, edit: ImageEdit, number: int) -> Iterator[Problem]:
    """Find copies that are to be shifted from where nothing was put."""
    for index, pair in enumerate(edit.sides):
        below: SpecPath = () if edit.pairs is None else ("pairs", index)
        for copy, where in list_copies(pair.source):
            if copy.shift is not None and copy.mask is None:
                message = "what is copied without a mask stays at its place, and has no shift"
                hint = "write the mask of what is to be copied, or leave shift out"
                path = ("edits", number, *below, *where, "shift")
                yield document.problem(path, message, hint, code=Code.MASK_UNFIT, at_key=True)


def _find_preserved_targets(document: Document, edit: ImageEdit, number: int) -> Iterator[Problem]:
    """Find places that are edited, and are to stay as they are: the edit works against itself."""
    masks: dict[str, set[str]] = {}
    for pair in edit.sides:
        masks.setdefault(repr(pair.target.latent), set()).add(repr(pair.target.mask))
    found = []
    for index, place in enumerate(edit.preserve or ()):
        edited = masks.get(repr(place.latent))
        if edited is not None and (place.mask is None or repr(place.mask) in edited):
            found.append(index)
    if found:
        # Once, as a file may have thousands of such rows.
        message = "a target of this edit lies in it, and is to stay as it is"
        if more := len(found) - 1:
            message += f"; so it is with {more} more {'entry' if more == 1 else 'entries'}"
        hint = "leave it out, or give it a mask beside the target"
        path = ("edits", number, "preserve", found[0])
        yield document.problem(path, message, hint, code=Code.PLACE_PRESERVED, warning=True)


def _image_architecture(surroundings: Surroundings) -> ImageArchitecture | None:
    architecture = surroundings.architecture
    return architecture if isinstance(architecture, ImageArchitecture) else None


def _mask_problems(item: Item, surroundings: Surroundings) -> Iterator[Problem]:
    mask, architecture = fit(Mask, item.value), _image_architecture(surroundings)
    if mask is None or isinstance(mask, UnionMask):  # whose parts come by themselves
        return
    # Shapes are in pixels of an image whose size a .pt checkpoint does not tell yet; files need no
    # size.
    if architecture is None and not isinstance(mask, str):
        return
    size = architecture.image_size if architecture is not None else 0
    document = surroundings.document
    legacy = document.data.get("compatibility") is not None
    try:
        require_sound(mask, surroundings.folder, size, legacy=legacy)
    except MaskError as error:
        yield document.problem(item.path, error.message, error.hint, code=Code.MASK_UNFIT)
        return
    if not isinstance(mask, str):
        return
    for each in find_doubts(mask, surroundings.folder, legacy=legacy):
        yield document.problem(item.path, each.message, each.hint, code=each.code, warning=True)


def _latent_problems(item: Item, surroundings: Surroundings) -> Iterator[Problem]:
    latent, document = fit(Latent, item.value), surroundings.document
    if latent is None:
        return
    if isinstance(latent, int):
        latents = fit(Latents, document.data.get("latents") or {})
        if latents is not None and latents.sampler == "numpy-legacy" and latent >= LEGACY_LENGTH:
            message = (
                f"latent {latent} lies beyond the numpy-legacy stream, which ends at "
                f"{LEGACY_LENGTH - 1}"
            )
            hint = "use the default sampler, whose items are drawn one by one"
            yield document.problem(item.path, message, hint, code=Code.LATENT_UNFIT)
        return
    try:
        if not (isinstance(latent, LatentFile) and _needs_torch(latent, surroundings.folder)):
            read_latent(latent, surroundings.folder, _image_architecture(surroundings))
    except FileError as error:
        yield document.problem(item.path, error.message, error.hint, code=Code.LATENT_UNFIT)


def _needs_torch(latent: LatentFile, folder: Folder) -> bool:
    """Return whether only a build can read the file of a latent."""
    return find_path_problem(latent.file, folder) is None and is_of_torch(folder / latent.file)


def intervention_problem(
    change: Intervention, architecture: ImageArchitecture, edited: str
) -> FieldProblem | None:
    """Find what is wrong with an intervention in an edit of `edited`; or None."""
    code = Code.INTERVENTION_UNFIT
    names = list(architecture.layers)
    if change.layer not in names:
        message = f"there is no {change.layer} in these weights"
        hint = suggest_layer(change.layer, architecture.layers)
        return FieldProblem(("layer",), message, hint, Code.LAYER_UNKNOWN)
    before = []
    for name in names[: names.index(edited)]:
        # Layers of one weight begin at the same place.
        if architecture.layers[name].parameter != architecture.layers[edited].parameter:
            before.append(name)
    if change.layer not in before:
        hint = f"the layers before it: {', '.join(before)}" if before else "edit a later layer"
        message = f"{change.layer} does not come before {edited}, which is edited"
        return FieldProblem(("layer",), message, hint, code)
    channels = architecture.layers[change.layer].out_features
    beyond = [unit for unit in change.units if unit >= channels]
    if beyond:
        message = f"{change.layer} has {channels} units, and there is no unit {beyond[0]}"
        return FieldProblem(("units",), message, f"units are 0 to {channels - 1}", code)
    return None
