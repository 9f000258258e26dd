"""Places of weights, and kinds of files that hold them; imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from editspec_runtime.confidential import holds_secret
from editspec_runtime.errors import FileError, WrongPath
from editspec_runtime.io.builtins import BUILTINS
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.downloads import fetch, find_kept, is_remote, parse_remote
from editspec_runtime.io.file_names import describe_odd
from editspec_runtime.io.files import detect_container

SUFFIXES = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".pt2": "torch",
    ".pkl": "pickle",
}
"""The kind of a file of weights by its name."""


def weights_path(
    weights: str,
    folder: Path,
    *,
    cache: Cache,
    pin: str | None = None,
    fetching: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Find the file that ``weights:`` or ``--model`` names.

    Parameters
    ----------
    weights
        A ``builtin:`` name, an address (``https://…``, ``hf://…``), or a path from `folder`.
    cache
        Where a file elsewhere is kept.
    pin
        The ``digest`` of the spec, which may pin the bytes of a file elsewhere.
    fetching
        Whether a file elsewhere that is not in the cache is fetched.
    progress
        Called with the bytes that were fetched, and with all that there are.

    Raises
    ------
    WrongPath
        There is no such ``builtin:`` name, or an address holds a secret.
    FileError
        The file cannot be fetched.
    """
    if not weights.isprintable():
        raise WrongPath(
            f"The weights are not named by a path or an address: {describe_odd(weights)}.",
            "Write the path as it is printed by ls.",
        )
    if holds_secret(weights):
        raise WrongPath(
            "The address of the weights has a user, a password or a signature in it, which could "
            "be a secret.",
            "Locks and manifests would show it to everybody. Fetch the file by other means, and "
            "name its path.",
        )
    if is_remote(weights):
        source = parse_remote(weights, cache, pin)
        if fetching:
            return fetch(source, progress)
        return find_kept(source) or source.path
    if weights.startswith("builtin:"):
        if weights not in BUILTINS:
            raise WrongPath(f"There is no {weights}.", f"The package ships {', '.join(BUILTINS)}.")
        return BUILTINS[weights]
    try:
        return folder / Path(weights).expanduser()
    except RuntimeError as error:
        raise WrongPath(
            f"{weights} names the home of a user whom this machine does not know.",
            "Write the whole path.",
        ) from error


def container_of(path: Path) -> str:
    """Tell the kind of a file of weights by its bytes and its name.

    The kinds are ``safetensors``, ``torch`` and ``pickle``. Raises `FileError` where name and bytes
    say different things.
    """
    named = SUFFIXES.get(path.suffix, "safetensors")
    found = detect_container(path)
    if found == "":
        return named
    # Files of torch are pickles, in an archive or not, and people give either name to either.
    if {named, found} == {"torch", "pickle"}:
        return found
    if found != named and path.suffix in SUFFIXES:
        ending = next(suffix for suffix, kind in SUFFIXES.items() if kind == found)
        raise FileError(
            f"{path} is a {found} file by its content, and its name ends in {path.suffix}.",
            f"Rename it to end in {ending}, if it comes from where you trust it to.",
        )
    return found
