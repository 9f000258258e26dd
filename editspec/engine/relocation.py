"""Names of files in a spec, as another folder sees them."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from editspec_compiler import LoadedSpec
from editspec_compiler.abbreviations import find_row_files
from editspec_compiler.document import parse
from editspec_compiler.problems import SpecPath
from editspec_compiler.references import open_libraries
from editspec_compiler.rewrite import Put, RewriteError
from editspec_compiler.uses import USE, find_uses, resolve_uses
from editspec_compiler.visit import find_files
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.downloads import is_remote


def relocate_names(loaded: LoadedSpec, folder: Path, skip: Collection[SpecPath] = ()) -> list[Put]:
    """Make the changes of a spec's text that keep its names of files right in another folder.

    `skip` are paths of fields of edits that are replaced themselves: what they name is left out.
    """
    document = loaded.document
    names = dict(find_files(type(loaded.spec), document.data))
    weights = loaded.spec.model.weights
    if not (weights.startswith("builtin:") or is_remote(weights)):
        names["model", "weights"] = weights
    moved: dict[SpecPath, Any] = {}
    for path, name in names.items():
        place = document.find_written(path)
        # What a library names goes with the library.
        if place[:3] not in skip and not _is_of_library(place):
            moved[path] = relocate_name(loaded, name, folder)
    puts = []
    # Rows that name files are written out: their names lead from the folder of the spec, too.
    # Rows that name files are written out: their names lead from the folder of the spec, too.
    of_rows = {path[:3] for path in moved if document.is_of_row(path)}
    for path in sorted(of_rows, key=str):
        _require_here(loaded, path)
        puts.append(Put(path, _replace_parts(document.data, path, moved)))
    named = ((path, name) for path, name in moved.items() if path[:3] not in of_rows)
    for path, name in named:
        puts.append(Put(document.find_written(path), name))
    return [*puts, *_relocate_libraries(loaded, folder, {*of_rows, *skip})]


def _require_here(loaded: LoadedSpec, path: SpecPath) -> None:
    """Raise a `RewriteError` where rows that name files are those of an edit of another spec."""
    if loaded.document.find_written(path[:2]) != path[:2]:
        raise RewriteError(
            f"The rows that {loaded.spec.edits[int(path[1])].name} is given name files.",
            "Write the edit out, or keep the spec in its folder.",
        )


def _relocate_libraries(
    loaded: LoadedSpec, folder: Path, done: Collection[SpecPath]
) -> Iterator[Put]:
    """Make the changes for the names of libraries, and of files of rows that are not `done`."""
    written = parse(loaded.document.text, loaded.document.file)
    for path, address in find_uses(written):
        if address.source is None:
            name = relocate_name(loaded, address.file, folder)
            yield Put(path, f"{name}#{address.edit}")
    resolved = resolve_uses(written, open_libraries(written, loaded.path, default_cache()))
    for path, name in find_row_files(resolved):
        place = resolved.find_written(path)
        if place[:3] not in done:
            yield Put(place, relocate_name(loaded, name, folder))


def _is_of_library(path: SpecPath) -> bool:
    """Whether a place of a spec's text stands for one in another spec."""
    return path[:1] == ("edits",) and path[2:3] == (USE,)


def relocate_name(loaded: LoadedSpec, name: str, folder: Path) -> str:
    """Return the name by which a file of a spec is found from another folder."""
    file = loaded.path.parent / Path(name).expanduser()
    return os.path.relpath(file, folder.resolve())


def _replace_parts(data: Any, path: SpecPath, parts: Mapping[SpecPath, Any]) -> Any:
    """Copy what is at a path of plain data, with some parts below it replaced."""
    found = data
    for key in path:
        found = found[key]
    found = copy.deepcopy(found)
    for where, part in parts.items():
        if where[: len(path)] == path:
            *above, last = where[len(path) :]
            holder = found
            for key in above:
                holder = holder[key]
            holder[last] = part
    return found
