"""``editspec inspect``: the contents of a file. Specs and rules need no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.facts import FileFacts, TensorFacts, list_tensors
from editspec.engine.lock import read_lock
from editspec.engine.resources import locate_weights
from editspec.engine.result import to_plain
from editspec_compiler import load
from editspec_runtime.core.rule import FORMAT as RULE_FORMAT
from editspec_runtime.errors import reading_foreign
from editspec_runtime.families.registry import FAMILIES, import_part
from editspec_runtime.io.file_kinds import HEAD, find_kind, is_picture
from editspec_runtime.io.files import read_editspec_metadata, read_header, require_file
from editspec_runtime.io.places import container_of
from editspec_runtime.io.shards import is_sharded
from editspec_runtime.methods.rule_header import read_rule_header

PATCH = "editspec.patch"

MANIFEST = "manifest.json"
"""The file that makes a folder a build."""

READERS = {
    "patch": "editspec.engine.contents:describe_patch",
    "weights": "editspec.engine.contents:describe_weights",
    "layers": "editspec.engine.contents:list_network_layers",
    "mask": "editspec.modalities.image.mask_facts:describe_mask",
}
"""The readers that need torch or Pillow, each imported only for a file of its kind."""


@dataclass(frozen=True)
class SpecEdit:
    """An edit of a spec; `rank` is None where its method has none."""

    name: str
    layer: str
    rank: int | None
    solver: str


@dataclass(frozen=True)
class SpecCheck:
    """A check of a spec."""

    name: str
    measure: str
    edit: str | None
    severity: str


@dataclass(frozen=True)
class SpecFacts(FileFacts):
    """A spec.

    Attributes
    ----------
    model
        The field ``model`` of the spec.
    edits, checks
        The edits and checks in the order of the spec.
    layers
        The layers of a network that only its own code can list; None for other families.
    """

    model: dict[str, Any]
    edits: tuple[SpecEdit, ...]
    checks: tuple[SpecCheck, ...]
    layers: tuple[Any, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, without those that the spec lacks."""
        plain: dict[str, Any] = {"kind": "spec", "model": self.model, "edits": to_plain(self.edits)}
        if self.checks:
            plain["checks"] = to_plain(self.checks)
        if self.layers is not None:
            plain["layers"] = to_plain(self.layers)
        return plain


@dataclass(frozen=True)
class RuleFacts(FileFacts):
    """A rule: its metadata, and its tensors."""

    metadata: dict[str, Any]
    tensors: tuple[TensorFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """The metadata, and the tensors without their numbers."""
        return {"kind": "rule", **self.metadata, "tensors": to_plain(self.tensors)}


@dataclass(frozen=True)
class LockFacts(FileFacts):
    """A lock: the digest of its weights, and the results of its edits."""

    weights: str
    edits: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {"kind": "lock", "weights": self.weights, "edits": list(self.edits)}


@dataclass(frozen=True)
class BuildFacts(FileFacts):
    """A build folder: the edits of its manifest."""

    edits: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {"kind": "build", "edits": list(self.edits)}


def inspect(file: Path | str, family: str | None = None) -> FileFacts:
    """Show the kind of a file and its contents.

    Parameters
    ----------
    file
        A spec, a lock, a rule, a patch, a build folder or its manifest, a mask, or weights.
        Weights may be ``builtin:skyline``, or the index or the folder of weights in several files.

    Raises
    ------
    SpecError
        A spec is wrong.
    EditError
        Any other file is damaged or unknown.
    """
    manifest = Path(file)
    if manifest.name != MANIFEST:
        manifest /= MANIFEST
    if manifest.is_file():
        return _describe_build(manifest)
    path = locate_weights(str(file), Path())
    if is_sharded(path):
        return _read("weights", path, family)
    require_file(path)
    with path.open("rb") as opened:
        kind = find_kind(opened.read(HEAD))
    if is_picture(kind):
        return _read("mask", path)
    if path.suffix == ".lock":
        return _describe_lock(path)
    if path.suffix in (".yaml", ".yml", ".json"):
        return _describe_spec(path)
    if container_of(path) != "safetensors":
        return _read("weights", path, family)
    header = read_header(path)
    metadata = read_editspec_metadata(header, path)
    if metadata.get("format") == PATCH:
        return _read("patch", path)
    if metadata.get("format") == RULE_FORMAT:
        return RuleFacts(read_rule_header(path), list_tensors(header))
    return _read("weights", path, family)


def _read(kind: str, *arguments: Any) -> FileFacts:
    facts: FileFacts = import_part(READERS[kind])(*arguments)
    return facts


def _describe_lock(path: Path) -> LockFacts:
    lock = read_lock(path)
    assert lock is not None
    names = {"name", "loss", "residual", "patch", "result"}
    edits = [edit.model_dump(include=names) for edit in lock.edits]
    return LockFacts(lock.weights, tuple(edits))


def _describe_build(manifest: Path) -> BuildFacts:
    with reading_foreign(manifest):
        require_file(manifest)
        entries = json.loads(manifest.read_bytes())["edits"]
        names = ("name", "layer", "layers", "rank", "loss", "digest", "result")
        edits = [{name: each[name] for name in names if name in each} for each in entries]
    return BuildFacts(tuple(edits))


def _describe_spec(path: Path) -> SpecFacts:
    loaded = load(path)
    spec = loaded.spec
    edits = tuple(SpecEdit(e.name, e.layer, e.rank_limit, e.solver.method) for e in spec.edits)
    checks = tuple(
        SpecCheck(c.name or c.measure, c.measure, c.edit, c.severity) for c in spec.checks
    )
    layers = None
    if FAMILIES[spec.model.family].read_architecture is None:
        layers = import_part(READERS["layers"])(loaded)
    return SpecFacts(spec.model.model_dump(exclude_none=True), edits, checks, layers)
