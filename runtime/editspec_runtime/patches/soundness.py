"""Whether what a patch says of itself is what its tensors are.

Nothing that a patch says is believed where its tensors tell it: every field has a type, and rank,
layers, parameters, layouts and collateral are held against the tensors. `find_contradiction` needs
the file alone; `require_fitting` needs the weights that the patch is of, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.method import ERASED_UNITS, FULL_RANK, OUTPUTS, RANK, Method
from editspec_runtime.errors import PatchError
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.methods.registry import METHODS, settings_of
from editspec_runtime.patches.shapes import DTYPES
from editspec_runtime.patches.tensor_names import shared_directions

if TYPE_CHECKING:
    from torch import Tensor

    from editspec_runtime.patches.patch import Patch

COMPOSED = "compose"
"""The solver that a patch names which was composed of several."""

ADOPTED = "adopt"
"""The solver that a patch names whose change another tool made."""

NUMBERS = frozenset({"independent", "correlated", "energy"})
"""What a patch says of the collateral of a layer."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}(\+[A-Za-z0-9][A-Za-z0-9._-]{0,79})*")
"""The name of an edit; of several that were composed, joined by a plus."""

SHARED = re.compile(r"D\.[0-9]{1,9}")
"""The name of a D that several parameters share."""

ORTHONORMAL = 1e-4
"""How far D D^T may be from the identity."""


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_rank(value: object) -> bool:
    # 0 is the rank of an edit that erases no units.
    return value is None or (type(value) is int and value >= 0)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < math.inf


def _is_axes(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[1oixyz]?( [1oixyz])*", value) is not None


def _are_layouts(value: object) -> bool:
    return (
        isinstance(value, dict) and all(map(_is_word, value)) and all(map(_is_axes, value.values()))
    )


def _is_collateral(value: object) -> bool:
    if not isinstance(value, dict) or not all(map(_is_word, value)):
        return False
    for each in value.values():
        if not isinstance(each, dict) or each.keys() != NUMBERS:
            return False
        if not all(map(_is_number, each.values())):
            return False
    return True


def _are_digests(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_digest, value))


def _are_notes(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_word, value))


def _are_layers(value: object) -> bool:
    if not isinstance(value, list) or len(value) < 2 or not all(map(_is_word, value)):
        return False
    return len(set(value)) == len(value)


def _are_directions(value: object) -> bool:
    if not isinstance(value, dict) or value == {} or not all(map(_is_word, value)):
        return False
    return all(isinstance(each, str) and SHARED.fullmatch(each) for each in value.values())


Check = tuple[Callable[[object], bool], str]
"""Whether a value is of a type, and what is expected, for people."""

DIGEST: Check = (_is_digest, "a SHA-256 of 64 hexadecimal digits")
WORD: Check = (_is_word, "a text of characters that can be printed")

FIELDS: dict[str, Check] = {
    "base": DIGEST,
    "content": DIGEST,
    "edit": DIGEST,
    "family": WORD,
    "format": WORD,
    "layouts": (_are_layouts, "axes such as o i y x, by parameter"),
    "name": (_is_name, "the name of an edit"),
    "parent": DIGEST,
    "rank": (_is_rank, "a whole number, or null"),
    "result": DIGEST,
    "solver": (lambda value: isinstance(value, dict), "the settings of a solver"),
    "version": (_is_count, "a whole number"),
}
"""The fields that every patch has, and their types."""

OPTIONAL: dict[str, Check] = {
    "collateral": (_is_collateral, "the numbers " + ", ".join(sorted(NUMBERS)) + " by layer"),
    "directions": (_are_directions, "the names D.0, D.1, ... by parameter"),
    "layer": WORD,
    "layers": (_are_layers, "the names of several layers"),
    "notes": (_are_notes, "sentences on how its solver went on"),
    "composed": (_are_digests, "the digests of the patches that it was composed of"),
}
"""The fields that some patches have."""


def find_wrong_field(metadata: Mapping[str, Any]) -> str | None:
    """Find the first field that is missing, unknown or of another type; None: all fit."""
    missing = sorted(FIELDS.keys() - metadata.keys())
    if ("layer" in metadata) is ("layers" in metadata):
        missing.append("layer or layers")
    if missing:
        return f"it lacks {', '.join(missing)}"
    for name, value in sorted(metadata.items()):
        check = FIELDS.get(name) or OPTIONAL.get(name)
        if check is None:
            return f"there is no field {_shorten(name)} in a patch"
        is_right, expected = check
        if not is_right(value):
            return f"its {name} is {_shorten(value)}, expected {expected}"
    return None


