"""Files of a commit of a git repository elsewhere, kept in the cache by the commit.

What a repository holds is data: nothing of it is run. Files are taken out of the objects of the
commit, without a checkout: no hooks, no filters, no submodules, and no symbolic links. Imports no
torch.
"""

from __future__ import annotations

import difflib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from editspec_runtime.errors import FileError
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.downloads import CacheUnwritable, own_folder, writing
from editspec_runtime.io.file_names import is_plain_path
from editspec_runtime.io.remote_cache import is_offline

PROTOCOLS = ("https", "ssh", "file")
"""The protocols that git may use; others run programs, or are not encrypted."""

KIND = "recipes"
"""The kind of these entries of the cache."""

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

PART_OF_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
"""What looks like a commit that was cut short, or is in capitals."""

PATIENCE = 120.0
"""Seconds after which a program of git is ended."""

MOST_FILES = 10_000
"""The most files of a commit."""

MOST_BYTES = 2**26
"""The most bytes of all files of a commit together."""

MOST_FETCHED = 2 * MOST_BYTES
"""The bytes of what git fetches from which on it is ended: packed files take less than files."""

GLANCE = 0.2
"""Seconds between two looks at how much git has fetched."""

NO_PROGRAMS = (
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
)
"""Settings under which git runs nothing of its own accord."""

OF_ONE_REPOSITORY = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"),
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE"),
)
"""Variables that git sets for its hooks, and that are about the repository of the hook."""

ACCESS = "Check the address, the connection and your access: git ls-remote ADDRESS says more."

SMALL = "Keep recipes in a repository of their own, with their masks and without weights."

OF_THE_NAME = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
"""The errors of the system that are about a name."""

SHOWN_LENGTH = 100
"""The most characters of a name that a message shows."""

SHOWN = 10
"""The most revisions that a hint names."""


