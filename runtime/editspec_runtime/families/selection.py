"""The choice of the model among the tensors of a file; imports no torch.

A training saves its generator under a key of its own, beside a discriminator and optimisers, or
with a text before the names of its tensors. What a family expects tells which of them is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from editspec_runtime.errors import CodeError, WeightsError
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import (
    FAMILIES,
    Family,
    containers,
    import_part,
    read_architecture,
)
from editspec_runtime.families.shapes import list_problems
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.io.weights import Container

if TYPE_CHECKING:
    from editspec_runtime.core.fields import ModelFields

Fit = Callable[[Mapping[str, TensorInfo]], bool]
"""Whether tensors, by their names in the model, are those of the model that is meant."""

STATE_DICT = ("state_dict",)
"""The key under which many trainings keep the state dict of their model."""

WRAPPERS = ("module.", "_orig_mod.")
"""The texts that torch's own wrappers of a network put before all of its names."""

DEPTH = 3
"""How many parts of a dotted name a prefix may have."""

MOST_LISTED = 8
"""The most entries of a file that a message lists."""


@dataclass(frozen=True)
class Held:
    """A mapping from names to tensors in a file.

    Attributes
    ----------
    key
        The keys that lead to it; empty for the whole file.
    tensors
        The dtypes and shapes by their names in the mapping.
    """

    key: tuple[str, ...]
    tensors: Mapping[str, TensorInfo]

    def part(self, container: Container) -> dict[str, TensorInfo]:
        """The tensors of the model that lies in a `container`, by its names."""
        return container.model_part(self.tensors)


@dataclass(frozen=True)
class Choice:
    """The model of a file that is meant, as far as it is known.

    Attributes
    ----------
    key, prefix
        Its key, dotted where keys are nested, and the text before its names. None: found.
    fits
        Whether tensors may be its own. None: those of any family may.
    digest
        The digest of its weights, which decides between several that fit; None where unknown.
    """

    key: str | None = None
    prefix: str | None = None
    fits: Fit | None = None
    digest: str | None = None

    def in_file(self, metadata: Mapping[str, object]) -> Choice:
        """The choice in a file of which editspec says `metadata`.

        In a file that it edited, the edited model is meant, even where another is like the base.
        """
        if not metadata.get("patches"):
            return self
        return replace(self, digest=str(metadata.get("result")))


Candidate = tuple[Held, Container]
"""A mapping, and where a model lies in it."""


def choose_by_fields(fields: ModelFields, origin: Origin | None = None) -> Choice:
    """The choice that the ``model:`` of a spec makes.

    `origin` tells whether code of the network, which knows its tensors, may run.
    """
    digest = fields.digest
    if digest is not None and digest.startswith("sha256:"):  # of the bytes of the file
        digest = None
    family = FAMILIES.get(fields.family)
    fits = None if family is None else _make_fit(family, fields, origin or Origin())
    return Choice(fields.key, fields.prefix, fits, digest)


def choose_container(
    path: Path,
    held: Sequence[Held],
    choice: Choice,
    digest_of: Callable[[Container], str] | None = None,
) -> Container:
    """Find where the model lies among what a file holds.

    Parameters
    ----------
    path
        The file, for messages.
    held
        The mappings of tensors that it holds, at least one.
    choice
        The model that is meant.
    digest_of
        Takes the digest of the weights in a container, where that can be done.

    Raises
    ------
    WeightsError
        There is no such key or prefix, or several models fit.
    CodeError
        Only code that may not run knows which model is meant.
    """
    named = [each for each in held if choice.key in (None, ".".join(each.key))]
    named = [each for each in named if choice.prefix is None or _has(each, choice.prefix)]
    if not named:
        raise _nothing_there(path, held, choice)
    if choice.prefix is not None and len(named) == 1:
        return _container(named[0], choice.prefix)
    unknown: CodeError | None = None
    fitting: list[Candidate] = []
    try:
        fitting = _find_fitting(named, choice)
    except CodeError as error:
        unknown = error
    if len(fitting) > 1:
        fitting = _narrow(fitting, choice, digest_of)
    if len(fitting) == 1:
        return fitting[0][1]
    usual = None if fitting else _find_usual(named, unwrapping=unknown is not None)
    if usual is not None:
        return usual
    raise unknown or _ambiguous(path, fitting or [(each, _container(each, "")) for each in named])


def _has(held: Held, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in held.tensors)


def _container(held: Held, prefix: str) -> Container:
    """The place of a model; what training leaves beside it is found by its own names."""
    beside: list[str] = []
    if held.key or prefix:
        for each in containers():
            beside += each.beside
    return Container(prefix, tuple(beside), key=held.key)


def _find_fitting(held: Sequence[Held], choice: Choice) -> list[Candidate]:
    """The candidates that fit; of each mapping as it is, or else behind prefixes."""
    fits = choice.fits or fits_any_family
    candidates = [(each, list(_prefixes(each, choice.prefix))) for each in held]
    # A single candidate is taken, whatever it is: those who make the model say what does not fit.
    if len(candidates) == 1 and len(candidates[0][1]) == 1:
        return [(held[0], _container(held[0], candidates[0][1][0]))]
    fitting: list[Candidate] = []
    for each, prefixes in candidates:
        for prefix in prefixes:
            container = _container(each, prefix)
            if fits(each.part(container)):
                fitting.append((each, container))
                if not prefix:
                    break
    return fitting


