"""The names of the tensors in a patch file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from editspec_runtime.io.digests import tensors_digest


def shared_directions(directions: Mapping[str, Tensor]) -> dict[str, str]:
    """Name the D that several parameters share: ``D.0``, ``D.1``, … by parameter."""
    groups: dict[str, list[str]] = {}
    for name in sorted(directions):
        groups.setdefault(tensors_digest({"D": directions[name].cpu()}), []).append(name)
    several = [group for group in groups.values() if len(group) > 1]
    return {name: f"D.{number}" for number, group in enumerate(several) for name in group}


def is_complete(names: set[str], shared: object) -> bool:
    """Whether the names are those of D and A, or of delta, for each parameter.

    `shared` are the metadata ``directions``: the name of its D for each parameter that shares it.
    """
    if not isinstance(shared, dict):
        return False
    shares = set(map(str, shared.values()))
    if not all(name.startswith("D.") and name in names for name in shares):
        return False
    own = {name.removesuffix(".D") for name in names - shares if name.endswith(".D")}
    if own & set(shared):
        return False
    # A parameter that shares D counts as if it had its own.
    names = names - shares | {f"{name}.D" for name in shared}
    factors = {name.removesuffix(".D") for name in names if name.endswith(".D")}
    deltas = {name.removesuffix(".delta") for name in names if name.endswith(".delta")}
    wanted = set()
    for name in factors:
        wanted |= {f"{name}.A", f"{name}.D"}
    for name in deltas:
        wanted.add(f"{name}.delta")
    return names == wanted and not factors & deltas
