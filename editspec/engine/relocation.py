"""Names of files in a spec, as another folder sees them."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from editspec_compiler import LoadedSpec
from editspec_compiler.abbreviations import find_row_files
from editspec_compiler.document import parse
from editspec_compiler.problems import SpecPath
from editspec_compiler.rewrite import Put
from editspec_compiler.visit import find_files
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
        if document.find_written(path)[:3] not in skip:
            moved[path] = relocate_name(loaded, name, folder)
    puts = []
    # Rows that name files are written out: their names lead from the folder of the spec, too.
    of_rows = {path[:3] for path in moved if document.is_of_row(path)}
    for path in of_rows:
        puts.append(Put(path, _replace_parts(document.data, path, moved)))
    named = ((path, name) for path, name in moved.items() if path[:3] not in of_rows)
    for path, name in named:
        puts.append(Put(document.find_written(path), name))
    written = parse(document.text, document.file)
    for path, name in find_row_files(written):
        if path[:3] not in of_rows and path[:3] not in skip:
            puts.append(Put(path, relocate_name(loaded, name, folder)))
    return puts


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
