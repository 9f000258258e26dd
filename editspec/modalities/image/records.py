"""Import and export of the records that the authors' notebook saves."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from editspec.engine.opening import find_architecture
from editspec.engine.resources import locate_weights
from editspec.modalities.image.interventions import find_windows
from editspec.modalities.image.record_files import (
    BRIGHT,
    DIM,
    INTERVENED,
    keep_file,
    opposite_value,
)
from editspec_compiler import Problem, SpecError
from editspec_compiler.modalities.image.records import Intervention, Record, Region, read_record
from editspec_compiler.problems import suggest
from editspec_runtime.codes import Code
from editspec_runtime.errors import EditError, WrongPath
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.io.files import require_file
from editspec_runtime.io.outputs import require_ending
from editspec_runtime.methods.registry import PROJECTED_GRADIENT, REFLECTIONS

AUTHORS = """\
latents: {seed: 1, sampler: numpy-legacy}    # the authors' stream: their image numbers
statistics: {samples: 1000, seed: 1}         # and their sample of it
"""
AUTHORS_NUMERICS = """\
compatibility: rewriting-2020                # do as their code does, quirk by quirk
"""
COMMENT = "    # the authors' defaults"
STEPS = "steps: 2001, learning_rate: 0.05, project_every: 10"
SOLVER = f"{{method: {PROJECTED_GRADIENT.name}, {STEPS}}}{COMMENT}"
SWAP_STEPS = "steps: 10000, learning_rate: 0.01, project_every: 10"
SWAP_SOLVER = f"{{method: {REFLECTIONS.name}, {SWAP_STEPS}}}{COMMENT}"

UNITS = 30
"""The number of units that the authors' erase takes out."""


@dataclass(frozen=True)
class Imported:
    """An imported record: its spec and its meaning, or the error that prevented one."""

    record: Path
    spec: Path
    meaning: str = ""
    error: SpecError | EditError | None = None


def read_records(
    records: Path, out: Path, *, family: str, weights: str, layer: str, compatibility: bool = False
) -> list[Imported]:
    """Write the spec of a record, or of every record in a folder.

    Masks are written byte for byte, each once, and named by their digest. A wrong record in a
    folder does not stop the others.

    Parameters
    ----------
    records
        A record, or a folder of records.
    out
        The spec, with its masks in ``masks`` next to it; of a folder, the folder of specs, with
        ``masks`` in it.
    family, weights, layer
        The model and the layer of the edits, which no record names.
    compatibility
        Whether the specs ask for the numerics of the authors' code.

    Raises
    ------
    SpecError
        The record, or the family or layer that was asked for, is wrong.
    FileError
        A file is missing, or something else lies where one is to be written.
    """
    _check_target(family, weights, layer)
    target = _Target(family, weights, layer, compatibility)
    if not records.is_dir():
        if not out.exists():
            require_ending(out, (".yaml", ".yml"))
        return [_import(records, out, out.parent / "masks", target)]
    found = sorted(records.rglob("*.json"))
    if not found:
        raise WrongPath(f"{records} holds no .json file.", "Give a record, or a folder of records.")
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
    """The model and the layer of an import, which no record names."""

    family: str
    weights: str
    layer: str
    compatibility: bool

    def head(self, spec: Path) -> str:
        """Write the beginning of a spec up to its edits.

        A path of weights becomes relative to the spec.
        """
        weights = self.weights
        if ":" not in weights and not Path(weights).is_absolute():
            weights = Path(os.path.relpath(weights, spec.parent)).as_posix()
        model = f"model:\n  family: {self.family}\n  weights: {_quote(weights)}\n"
        numerics = AUTHORS_NUMERICS if self.compatibility else ""
        return f"version: 1\n{model}{AUTHORS}{numerics}edits:\n"


def _check_target(family: str, weights: str, layer: str) -> None:
    """Raise a `SpecError` where the family is unknown or the weights lack the layer."""
    if family not in FAMILIES:
        message, hint = f"there is no family {family}", suggest(family, list(FAMILIES))
        raise SpecError("--family", [Problem(message, hint=hint, code=Code.OPTION_UNFIT)])
    path = locate_weights(weights, Path())
    require_file(path)
    layers = list(find_architecture(read_weights(path), path, family).layers)
    if layer not in layers:
        message, hint = f"there is no {layer} in {weights}", suggest(layer, layers)
        raise SpecError("--layer", [Problem(message, hint=hint, code=Code.OPTION_UNFIT)])


