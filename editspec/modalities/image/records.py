"""Edits of other tools in and out: the records of the authors' notebook -> specs, and back."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.opening import fetch_weights, known_architecture
from editspec.engine.resources import locate_weights
from editspec.modalities.image.interventions import INTERVENED, find_windows
from editspec_compiler import LoadedSpec, Problem, SpecError, load
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.records import Intervention, Record, Region, read_record
from editspec_compiler.modalities.image.schema import (
    ContextPlace,
    Copied,
    ImageEdit,
    ImagePair,
    Mask,
    Place,
    Scene,
    image_spec,
)
from editspec_compiler.problems import SpecPath
from editspec_compiler.validation import suggest
from editspec_runtime.codes import Code
from editspec_runtime.errors import EditError, FileError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.io.files import require_file, write
from editspec_runtime.io.outputs import kept_file
from editspec_runtime.methods.registry import DEFAULT_METHOD, REFLECTIONS
from editspec_runtime.modalities.image.architecture import require_images

AUTHORS = """\
latents: {seed: 1, sampler: numpy-legacy}    # the authors' stream: their image numbers
statistics: {samples: 1000, seed: 1}         # and their sample of it
"""
COMMENT = "    # the authors' defaults"
SOLVER = f"{{method: {DEFAULT_METHOD.name}, steps: 2001, learning_rate: 0.05, project_every: 10}}"
SOLVER += COMMENT
SWAP_SOLVER = (
    f"{{method: {REFLECTIONS.name}, steps: 10000, learning_rate: 0.01, project_every: 10}}"
)
SWAP_SOLVER += COMMENT
BRIGHT, DIM = 10.0, -5.0
"""Values of the units of windows at which the authors had them bright and dark (paper section
5.3).
"""

UNITS = 30
"""Units that the authors' erase takes out."""


@dataclass(frozen=True)
class Imported:
    """An imported record: its spec and its meaning, or why there is none."""

    record: Path
    spec: Path
    meaning: str = ""
    error: SpecError | EditError | None = None


def read_records(
    records: Path, out: Path, *, family: str, weights: str, layer: str, compatibility: bool = False
) -> list[Imported]:
    """Write the spec of a record to `out`, or the specs of all records in a folder to the folder
    `out`.

    Masks go into ``masks`` beside `out` (or in it), byte for byte, each once, named by their
    digest. In a folder a record that is wrong stops no other.

    Raises
    ------
    SpecError
        The record, or the family or layer that was asked for, is wrong.
    FileError
        A file is missing, or something else lies where one is to be written.
    """
    target = _Target(family, _checked_weights(family, weights, layer), layer, compatibility)
    if not records.is_dir():
        return [_import(records, out, out.parent / "masks", target)]
    found = sorted(records.rglob("*.json"))
    if not found:
        raise FileError(f"{records} holds no .json file.", "Give a record, or a folder of records.")
    imported = []
    for record in found:
        spec = out / record.relative_to(records).with_suffix(".yaml")
        try:
            imported.append(_import(record, spec, out / "masks", target))
        except (SpecError, EditError) as error:
            imported.append(Imported(record, spec, error=error))
    return imported


@dataclass(frozen=True)
class _Target:
    """The model and the layer, which no record names."""

    family: str
    weights: str
    layer: str
    compatibility: bool

    def head(self, spec: Path) -> str:
        """The beginning of a spec up to its edits; a path of weights becomes relative to it."""
        weights = self.weights
        if ":" not in weights and not Path(weights).is_absolute():
            weights = Path(os.path.relpath(weights, spec.parent)).as_posix()
        switch = (
            "compatibility: rewriting-2020                # do as their code does, quirk by quirk\n"
            if self.compatibility
            else ""
        )
        return f"version: 1\nmodel:\n  family: {self.family}\n  weights: {_quoted(weights)}\n{AUTHORS}{switch}edits:\n"


def _checked_weights(family: str, weights: str, layer: str) -> str:
    """`weights`, if they can be read and have the layer. Raises what is wrong with the command
    line.
    """
    if family not in FAMILIES:
        raise SpecError(
            "--family",
            [
                Problem(
                    f"there is no family {family}",
                    hint=suggest(family, list(FAMILIES)),
                    code=Code.OPTION_UNFIT,
                )
            ],
        )
    path = locate_weights(weights, Path())
    require_file(path)
    layers = list(known_architecture(read_weights(path), path, family).layers)
    if layer not in layers:
        raise SpecError(
            "--layer",
            [
                Problem(
                    f"there is no {layer} in {weights}",
                    hint=suggest(layer, layers),
                    code=Code.OPTION_UNFIT,
                )
            ],
        )
    return weights


