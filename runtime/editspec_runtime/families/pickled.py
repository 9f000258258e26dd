"""The generator among the modules of a pickle, as its family reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.registry import FAMILIES, import_part
from editspec_runtime.families.selection import Choice
from editspec_runtime.families.shapes import list_problems
from editspec_runtime.io.pickles import Module
from editspec_runtime.io.weights import Container, Weights

GENERATOR = ("G_ema",)
"""The key under which NVIDIA's training keeps the average of its generator."""

DEPTH = 3
"""How deep a module may be nested in plain containers."""


def find_modules(content: object) -> dict[tuple[str, ...], Module]:
    """Find the modules in what a pickle holds, by the keys that lead to them."""
    found: dict[tuple[str, ...], Module] = {}
    waiting: list[tuple[tuple[str, ...], object]] = [((), content)]
    while waiting:
        key, value = waiting.pop(0)
        if isinstance(value, Module):
            found[key] = value
        elif isinstance(value, Mapping) and len(key) < DEPTH:
            waiting += [((*key, str(name)), part) for name, part in value.items()]
    return found


def read_generator(
    path: Path, modules: Mapping[tuple[str, ...], Module], choice: Choice
) -> Weights:
    """Read the weights of the generator among the `modules` of a pickle.

    Raises `WeightsError` where none of them is a generator, where one computes otherwise than its
    family here, or where several are generators and the choice names none.
    """
    # Modules are what they are without a text before the names: an empty one is no other wish.
    if choice.prefix:
        raise WeightsError(
            f"{path} holds modules, whose tensors have no text before their names.",
            "Leave out model.prefix.",
        )
    if choice.key is not None:
        modules = {key: each for key, each in modules.items() if ".".join(key) == choice.key}
    elif GENERATOR in modules:
        modules = {GENERATOR: modules[GENERATOR]}
    generators: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for key, module in modules.items():
        tensors = _read_module(path, module)
        if tensors is not None:
            generators[key] = tensors
    if len(generators) == 1:
        ((key, tensors),) = generators.items()
        return Weights(tensors, Container(key=key))
    raise _wrong_count(path, modules, generators)


def _read_module(path: Path, module: Module) -> dict[str, Tensor] | None:
    """Read a module as the first family that knows it; None where none does."""
    for family in FAMILIES.values():
        if not family.pickled:
            continue
        tensors, problems = import_part(family.pickled)(module)
        if problems:
            raise WeightsError(
                f"{path} holds a {module.name} that computes otherwise than the {family.title} "
                f"known here:\n{list_problems(problems)}",
                f"What is read: {family.loads}.",
            )
        if tensors is not None:
            return dict(tensors)
    return None


def _wrong_count(
    path: Path,
    modules: Mapping[tuple[str, ...], Module],
    generators: Mapping[tuple[str, ...], object],
) -> WeightsError:
    """The error of no generator, or of several."""
    if generators:
        keys = ", ".join(".".join(key) for key in generators)
        return WeightsError(
            f"{path} holds {len(generators)} generators, and nothing says which is meant: {keys}.",
            f"Write model.key: {keys.partition(',')[0]} in a spec.",
        )
    found = ", ".join(f"{'.'.join(key) or 'a bare'} {each.name}" for key, each in modules.items())
    return WeightsError(
        f"{path} holds no generator: expected {GENERATOR[0]}, found {found or 'nothing'}.",
        "Give the pickle that NVIDIA's training wrote (network-snapshot-….pkl).",
    )
