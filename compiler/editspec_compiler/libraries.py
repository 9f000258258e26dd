"""Libraries: specs whose edits other specs use. Imports no torch.

A library lies beside the file that names it, or in a repository of git, which is fetched once. A
library of git names files of its own repository alone.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from editspec_compiler.document import Document, find_path_problem, read_document
from editspec_compiler.pins import Pin
from editspec_compiler.problems import SpecError
from editspec_compiler.use_address import GIT, GitSource, UseAddress, join_name, join_within
from editspec_runtime.codes import Code
from editspec_runtime.errors import FileError, LockError
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.git_trees import Repository

SHOWN = 10
"""The most files of a repository that a hint names."""


class LibraryError(Exception):
    """A library that cannot be read, with what is wrong with it."""

    def __init__(self, message: str, hint: str, code: Code = Code.USE_UNREADABLE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


@dataclass(frozen=True)
class Home:
    """Where a file with edits lies.

    Attributes
    ----------
    folder
        Its folder on this machine.
    shown
        The name of its folder, from that of the spec or of the repository; empty for the same.
    source
        The source of the repository that it is from; None for a file that was not fetched.
    tree
        The folder of that repository.
    """

    folder: Path
    shown: str = ""
    source: GitSource | None = None
    tree: Path | None = None

    def holds(self, name: str) -> bool:
        """Whether a file here may name a file: one that was fetched may name no other."""
        return self.source is None or join_within(self.shown, name) is not None

    def move_name(self, name: str, address: UseAddress) -> str:
        """Write the name of a file for whoever names this home by an address."""
        if name.startswith(GIT):
            return name
        if address.source is not None:
            return f"{address.source}//{join_within(self.shown, name)}"
        return join_name(posixpath.dirname(address.file), name)


@dataclass(frozen=True)
class Library:
    """A file with edits, and where it lies.

    Attributes
    ----------
    document
        The file, as it was parsed.
    home
        Where it lies.
    key
        What tells it from other files.
    """

    document: Document
    home: Home
    key: str


@dataclass
class Libraries:
    """Opener of what a spec uses, which notes what it took from git.

    Attributes
    ----------
    folder
        The folder of the spec.
    pins
        The commits that are taken, by their sources; the server is asked for others.
    cache
        Where what is fetched is kept.
    used
        What was taken from git, by its source.
    trees
        The folders of what was fetched, by their sources.
    """

    folder: Path
    pins: Mapping[str, Pin]
    cache: Cache
    used: dict[str, Pin] = field(default_factory=dict)
    trees: dict[str, Path] = field(default_factory=dict)
    _opened: dict[str, Library] = field(default_factory=dict)

    def open(self, address: UseAddress, home: Home) -> Library:
        """Open the library that a file at `home` names.

        Raises
        ------
        LibraryError
            It is not there, cannot be fetched, or may not be named from there.
        SpecError
            It cannot be read as a mapping.
        LockError
            It is not what the lock pins.
        """
        if home.source is not None:
            return self._open_neighbour(address, home)
        if address.source is not None:
            tree = self._fetch(address.source)
            return self._open_fetched(address.source, tree, address.file)
        if problem := find_path_problem(address.file, home.folder):
            raise LibraryError(*problem)
        path = home.folder / address.file
        name = join_name(home.shown, address.file)
        lies = Home(path.parent, posixpath.dirname(name))
        return self._read(path, name, lies, str(path.resolve()))

    def _open_neighbour(self, address: UseAddress, home: Home) -> Library:
        """Open a library that one from git names, of the same repository."""
        assert home.source is not None
        assert home.tree is not None
        inner = join_within(home.shown, address.file)
        if address.source is not None or inner is None:
            raise LibraryError(
                f"a library of {home.source} uses nothing but its own repository",
                "copy what it uses into that repository, or use it from your own spec",
            )
        return self._open_fetched(home.source, home.tree, inner)

    def _open_fetched(self, source: GitSource, tree: Path, file: str) -> Library:
        name, path = f"{source}//{file}", tree / file
        if not path.is_file():
            there = sorted(each.relative_to(tree).as_posix() for each in tree.rglob("*.yaml"))
            hint = f"it has {', '.join(there[:SHOWN])}" if there else "it has no .yaml file at all"
            raise LibraryError(f"there is no file {file} in {source}", hint)
        lies = Home(path.parent, posixpath.dirname(file), source, tree)
        library = self._read(path, name, lies, name)
        # The bytes were compared with the commit's when they were fetched, and are now with what
        # the lock says, as the same commit of a server that lies could be anything.
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        pin = self.used[str(source)]
        expected = self.pins[str(source)].files.get(file) if str(source) in self.pins else None
        if expected not in (None, found):
            raise LockError(
                f"{name} at commit {pin.commit} is not what the lock pins: expected sha256 "
                f"{expected}, found {found}.",
                "Do not use it unless you know why; then take what is there: editspec update SPEC.",
            )
        files = dict(sorted({**pin.files, file: found}.items()))
        self.used[str(source)] = pin.model_copy(update={"files": files})
        return library

    def _fetch(self, source: GitSource) -> Path:
        """Fetch the commit of a source that the lock pins, or that its revision is now."""
        name = str(source)
        if name in self.trees:
            return self.trees[name]
        repository = Repository(source.repository)
        try:
            if name in self.pins:
                commit = self.pins[name].commit
            else:
                commit = repository.find_commit(source.revision)
            tree = repository.fetch(commit, source.revision, self.cache)
        except FileError as error:
            raise LibraryError(error.message.rstrip("."), error.hint) from error
        self.used[name] = Pin(source=name, commit=commit, files={})
        self.trees[name] = tree
        return tree

    def _read(self, path: Path, name: str, home: Home, key: str) -> Library:
        if key in self._opened:
            return replace(self._opened[key], home=home)
        try:
            document = replace(read_document(path), file=name)
        except SpecError as error:
            raise SpecError(name, error.problems, error.text) from error
        self._opened[key] = Library(document, home, key)
        return self._opened[key]
