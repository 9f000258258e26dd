"""The output folder of a build."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec_compiler import LoadedSpec
from editspec_runtime.errors import (
    FileError,
)
from editspec_runtime.io.files import (
    canonical_json,
    remove_abandoned,
    write,
)
from editspec_runtime.io.outputs import BUILD_FILE

if TYPE_CHECKING:
    pass

BUILD_FORMAT = "editspec.build"


REPORT, STATEMENT = "report.html", "provenance.json"


PARETO = ("pareto.json", "pareto.png")


@dataclass
class BuildFolder:
    """The output of a build: rules, patches, what is told of it `beside` them, and a manifest that
    names them all.
    """

    root: Path
    names: list[str]
    before: list[str]
    beside: Sequence[str] = ()

    @staticmethod
    def prepare(root: Path, names: list[str], beside: Sequence[str] = ()) -> BuildFolder:
        """Take a new or empty folder, or one that an earlier build made. Raises `FileError` for any
        other.
        """
        if root.exists() and not root.is_dir():
            raise FileError(
                f"{root} is a file, and a folder is to be made there.", "Give another folder."
            )
        manifest = root / "manifest.json"
        try:
            found = (
                [path for path in root.iterdir() if path.suffix != ".part"] if root.exists() else []
            )
        except OSError as error:
            raise FileError(f"{root} cannot be read: {error.strerror}.") from error
        before: list[str] = []
        if found:
            before = _own_files(manifest)
            remove_abandoned(root)
        for name in beside:
            if name not in before:
                BUILD_FILE.require_free(root / name)
        # From now on the folder is known as a build's, whatever interrupts it.
        planned = [f"{kind}/{name}" for name in names for kind in ("rules", "patches")]
        _write_manifest(manifest, sorted({*before, *planned, *beside}), [])
        return BuildFolder(root, names, before, beside)

    def rule(self, number: int) -> Path:
        """Where the rule of an edit lies."""
        return self.root / "rules" / self.names[number]

    def patch(self, number: int) -> Path:
        """Where the patch of an edit lies."""
        return self.root / "patches" / self.names[number]

    def keep(self, path: Path, data: bytes) -> None:
        """Write a file unless it is there already as it should be."""
        if not (path.is_file() and path.read_bytes() == data):
            write(path, data)

    def finish(
        self, edits: list[dict[str, Any]], *, rules: bool = True, patches: bool = True
    ) -> None:
        """Remove what an earlier build made and this one did not, and write the manifest."""
        files = [*self.beside, *(f"rules/{name}" for name in self.names if rules)]
        if patches:
            files += [f"patches/{name}" for name in self.names]
        for stale in set(self.before) - set(files) - {f"patches/{name}" for name in self.names}:
            (self.root / stale).unlink(missing_ok=True)
        _write_manifest(self.root / "manifest.json", files, edits)


def patch_names(loaded: LoadedSpec) -> list[str]:
    """Name the file of each edit of a spec, in the rules and in the patches of a build."""
    return [
        f"{number:02d}-{edit.name}.safetensors"
        for number, edit in enumerate(loaded.spec.edits, start=1)
    ]


def _write_manifest(path: Path, files: list[str], edits: list[dict[str, Any]]) -> None:
    manifest = {"format": BUILD_FORMAT, "version": 1, "files": sorted(files), "edits": edits}
    write(
        path,
        (
            json.dumps(json.loads(canonical_json(manifest)), indent=2, sort_keys=True) + "\n"
        ).encode(),
    )


def _own_files(manifest: Path) -> list[str]:
    """The files that a manifest names. Raises `FileError` where there is no manifest of a build."""
    try:
        content = json.loads(manifest.read_text())
        if content["format"] != BUILD_FORMAT:
            raise KeyError("format")
        # A manifest is a file like any other: what it names is only touched where it is what a
        # build makes.
        return [
            name
            for name in content["files"]
            if name in (REPORT, STATEMENT, *PARETO) or _is_inside(name)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{manifest.parent} is not empty, and no build of editspec made it.",
            "Give a new or empty folder.",
        ) from error


def _is_inside(name: str) -> bool:
    return len(Path(name).parts) == 2 and ".." not in Path(name).parts