def find_wrong_tensor(tensors: Mapping[str, TensorInfo], shared: Mapping[str, str]) -> str | None:
    """The first tensor of a file that no patch has, for people; None: all is well.

    `shared` are the names of the D that several parameters share, by parameter.
    """
    for name, info in sorted(tensors.items()):
        if not _is_word(name):
            return f"it has a tensor {_shorten(name)}, whose name cannot be printed"
        if info.dtype not in DTYPES:
            return f"its {name} is of type {info.dtype}, expected {', '.join(DTYPES)}"
        if 0 in _without_directions(name, info.shape):
            return f"its {name} {list(info.shape)} holds no numbers"
    for name, info in sorted(tensors.items()):
        if not name.endswith(".A"):
            continue
        parameter = name.removesuffix(".A")
        rows = shared.get(parameter, f"{parameter}.D")
        shape = tensors[rows].shape
        if len(shape) != 2:
            return f"its {rows} has the shape {list(shape)}, expected [directions, inputs]"
        if len(info.shape) < 2 or info.shape[1] != shape[0]:
            return (
                f"its {rows} has {shape[0]} rows, and {name} has the shape {list(info.shape)}, "
                f"expected [outputs, {shape[0]}, ...]"
            )
    return None


def _without_directions(name: str, shape: tuple[int, ...]) -> list[int]:
    """A shape without the number of directions, which may be 0."""
    axis = {"D": 0, "A": 1}.get(name.rpartition(".")[2], 0 if SHARED.fullmatch(name) else None)
    return [size for at, size in enumerate(shape) if at != axis]


def find_contradiction(patch: Patch) -> str | None:
    """Find where fields of a patch contradict one another or its tensors; else None.

    The types of the fields and the shapes of the tensors are right already.
    """
    return next(_contradictions(patch), None)


def _contradictions(patch: Patch) -> Iterator[str]:
    """Yield each contradiction between fields and tensors, for people."""
    if not patch.parameters:
        yield "it changes nothing"
    layouts = patch.metadata["layouts"]
    if sorted(layouts) != patch.parameters:
        yield "the parameters of its layouts are not those that it changes"
        return
    for parameter in patch.parameters:
        yield from _layout_contradictions(patch, parameter)
    if patch.metadata.get("directions", {}) != shared_directions(patch.directions):
        yield "its directions are not those that several parameters share"
    if "composed" in patch.metadata or patch.metadata["solver"].get("method") == COMPOSED:
        yield from _composed_contradictions(patch)
    elif patch.metadata["solver"].get("method") == ADOPTED:
        yield from _adopted_contradictions(patch)
    else:
        yield from _method_contradictions(patch)


def _layout_contradictions(patch: Patch, parameter: str) -> Iterator[str]:
    """Axes that a change does not have."""
    axes = str(patch.metadata["layouts"][parameter]).split()
    stated = f"its layout of {parameter} is {' '.join(axes)}"
    if parameter in patch.deltas:
        shape = patch.deltas[parameter].shape
        # Axes of length 1 may be left out.
        stored = [1] * (len(axes) - len(shape)) + list(shape)
        named = zip(axes, stored, strict=False)
        too_long = any(axis == "1" and length != 1 for axis, length in named)
        if too_long or len(shape) not in (len(axes), len(axes) - axes.count("1")):
            yield f"{stated}, and its change has the shape {list(shape)}"
        return
    taps = [axis for axis in axes if axis not in "1oi"]
    shape = patch.coefficients[parameter].shape
    # A kernel in one dimension has its taps as [1, x].
    spread = len(_without_ones(tuple(shape[2:])))
    fits = spread <= len(taps) <= len(shape) - 2
    if axes.count("o") != 1 or axes.count("i") != 1 or not fits:
        yield f"{stated}, and its coefficients have the shape {list(shape)}"


def _composed_contradictions(patch: Patch) -> Iterator[str]:
    """Yield what a composed patch says that its tensors are not."""
    solver, rank = patch.metadata["solver"], patch.metadata["rank"]
    if "composed" not in patch.metadata or solver.get("method") != COMPOSED:
        yield f"a patch whose solver is {COMPOSED} names what it was composed of, and no other does"
        return
    if solver.keys() != {"method", "rank"} or not _is_rank(solver["rank"]):
        yield f"its solver is {_shorten(solver)}, expected a method and a rank"
        return
    ranks = _ranks_of(patch)
    expected = None if patch.deltas else max(ranks.values())
    if rank != expected:
        yield f"its rank is {_say_rank(rank)}, and that of its tensors is {_say_rank(expected)}"
    if solver["rank"] is not None:
        over = [name for name, found in ranks.items() if found > solver["rank"]]
        if patch.deltas or over:
            yield f"it was composed to rank {solver['rank']}, and its tensors have a higher one"


