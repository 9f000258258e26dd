"""Weights that lie elsewhere: https addresses and the Hugging Face hub.

A file is fetched once into the cache. The bytes that arrived are kept when the connection breaks,
and the next try goes on from there. Nothing lies under the final name before its digest is right.
Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from editspec_runtime.errors import FileError
from editspec_runtime.io.cache import Cache

SCHEMES = ("https://", "http://", "hf://")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CHUNK = 2**20
TIMEOUT = 30.0
"""Seconds without a byte after which a download counts as broken."""

Progress = Callable[[int, int], None]
"""Called with (bytes so far, of all; 0 where that is unknown)."""


def is_remote(weights: str) -> bool:
    """Whether ``weights:`` names something that has to be fetched."""
    return weights.startswith(SCHEMES)


def is_offline() -> bool:
    """Whether nothing may be fetched: ``$EDITSPEC_OFFLINE`` is set to anything but 0."""
    return os.environ.get("EDITSPEC_OFFLINE", "0") not in ("", "0")


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
        name = PurePosixPath(place).name or "weights"
        key = self.sha256 or hashlib.sha256(self.address.encode()).hexdigest()
        return self.cache.root / "weights" / key / name


def parse_remote(weights: str, cache: Cache, pin: str | None = None) -> Remote:
    """The remote file that ``weights:`` names.

    Its digest comes from ``#sha256=…`` at the end of the address, or from `pin`, a spec's
    ``digest: sha256:…``. Raises `FileError` where the address is wrong, or an https address comes
    without a digest.
    """
    address, _, fragment = weights.partition("#")
    sha256 = None
    if fragment:
        sha256 = _read_fragment(weights, fragment)
    elif pin is not None and pin.startswith("sha256:"):
        sha256 = pin.removeprefix("sha256:")
    if address.startswith("hf://"):
        _hub_parts(address)
        return Remote(address, sha256, cache)
    parts = urllib.parse.urlsplit(address)
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

    Raises `FileError` where the file cannot be fetched: offline, no such file, a connection that
    breaks, another digest, a redirection to another host.
    """
    if source.path.is_file():
        return source.path
    if is_offline():
        raise FileError(
            f"{source.address} is not in the cache, and nothing may be fetched (EDITSPEC_OFFLINE "
            "is set).",
            f"Fetch it once with a connection, or put the file at {source.path}.",
        )
    from filelock import FileLock

    source.path.parent.mkdir(parents=True, exist_ok=True)
    # Of two processes that want one file, the second one waits for the first one's.
    with FileLock(source.path.parent / "lock"):
        if source.path.is_file():
            return source.path
        if source.address.startswith("hf://"):
            arrived = _fetch_from_hub(source)
        else:
            arrived = _fetch_from_web(source, progress)
        _require_digest(source, arrived)
        arrived.replace(source.path)
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
                place = f"{new.scheme}://{new.netloc}{new.path}"
                raise FileError(
                    f"{request.full_url} redirects elsewhere, to {place}.",
                    "Give that address, if it is the one you trust.",
                )
            return super().redirect_request(request, *rest)

    part = source.path.with_name(f".{source.path.name}.partial")
    begun = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(source.address)
    if begun:
        request.add_header("Range", f"bytes={begun}-")
    try:
        with urllib.request.build_opener(SameHost).open(request, timeout=TIMEOUT) as answer:
            # A server that knows no ranges sends the whole file again.
            begun = begun if answer.status == 206 else 0
            total = begun + int(answer.headers.get("Content-Length") or 0)
            done = begun
            mode = "ab" if begun else "wb"
            with part.open(mode) as file:
                while block := answer.read(CHUNK):
                    file.write(block)
                    done += len(block)
                    progress(done, max(total, done))
    except urllib.error.HTTPError as error:
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
    if done < total:
        raise _interruption(source, part, f"it ends after {done} of {total} bytes")
    return part


def _interruption(source: Remote, part: Path, why: str) -> FileError:
    """The error of a download that broke off, with a hint that says how much is kept."""
    kept = part.stat().st_size if part.is_file() else 0
    hint = "Check the address and the connection, and try again."
    if kept:
        hint = f"What arrived ({kept} bytes) is kept; try again to go on from there."
    return FileError(f"{source.address} cannot be fetched: {why}.", hint)


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
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileError(
            f"{source.address} needs the package huggingface_hub.", "pip install 'editspec[hub]'"
        ) from error
    try:
        found = huggingface_hub.hf_hub_download(
            repository, file, revision=revision, cache_dir=source.cache.root / "hub"
        )
    except Exception as error:  # the library meets trouble with errors of many kinds
        raise FileError(
            f"{source.address} cannot be fetched from the hub.",
            "Check the repository, the file and the revision, the connection, and for a closed "
            "repository your login (huggingface-cli login).",
        ) from error
    part = source.path.with_name(f".{source.path.name}.partial")
    part.unlink(missing_ok=True)
    try:
        os.link(Path(found).resolve(), part)  # twice the name, once the bytes
    except OSError:
        part.write_bytes(Path(found).read_bytes())
    return part


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
