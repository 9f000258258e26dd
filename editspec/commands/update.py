"""``editspec update``: the commits of what a spec uses from git."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from editspec.engine.lock import (
    Lock,
    lock_path,
    read_lock,
    require_place,
    shared_settings,
    write_lock,
)
from editspec.engine.opening import open_checkpoint
from editspec.engine.result import DONE, FAILED, CommandResult
from editspec_compiler import LoadedSpec, load
from editspec_compiler.document import Document, entries, read_document
from editspec_compiler.libraries import Libraries
from editspec_compiler.pins import Pin, read_pins
from editspec_compiler.problems import suggest
from editspec_compiler.uses import name_of, resolve_uses
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.io.cache import default_cache


@dataclass(frozen=True)
class UpdatedSource:
    """A source of git, and its commits in the lock and now.

    Attributes
    ----------
    source
        The source as the spec names it.
    before, after
        The commits; None where the lock has none, or the spec no longer uses the source.
    """

    source: str
    before: str | None
    after: str | None

    @property
    def moved(self) -> bool:
        """Whether the lock has another commit than the source has now."""
        return self.before != self.after

    def to_line(self) -> str:
        """The source as a line for people."""
        if not self.moved:
            return f"{self.source}: {self.after}, as the lock has it"
        return f"{self.source}: {self.before or 'none'} -> {self.after or 'no longer used'}"


@dataclass(frozen=True)
class UpdateResult(CommandResult):
    """The sources of a spec, and where they are now.

    Attributes
    ----------
    lock
        The path of the lock.
    sources
        The sources that were looked at.
    check
        Whether the lock was compared and not written.
    """

    lock: Path
    sources: tuple[UpdatedSource, ...]
    check: bool = False

    @property
    def moved(self) -> bool:
        """Whether a source is not where the lock has it."""
        return any(each.moved for each in self.sources)

    @property
    def exit_code(self) -> int:
        """The exit code: 1 where something moved, and that was only to be said."""
        return FAILED if self.check and self.moved else DONE

    def to_dict(self) -> dict[str, Any]:
        """The sources, and whether one has moved."""
        plain = super().to_dict()
        del plain["check"]
        return plain | {"moved": self.moved}

    def to_text(self) -> str:
        """A line for each source, and what is to be done."""
        if not self.sources:
            return "the spec uses nothing from git"
        lines = [each.to_line() for each in self.sources]
        if self.moved and self.check:
            lines.append(f"{self.lock} is behind: editspec update {self.lock.with_suffix('')}")
        elif self.moved:
            lines.append(f"next: editspec plan {self.lock.with_suffix('')}")
        return "\n".join(lines)


def update(
    spec: Path | str,
    edits: Sequence[str] = (),
    *,
    check: bool = False,
    progress: ProgressCallback = no_progress,
) -> UpdateResult:
    """Ask where the tags and branches are that a spec uses edits from, and write it to the lock.

    The spec must be valid with what they are now: else the lock stays as it is. Nothing is built.

    Parameters
    ----------
    spec
        The path of the spec.
    edits
        The names of the edits whose sources are looked at. Default: all of them.
    check
        Write nothing; only say what would move.

    Raises
    ------
    SpecError
        The spec or its lock is wrong, or a source cannot be fetched.
    UsageError
        The spec has no edit of a name.
    """
    path = Path(spec)
    before = read_pins(path)
    left = {} if not edits else _leave_others(path, edits, before)
    loaded = load(path, pins=left)
    after = {pin.source: pin for pin in loaded.pins}
    looked_at = sorted((before.keys() | after.keys()) - left.keys())
    sources = []
    was = {name: pin.commit for name, pin in before.items()}
    now = {name: pin.commit for name, pin in after.items()}
    for name in looked_at:
        sources.append(UpdatedSource(name, was.get(name), now.get(name)))
    result = UpdateResult(lock_path(path), tuple(sources), check)
    if result.moved and not check:
        _write_pins(loaded, progress)
    return result


def _leave_others(path: Path, edits: Collection[str], pins: Mapping[str, Pin]) -> dict[str, Pin]:
    """Return the pins of the sources that none of the named edits uses."""
    document = read_document(path)
    names = [name_of(edit) for edit in entries(document.data, "edits")]
    for name in edits:
        if name not in names:
            hint = suggest(name, names) if names else "it has none at all"
            raise UsageError(f"There is no edit {name}.", f"{hint[0].upper()}{hint[1:]}.")
    chosen = [names.index(name) for name in edits]
    libraries = Libraries(path.parent, pins, default_cache())
    resolve_uses(_keep(document, chosen), libraries)
    return {name: pin for name, pin in pins.items() if name not in libraries.used}


def _keep(document: Document, chosen: Collection[int]) -> Document:
    """Keep some edits of a document, each at its place."""
    edits = []
    for number, edit in enumerate(entries(document.data, "edits")):
        edits.append(edit if number in chosen else None)
    return replace(document, data={**document.data, "edits": edits})


def _write_pins(loaded: LoadedSpec, progress: ProgressCallback) -> None:
    """Write the commits of a spec to its lock, which may hold no edits yet."""
    path = lock_path(loaded.path)
    require_place(path)
    lock = read_lock(path)
    if lock is None:
        _, base = open_checkpoint(loaded, progress)
        settings = shared_settings(loaded)
        lock = Lock(format="editspec.lock", version=1, weights=base, settings=settings, edits=[])
    write_lock(path, lock.model_copy(update={"sources": list(loaded.pins)}))
