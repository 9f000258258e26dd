"""Where an edit is used from: what ``use:`` says. Imports no torch."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from editspec_runtime.confidential import holds_secret
from editspec_runtime.io.file_names import is_plain_path
from editspec_runtime.io.git_trees import PROTOCOLS

GIT = "git+"
"""The beginning of the address of a repository of git."""

DEFAULT_FILE = "recipes.yaml"
"""The library of a repository whose address names no file."""

FORM = "write git+https://HOST/REPOSITORY//FILE.yaml@TAG#NAME"

ENDINGS = (".yaml", ".yml", ".json")
"""The endings of specs."""

LONGEST = 2000
"""The most characters of an address."""

REVISION = re.compile(r"(?!.*(\.\.|//|/$|\.lock$))[A-Za-z0-9_][A-Za-z0-9._/+-]*")
"""Names of tags and branches, and commits: nothing that git would take for an option."""

HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?")
"""A host with the name of a user, and without a password."""


class AddressError(Exception):
    """A text that does not say where an edit is."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class GitSource:
    """A revision of a repository of git, as a spec names it.

    Attributes
    ----------
    repository
        The address for git, such as ``https://HOST/PATH``.
    revision
        A tag, a branch or a whole commit.
    """

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"{GIT}{self.repository}@{self.revision}"


@dataclass(frozen=True)
class UseAddress:
    """The place of an edit: its name, and the file that it is in.

    Attributes
    ----------
    file
        The library, relative to the file that names it, or within the repository.
    edit
        The name of the edit.
    source
        Where the file is fetched from; None where it lies beside the file that names it.
    """

    file: str
    edit: str
    source: GitSource | None = None


def read_address(text: str) -> UseAddress:
    """Read what stands under ``use:``. Raises `AddressError`."""
    if len(text) > LONGEST or not text.isprintable():
        raise AddressError(
            f"the address has more than {LONGEST} characters, or some that nobody sees", FORM
        )
    _require_public(text)
    place, _, edit = text.rpartition("#")
    if not place or not edit:
        raise AddressError(
            f"{text} does not name a file and an edit in it", f"write FILE.yaml#NAME; or {FORM}"
        )
    if place.startswith(GIT):
        source, file = _read_source(place)
        return UseAddress(file, edit, source)
    if "://" in place or "::" in place or re.match(r"[^/]+@[^/]+:", place):
        raise AddressError(f"{place} is neither a file nor an address of git", FORM)
    if not place.endswith(ENDINGS):
        raise AddressError(f"{place} is not the name of a spec", "give a .yaml or .json file")
    return UseAddress(place, edit)


def _require_public(text: str) -> None:
    """Raise an `AddressError`, which does not repeat it, where an address could hold a secret."""
    protocol, _, rest = text.partition("://")
    # Of git no query is needed, whatever its names are.
    is_query = protocol.endswith("https") and "?" in rest.partition("/")[2]
    if is_query or holds_secret(text):
        raise AddressError(
            "the address has a user, a password or a query in it, which could be a secret",
            f"{FORM}; git has settings for access, and a lock would show the secret to everybody",
        )


def _read_source(place: str) -> tuple[GitSource, str]:
    """Read ``git+PROTOCOL://HOST/PATH//FILE@REVISION``."""
    address = place.removeprefix(GIT)
    protocol = address.partition("://")[0]
    if protocol not in PROTOCOLS:
        message = f"{place} is not an address by {', '.join(PROTOCOLS[:-1])} or {PROTOCOLS[-1]}"
        raise AddressError(message, FORM)
    where, _, revision = address.rpartition("@")
    host, _, path = where.partition("://")[2].partition("/")
    if not path:
        raise AddressError(f"{place} names no revision: a tag, a branch or a commit", FORM)
    if not REVISION.fullmatch(revision):
        raise AddressError(
            f'"{revision}" is not a name of a tag or a branch that can be used here',
            f"{FORM}: letters from a to z, digits and . _ / + -; or give the commit",
        )
    if not (host == "" if protocol == "file" else HOST.fullmatch(host)):
        raise AddressError(f'"{host}" is not a host', FORM)
    repository, _, file = path.partition("//")
    file = file or DEFAULT_FILE
    if not is_plain_path(file) or not file.endswith(ENDINGS):
        raise AddressError(f"{file} is not a spec in a repository", FORM)
    return GitSource(f"{protocol}://{host}/{repository}", revision), file


def join_name(folder: str, name: str) -> str:
    """Join the name of a file to a folder, as a spec elsewhere sees it."""
    return posixpath.join(folder, name.removeprefix("./")) if folder else name


def join_within(folder: str, name: str) -> str | None:
    """Join a name to a folder of a repository; None where it leads out of the repository."""
    joined = posixpath.normpath(posixpath.join(folder, name))
    return joined if is_plain_path(joined) and not name.startswith("/") else None