def _adopted_contradictions(patch: Patch) -> Iterator[str]:
    """Yield what a patch of another tool's change says that its tensors are not."""
    solver, rank = patch.metadata["solver"], patch.metadata["rank"]
    if solver.keys() != {"method", "rank"} or not _is_rank(solver["rank"]) or solver["rank"] == 0:
        yield f"its solver is {_shorten(solver)}, expected a method and a rank"
        return
    largest = max(_ranks_of(patch).values(), default=None)
    if rank != largest:
        yield f"its rank is {_say_rank(rank)}, and that of its tensors is {_say_rank(largest)}"
    if largest is not None and (solver["rank"] is None or largest > solver["rank"]):
        yield f"it was adopted at rank {_say_rank(solver['rank'])}, and its tensors have {largest}"
    if solver["rank"] is not None:
        # A vector has no rank that could be less.
        whole = [name for name, each in patch.deltas.items() if len(_without_ones(each.shape)) > 1]
        if whole:
            yield f"it was adopted at rank {solver['rank']}, and its change of {whole[0]} is whole"


def _method_contradictions(patch: Patch) -> Iterator[str]:
    """Yield what a patch of a method says that its tensors are not."""
    solver = patch.metadata["solver"]
    method = _find_method(solver)
    if method is None:
        yield f"its solver is {_shorten(solver)}, and these are no settings of a solver"
        return
    yield from _rank_contradictions(patch, method)
    layers = patch.layers
    # A method that needs the outputs trains all weights.
    if OUTPUTS not in method.needs and len(patch.parameters) > len(layers):
        count = len(patch.parameters)
        yield f"it names {len(layers)} layers ({', '.join(layers)}), and changes {count} parameters"
    collateral = patch.metadata.get("collateral")
    if collateral is not None and not set(layers) <= collateral.keys():
        yield "the layers of its collateral are not those that it names"


def _rank_contradictions(patch: Patch, method: Method) -> Iterator[str]:
    """Yield what is wrong with a rank, by the change of a patch or by its method."""
    rank = patch.metadata["rank"]
    if _has_rank(method, rank):
        yield from _missing_factors(patch, method)
    else:
        if patch.directions:
            yield f"its solver {method.name} has no rank, and its change has factors"
        if rank is not None:
            yield f"it says rank {rank}, and its solver {method.name} has none"
    ranks = _ranks_of(patch)
    # Of several parameters some may have fewer directions: keys that are one at an early layer.
    largest = max((found for found in ranks.values() if isinstance(found, int)), default=None)
    for parameter, found in ranks.items():
        if found != rank and largest != rank:
            yield f"it says rank {_say_rank(rank)}, and {parameter} has {found}"


def _missing_factors(patch: Patch, method: Method) -> Iterator[str]:
    """Yield what is wrong with a patch whose method found a change of some rank."""
    rank = patch.metadata["rank"]
    if patch.deltas:
        names = ", ".join(sorted(patch.deltas)[:3])
        yield f"its solver {method.name} has a rank, and its change of {names} has no factors"
    if rank is None:
        yield f"its solver {method.name} has a rank, and it says none"
    if rank == 0 and ERASED_UNITS not in method.needs:
        yield "it says rank 0"


def _find_method(solver: Mapping[str, Any]) -> Method | None:
    """The method whose settings these are; None where they are of none."""
    try:
        settings_of(solver)
    except (KeyError, TypeError, ValidationError):
        return None
    return METHODS[solver["method"]]


def _has_rank(method: Method, rank: int | None) -> bool:
    """Whether the change of a method is low-rank, where a patch says that it has this rank."""
    if rank is None and FULL_RANK in method.takes:
        return False
    return RANK in method.takes or ERASED_UNITS in method.needs


def _ranks_of(patch: Patch) -> dict[str, int]:
    """The number of directions of each parameter that has some."""
    return {name: len(rows) for name, rows in patch.directions.items()}


def require_orthonormal(patch: Patch) -> None:
    """Raise a `PatchError` where the directions of a patch are not orthonormal."""
    if "composed" in patch.metadata and patch.metadata["solver"]["rank"] is None:
        # Stacked factors give the very change of the stack; orthonormal ones would be rounded anew.
        return
    for parameter, directions in patch.directions.items():
        if len(directions) == 0:
            continue
        rows = directions.double()
        if len(rows) > rows.shape[1]:
            raise _contradiction(patch, f"{parameter} has more directions than inputs")
        error = float((rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).abs().max())
        if error > ORTHONORMAL:
            reason = f"the directions of {parameter} are not orthonormal (by {error:.1e})"
            raise _contradiction(patch, reason)