def _prefixes(held: Held, given: str | None) -> Iterator[str]:
    """The texts that may stand before the names of a model, none first."""
    if given is not None:
        yield given
        return
    yield ""
    found: dict[str, None] = {}
    for name in held.tensors:
        parts = name.split(".")
        for count in range(1, min(DEPTH, len(parts) - 1) + 1):
            found[".".join(parts[:count]) + "."] = None
    yield from sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def fits_any_family(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether tensors are those of some family that is told by its tensors."""
    return bool(_families_of(tensors))


def _families_of(tensors: Mapping[str, TensorInfo]) -> list[str]:
    return [name for name, family in FAMILIES.items() if _fits_family(family, tensors)]


def _fits_family(family: Family, tensors: Mapping[str, TensorInfo]) -> bool:
    if family.read_architecture is None:
        return False
    try:
        read_architecture(family.name, tensors)
    except WeightsError:
        return False
    return True


def _make_fit(family: Family, fields: ModelFields, origin: Origin) -> Fit:
    """The function that tells the tensors of a family's model from others."""
    expected: dict[str, tuple[int, ...]] = {}

    def fits(tensors: Mapping[str, TensorInfo]) -> bool:
        """Whether tensors are those that the family, or the network itself, expects."""
        if not family.expects:
            return _fits_family(family, tensors)
        if not expected:
            expected.update(import_part(family.expects)(fields, origin))
        return all(
            name in tensors and tensors[name].shape == shape for name, shape in expected.items()
        )

    return fits


def _narrow(
    fitting: list[Candidate], choice: Choice, digest_of: Callable[[Container], str] | None
) -> list[Candidate]:
    """Decide between several that fit, by digest or by what trainings call them."""
    # The usual one first: taking a digest reads all bytes.
    ordered = sorted(fitting, key=lambda each: _rank(each[1]))
    if choice.digest is not None and digest_of is not None:
        for candidate in ordered:
            if digest_of(candidate[1]) == choice.digest:
                return [candidate]
    ranks = [_rank(container) for _, container in ordered]
    return ordered[:1] if ranks[0] < ranks[1] else ordered


def _rank(container: Container) -> int:
    """The place of a container among those that trainings use, 0 for the most usual."""
    known = containers()
    for number, each in enumerate(known):
        if container.key == (each.prefix.removesuffix("."),):
            return number
        if not container.key and container.prefix == each.prefix:
            return number
    return len(known) + (container.key != STATE_DICT)


def _find_usual(held: Sequence[Held], *, unwrapping: bool) -> Container | None:
    """Find the model where nothing is known to fit; None where there are several."""
    for known in containers():
        for each in held:
            if not each.key and _has(each, known.prefix):
                return _container(each, known.prefix)
    ordered = sorted(held, key=lambda each: _rank(_container(each, "")))
    first = ordered[0]
    is_usual = _rank(_container(first, "")) <= len(containers())
    # Loose tensors of a training do not make a model; a model is the larger part of its file.
    whole = [each for each in held if not each.key]
    if not is_usual and whole and len(held) > 1:
        others = max(len(each.tensors) for each in held if each.key)
        if len(whole[0].tensors) >= others:
            first, is_usual = whole[0], True
    if not is_usual and len(held) > 1:
        return None
    return _container(first, _wrapping(first) if unwrapping else "")


def _wrapping(held: Held) -> str:
    """The text that torch's wrappers put before all names of a mapping; may be empty."""
    found = ""
    while True:
        deeper = [found + wrapper for wrapper in WRAPPERS]
        common = [
            prefix for prefix in deeper if all(name.startswith(prefix) for name in held.tensors)
        ]
        if not common:
            return found
        found = common[0]


def _nothing_there(path: Path, held: Sequence[Held], choice: Choice) -> WeightsError:
    """The error of a key or a prefix that the file does not have."""
    wanted = []
    if choice.key is not None:
        wanted.append(f"model.key: {choice.key}")
    if choice.prefix is not None:
        wanted.append(f"model.prefix: {choice.prefix}")
    return WeightsError(
        f"{path} holds no tensors at {' with '.join(wanted)}; it holds:\n"
        f"{_list([(each, _container(each, '')) for each in held])}",
        "Write one of these as model.key and model.prefix, or leave both out.",
    )


def _ambiguous(path: Path, candidates: Sequence[Candidate]) -> WeightsError:
    """The error of several models, of which none is named."""
    _, container = candidates[0]
    example = [f"model.key: {'.'.join(container.key)}"] if container.key else []
    if container.prefix:
        example.append(f"model.prefix: {container.prefix}")
    return WeightsError(
        f"{path} holds several state dicts, and nothing says which of them is the model:\n"
        f"{_list(candidates)}",
        f"Say it in a spec; for the first of them, write {' and '.join(example)}."
        if example
        else "Save the state dict of the generator alone.",
    )


def _list(candidates: Sequence[Candidate]) -> str:
    """List what a file holds, one to a line."""
    lines = [_describe(held, container) for held, container in candidates[:MOST_LISTED]]
    if len(candidates) > MOST_LISTED:
        lines.append(f"and {len(candidates) - MOST_LISTED} more")
    return list_problems(lines)


def _describe(held: Held, container: Container) -> str:
    """Describe a candidate: where it lies, how many tensors it has, and what they fit."""
    part = held.part(container)
    where = [f"key {'.'.join(held.key)}" if held.key else "the whole file"]
    if container.prefix:
        where.append(f"prefix {container.prefix}")
    names = ", ".join(list(part)[:3])
    families = ", ".join(_families_of(part)) or "no family that is told by its tensors"
    return f"{', '.join(where)}: {len(part)} tensors ({names}, …), fits {families}"
