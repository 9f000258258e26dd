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

from editspec_compiler import LoadedSpec, Problem, SpecError, load
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.records import Intervention, Record, Region, read_record
from editspec_compiler.problems import Path as SpecPath
from editspec_compiler.schema import ContextPlace, Copied, Edit, Mask, Pair, Place, Scene, near
from editspec_runtime.errors import EditError, FileError
from editspec_runtime.families import FAMILIES
from editspec_runtime.families.checkpoints import weights_path
from editspec_runtime.io.files import require_file, write

AUTHORS = """\
latents: {seed: 1, sampler: numpy-legacy}    # the authors' stream: their image numbers
statistics: {samples: 1000, seed: 1}         # and their sample of it
"""
SOLVER = "{method: projected-gradient, steps: 2001, learning_rate: 0.05, project_every: 10}    # the authors' defaults"
SWAP_SOLVER = "{method: low-rank, steps: 10000, learning_rate: 0.01, project_every: 10}    # the authors' defaults"
BRIGHT, DIM = 10.0, -5.0
"""What the authors set the units of windows to, to have them bright and dark (paper section
5.3).
"""

UNITS = 30
"""Units that the authors' erase takes out."""


@dataclass(frozen=True)
class Imported:
    """What became of one record: the spec and what the record meant, or why there is none."""

    record: Path
    spec: Path
    meaning: str = ""
    error: SpecError | EditError | None = None


def import_records(
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
    """What no record says: the model and the layer."""

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
    from editspec.commands.inspect import known_architecture
    from editspec_runtime.families.checkpoints import read_checkpoint

    if family not in FAMILIES:
        raise SpecError(
            "--family", [Problem(f"there is no family {family}", hint=near(family, list(FAMILIES)))]
        )
    path = weights_path(weights, Path())
    require_file(path)
    layers = list(known_architecture(read_checkpoint(path), path, family).layers)
    if layer not in layers:
        raise SpecError(
            "--layer", [Problem(f"there is no {layer} in {weights}", hint=near(layer, layers))]
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
    """The reflection experiment: what one state of the windows reflects is to be seen with the
    other state.
    """
    from editspec.modalities.image import interventions as switches

    units, later = switches.unsaid(
        target.weights, target.family, target.layer, interventions, target.compatibility
    )
    lines = [
        f"  - name: {_quoted(name)}",
        f"    layer: {target.layer}",
        "    rank: 1",
        f"    observe: {later}",
        "    # No record names the units that are switched: these respond most to the interventions' masks.",
        f"    # {BRIGHT:g} switches them on and {DIM:g} off, as the authors did; one of the two is the record's value.",
        "    pairs:",
    ]
    for recorded in (False, True):
        for one in interventions:
            own, other = (
                (one.value, _opposite(one.value)) if recorded else (_opposite(one.value), one.value)
            )

            def scene(value: float, units: str = "*windows", one: Intervention = one) -> str:
                switch = f"layer: {switches.SWITCHED}, units: {units}, value: {value:g}"
                return f"latent: {one.image}, intervene: {{{switch}, mask: {masks.name(one.switched)}}}"

            first = f"&windows {units}" if len(lines) == 7 else "*windows"
            lines += [
                f"      - source: {{{scene(other, first)}}}",
                f"        target: {{{scene(own)}, mask: {masks.name(one.reverted)}}}",
            ]
    return "\n".join([*lines, f"    solver: {SWAP_SOLVER}", ""])


def _opposite(value: float) -> float:
    """What windows are switched to in the other of their two states; a record holds the one that
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
    if path.exists():
        if path.is_file() and path.read_bytes() == data:
            return
        raise FileError(
            f"{path} is in the way: it is not what the record gives.",
            "Remove it, or give another name.",
        )
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


def _edit_record(loaded: LoadedSpec, edit: Edit) -> dict[str, Any]:
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


def _intervention_record(loaded: LoadedSpec, edit: Edit) -> dict[str, Any]:
    """The interventions of an edit that swaps two states: first every image with the other value,
    then with its own.
    """
    pairs = edit.pairs or []
    record = {}
    for pair in pairs[len(pairs) // 2 :]:
        switched = pair.target.intervene
        assert switched is not None
        record[str(pair.target.latent)] = {
            "value": str(switched.value),
            "intervention": _data_url(loaded, switched.mask),
            "revert": _data_url(loaded, pair.target.mask),
        }
    return record


def _recordable(loaded: LoadedSpec) -> Edit:
    """The edit of a spec that a record can hold. Raises a `SpecError` that lists what it cannot."""
    spec, problems = loaded.spec, []

    def refuse(path: SpecPath, message: str, hint: str) -> None:
        problems.append(loaded.document.problem(path, message, hint))

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


def _swaps(pairs: list[Pair]) -> bool:
    """Whether pairs are what the import of interventions writes: two states, each the source of the
    other.
    """
    from editspec.modalities.image.interventions import SWITCHED

    half = len(pairs) // 2
    images = [pair.target.latent for pair in pairs[half:]]
    if len(pairs) % 2 or len({str(image) for image in images}) < half:
        return False
    for first, second in zip(pairs[:half], pairs[half:], strict=True):
        sources = [pair.source for pair in (first, second) if isinstance(pair.source, Copied)]
        scenes: list[Scene] = [first.target, second.target, *sources]
        switches = [scene.intervene for scene in scenes if scene.intervene is not None]
        if (
            len(switches) < 4
            or any(source.mask is not None for source in sources)
            or switches[0].layer != SWITCHED
        ):
            return False
        if (
            len({str(scene.latent) for scene in scenes}) > 1
            or type(second.target.latent) is not int
        ):
            return False
        if len({str((each.layer, each.units, each.mask)) for each in switches}) > 1:
            return False
        own, other = switches[1].value, _opposite(switches[1].value)
        if [each.value for each in switches] != [
            other,
            own,
            own,
            other,
        ] or first.target.mask != second.target.mask:
            return False
    return True


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
    if loaded.architecture is not None:
        return loaded.architecture.image_size
    from editspec.commands.inspect import known_architecture
    from editspec.engine.session import fetched
    from editspec_runtime.families.checkpoints import read_checkpoint

    path = fetched(loaded)
    return known_architecture(read_checkpoint(path), path, loaded.spec.model.family).image_size