def _import(record: Path, spec: Path, masks: Path, target: _Target) -> Imported:
    read = read_record(record, legacy=target.compatibility)
    store = _Masks(masks, spec.parent)
    if isinstance(read, Record):
        meaning, edit = read.meaning, _edit_text(_name(record), read, target.layer, store)
    else:
        meaning = "interventions: bright and dim reflections are swapped"
        edit = _swap_text(_name(record), read, target, store)
    head = f"# {meaning[0].upper()}{meaning[1:]}. Imported from {record.name}, a record of the authors' notebook.\n"
    text = (
        head
        + "# Layer and model are those of the command; neither is in a record, nor are rank and steps.\n"
    )
    text += target.head(spec) + edit
    _keep(spec, text.encode())
    for path, data in store.files.items():
        _keep(path, data)
    return Imported(record, spec, meaning)


def _swap_text(name: str, interventions: list[Intervention], target: _Target, masks: _Masks) -> str:
    """The edit of the reflection experiment: the reflection of one state of the windows is to be
    seen with the other state.
    """
    units, observed = find_windows(
        target.weights, target.family, target.layer, interventions, target.compatibility
    )
    lines = [
        f"  - name: {_quoted(name)}",
        f"    layer: {target.layer}",
        "    rank: 1",
        f"    observe: {observed}",
        "    # No record names the units that are switched: these respond most to the interventions' masks.",
        f"    # {BRIGHT:g} switches them on and {DIM:g} off, as the authors did; one of the two is the record's value.",
        "    pairs:",
    ]

    def write_scene(one: Intervention, value: float, units: str) -> str:
        intervention = f"layer: {INTERVENED}, units: {units}, value: {value:g}"
        mask = masks.name(one.switched)
        return f"latent: {one.image}, intervene: {{{intervention}, mask: {mask}}}"

    shown = f"&windows {units}"  # the units are written once, and meant by name from there on
    for recorded in (False, True):
        for one in interventions:
            own, other = one.value, _opposite(one.value)
            if not recorded:
                own, other = other, own
            source = write_scene(one, other, shown)
            shown = "*windows"
            goal = write_scene(one, own, shown)
            lines += [
                f"      - source: {{{source}}}",
                f"        target: {{{goal}, mask: {masks.name(one.reverted)}}}",
            ]
    return "\n".join([*lines, f"    solver: {SWAP_SOLVER}", ""])


def _opposite(value: float) -> float:
    """The value of windows in the other of their two states; a record holds the one that
    was last looked at.
    """
    return DIM if value > 0 else BRIGHT


class _Masks:
    """Masks as files, each once."""

    def __init__(self, folder: Path, spec_folder: Path) -> None:
        self.folder = folder
        self.spec_folder = spec_folder
        self.files: dict[Path, bytes] = {}

    def place(self, region: Region) -> str:
        """A place of the language."""
        return f"{{latent: {region.image}, mask: {self.name(region)}}}"

    def name(self, region: Region) -> str:
        """The mask's file as the spec names it."""
        path = self.folder / f"{hashlib.sha256(region.bytes).hexdigest()[:16]}{region.suffix}"
        self.files[path] = region.bytes
        return _quoted(Path(os.path.relpath(path, self.spec_folder)).as_posix())


def _edit_text(name: str, record: Record, layer: str, masks: _Masks) -> str:
    erase = f"{{erase: {{units: {UNITS}}}}}                 # the authors' number of units"
    lines = [
        f"  - name: {_quoted(name)}",
        f"    layer: {layer}",
        "    rank: 1",
        f"    source: {masks.place(record.copied) if record.copied else erase}",
        f"    target: {masks.place(record.target)}",
    ]
    if record.context:
        lines += ["    context:", *(f"      - {masks.place(region)}" for region in record.context)]
    if record.query:
        lines.append(f"    query: {masks.place(record.query)}")
    return "\n".join([*lines, f"    solver: {SOLVER}", ""])


