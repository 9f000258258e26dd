"""Weights that lie elsewhere: https with the digest of the file, and the Hugging Face hub. Imports
no torch.

A file is fetched once into the cache. What arrives is kept when the line breaks, and the next try
goes on from there; nothing lies under the final name before its digest is right.
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
from editspec_runtime.io.cache import default_cache

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
    """Whether nothing may be fetched: ``$EDITSPEC_OFFLINE`` is set, to anything but 0."""
    return os.environ.get("EDITSPEC_OFFLINE", "0") not in ("", "0")


@dataclass(frozen=True)
class Remote:
    """A file elsewhere.

    Attributes
    ----------
    address
        ``https://…``, or ``hf://org/repo/path@revision``.
    sha256
        What its bytes must be; None for a file of the hub that no digest pins.
    """

    address: str
    sha256: str | None

    @property
    def path(self) -> Path:
        """Where it lies, or will lie, in the cache, under its own name."""
        name = (
            PurePosixPath(urllib.parse.urlsplit(self.address).path.partition("@")[0]).name
            or "weights"
        )
        key = self.sha256 or hashlib.sha256(self.address.encode()).hexdigest()
        return default_cache().root / "weights" / key / name


def remote(weights: str, pin: str | None = None) -> Remote:
    """What ``weights:`` names, with the digest from its ``#sha256=…`` or from a spec's ``digest:
    sha256:…``.

    Raises `FileError` where the address is wrong, or an https address comes without a digest.
    """
    address, _, fragment = weights.partition("#")
    found = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment) if fragment else None
    if fragment and found is None:
        raise FileError(
            f"{weights} ends in {fragment}, expected sha256= and 64 hexadecimal digits."
        )
    pinned = pin.removeprefix("sha256:") if pin is not None and pin.startswith("sha256:") else None
    sha256 = found[1] if found else pinned
    if address.startswith("hf://"):
        _hub_parts(address)
        return Remote(address, sha256)
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise FileError(f"{address} is not encrypted.", "Give the https address.")
    if not parts.hostname:
        raise FileError(f"{address} names no host.")
    if sha256 is None:
        raise FileError(
            f"{address} has no digest, and what lies at an address may change.",
            "Write digest: sha256:… beside weights in the spec, or #sha256=… at the end of the address.",
        )
    return Remote(address, sha256)


def fetch(source: Remote, progress: Progress = lambda done, total: None) -> Path:
    """The file in the cache, fetched where it is not there yet.

    Raises `FileError` where it cannot be fetched: offline, no such file, a line that breaks,
    another digest, a redirection to another host.
    """
    if source.path.is_file():
        return source.path
    if is_offline():
        raise FileError(
            f"{source.address} is not in the cache, and nothing may be fetched (EDITSPEC_OFFLINE is set).",
            f"Fetch it once with a connection, or put the file at {source.path}.",
        )
    from filelock import FileLock

    source.path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(source.path.parent / "lock"):
        if not source.path.is_file():
            arrived = (
                _from_hub(source)
                if source.address.startswith("hf://")
                else _from_web(source, progress)
            )
            _require_digest(source, arrived)
            arrived.replace(source.path)
    return source.path


def _from_web(source: Remote, progress: Progress) -> Path:
    """The file, still under a name of its own; goes on where an earlier try broke off."""
    import urllib.error
    import urllib.request

    class SameHost(urllib.request.HTTPRedirectHandler):
        """Follows a redirection on the same host, and refuses any other."""

        def redirect_request(self, request: Any, *rest: Any) -> Any:
            new = urllib.parse.urlsplit(urllib.parse.urljoin(request.full_url, rest[-1]))
            if (new.scheme, new.netloc) != urllib.parse.urlsplit(request.full_url)[:2]:
                raise FileError(
                    f"{request.full_url} redirects elsewhere, to {new.scheme}://{new.netloc}{new.path}.",
                    "Give that address, if it is the one you trust.",
                )
            return super().redirect_request(request, *rest)

    part = source.path.with_name(f".{source.path.name}.partial")
    begun = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(
        source.address, headers={"Range": f"bytes={begun}-"} if begun else {}
    )
    try:
        with urllib.request.build_opener(SameHost).open(request, timeout=TIMEOUT) as answer:
            # A server that knows no ranges sends the whole file again.
            begun = begun if answer.status == 206 else 0
            total = begun + int(answer.headers.get("Content-Length") or 0)
            done = begun
            with part.open("ab" if begun else "wb") as file:
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
            f"{source.address} cannot be fetched: the server says {error.code} {error.reason}."
        ) from error
    except (
        OSError
    ) as error:  # urllib's URLError, a time-out and a line that breaks are all of this kind
        raise _broken(source, part, str(getattr(error, "reason", error))) from error
    if done < total:
        raise _broken(source, part, f"it ends after {done} of {total} bytes")
    return part


def _broken(source: Remote, part: Path, why: str) -> FileError:
    kept = part.stat().st_size if part.is_file() else 0
    hint = (
        f"What arrived ({kept} bytes) is kept; try again to go on from there."
        if kept
        else "Try again."
    )
    return FileError(f"{source.address} cannot be fetched: {why}.", hint)


def _require_digest(source: Remote, arrived: Path) -> None:
    """Raise a `FileError`, and throw away what arrived, unless it has the digest that was asked
    for.
    """
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


def _from_hub(source: Remote) -> Path:
    """A copy of a file of the hub, through the hub's own library and cache, under a name of its
    own.
    """
    repository, file, revision = _hub_parts(source.address)
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileError(
            f"{source.address} needs the package huggingface_hub.", "pip install 'editspec[hub]'"
        ) from error
    try:
        found = huggingface_hub.hf_hub_download(
            repository, file, revision=revision, cache_dir=default_cache().root / "hub"
        )
    except Exception as error:  # the library meets trouble with errors of many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(f"{source.address} cannot be fetched: {reason}") from error
    part = source.path.with_name(f".{source.path.name}.partial")
    part.unlink(missing_ok=True)
    try:
        os.link(Path(found).resolve(), part)  # twice the name, once the bytes
    except OSError:
        part.write_bytes(Path(found).read_bytes())
    return part


def _hub_parts(address: str) -> tuple[str, str, str]:
    """Repository, file and revision of ``hf://org/repo/path/to/file@revision``; the revision may be
    left out: main.
    """
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)/([^@]+?)(?:@(.+))?", address)
    if found is None:
        raise FileError(
            f"{address} is no file of the hub.", "Write hf://organisation/repository/file@revision."
        )
    return found[1], found[2], found[3] or "main"
