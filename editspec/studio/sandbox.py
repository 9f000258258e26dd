"""What a spec whose text comes from a browser may name: files of its project folder, and what was
opened with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec_compiler.document import Document
from editspec_compiler.problems import Path as SpecPath
from editspec_compiler.problems import Problem
from editspec_runtime.errors import FileError
from editspec_runtime.families.checkpoints import weights_path
from editspec_runtime.io.downloads import is_remote

NETWORK = ("family", "weights", "module", "layers", "latent_shape")
"""The keys of ``model`` that say what is loaded; of what lies elsewhere, the digest does, too."""


@dataclass(frozen=True)
class Bounds:
    """What may be named.

    Attributes
    ----------
    folder
        The project folder.
    opened
        The spec as it was opened.
    model
        What the spec that was opened says of its model: it may lie anywhere.
    files
        The files that it names, which may lie anywhere, too.
    """

    folder: Path
    opened: Document
    model: dict[str, Any]
    files: frozenset[Path]

    @staticmethod
    def of(folder: Path, opened: Document) -> Bounds:
        """The bounds of a project: whoever opens a spec at the command line trusts what it
        names.
        """
        files = (_resolved(folder, name) for _, name in _named(opened))
        return Bounds(
            folder.resolve(),
            opened,
            _network(opened),
            frozenset(path for path in files if path is not None),
        )

    def problems(self, document: Document) -> list[Problem]:
        """What a document names and may not. Nothing that it names is touched."""
        found = []
        for path, name in _named(document):
            place = _resolved(self.folder, name)
            if place is None or not (place in self.files or place.is_relative_to(self.folder)):
                hint = "copy the file into the folder of the spec"
                found.append(
                    document.problem(path, f"{name} lies outside of the project folder", hint)
                )
        if _network(document) != self.model and (why := self._foreign(_network(document))):
            hint = "start editspec studio with a spec that has this model"
            found.append(document.problem(("model",), why, hint))
        return found

    def _foreign(self, model: dict[str, Any]) -> str:
        """Why a model that was not opened may not be loaded; empty where it may."""
        weights = model.get("weights")
        if model.get("family") == "torch" or any(
            model.get(key) is not None for key in ("module", "layers")
        ):
            return "the studio runs no network that was not opened with it"
        if not isinstance(weights, str) or weights.startswith("builtin:"):
            return ""
        if is_remote(weights):
            return "the studio fetches no weights that were not opened with it"
        try:
            place = weights_path(weights, self.folder).resolve()
        except (FileError, OSError, ValueError):
            return f"{weights} is no file"
        return (
            ""
            if place.is_relative_to(self.folder)
            else f"{weights} lies outside of the project folder"
        )


def _network(document: Document) -> dict[str, Any]:
    model = document.data.get("model")
    if not isinstance(model, dict):
        return {}
    remote = isinstance(model.get("weights"), str) and is_remote(model["weights"])
    return {key: model.get(key) for key in (*NETWORK, *(("digest",) if remote else ()))}


def _named(document: Document) -> Iterator[tuple[SpecPath, str]]:
    """Every file that a document names beside its weights, whether the rest of it fits the language
    or not.
    """
    for path in document.positions:
        value: Any = document.data
        for part in path:
            value = value[part]
        if isinstance(value, str) and not value.startswith("data:") and _is_file(path):
            yield path, value


def _is_file(path: SpecPath) -> bool:
    """Whether text at a path is the name of a file: of a mask, alone or in a union, or of a
    latent.
    """
    words = [part for part in path if isinstance(part, str)]
    return bool(words) and words[-1] in ("mask", "exclude", "union", "file")


def _resolved(folder: Path, name: str) -> Path | None:
    """Where a name leads, symbolic links followed; None where it leads nowhere."""
    try:
        return (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