def _name(record: Path) -> str:
    """A name for an edit: that of the record's file, without what a name must not hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", record.stem).strip("-._")[:80] or "edit"


def _quoted(text: str) -> str:
    """Text as a scalar of YAML: as it is where that is safe, else in double quotes, as JSON writes
    it.
    """
    word = re.fullmatch(r"[A-Za-z./][A-Za-z0-9./_@-]*", text) and text.lower() not in (
        "null",
        "true",
        "false",
    )
    return text if word else json.dumps(text)


def _keep(path: Path, data: bytes) -> None:
    """Write a file unless it is there already as it should be. Raises `FileError` where another is
    in the way.
    """
    kept_file(data).require_free(path)
    if not path.exists():
        write(path, data)


def export_record(spec: Path | str, out: Path) -> str:
    """Write the one edit of a spec as a record of the authors' notebook; its name.

    An edit of `pairs` that swaps two states of the same images becomes a file of interventions.

    Raises
    ------
    SpecError
        The spec is wrong, or says what a record cannot hold.
    FileError
        Something else lies at `out`.
    """
    loaded = load(spec)
    edit = _recordable(loaded)
    record = (
        _intervention_record(loaded, edit) if edit.pairs is not None else _edit_record(loaded, edit)
    )
    _keep(out, json.dumps(record).encode())
    return edit.name


def _edit_record(loaded: LoadedSpec, edit: ImageEdit) -> dict[str, Any]:
    """The record of an edit of one source and one target."""

    def entry(scene: Copied | Place) -> list[Any]:
        assert scene.mask is not None
        return [scene.latent, _data_url(loaded, scene.mask)]

    target, context = edit.target, edit.context or []
    assert target is not None
    record: dict[str, Any] = (
        {"object": entry(edit.source)} if isinstance(edit.source, Copied) else {}
    )
    if not context or (target.latent, target.mask) != (context[0].latent, context[0].mask):
        record["paste"] = entry(target)
    if edit.query:
        record["query"] = entry(edit.query)
    if context:
        record["key"] = [entry(place) for place in context]
    return record


def _intervention_record(loaded: LoadedSpec, edit: ImageEdit) -> dict[str, Any]:
    """The interventions of an edit that swaps two states: first every image with the other value,
    then with its own.
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


def _recordable(loaded: LoadedSpec) -> ImageEdit:
    """The edit of a spec that a record can hold. Raises a `SpecError` that lists what it cannot."""
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
    if edit.pairs is not None and (edit.context or edit.query or not _swaps(edit.pairs)):
        hint = "write source and target, or the pairs of an imported file of interventions"
        refuse(
            ("edits", 0, "pairs"),
            "a record has one source and one target, or swaps two states of its images",
            hint,
        )
    named: list[tuple[SpecPath, Any]] = [
        ((name,), getattr(edit, name)) for name in ("source", "target", "query")
    ]
    named += [(("context", index), place) for index, place in enumerate(edit.context or ())]
    for path, scene in named:
        if not isinstance(scene, Scene):
            continue
        if not isinstance(scene.latent, int):
            hint = "name an image of the authors' stream"
            refuse(("edits", 0, *path, "latent"), "a record names its images by number", hint)
        if getattr(scene, "mask", None) is None:
            refuse(
                ("edits", 0, *path), "every image of a record has a mask", "write the target's mask"
            )
        if scene.intervene is not None:
            refuse(
                ("edits", 0, *path, "intervene"),
                "a record knows no interventions",
                "leave intervene out",
            )
        if isinstance(scene, ContextPlace) and (scene.exclude is not None or scene.weight != 1.0):
            refuse(
                ("edits", 0, *path),
                "a record's masks have no weight and exclude nothing",
                "paint it into the mask",
            )
    if problems:
        raise SpecError(loaded.document.file, problems, loaded.document.text)
    return edit


def _swaps(pairs: list[ImagePair]) -> bool:
    """Whether pairs are those that the import of interventions writes.

    These are two states of every image, each the source of the other: first every image with the
    other value, then with its own.
    """
    half = len(pairs) // 2
    images = {str(pair.target.latent) for pair in pairs[half:]}
    if len(pairs) % 2 or len(images) < half:
        return False
    return all(map(_swap_states, pairs[:half], pairs[half:]))


def _swap_states(first: ImagePair, second: ImagePair) -> bool:
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
    own, other = interventions[1].value, _opposite(interventions[1].value)
    values = [each.value for each in interventions]
    return values == [other, own, own, other] and first.target.mask == second.target.mask


def _data_url(loaded: LoadedSpec, mask: Mask) -> str:
    """A mask as a data URL: a file's own bytes; shapes drawn as a grey PNG."""
    if isinstance(mask, str) and mask.startswith("data:"):
        return mask
    if isinstance(mask, str):
        data, media = (
            (loaded.path.parent / mask).read_bytes(),
            Path(mask).suffix.lower().lstrip("."),
        )
    else:
        image = mask_image(
            mask,
            loaded.path.parent,
            _image_size(loaded),
            legacy=loaded.spec.compatibility is not None,
        )
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data, media = buffer.getvalue(), "png"
    return (
        f"data:image/{ {'jpg': 'jpeg'}.get(media, media) };base64,{base64.b64encode(data).decode()}"
    )


def _image_size(loaded: LoadedSpec) -> int:
    architecture = loaded.architecture
    if architecture is None:
        path = fetch_weights(loaded)
        architecture = known_architecture(read_weights(path), path, loaded.spec.model.family)
    return require_images(architecture).image_size
