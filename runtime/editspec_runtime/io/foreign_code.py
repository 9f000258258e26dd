"""Import of foreign code that a spec names, which needs permission. Imports no torch."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from editspec_runtime.errors import CodeError

ALLOW_CODE = "EDITSPEC_ALLOW_CODE"
"""The environment variable that lets a worker of a cluster run foreign code: ``1``."""

REFERENCE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
"""The form of ``package.module:name``, as a regular expression."""


def require_permission(name: str, *, allow_code: bool, instead: str = "") -> None:
    """Raise a `CodeError` where foreign code may not run.

    `instead` is a sentence on how to do without the code.
    """
    if allow_code:
        return
    hint = (
        "Read it, and give --allow-code if you trust it (in Python: with editspec.allow_code(): …)."
    )
    raise CodeError(
        f"{name} is code that is not part of editspec, and importing it runs it with all that "
        "you may do.",
        f"{hint} {instead}".rstrip(),
    )


def import_attribute(name: str, folder: Path) -> Any:
    """Import what ``package.module:name`` names. Whoever calls this has permission.

    Modules are looked for in `folder` first, and then where Python looks, those included that the
    first one imports from its own folder. ``sys.path`` stays as it is. Whatever the code raises is
    raised.
    """
    module, _, attribute = name.partition(":")
    return getattr(_import_from(folder.resolve(), module), attribute)


def _import_from(folder: Path, name: str) -> ModuleType:
    """Import a module, for which `folder` is searched first."""
    first = name.partition(".")[0]
    beside = (folder / first).exists() or (folder / f"{first}.py").exists()
    # Python keeps imported modules by name: one that another spec brought would be taken for ours.
    if beside and name in sys.modules and not _lies_in(sys.modules[name], folder):
        del sys.modules[name]
    importlib.invalidate_caches()
    finder = _FolderFinder(folder)
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)


class _FolderFinder(MetaPathFinder):
    """A finder of modules in a folder, for the thread that made the finder alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # Modules within a package are found by the package's own path.
        built_in = fullname in sys.builtin_module_names
        if path is not None or built_in or threading.get_ident() != self.thread:
            return None
        return PathFinder.find_spec(fullname, [self.folder], target)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and folder in Path(file).resolve().parents
