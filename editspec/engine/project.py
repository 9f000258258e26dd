"""The file of a project, ``.editspec.toml``: what a team shares. Imports no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editspec_runtime.errors import ProjectError

FILE = ".editspec.toml"


@dataclass(frozen=True)
class Policy:
    """What the specs of a project have to keep.

    Attributes
    ----------
    weights
        Digests, and patterns with ``*`` of what ``model.weights`` may be; None: whatever it is.
    largest_collateral
        The largest predicted collateral of an edit, as a share; None: no limit.
    required_checks
        The measures that a spec has to check, with severity ``error``.
    """

    weights: tuple[str, ...] | None = None
    largest_collateral: float | None = None
    required_checks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Project:
    """A project.

    Attributes
    ----------
    file
        The path of its file.
    cache
        The folder of its cache; None for the user's.
    threads
        How many parts are computed at once; None: as many as there are cores.
    policy
        What its specs have to keep.
    """

    file: Path
    cache: Path | None = None
    threads: int | None = None
    policy: Policy = field(default_factory=Policy)


def find_project(folder: Path) -> Project | None:
    """Find the project of a folder: the nearest file in it or above it.

    Raises
    ------
    ProjectError
        The file is wrong.
    """
    place = folder.absolute()
    for above in (place, *place.parents):
        if (above / FILE).is_file():
            return read_project(above / FILE)
    return None


def read_project(file: Path) -> Project:
    """Read the file of a project.

    Raises
    ------
    ProjectError
        The file is wrong.
    """
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"{file} cannot be read as TOML.", "Write it as editspec init does."
        ) from error
    policy = content.pop("policy", {})
    own = _check_fields(file, content, PROJECT_FIELDS, "")
    if not isinstance(policy, dict):
        raise ProjectError(f"{file}: policy is a table.", "Write [policy] on a line of its own.")
    kept = _check_fields(file, policy, POLICY_FIELDS, "policy.")
    cache = own.get("cache")
    return Project(
        file,
        None if cache is None else file.parent / cache,
        own.get("threads"),
        Policy(**{name: _frozen(value) for name, value in kept.items()}),
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_fields(
    file: Path, content: Mapping[str, Any], known: Mapping[str, Field], prefix: str
) -> dict[str, Any]:
    """Check the names and values of a table, and return it."""
    for name, value in content.items():
        if name not in known:
            raise ProjectError(
                f"{file}: {prefix}{name} is unknown.", f"Known here: {', '.join(known)}."
            )
        expected, fits = known[name]
        if not fits(value):
            raise ProjectError(f"{file}: {prefix}{name} must be {expected}.", "Correct it.")
    return dict(content)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_inside(value: object) -> bool:
    """Whether a value is a path that stays within the folder of the project."""
    if not isinstance(value, str) or not value.isprintable():
        return False
    path = Path(value)
    return not path.is_absolute() and ".." not in path.parts and value not in ("", ".")


Field = tuple[str, Callable[[object], bool]]
"""What a field must be, in words, and whether a value is that."""

PROJECT_FIELDS: dict[str, Field] = {
    "cache": ("a path within the folder of the project", _is_inside),
    "threads": ("a whole number from 1", _is_count),
}

POLICY_FIELDS: dict[str, Field] = {
    "weights": ("a list of digests and patterns", _are_words),
    "largest_collateral": ("a number from 0", _is_number),
    "required_checks": ("a list of measures", _are_words),
}
