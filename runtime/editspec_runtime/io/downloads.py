"""Weights that lie elsewhere: https addresses and the Hugging Face hub.

A file is fetched once into the cache. The bytes that arrived are kept when the connection breaks,
and the next try goes on from there. Nothing lies under the final name before its digest is right.
Imports no torch.
"""

from __future__ import annotations

import atexit
import errno
import functools
import hashlib
import os
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from editspec_runtime.errors import FileError
from editspec_runtime.io.cache import Cache, hash_once, identify_file
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.remote_cache import LOOPBACK, is_offline

if TYPE_CHECKING:
    from http.client import HTTPResponse

HUB_TROUBLE = (
    "Check the repository, the file and the revision, the connection, and for a closed repository "
    "your login (huggingface-cli login)."
)
"""What to do where the hub does not answer as it should."""

SCHEMES = ("https://", "http://", "hf://")
CHUNK = 2**20
LONGEST_ADDRESS = 2000
"""The most characters of an address."""

LONGEST_NAME = 200
"""The most characters of the name of a file in the cache."""

UNSAID = 2**30
"""The most bytes that are taken from a server that does not say how many there are."""

KEPT_FREE = 2**28
"""Bytes of the disk that a download leaves free."""

SLOWEST, PATIENCE = 1024, 300.0
"""The fewest bytes a second, on the average, after these seconds."""

TIMEOUT = 30.0
"""Seconds without a byte after which a download counts as broken."""

DISK_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
"""What a disk says that cannot be written."""

Progress = Callable[[int, int], None]
"""Called with (bytes so far, of all; 0 where that is unknown)."""


def is_remote(weights: str) -> bool:
    """Whether ``weights:`` names something that has to be fetched."""
    return weights.startswith(SCHEMES)


@dataclass(frozen=True)
class Remote:
    """A file elsewhere.

    Attributes
    ----------
    address
        ``https://…``, or ``hf://org/repo/path@revision``.
    sha256
        The digest that its bytes must have; None for a file of the hub that no digest pins.
    cache
        The cache that keeps the file.
    """

    address: str
    sha256: str | None
    cache: Cache

    @property
    def path(self) -> Path:
        """The place of the file in the cache, under its own name."""
        place = urllib.parse.urlsplit(self.address).path.partition("@")[0]
        name = PurePosixPath(place).name[-LONGEST_NAME:] or "weights"
        key = self.sha256 or hashlib.sha256(self.address.encode()).hexdigest()
        return self.cache.root / "weights" / key / name


def parse_remote(weights: str, cache: Cache, pin: str | None = None) -> Remote:
    """The remote file that ``weights:`` names.

    Its digest comes from ``#sha256=…`` at the end of the address, or from `pin`, a spec's
    ``digest: sha256:…``. Raises `FileError` where the address is wrong, or an https address comes
    without a digest.
    """
    if not weights.isprintable() or len(weights) > LONGEST_ADDRESS:
        raise FileError(
            "The address of the weights holds control characters, or is longer than "
            f"{LONGEST_ADDRESS} characters.",
            "Write https://HOST/PATH.",
        )
    address, _, fragment = weights.partition("#")
    sha256 = None
    if fragment:
        sha256 = _read_fragment(weights, fragment)
    elif pin is not None and pin.startswith("sha256:"):
        sha256 = pin.removeprefix("sha256:")
    if address.startswith("hf://"):
        _hub_parts(address)
        return Remote(address, sha256, cache)
    try:
        parts = urllib.parse.urlsplit(address)
        parts.port  # noqa: B018 - read here, since it may be no number
    except ValueError as error:
        raise FileError(f"{address} is not an address.", "Write https://HOST/PATH.") from error
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise FileError(f"{address} is not encrypted.", "Give the https address.")
    if not parts.hostname:
        raise FileError(f"{address} names no host.", "Write https://HOST/PATH.")
    if sha256 is None:
        raise FileError(
            f"{address} has no digest, and what lies at an address may change.",
            "Write digest: sha256:… beside weights in the spec, or #sha256=… at the end of the "
            "address.",
        )
    return Remote(address, sha256, cache)


def _read_fragment(weights: str, fragment: str) -> str:
    """Read the digest in ``sha256=…``. Raises `FileError` for any other text."""
    found = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
    if found is None:
        raise FileError(
            f"{weights} ends in {fragment}, expected sha256= and 64 hexadecimal digits.",
            "sha256sum FILE prints these digits.",
        )
    return found[1]


def fetch(source: Remote, progress: Progress = lambda done, total: None) -> Path:
    """Fetch a file into the cache, unless the cache holds it, and return its place.

    A cache that cannot be written is warned of; the file then goes into a folder of this process.

    Raises `FileError` where the file cannot be fetched: offline, no such file, a connection that
    breaks, another digest, a redirection to another host; or where the cache holds another file
    than the one that is pinned.
    """
    kept = find_kept(source)
    if kept is not None:
        return kept
    if is_offline():
        raise FileError(
            f"{source.address} is not in the cache, and nothing may be fetched (EDITSPEC_OFFLINE "
            "is set).",
            f"Fetch it once with a connection, or put the file at {source.path}.",
        )
    try:
        return _fetch_into(source, progress)
    except CacheUnwritable as error:
        source.cache.warn(f"{error}.")
        with suppress(OSError):
            _part_path(source).unlink()
    try:
        return _fetch_into(_in_own_folder(source), progress)
    except CacheUnwritable as error:
        raise FileError(
            f"{source.address} cannot be fetched: there is no place to write it ({error}).",
            "Set EDITSPEC_CACHE to a folder on a disk with room.",
        ) from error


