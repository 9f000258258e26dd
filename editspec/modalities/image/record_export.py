"""Specs -> edit records for the authors' notebook. Imports no torch by itself."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from editspec.engine.export_results import RecordExport
from editspec.engine.resources import locate_weights
from editspec.modalities.image.record_files import INTERVENED, keep_file, opposite_value
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.schema import (
    ContextPlace,
    Copied,
    ImageEdit,
    ImagePair,
    Mask,
    Place,
    Scene,
    image_spec,
    list_copies,
)
from editspec_compiler.problems import SpecPath
from editspec_runtime.codes import Code
from editspec_runtime.families.registry import import_part
from editspec_runtime.io.outputs import require_ending
from editspec_runtime.modalities.image.architecture import require_images


def export_record(files: Sequence[Path | str], out: Path, model: str | None) -> RecordExport:
    """Write the edit record of a spec, the only one of `files`, to `out`.

    Raises `SpecError` where the spec is wrong or a record cannot hold all of it, and `FileError`
    where a foreign file lies at `out`.
    """
    if not out.exists():
        require_ending(out, (".json",))
    return RecordExport(out, _write_record(files[0], out))


def _write_record(spec: Path | str, out: Path) -> str:
    """Write the one edit of a spec as a record of the authors' notebook.

    An edit of ``pairs`` that swaps two states of the same images becomes a file of interventions.
    Returns the name of the edit.

    Raises
    ------
    SpecError
        The spec is wrong, or says what a record cannot hold.
    FileError
        Something else lies at `out`.
    """
    loaded = load(spec)
    loaded.require_edits()
    edit = _require_recordable(loaded)
    make_record = _edit_record if edit.pairs is None else _intervention_record
    record = make_record(loaded, edit)
    keep_file(out, json.dumps(record).encode())
    return edit.name


def _edit_record(loaded: LoadedSpec, edit: ImageEdit) -> dict[str, Any]:
    """Make the record of an edit of one source and one target."""

    def entry(scene: Copied | Place) -> list[Any]:
        assert scene.mask is not None
        return [scene.latent, _data_url(loaded, scene.mask)]

    target, context = edit.target, edit.context or []
    assert target is not None
    record: dict[str, Any] = {}
    if isinstance(edit.source, Copied):
        record["object"] = entry(edit.source)
    # The notebook takes the first place of the context for the target where none is named.
    if not context or (target.latent, target.mask) != (context[0].latent, context[0].mask):
        record["paste"] = entry(target)
    if edit.query:
        record["query"] = entry(edit.query)
    if context:
        record["key"] = [entry(place) for place in context]
    return record


def _intervention_record(loaded: LoadedSpec, edit: ImageEdit) -> dict[str, Any]:
    """Make the interventions of an edit that swaps two states.

    The first half of the pairs has every image with the other value, the second half with its own.
    """
    pairs = edit.pairs or []
    record = {}
    for pair in pairs[len(pairs) // 2 :]:
        intervention = pair.target.intervene
        assert intervention is not None
        record[str(pair.target.latent)] = {
            "value": str(intervention.value),
            "intervention": _data_url(loaded, intervention.mask),
            "revert": _data_url(loaded, pair.target.mask),
        }
    return record


def _require_recordable(loaded: LoadedSpec) -> ImageEdit:
    """Return the edit of a spec that a record can hold.

    Raises a `SpecError` that lists all that a record cannot hold.
    """
    spec, problems = image_spec(loaded.spec), []

    def refuse(path: SpecPath, message: str, hint: str) -> None:
        problems.append(loaded.document.problem(path, message, hint, code=Code.RECORD_UNFIT))

    if len(spec.edits) > 1:
        refuse(
            ("edits",),
            f"a record holds one edit, and these are {len(spec.edits)}",
            "export specs of one edit each",
        )
    if (spec.latents.seed, spec.latents.sampler) != (1, "numpy-legacy"):
        hint = "write latents: {seed: 1, sampler: numpy-legacy}, and image numbers of that stream"
        refuse(("latents",), "image numbers of a record are those of the authors' stream", hint)
    edit = spec.edits[0]
    if edit.pairs is not None and (edit.context or edit.query or not _are_swaps(edit.pairs)):
        hint = "write source and target, or the pairs of an imported file of interventions"
        refuse(
            ("edits", 0, "pairs"),
            "a record has one source and one target, or swaps two states of its images",
            hint,
        )
    for pair in edit.sides:
        copies = [copy for copy, _ in list_copies(pair.source)]
        if len(copies) > 1 or not all(isinstance(copy, Copied) for copy in copies):
            hint = "name one image that is copied from"
            refuse(("edits", 0, "source"), "a record copies from one image, which it names", hint)
            break
    for path, scene in _list_scenes(edit):
        for below, message, hint in _misfits(scene):
            refuse(("edits", 0, *path, *below), message, hint)
    if problems:
        raise SpecError(loaded.document.file, problems, loaded.document.text)
    return edit


def _list_scenes(edit: ImageEdit) -> Iterator[tuple[SpecPath, Scene]]:
    """Yield the images that an edit names, with their paths below it."""
    named: list[tuple[SpecPath, Any]] = [
        ((name,), getattr(edit, name)) for name in ("source", "target", "query")
    ]
    named += [(("context", index), place) for index, place in enumerate(edit.context or ())]
    for path, scene in named:
        if isinstance(scene, Scene):
            yield path, scene


def _misfits(scene: Scene) -> Iterator[tuple[SpecPath, str, str]]:
    """Yield what a record cannot hold of an image: path, message and hint."""
    if not isinstance(scene.latent, int):
        hint = "name an image of the authors' stream"
        yield ("latent",), "a record names its images by number", hint
    if getattr(scene, "mask", None) is None:
        yield (), "every image of a record has a mask", "write the target's mask"
    if getattr(scene, "shift", None) is not None:
        yield ("shift",), "a record puts what is copied into the middle", "leave shift out"
    if scene.intervene is not None:
        yield ("intervene",), "a record knows no interventions", "leave intervene out"
    if isinstance(scene, ContextPlace) and (scene.exclude is not None or scene.weight != 1.0):
        message = "a record's masks have no weight and exclude nothing"
        yield (), message, "paint it into the mask"


def _are_swaps(pairs: list[ImagePair]) -> bool:
    """Whether pairs are those that the import of interventions writes.

    These are two states of every image, each the source of the other: first every image with the
    other value, then with its own.
    """
    half = len(pairs) // 2
    images = {str(pair.target.latent) for pair in pairs[half:]}
    if len(pairs) % 2 or len(images) < half:
        return False
    return all(map(_is_swap, pairs[:half], pairs[half:]))


def _is_swap(first: ImagePair, second: ImagePair) -> bool:
    """Whether two pairs swap the two states of one image, and write into one mask."""
    sources = [pair.source for pair in (first, second) if isinstance(pair.source, Copied)]
    scenes: list[Scene] = [first.target, second.target, *sources]
    interventions = [scene.intervene for scene in scenes if scene.intervene is not None]
    if len(interventions) < 4 or any(source.mask is not None for source in sources):
        return False
    if interventions[0].layer != INTERVENED:
        return False
    latents = {str(scene.latent) for scene in scenes}
    places = {str((each.layer, each.units, each.mask)) for each in interventions}
    if len(latents) > 1 or len(places) > 1 or type(second.target.latent) is not int:
        return False
    own, other = interventions[1].value, opposite_value(interventions[1].value)
    values = [each.value for each in interventions]
    return values == [other, own, own, other] and first.target.mask == second.target.mask


def _data_url(loaded: LoadedSpec, mask: Mask) -> str:
    """Encode a mask as a data URL: a file's own bytes, or shapes drawn as a grey PNG."""
    if isinstance(mask, str) and mask.startswith("data:"):
        return mask
    if isinstance(mask, str):
        data = (loaded.folder / mask).read_bytes()
        suffix = Path(mask).suffix.lower().lstrip(".")
        media = "jpeg" if suffix == "jpg" else suffix
    else:
        legacy = loaded.spec.compatibility is not None
        image = mask_image(mask, loaded.folder, _image_size(loaded), legacy=legacy)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data, media = buffer.getvalue(), "png"
    return f"data:image/{media};base64,{base64.b64encode(data).decode()}"


def _image_size(loaded: LoadedSpec) -> int:
    """Return the pixels a side of the images of a spec's model."""
    architecture = loaded.architecture
    if architecture is None:
        model = loaded.spec.model
        path = locate_weights(model.weights, loaded.path.parent, pin=model.digest)
        # The weights are opened by torch, which most records do without.
        read = import_part("editspec.engine.opening:read_model_architecture")
        architecture = read(path, model.family)
    return require_images(architecture).image_size