def require_alike(stack: Iterable[Patch]) -> None:
    """Raise a `PatchError` where patches of a stack change a parameter in other shapes."""
    known: dict[tuple[str, bool], tuple[object, ...]] = {}
    for patch in stack:
        for parameter in patch.parameters:
            axes, shape = patch.metadata["layouts"][parameter], _stored_shape(patch, parameter)
            # Factors say the output first whatever the checkpoint does.
            found = {False: (axes.startswith("i"), *_without_ones(shape))}
            if parameter in patch.coefficients:
                # Factors are put side by side, where axes of length 1 count.
                found[True] = tuple(patch.coefficients[parameter].shape[2:])
            for is_factor, each in found.items():
                if known.setdefault((parameter, is_factor), each) != each:
                    raise PatchError(
                        f"Patch {patch.name} changes {parameter} {list(shape)} ({axes}), and a "
                        "patch before it changes another shape: they are of different weights.",
                        "Give patches of one stack.",
                    )


def require_fitting(
    patch: Patch, weights: Mapping[str, Tensor], architecture: Architecture | None
) -> None:
    """Raise a `PatchError` where a patch does not fit the weights that it is of.

    Parameters
    ----------
    patch
        A patch without a contradiction in itself.
    weights
        The tensors that it changes, by name.
    architecture
        The layers of the patch's family; None where its tensors do not tell them.
    """
    for parameter in patch.parameters:
        if parameter not in weights:
            raise _contradiction(patch, f"it changes {parameter}, and these weights lack it")
        wanted, found = tuple(weights[parameter].shape), _stored_shape(patch, parameter)
        if _without_ones(found) != _without_ones(wanted):
            reason = f"its change of {parameter} is {list(found)}, and the weight is {list(wanted)}"
            raise _contradiction(patch, reason)
    if architecture is not None:
        _require_layers(patch, architecture)


def _require_layers(patch: Patch, architecture: Architecture) -> None:
    """Raise `PatchError` where a patch names other layers than those that it changes."""
    layers = architecture.layers
    composed = "composed" in patch.metadata
    named = patch.layers
    adopted = patch.metadata["solver"].get("method") == ADOPTED
    # Another tool may have changed what is of no layer, which its own name then stands for.
    others = patch.parameters if composed or adopted else []
    unknown = [name for name in named if name not in layers and name not in others]
    if unknown:
        raise _contradiction(patch, f"there is no layer {', '.join(unknown)} in these weights")
    changed = {name for name, each in layers.items() if each.parameter in patch.parameters}
    for name in changed:
        parameter = layers[name].parameter
        axes = patch.metadata["layouts"][parameter]
        if axes != layers[name].axes:
            reason = f"its layout of {parameter} is {axes}, and the weight's is {layers[name].axes}"
            raise _contradiction(patch, reason)
    collateral = patch.metadata.get("collateral")
    if collateral is not None and not _covers(collateral, changed, layers):
        raise _contradiction(patch, "the layers of its collateral are not those that it changes")
    if composed or adopted:
        return
    method = METHODS[patch.metadata["solver"]["method"]]
    if OUTPUTS not in method.needs:
        stated = {layers[name].parameter for name in named}
        if stated != set(patch.parameters):
            other = ", ".join(sorted(stated ^ set(patch.parameters)))
            raise _contradiction(patch, f"its layer is {','.join(named)}, which is not {other}")


def _covers(collateral: Mapping[str, Any], changed: set[str], layers: Mapping[str, Layer]) -> bool:
    """Whether a collateral names one of the layers of each weight that changes, and no other."""
    named = [layers[name].parameter for name in collateral if name in changed]
    wanted = {layers[name].parameter for name in changed}
    return len(named) == len(collateral) == len(wanted) and set(named) == wanted


def _stored_shape(patch: Patch, parameter: str) -> tuple[int, ...]:
    """The shape of a change with its axes in the order of the checkpoint."""
    if parameter in patch.deltas:
        return tuple(patch.deltas[parameter].shape)
    outputs, _, *taps = patch.coefficients[parameter].shape
    inputs = patch.directions[parameter].shape[1]
    axes = patch.metadata["layouts"][parameter].split()
    shape: list[int] = []
    for axis in axes:
        if axis in "1oi":
            shape.append({"1": 1, "o": outputs, "i": inputs}[axis])
        else:
            # Taps stand together.
            shape += taps
            taps = []
    return tuple(shape)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _say_rank(rank: int | None) -> str:
    return "null" if rank is None else str(rank)


def _shorten(value: object) -> str:
    """A value for people: printable, and not long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _contradiction(patch: Patch, reason: str) -> PatchError:
    return PatchError(
        f"Patch {patch.name} is not what it says: {reason}.", "Do not use it; build it again."
    )