def find_kept(source: Remote) -> Path | None:
    """The file where it was fetched already; None where it was not.

    Raises `FileError` where another file than the pinned one lies there.
    """
    places = [source.path]
    if own_folder.cache_info().currsize:
        places.append(_in_own_folder(source).path)
    for path in places:
        if identify_file(path) is not None:
            source.cache.mark_use(path.parent)
            _require_kept(source, path)
            return path
    return None


def _part_path(source: Remote) -> Path:
    """Where a file lies while it arrives."""
    return source.path.with_name(f".{source.path.name}.partial")


class CacheUnwritable(Exception):
    """A cache that cannot be written, with the reason of the system."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell an error of the cache's disk from an error of the network."""
    try:
        yield
    except OSError as error:
        raise CacheUnwritable(f"{path}: {error.strerror or error}") from error


@functools.cache
def own_folder() -> Path:
    """A folder that ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="editspec-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _in_own_folder(source: Remote) -> Remote:
    """The file with its place in the folder of this process."""
    return replace(source, cache=Cache(own_folder()))


def _fetch_into(source: Remote, progress: Progress) -> Path:
    """Fetch a file into its cache.

    Raises `CacheUnwritable` where that cannot be written.
    """
    from filelock import FileLock

    with writing(source.path.parent):
        source.path.parent.mkdir(parents=True, exist_ok=True)
    # Of two processes that want one file, the second one waits for the first one's.
    lock = FileLock(source.path.parent / "lock")
    with writing(source.path.parent):
        lock.acquire()
    try:
        if source.path.is_file():
            _require_kept(source, source.path)
            return source.path
        if source.address.startswith("hf://"):
            arrived = _fetch_from_hub(source)
        else:
            arrived = _fetch_from_web(source, progress)
        _require_digest(source, arrived)
        with writing(source.path):
            arrived.replace(source.path)
    finally:
        lock.release()
    return source.path


def _fetch_from_web(source: Remote, progress: Progress) -> Path:
    """Fetch a file under a name of its own, from where an earlier try broke off."""
    import urllib.error
    import urllib.request

    class SameHost(urllib.request.HTTPRedirectHandler):
        """A handler that follows a redirection on the same host, and refuses any other."""

        def redirect_request(self, request: Any, *rest: Any) -> Any:
            # Whoever wrote the address trusts this host, and no other.
            new = urllib.parse.urlsplit(urllib.parse.urljoin(request.full_url, rest[-1]))
            if (new.scheme, new.netloc) != urllib.parse.urlsplit(request.full_url)[:2]:
                rest[0].close()
                place = f"{new.scheme}://{new.netloc}{new.path}"
                raise FileError(
                    f"{request.full_url} redirects elsewhere, to {place}.",
                    "Give that address, if it is the one you trust.",
                )
            return super().redirect_request(request, *rest)

    part = _part_path(source)
    begun = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(source.address)
    if begun:
        request.add_header("Range", f"bytes={begun}-")
    try:
        with urllib.request.build_opener(SameHost).open(request, timeout=TIMEOUT) as answer:
            # A server that knows no ranges sends the whole file again.
            begun = begun if answer.status == 206 else 0
            done, total = _receive(answer, source, part, begun, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # more is there than the server has: not this file
            part.unlink()
            raise FileError(
                f"{source.address} is shorter than what an earlier try had fetched.", "Try again."
            ) from error
        raise FileError(
            f"{source.address} cannot be fetched: the server says {error.code}.",
            "Check the address, and whether the file is open to everybody.",
        ) from error
    # urllib's URLError, a time-out and a connection that breaks are all of this kind.
    except OSError as error:
        raise _interruption(source, part, "the connection failed or broke") from error
    except (FileError, CacheUnwritable):
        raise
    except Exception as error:  # a server may answer with anything, and http.client raises as much
        raise FileError(
            f"{source.address} cannot be fetched: the server's answer is not HTTP.",
            "Check the address.",
        ) from error
    if done < total:
        raise _interruption(source, part, f"it ends after {done} of {total} bytes")
    return part


def _append(file: FileIO, block: bytes) -> None:
    """Write a block to the disk.

    Raises `CacheUnwritable` where the disk does not take it.
    """
    rest = memoryview(block)
    with writing(Path(str(file.name))):
        # A disk that is nearly full takes a part, and refuses the next one.
        while rest:
            rest = rest[file.write(rest) :]


def _receive(
    answer: HTTPResponse, source: Remote, part: Path, begun: int, progress: Progress
) -> tuple[int, int]:
    """Add an answer to the first `begun` bytes of a file.

    Returns the bytes that the file has now, and those that it should have.

    Raises `FileError` where the answer is longer than it says or may be, or comes too slowly, and
    `CacheUnwritable` where it does not fit on the disk.
    """
    length = answer.headers.get("Content-Length")
    total = begun + _read_length(source, length)
    most = total if length else begun + UNSAID
    _require_space(part.parent, total - begun)
    done, since = begun, time.monotonic()
    with writing(part):
        file = part.open("ab" if begun else "wb", buffering=0)
    with file:
        while block := answer.read1(CHUNK):
            _append(file, block)
            done += len(block)
            _require_speed(source, done - begun, time.monotonic() - since)
            if done > most:
                raise _endless(source, part, most)
            if not length:
                _require_space(part.parent, CHUNK)
            progress(done, max(total, done))
    return done, total


def _read_length(source: Remote, said: str | None) -> int:
    """Read the header Content-Length; 0 where there is none."""
    if said is not None and not re.fullmatch(r"\d{1,15}", said.strip()):
        raise FileError(
            f"{source.address} cannot be fetched: the length that the server says is no number.",
            "Check the address.",
        )
    return int(said or 0)


def _require_space(folder: Path, size: int) -> None:
    """Raise `CacheUnwritable` where a disk lacks room for `size` bytes and a reserve."""
    free = shutil.disk_usage(folder).free
    if size + KEPT_FREE > free:
        raise CacheUnwritable(f"the disk of {folder} has {free} bytes free")


def _require_speed(source: Remote, size: int, seconds: float) -> None:
    """Raise a `FileError` where a server sends so slowly that it may never end."""
    if seconds > PATIENCE and size < SLOWEST * seconds:
        raise FileError(
            f"{source.address} cannot be fetched: {size} bytes came in {seconds:.0f} seconds.",
            "Try again later, or fetch the file by other means and name its path.",
        )


def _endless(source: Remote, part: Path, most: int) -> FileError:
    """Remove what arrived of a download that is too long, and return the error."""
    part.unlink(missing_ok=True)
    return FileError(
        f"{source.address} cannot be fetched: the server sent more than {most} bytes.",
        "Fetch the file by other means, and name its path.",
    )


def _interruption(source: Remote, part: Path, why: str) -> FileError:
    """The error of a download that broke off, with a hint that says how much is kept."""
    kept = part.stat().st_size if part.is_file() else 0
    hint = "Check the address and the connection, and try again."
    if kept:
        hint = f"What arrived ({kept} bytes) is kept; try again to go on from there."
    return FileError(f"{source.address} cannot be fetched: {why}.", hint)


def _require_kept(source: Remote, path: Path) -> None:
    """Raise a `FileError` unless the file at `path` has the digest of `source`."""
    if source.sha256 is None:
        return
    try:
        found = hash_once(path)
    except OSError as error:
        raise FileError(
            f"{path} cannot be read: {error.strerror}.", "Remove it; it is then fetched again."
        ) from error
    if found != source.sha256:
        raise FileError(
            f"{path} in the cache is not the file that was fetched from {source.address}: expected "
            f"sha256 {source.sha256}, found {found}.",
            "Somebody or something changed it. Remove it; it is then fetched again.",
        )


def _require_digest(source: Remote, arrived: Path) -> None:
    """Remove a file and raise `FileError`, unless it has the digest of `source`."""
    if source.sha256 is None:
        return
    with arrived.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        arrived.unlink()
        raise FileError(
            f"{source.address} gave another file: expected sha256 {source.sha256}, found {found}.",
            "Do not use it unless you know why it changed; then pin the new digest.",
        )


def _fetch_from_hub(source: Remote) -> Path:
    """Fetch a file of the hub by its own library and cache, under a name of its own."""
    repository, file, revision = _hub_parts(source.address)
    hub = load_extra("hub")
    try:
        found = hub.hf_hub_download(
            repository, file, revision=revision, cache_dir=source.cache.root / "hub"
        )
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise CacheUnwritable(f"{source.cache.root}: {error.strerror}") from error
        # The library meets trouble with errors of many kinds.
        raise FileError(
            f"{source.address} cannot be fetched from the hub.",
            HUB_TROUBLE,
        ) from error
    part = _part_path(source)
    with writing(part):
        part.unlink(missing_ok=True)
        try:
            os.link(Path(found).resolve(), part)  # twice the name, once the bytes
        except OSError:
            shutil.copyfile(found, part)
    return part


def hub_neighbour(address: str, name: str) -> str | None:
    """The address of another file in the repository of a file of the hub.

    None for any other address.
    """
    if not address.startswith("hf://"):
        return None
    repository, _, revision = _hub_parts(address.partition("#")[0])
    return f"hf://{repository}/{name}@{revision}"


def _hub_parts(address: str) -> tuple[str, str, str]:
    """Repository, file and revision of ``hf://org/repo/path/to/file@revision``.

    A revision that is left out is ``main``.
    """
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)/([^@]+?)(?:@(.+))?", address)
    if found is None:
        raise FileError(
            f"{address} is not a file of the hub.",
            "Write hf://organisation/repository/file@revision.",
        )
    return found[1], found[2], found[3] or "main"