@dataclass(frozen=True)
class Repository:
    """A git repository elsewhere, by its address, such as ``https://HOST/PATH``."""

    address: str

    def find_commit(self, revision: str) -> str:
        """Ask for the commit of a tag or, where there is none of that name, of a branch.

        A whole commit stands for itself. Raises `FileError`.
        """
        if COMMIT.fullmatch(revision):
            return revision
        if is_offline():
            raise FileError(
                f"The lock does not say which commit {revision} of {self.address} is, and nothing "
                "may be fetched (EDITSPEC_OFFLINE is set).",
                "Run editspec update SPEC once with a connection: the lock then says it.",
            )
        said = _run_git("ls-remote", "--tags", "--heads", "--", self.address)
        if said is None:
            raise FileError(f"{self.address} cannot be read as a repository of git.", ACCESS)
        commits: dict[str, str] = {}
        for line in said.decode(errors="replace").splitlines():
            commit, _, name = line.partition("\t")
            commits[name] = commit
        # A tag with a message is an object of its own, and ^{} is the commit that it names.
        tag, branch = f"refs/tags/{revision}", f"refs/heads/{revision}"
        for name in (f"{tag}^{{}}", tag, branch):
            if COMMIT.fullmatch(commits.get(name, "")):
                return commits[name]
        known = {name.split("/", 2)[-1].removesuffix("^{}") for name in commits}
        raise FileError(
            f"{self.address} has no tag and no branch {revision}.", _suggest(revision, known)
        )

    def fetch(self, commit: str, revision: str, cache: Cache) -> Path:
        """Fetch the files of a commit into the cache, unless they lie there whole.

        Parameters
        ----------
        commit
            The commit, all of its digits.
        revision
            The tag or branch that it was found by, for servers that give no commits by themselves.
        cache
            The cache. Where it cannot be written, the files go into a folder of this process.

        Returns
        -------
        Path
            The folder of the files, which holds nothing but folders and ordinary files.

        Raises
        ------
        FileError
            There is no such commit, it cannot be fetched, or it has too many files.
        """
        roots = [cache.root]
        if own_folder.cache_info().currsize:
            roots.append(own_folder())
        for root in roots:
            if (files := _find_whole(root / KIND / commit)) is not None:
                cache.mark_use(files.parent)
                return files
        if is_offline():
            raise FileError(
                f"Commit {commit} of {self.address} is not in the cache, and nothing may be "
                "fetched (EDITSPEC_OFFLINE is set).",
                "Run editspec validate SPEC once with a connection: the cache then has it.",
            )
        try:
            return self._fetch_into(cache.root / KIND, commit, revision)
        except CacheUnwritable as error:
            cache.warn(f"{error}.")
        try:
            return self._fetch_into(own_folder() / KIND, commit, revision)
        except CacheUnwritable as error:
            raise FileError(
                f"{self.address} cannot be fetched: there is no place to write it ({error}).",
                "Set EDITSPEC_CACHE to a folder on a disk with room.",
            ) from error

    def _fetch_into(self, folder: Path, commit: str, revision: str) -> Path:
        """Fetch a commit into a folder. Raises `CacheUnwritable` and `FileError`."""
        from filelock import FileLock

        place, part = folder / commit, folder / f".{commit}.part"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Of two processes that want one commit, the second one waits for the first one's.
            lock = FileLock(folder / f".{commit}.lock")
            lock.acquire()
        try:
            if (files := _find_whole(place)) is not None:
                return files
            with writing(part):
                # Whatever lies there is of a process that was killed, or damaged.
                for left in (part, place):
                    shutil.rmtree(left, ignore_errors=True)
                part.mkdir()
            try:
                contents = self._read_commit(part / "git", commit, revision)
                with writing(part):
                    shutil.rmtree(part / "git")
                    _write_files(part, contents)
                    part.replace(place)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        finally:
            lock.release()
        return place / "files"

    def _read_commit(self, store: Path, commit: str, revision: str) -> dict[str, bytes]:
        """Fetch one commit into an own store of git, and read its files."""
        inside = f"--git-dir={store}"
        kind = ("--object-format=sha256",) if len(commit) == 64 else ()
        if _run_git("init", "--quiet", "--bare", "--template=", *kind, str(store)) is None:
            raise CacheUnwritable(f"{store} cannot be begun")
        fetching = (inside, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules")
        # Servers may give no commit by itself: then by the name that it was found by.
        wanted = [commit]
        if not COMMIT.fullmatch(revision):
            wanted += [f"refs/tags/{revision}", f"refs/heads/{revision}"]
        for each in wanted:
            if _run_git(*fetching, "--", self.address, each, filling=store) is None:
                continue
            if _run_git(inside, "cat-file", "-e", f"{commit}^{{commit}}") is not None:
                return _read_files(store, commit, self.address)
        raise FileError(
            f"{self.address} does not give commit {commit}.",
            "Check the connection and your access. Where the repository was written anew, take "
            "what it has now: editspec update SPEC.",
        )


def _suggest(revision: str, known: set[str]) -> str:
    """Write a hint that names revisions, the nearest ones first."""
    if not known:
        return "It has none at all: push one."
    if PART_OF_COMMIT.fullmatch(revision):
        return "A commit is given by all of its digits, in lower case."
    near = difflib.get_close_matches(revision, sorted(known), n=SHOWN, cutoff=0.0)
    more = f" and {len(known) - len(near)} more" if len(known) > len(near) else ""
    return f"It has {', '.join(near)}{more}."


def _run_git(
    *arguments: str, given: bytes | None = None, filling: Path | None = None
) -> bytes | None:
    """Run git, which asks nobody; return what it writes, or None where it fails.

    Raises `FileError` where there is no git, where it takes too long, or where the folder that it
    is `filling` becomes too large.
    """
    command = ["git", *NO_PROGRAMS, *arguments]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # so that the programs that it starts end with it
        )
    except OSError as error:
        raise FileError("git cannot be run.", "Install git.") from error
    try:
        written = _wait(process, given, filling)
    finally:
        if process.poll() is None:
            _end(process)
    return written if process.returncode == 0 else None


