"""A cache on a server, which machines share: entries by their names, read or also written.

The server is trusted as the folder of a cache is, and no more: `Cache` compares an entry with the
digest that it carries, which binds the content to its name, and whoever takes a file by its own
digest compares that. A server that does not answer costs one warning. Imports no torch.
"""

from __future__ import annotations

import os
import re
import sys
import urllib.parse
from dataclasses import dataclass

from editspec_runtime.confidential import holds_secret
from editspec_runtime.errors import UsageError
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.remote_store import LARGEST, HttpStore, RemoteStore, StoreError
from editspec_runtime.io.s3_store import S3Store

REMOTE = "EDITSPEC_REMOTE"
"""The environment variable that says where the server is."""

TOKEN = "EDITSPEC_REMOTE_TOKEN"
"""The environment variable with what a server of HTTP wants to see, if it does."""

WRITE = "EDITSPEC_REMOTE_WRITE"
"""The environment variable that lets entries be written: 1, and by default not."""

KINDS = frozenset({"statistics", "solutions", "losses", "rules", "patches"})
"""The kinds of entries that are shared: few for an edit, and each worth a request."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""A name that a bucket of S3 can have."""

PREFIX = re.compile(r"[\w!.*'()/-]*")
"""A prefix of keys that every server takes as it is."""

HINT = f"Check {REMOTE}, {TOKEN} and the connection."


def is_offline() -> bool:
    """Whether nothing may be fetched: ``$EDITSPEC_OFFLINE`` is set to anything but 0."""
    return _is_set("EDITSPEC_OFFLINE")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


@dataclass(frozen=True)
class RemoteCache:
    """A server that holds entries.

    Attributes
    ----------
    address
        Where it is, as the environment says.
    store
        What reads and writes there.
    writes
        Whether entries that are computed here are written to the server.
    """

    address: str
    store: RemoteStore
    writes: bool = False

    def get(self, kind: str, key: str) -> bytes | None:
        """Get an entry of a shared kind; None where the server does not have it or is gone."""
        if not self._is_asked(kind):
            return None
        try:
            found = self.store.read(f"{kind}/{key}.safetensors")
        except StoreError as error:
            self._leave(error)
            return None
        return None if found is None or len(found) > LARGEST else found

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Write an entry of a shared kind, where that is allowed."""
        if not (self.writes and self._is_asked(kind)) or self.address in _unwritable:
            return
        try:
            self.store.write(f"{kind}/{key}.safetensors", data)
        except StoreError as error:
            if error.refuses:
                self._only_read(error)
            else:
                self._leave(error)

    def _is_asked(self, kind: str) -> bool:
        return kind in KINDS and self.address not in _gone and not is_offline()

    def _leave(self, error: StoreError) -> None:
        """Say on stderr that the server is of no use, and ask it no more in this process."""
        _gone.add(self.address)
        sys.stderr.write(
            f"warning: The remote cache {self.address} cannot be used: {error.reason}. Results are "
            f"computed here.\n  {error.hint}\n"
        )

    def _only_read(self, error: StoreError) -> None:
        """Say on stderr that the server takes nothing, and write there no more."""
        _unwritable.add(self.address)
        sys.stderr.write(
            f"warning: The remote cache {self.address} cannot be written: {error.reason}. It is "
            f"read all the same.\n  {error.hint} Where it is only to be read, unset {WRITE}.\n"
        )


_gone: set[str] = set()
"""The servers that were warned of."""

_unwritable: set[str] = set()
"""The servers that are only read, as they refuse to be written."""


def find_remote() -> RemoteCache | None:
    """Find the remote cache that the environment names; None where it names none.

    Raises `UsageError` where the address is none that can be used, or is one of S3 and boto3 is not
    installed.
    """
    address = os.environ.get(REMOTE, "").rstrip("/")
    if not address:
        return None
    if holds_secret(f"{address}/"):
        raise UsageError(
            f"{REMOTE} has the name of a user or a password in it, which warnings would repeat.",
            f"Give the address without it, and what the server wants to see as {TOKEN}.",
        )
    try:
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname
    except ValueError:
        parts, host = urllib.parse.urlsplit(""), None
    store: RemoteStore
    if address.startswith("s3:"):
        store = _open_bucket(address)
    else:
        plain = parts.scheme == "http" and host in LOOPBACK
        if not host or parts.query or parts.fragment or not (parts.scheme == "https" or plain):
            raise UsageError(
                f"{REMOTE} is {address}, expected https://HOST/PATH or s3://BUCKET/PREFIX.",
                "Give a bucket, or a server that answers GET and, to be written to, PUT.",
            )
        store = HttpStore(address, os.environ.get(TOKEN, ""), HINT)
    return RemoteCache(address, store, _is_set(WRITE))


def _open_bucket(address: str) -> S3Store:
    """The store of an address of S3; nothing is asked yet."""
    bucket, _, prefix = address.removeprefix("s3:").removeprefix("//").partition("/")
    if not (address.startswith("s3://") and BUCKET.fullmatch(bucket) and PREFIX.fullmatch(prefix)):
        raise UsageError(
            f"{REMOTE} is {address}, expected s3://BUCKET/PREFIX.",
            "A bucket has 3 to 63 lower-case letters, digits, dots and hyphens. The address of "
            "a server of your own goes into AWS_ENDPOINT_URL.",
        )
    load_extra("s3")
    return S3Store(bucket, f"{prefix}/" if prefix else "")