def _import(record: Path, spec: Path, masks: Path, target: _Target) -> Imported:
    """Write the spec of one record, and its masks."""
    read = read_record(record, legacy=target.compatibility)
    store = _Masks(masks, spec.parent)
    if isinstance(read, Record):
        meaning, edit = read.meaning, _edit_text(_name(record), read, target.layer, store)
    else:
        meaning = "interventions: bright and dim reflections are swapped"
        edit = _swap_text(_name(record), read, target, store)
    sentence = f"{meaning[0].upper()}{meaning[1:]}"
    comments = (
        f"# {sentence}. Imported from {record.name}, a record of the authors' notebook.\n"
        "# Layer and model are those of the command;"
        " neither is in a record, nor are rank and steps.\n"
    )
    text = comments + target.head(spec) + edit
    keep_file(spec, text.encode())
    for path, data in store.files.items():
        keep_file(path, data)
    return Imported(record, spec, meaning)


def _swap_text(name: str, interventions: list[Intervention], target: _Target, masks: _Masks) -> str:
    """Write the edit of the reflection experiment (paper section 5.3).

    The reflection of one state of the windows is to be seen with the other state.
    """
    units, observed = find_windows(
        target.weights, target.family, target.layer, interventions, target.compatibility
    )
    lines = [
        f"  - name: {_quote(name)}",
        f"    layer: {target.layer}",
        "    rank: 1",
        f"    observe: {observed}",
        "    # No record names the units that are switched:"
        " these respond most to the interventions' masks.",
        f"    # {BRIGHT:g} switches them on and {DIM:g} off, as the authors did;"
        " one of the two is the record's value.",
        "    pairs:",
    ]

    def write_scene(one: Intervention, value: float, units: str) -> str:
        intervention = f"layer: {INTERVENED}, units: {units}, value: {value:g}"
        mask = masks.name(one.switched)
        return f"latent: {one.image}, intervene: {{{intervention}, mask: {mask}}}"

    shown = f"&windows {units}"  # written once as an anchor; all later places are its alias
    for recorded in (False, True):
        for one in interventions:
            own, other = one.value, opposite_value(one.value)
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


class _Masks:
    """The masks of a spec as files, each once."""

    def __init__(self, folder: Path, spec_folder: Path) -> None:
        self.folder = folder
        self.spec_folder = spec_folder
        self.files: dict[Path, bytes] = {}

    def place(self, region: Region) -> str:
        """Write a place of the language."""
        return f"{{latent: {region.image}, mask: {self.name(region)}}}"

    def name(self, region: Region) -> str:
        """Return the mask's file as the spec names it, and note its bytes."""
        path = self.folder / f"{hashlib.sha256(region.bytes).hexdigest()[:16]}{region.suffix}"
        self.files[path] = region.bytes
        return _quote(Path(os.path.relpath(path, self.spec_folder)).as_posix())


def _edit_text(name: str, record: Record, layer: str, masks: _Masks) -> str:
    """Write an edit that copies, or that erases where the record copies nothing."""
    source = f"{{erase: {{units: {UNITS}}}}}                 # the authors' number of units"
    if record.copied:
        source = masks.place(record.copied)
    lines = [
        f"  - name: {_quote(name)}",
        f"    layer: {layer}",
        "    rank: 1",
        f"    source: {source}",
        f"    target: {masks.place(record.target)}",
    ]
    if record.context:
        lines += ["    context:", *(f"      - {masks.place(region)}" for region in record.context)]
    if record.query:
        lines.append(f"    query: {masks.place(record.query)}")
    return "\n".join([*lines, f"    solver: {SOLVER}", ""])


def _name(record: Path) -> str:
    """Make a valid name of an edit from the name of a record's file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", record.stem).strip("-._")[:80] or "edit"


def _quote(text: str) -> str:
    """Write text as a scalar of YAML, in double quotes where it needs them."""
    is_plain = re.fullmatch(r"[A-Za-z./][A-Za-z0-9./_@-]*", text) is not None
    # YAML would read these words as values of other types.
    if is_plain and text.lower() not in ("null", "true", "false"):
        return text
    return json.dumps(text)