def _wait(process: subprocess.Popen[bytes], given: bytes | None, filling: Path | None) -> bytes:
    """Wait for git, and return what it writes. Raises `FileError` where it goes on for too long."""
    last = time.monotonic() + PATIENCE
    while True:
        patience = max(0.0, last - time.monotonic())
        try:
            return process.communicate(given, timeout=min(patience, GLANCE))[0]
        except subprocess.TimeoutExpired:
            given = None  # which git is being given by now
        if time.monotonic() >= last:
            raise FileError(
                f"git took more than {PATIENCE:.0f} seconds.",
                "Check the connection, and try again.",
            )
        if filling is not None and _size_of(filling) > MOST_FETCHED:
            raise FileError(f"git was sent more than {MOST_FETCHED} bytes.", SMALL)


def _size_of(folder: Path) -> int:
    """Add up the bytes of the files of a folder, which may come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program with all that it started."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.communicate()


def _environment() -> dict[str, str]:
    """Return the environment of git: of no repository, and without questions to anybody."""
    kept = {name: said for name, said in os.environ.items() if name not in OF_ONE_REPOSITORY}
    asking = {"GIT_SSH_COMMAND": "ssh -oBatchMode=yes"} if "GIT_SSH" not in kept else {}
    return {
        **asking,
        **kept,
        "GIT_ALLOW_PROTOCOL": ":".join(PROTOCOLS),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "LC_ALL": "C",
    }


def _read_files(store: Path, commit: str, address: str) -> dict[str, bytes]:
    """Read the ordinary files of a commit: no links, no submodules, no odd names."""
    inside = f"--git-dir={store}"
    listed = _run_git(inside, "ls-tree", "-r", "-z", "-l", "--full-tree", commit)
    if listed is None:
        raise FileError(f"{address} gives no files of commit {commit}.", ACCESS)
    objects: dict[str, str] = {}
    total = 0
    for entry in listed.decode(errors="replace").split("\0"):
        about, _, name = entry.partition("\t")
        if not about.startswith("100") or not is_plain_path(name):
            continue
        _, _, number, size = about.split()
        objects[name] = number
        total += int(size)
        if len(objects) > MOST_FILES or total > MOST_BYTES:
            raise FileError(
                f"{address} has more than {MOST_FILES} files or {MOST_BYTES} bytes.",
                SMALL,
            )
    asked = "".join(f"{number}\n" for number in objects.values()).encode()
    answer = _run_git(inside, "cat-file", "--batch", given=asked)
    if answer is None:
        raise FileError(f"{address} gives no files of commit {commit}.", ACCESS)
    contents: dict[str, bytes] = {}
    at = 0
    for name in objects:
        # For each object a line with its size, its bytes, and the end of a line.
        head, _, _ = answer[at : at + 200].partition(b"\n")
        begin = at + len(head) + 1
        at = begin + int(head.split()[-1])
        contents[name] = answer[begin:at]
        at += 1
    return contents


def _write_files(part: Path, contents: dict[str, bytes]) -> None:
    """Write files into a folder, and beside it what each of them is.

    Raises `FileError` where a name is not possible here, whatever the disk is.
    """
    digests = {}
    (part / "files").mkdir()
    for name, data in contents.items():
        path = part / "files" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            if error.errno not in OF_THE_NAME:
                raise
            raise FileError(
                f"{name[:SHOWN_LENGTH]} of the repository cannot be a file here: its name is too "
                "long, or is that of a folder, too.",
                "Rename it in the repository.",
            ) from error
        digests[name] = hashlib.sha256(data).hexdigest()
    (part / "digests.json").write_text(json.dumps(digests))


def _find_whole(place: Path) -> Path | None:
    """Find the files of an entry; None unless all of them are there as they were written."""
    try:
        state = (place / "digests.json").stat()
        return _check_whole(place, state.st_mtime_ns)
    except OSError:
        return None


@functools.cache
def _check_whole(place: Path, written: int) -> Path | None:
    """Compare the files of an entry, once a process, with what was `written` at a time."""
    files = place / "files"
    try:
        digests = json.loads((place / "digests.json").read_text())
        for name, expected in digests.items():
            if hashlib.sha256((files / name).read_bytes()).hexdigest() != expected:
                return None
    except (OSError, ValueError, AttributeError):
        return None
    return files
