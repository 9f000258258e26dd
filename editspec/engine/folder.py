"""The output folder of a build."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editspec.engine.patch_files import number_files
from editspec_compiler import LoadedSpec
from editspec_runtime.errors import FileError
from editspec_runtime.io.files import canonical_json, remove_abandoned, write
from editspec_runtime.io.outputs import BUILD_FILE, require_writable

BUILD_FORMAT = "editspec.build"

REPORT, STATEMENT = "report.html", "provenance.json"

PARETO = ("pareto.json", "pareto.png")
"""The curves of a build as numbers and as a picture."""


@dataclass
class BuildFolder:
    """The output of a build: rules, patches, other files, and a manifest of them all.

    Attributes
    ----------
    root
        The folder.
    names
        The file name of each edit, for its rule and for its patch.
    before
        The files of an earlier build, relative to `root`.
    others
        The other files of this build, such as its report.
    there
        The files that the manifest lists: those that are there.
    planned
        The files that the manifest announces until the build is finished.
    """

    root: Path
    names: list[str]
    before: list[str]
    others: Sequence[str] = ()
    there: set[str] = field(default_factory=set)
    planned: list[str] = field(default_factory=list)

    @staticmethod
    def prepare(root: Path, names: list[str], others: Sequence[str] = ()) -> BuildFolder:
        """Take a new or empty folder, or the folder of an earlier build.

        Raises `FileError` for any other folder.
        """
        if root.exists() and not root.is_dir():
            raise FileError(
                f"{root} is a file, and a folder is to be made there.", "Give another folder."
            )
        require_writable(root)
        manifest = root / "manifest.json"
        before: list[str] = []
        if _has_files(root):
            before = _own_files(manifest)
            remove_abandoned(root)
        for name in others:
            if name not in before:
                BUILD_FILE.require_free(root / name)
        planned = [f"{kind}/{name}" for name in names for kind in ("rules", "patches")]
        planned = sorted({*before, *planned, *others})
        folder = BuildFolder(root, names, before, others, planned=planned)
        folder.there = {name for name in before if (root / name).is_file()}
        # From now on the folder is known as a build's, whatever interrupts it.
        folder._announce()
        return folder

    def rule(self, number: int) -> Path:
        """The path of the rule of edit `number`."""
        return self.root / "rules" / self.names[number]

    def patch(self, number: int) -> Path:
        """The path of the patch of edit `number`."""
        return self.root / "patches" / self.names[number]

    def keep(self, path: Path, data: bytes) -> None:
        """Write a file, unless the same bytes lie there already, and list it."""
        if not (path.is_file() and path.read_bytes() == data):
            write(path, data)
        name = path.relative_to(self.root).as_posix()
        if name not in self.there:
            self.there.add(name)
            self._announce()

    def _announce(self) -> None:
        """Write the manifest of an unfinished build.

        It lists the files that are there. Those that are to come are announced apart, so that the
        next build knows them as its own, whatever interrupts this one.
        """
        missing = [name for name in self.planned if name not in self.there]
        _write_manifest(self.root / "manifest.json", sorted(self.there), [], missing)

    def finish(
        self, edits: list[dict[str, Any]], *, rules: bool = True, patches: bool = True
    ) -> None:
        """Remove the files that only an earlier build made, and write the manifest."""
        patch_files = [f"patches/{name}" for name in self.names]
        files = list(self.others)
        if rules:
            files += [f"rules/{name}" for name in self.names]
        if patches:
            files += patch_files
        # Patches of these edits stay even where only rules are made: a build may take them.
        for stale in set(self.before) - set(files) - set(patch_files):
            (self.root / stale).unlink(missing_ok=True)
        if not patches:
            files += [name for name in patch_files if name in self.there]
        _write_manifest(self.root / "manifest.json", files, edits)


def patch_names(loaded: LoadedSpec) -> list[str]:
    """The file name of each edit of a spec, for its rule and for its patch."""
    return number_files(edit.name for edit in loaded.spec.edits)


def _has_files(root: Path) -> bool:
    """Whether a folder holds more than files that an interrupted write left."""
    if not root.exists():
        return False
    try:
        return any(path.suffix != ".part" for path in root.iterdir())
    except OSError as error:
        raise FileError(
            f"{root} cannot be read: {error.strerror}.",
            "Give another folder, or make this one readable.",
        ) from error


def _write_manifest(
    path: Path, files: list[str], edits: list[dict[str, Any]], planned: Sequence[str] = ()
) -> None:
    manifest = {"format": BUILD_FORMAT, "version": 1, "files": sorted(files), "edits": edits}
    if planned:
        manifest["planned"] = list(planned)
    # Canonical first, so that numbers are written in one way whatever type they have.
    plain = json.loads(canonical_json(manifest))
    text = json.dumps(plain, indent=2, sort_keys=True)
    write(path, f"{text}\n".encode())


def _own_files(manifest: Path) -> list[str]:
    """The files that a manifest lists or announces.

    Raises `FileError` where there is no manifest of a build.
    """
    try:
        content = json.loads(manifest.read_text())
        if content["format"] != BUILD_FORMAT:
            raise KeyError("format")
        # Anyone may have written the manifest, and files that it names may be removed. So only
        # names that a build makes count, and none leads out of the folder.
        return [
            name
            for name in [*content["files"], *content.get("planned", ())]
            if name in (REPORT, STATEMENT, *PARETO) or _is_inside(name)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{manifest.parent} is not empty, and no build of editspec made it.",
            "Give a new or empty folder.",
        ) from error


def _is_inside(name: str) -> bool:
    return len(Path(name).parts) == 2 and ".." not in Path(name).parts
