"""Which of many specs are meant: patterns of names, edits, and what has changed."""

from __future__ import annotations

import fnmatch
import glob
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editspec.engine.lock import input_changes, lock_path, read_lock
from editspec.engine.opening import open_checkpoint
from editspec_compiler import LoadedSpec, load
from editspec_compiler.problems import suggest
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import UsageError, WrongPath

ENDINGS = (".yaml", ".yml", ".json")
"""The endings of specs that a pattern finds."""

MODIFIED = "state:modified"
"""The word for specs in which an input is not as their lock has it."""

WORDS = f"Write NAME+ for the specs with an edit of that name, or {MODIFIED}+."


def expand_specs(given: Iterable[Path | str]) -> list[Path]:
    """The specs that names and patterns stand for, each once.

    Of what a pattern finds, files that are not specs do not count, nor do
    libraries. Raises `WrongPath` where a name
    or a pattern stands for none.
    """
    found: dict[Path, None] = {}
    for each in map(str, given):
        if not glob.has_magic(each) or Path(each).is_file():
            found[Path(each)] = None
            continue
        matched = glob.glob(each, recursive=True)  # noqa: PTH207 - of pathlib ** finds folders
        matches = sorted(map(Path, matched))
        specs = [path for path in matches if path.suffix in ENDINGS and _is_spec(path)]
        if not specs:
            raise WrongPath(f"No spec matches {each}.", "Quote the pattern: 'specs/**/*.yaml'.")
        found |= dict.fromkeys(specs)
    return list(found)


def _is_spec(path: Path) -> bool:
    """Whether a file looks like a spec, right or wrong: it says a version and a model.

    A library, which declares parameters, is for other specs.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if path.suffix == ".json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return re.search(r'"version"\s*:\s*1\b', text) is not None and '"model"' in text
        return (
            isinstance(content, dict)
            and {"version", "model"} <= content.keys()
            and "parameters" not in content
            and (isinstance(content["model"], dict) and "family" in content["model"])
        )
    if re.search(r"^parameters\s*:", text, re.MULTILINE):
        return False
    return all(re.search(rf"^{key}\s*:", text, re.MULTILINE) for key in ("version", "model"))


@dataclass
class Selection:
    """The words that say which specs are meant.

    Attributes
    ----------
    names
        Patterns of names of edits.
    modified
        Whether specs are meant in which an input is not as the lock has it.
    known
        The names of edits that were seen.
    used
        The patterns that an edit fits.
    """

    names: Sequence[str]
    modified: bool
    known: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    _bases: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def selects(self, path: Path, progress: ProgressCallback) -> bool:
        """Whether a spec is meant. Raises `SpecError` or `EditError` where it is wrong."""
        loaded = load(path)
        edits = [edit.name for edit in loaded.spec.edits]
        self.known |= set(edits)
        fitting = {word for word in self.names if fnmatch.filter(edits, word)}
        self.used |= fitting
        return bool(fitting) or (self.modified and self._is_modified(loaded, progress))

    def require_used(self) -> None:
        """Raise a `UsageError` where a name is that of no edit."""
        for word in self.names:
            if word not in self.used:
                hint = suggest(word, sorted(self.known))
                raise UsageError(f"No spec has an edit {word}.", f"{hint[0].upper()}{hint[1:]}.")

    def _is_modified(self, loaded: LoadedSpec, progress: ProgressCallback) -> bool:
        lock = read_lock(lock_path(loaded.path))
        if lock is None:
            return True
        # Many specs edit one model, which is read once.
        key = (loaded.weights, repr(loaded.spec.model))
        if key not in self._bases:
            self._bases[key] = open_checkpoint(loaded, progress)[1]
        return bool(input_changes(loaded, self._bases[key], lock))


def parse_selection(words: Sequence[str]) -> Selection:
    """Read the words of a selection; without any, all specs are meant.

    Raises `UsageError` for a word that is none.
    """
    names = []
    for word in words:
        name = word.removesuffix("+")
        if name == word:
            # The patches of a stack are of one build: an edit alone would leave later ones behind.
            raise UsageError(
                f"{word} leaves out what follows from it, and a stack is built as a whole.", WORDS
            )
        if name.startswith("state:") and name != MODIFIED:
            raise UsageError(f"There is no {name}.", WORDS)
        if name != MODIFIED:
            names.append(name)
    return Selection(names, len(names) < len(words))
