"""Theorems of every method on every family that it fits, each with a counterexample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from editspec_runtime.core.method import DIRECTIONS, ERASED_UNITS, RANK, Change
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.errors import NumericalError
from editspec_runtime.io.digests import digest
from editspec_runtime.io.files import write
from editspec_runtime.maths.low_rank import kernel_of
from editspec_runtime.methods.layer_problem import find_directions, with_change
from editspec_runtime.methods.registry import METHODS
from editspec_runtime.methods.solve_edit import (
    Solution,
    loss_of,
    residual_of,
    resolve_rules,
    solve_edit,
)
from editspec_runtime.patches.patch import Patch, apply_stack, make_patch, read_patch
from tests.cases import CASES, PAIRS, UNITS, Given, given, statistics_of

of_every_method = pytest.mark.parametrize(("family", "method"), PAIRS)
"""A theorem about every method on every family that it fits."""
of_every_directed_method = pytest.mark.parametrize(
    ("family", "method"), [pair for pair in PAIRS if DIRECTIONS in METHODS[pair[1]].takes]
)
"""A theorem about every method with directions."""


def deltas_of(changes: Mapping[str, Change]) -> dict[str, Tensor]:
    """The full change of every weight, [out, in, *taps] of a low-rank one."""
    patch = Patch.of_changes(changes)
    return {name: patch.delta(name) for name in patch.parameters}


def patch_of(case: Given, changes: Mapping[str, Change]) -> Patch:
    unsigned = Patch.of_changes(changes)
    axes = {layer.parameter: layer.axes for layer in case.model.architecture.layers.values()}
    layouts = {}
    for name, change in unsigned.to_changes().items():
        dimensions = 0 if change.full is None else change.full.ndim
        layouts[name] = axes.get(name) or " ".join("x" * dimensions)
    said = {"name": "e", "family": case.edit.family, "layer": "l", "rank": case.edit.rank}
    for name in ("base", "parent", "edit"):
        said[name] = digest(case.edit.provenance.get(name))
    said["result"] = "0" * 64
    said["solver"] = case.edit.method.as_json()
    return make_patch(unsigned.directions, unsigned.coefficients, layouts, said, unsigned.deltas)


def weights_after(case: Given, solution: Solution, scale: float = 1.0) -> dict[str, Tensor]:
    return apply_stack(case.model.weights, [patch_of(case, solution.changes)], scale)


@of_every_method
def test_the_constraint_is_kept(family: str, method: str) -> None:
    case = given(family, method)
    solution = solve_edit(case.problem)
    takes, needs = METHODS[method].takes, METHODS[method].needs
    if RANK not in takes and ERASED_UNITS not in needs:
        # The negative control: of a method without a limit the change has more than any rank 2.
        full = deltas_of(solution.changes)[solution.rules[0].parameter]
        assert torch.linalg.matrix_rank(full.reshape(-1, *full.shape[-3:])[0].flatten(1)) > 2
        return
    ((name, change),) = solution.changes.items()
    assert change.directions is not None
    directions, rank = change.directions.cpu(), case.edit.rank
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions)).double())
    matrix = deltas_of({name: change})[name].movedim(1, -1).flatten(0, -2)
    assert torch.linalg.matrix_rank(matrix) == rank == len(directions)
    key = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(6)).double()
    outside = key - directions.T @ (directions @ key)
    assert (matrix @ outside).abs().max() < 1e-12 * matrix.abs().max() * len(key)
    assert (matrix @ key).abs().max() > 1e-3 * matrix.abs().max()
    # The directions are those of the context, or of the erased units: others are others.
    if DIRECTIONS in takes:
        rule, statistics = solution.rules[0], statistics_of(case.model, solution.rules[0].layer)
        wanted = find_directions(rule, "zca", rank, statistics)
        torch.testing.assert_close(directions, wanted)
        assert (directions - find_directions(rule, "svd", rank, statistics)).norm() > 1e-3
    elif ERASED_UNITS in needs:
        assert torch.equal(directions.argmax(1), torch.tensor(UNITS))


@of_every_method
def test_the_loss_falls(family: str, method: str) -> None:
    case = given(family, method)
    solution = solve_edit(case.problem)
    edit = case.edit.with_rules(solution.rules)

    def loss(scale: float) -> float:
        return loss_of(edit, case.model, weights_after(case, solution, scale))

    before = loss_of(edit, case.model, case.model.weights)
    assert loss(1.0) < 0.999 * before
    # The other way it rises.
    assert loss(-1.0) > before
    assert residual_of(edit, case.model, case.model.weights) == 1


@of_every_method
def test_bytes_repeat(family: str, method: str) -> None:
    def built(seed: int) -> bytes:
        case = given(family, method, seed=seed, dtype=torch.float32)
        return patch_of(case, solve_edit(case.problem).changes).to_bytes()

    assert built(0) == built(0)
    assert built(0) != built(1)


@of_every_method
def test_a_patch_is_its_change(family: str, method: str, tmp_path: Path) -> None:
    case = given(family, method)
    solution = solve_edit(case.problem)
    write(tmp_path / "p.safetensors", patch_of(case, solution.changes).to_bytes())
    patch = read_patch(tmp_path / "p.safetensors")
    applied = apply_stack(case.model.weights, [patch])
    changed = {name for name, w in case.model.weights.items() if not torch.equal(w, applied[name])}
    assert changed <= set(solution.changes)
    layers = {layer.parameter: name for name, layer in case.model.architecture.layers.items()}
    for name in changed:
        change, old = solution.changes[name], case.model.weights[name]
        if change.full is not None:
            wanted = old + change.full
        else:
            assert change.coefficients is not None
            assert change.directions is not None
            delta = torch.einsum("os...,si->oi...", change.coefficients, change.directions)
            weight = case.model.weight(layers[name])
            wanted = case.model.to_checkpoint(layers[name], weight + delta.view_as(weight))
        torch.testing.assert_close(applied[name], wanted, rtol=1e-13, atol=1e-13)
    halved = apply_stack(case.model.weights, [patch], 0.5)
    assert any(not torch.equal(halved[name], applied[name]) for name in changed)


@of_every_method
def test_float32_is_near_float64(family: str, method: str) -> None:
    def solved(dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
        case = given(family, method, dtype=dtype, seed=seed)
        changes = solve_edit(case.problem).changes
        full = {name: change.full for name, change in changes.items() if change.full is not None}
        assert all(tensor.dtype == dtype for tensor in full.values())
        return deltas_of(changes)

    single, double = solved(torch.float32), solved(torch.float64)
    other = solved(torch.float64, seed=1)
    parameter = given(family, method).model.layer(CASES[family].layer).parameter

    def distance(one: dict[str, Tensor]) -> float:
        size = double[parameter].norm()
        return float((one[parameter] - double[parameter]).norm() / size)

    assert distance(single) < 0.05
    if (
        ERASED_UNITS not in METHODS[method].needs
    ):  # whose change is that of the units, not of images
        assert distance(other) > 0.2


@of_every_directed_method
def test_rules_are_resolved_on_what_the_rules_before_them_left(family: str, method: str) -> None:
    case = given(family, method, layers=2)
    solution = solve_edit(case.problem)
    first, second = solution.rules
    assert set(solution.changes) == {first.parameter, second.parameter}
    changed = with_change(case.model, first, solution.changes[first.parameter])
    applied = apply_stack(
        case.model.weights,
        [patch_of(case, {first.parameter: solution.changes[first.parameter]})],
    )
    assert torch.equal(changed.weights[first.parameter], applied[first.parameter])
    assert torch.equal(second.key, case.edit.rules[1](changed).key)
    assert (second.key - case.edit.rules[1](case.model).key).abs().max() > 1e-6
    # Where the changes are known, the rules are the same ones.
    again = resolve_rules(case.edit, case.model, solution.changes)
    assert torch.equal(again[1].key, second.key)
    # The second weight alone, solved on what the first left, changes as much.
    alone = solve_edit(replace(case.problem, model=changed, rules=case.edit.rules[1:]))
    found, wanted = alone.changes[second.parameter], solution.changes[second.parameter]
    assert found.coefficients is not None
    assert wanted.coefficients is not None
    assert torch.equal(found.coefficients, wanted.coefficients)


@pytest.mark.parametrize("family", CASES)
def test_a_rule_that_holds_already_changes_nothing(family: str) -> None:
    method = "projected-gradient"
    case = given(family, method, settings={"steps": 1, "learning_rate": 50.0})
    (resolve,) = case.problem.rules

    def same(model: Model) -> LayerRule:
        rule = resolve(model)
        value = model.function(rule.layer)(rule.key, model.weight(rule.layer), rule.arguments)
        return replace(rule, value=value)

    (change,) = solve_edit(replace(case.problem, rules=[same])).changes.values()
    assert change.is_nothing
    # A rule that does not hold yet has to be solved.
    with pytest.raises(NumericalError, match="would change nothing"):
        solve_edit(case.problem)


def test_a_weight_is_a_kernel_without_its_axis_of_length_one() -> None:
    weight = torch.arange(2 * 3 * 4.0).view(1, 2, 3, 2, 2)
    assert torch.equal(kernel_of(weight), weight[0])
    assert torch.equal(kernel_of(weight[0]), weight[0])
    assert torch.equal(kernel_of(weight[0, :, :, 0, 0]), weight[0, :, :, 0, 0])
