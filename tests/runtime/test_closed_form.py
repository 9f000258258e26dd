"""The closed form against a dense constrained least-squares solve (paper Eqn. 12 and 13)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.method import KeyStatistics
from editspec_runtime.core.model import LayerFunction
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.maths.directions import zca_directions
from editspec_runtime.methods.layer_problem import LayerProblem
from editspec_runtime.methods.least_squares import find_coefficients
from editspec_runtime.methods.registry import METHODS
from tests.cases import draw_normal

OUT, IN, KEYS = 5, 7, 60


class Linear(LayerFunction):
    """A convolution and nothing else, haloed by one position."""

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        kernel = weight.reshape(weight.shape[-4:])
        margin = 0 if kernel.shape[-1] == 3 else 1
        return F.conv2d(
            key[:, :, margin : key.shape[2] - margin, margin : key.shape[3] - margin], kernel
        )

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(key, kernel, padding=kernel.shape[-1] // 2)


def stored() -> Tensor:
    """All keys K that a memory holds, [IN, KEYS]."""
    return draw_normal(IN, IN, seed=1) @ draw_normal(IN, KEYS, seed=2)


def rule_of(key: Tensor, value: Tensor) -> LayerRule:
    nothing = torch.empty(0)
    return LayerRule("l", "w", F.pad(key, (1, 1, 1, 1)), value, {}, nothing, nothing)


def closed_form(weight: Tensor, rule: LayerRule, directions: Tensor, moment: Tensor) -> Tensor:
    settings = METHODS["closed-form"].make_settings()
    statistics = KeyStatistics(lambda: moment, lambda: pytest.fail("no sample is needed"))
    problem = LayerProblem(rule, Linear(), weight, settings, statistics=statistics)
    return find_coefficients(problem, directions)


def solved(
    kernel: int, targets: Tensor, values: Tensor, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """W0, the change and D for a row of `targets` [IN, n] that are to give `values` [OUT, n]."""
    moment = stored() @ stored().T / KEYS
    weight = draw_normal(1, OUT, IN, kernel, kernel, seed=3)
    directions = zca_directions(moment, targets.T, torch.ones(targets.shape[1]), rank)
    rule = rule_of(targets[None, :, None, :], values[None, :, None, :])
    a = closed_form(weight, rule, directions, moment)
    return weight, torch.einsum("losyx,si->loiyx", a, directions), directions


@pytest.mark.parametrize("count", [1, 3])
def test_it_meets_its_values_exactly_and_keeps_all_others_as_a_dense_solve_does(count: int) -> None:
    targets, values = draw_normal(IN, count, seed=4), draw_normal(OUT, count, seed=5)
    weight, change, _ = solved(1, targets, values, count)
    new = (weight + change)[0, :, :, 0, 0]
    torch.testing.assert_close(new @ targets, values)
    # Dense: minimise |V - W K|^2 over all W with W K* = V*, by its KKT system, output by output.
    keys, old = stored(), weight[0, :, :, 0, 0]
    system = torch.zeros(IN + count, IN + count, dtype=torch.float64)
    system[:IN, :IN] = 2 * keys @ keys.T
    system[:IN, IN:], system[IN:, :IN] = targets, targets.T
    right = torch.cat([2 * keys @ (old @ keys).T, values.T])
    dense = torch.linalg.solve(system, right)[:IN].T
    torch.testing.assert_close(new, dense)
    # Any other solution that meets the values keeps the stored ones worse.
    elsewhere = draw_normal(OUT, IN, seed=6)
    basis, _ = torch.linalg.qr(targets)
    other = new + 0.1 * (elsewhere - elsewhere @ basis @ basis.T)
    torch.testing.assert_close(other @ targets, values)
    assert ((other - old) @ keys).norm() > ((new - old) @ keys).norm()


def test_the_change_is_equation_15() -> None:
    target, value = draw_normal(IN, 1, seed=4), draw_normal(OUT, 1, seed=5)
    weight, change, _ = solved(1, target, value, 1)
    direction = torch.linalg.solve(stored() @ stored().T, target)
    strength = (value - weight[0, :, :, 0, 0] @ target) / (direction.T @ target)
    torch.testing.assert_close(change[0, :, :, 0, 0], strength @ direction.T)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_it_has_the_rank_asked_for_and_lies_in_its_directions(kernel: int, rank: int) -> None:
    _, change, directions = solved(
        kernel, draw_normal(IN, 6, seed=4), draw_normal(OUT, 6, seed=5), rank
    )
    matrix = change[0].movedim(1, -1).reshape(-1, IN)
    assert torch.linalg.matrix_rank(matrix) == rank
    torch.testing.assert_close(matrix @ directions.T @ directions, matrix)
    key = draw_normal(IN, seed=7)
    outside = key - directions.T @ (directions @ key)
    assert (matrix @ outside).abs().max() < 1e-12
    assert (matrix @ key).abs().max() > 1e-3


def test_a_direction_orthogonal_under_the_identity_is_untouched() -> None:
    target = draw_normal(IN, 1, seed=4)
    rule = rule_of(target[None, :, None, :], draw_normal(1, OUT, 1, 1, seed=5))
    weight, identity = draw_normal(1, OUT, IN, 1, 1, seed=3), torch.eye(IN, dtype=torch.float64)
    directions = zca_directions(identity, target.T, torch.ones(1), 1)
    a = closed_form(weight, rule, directions, identity)
    change = torch.einsum("losyx,si->loiyx", a, directions)[0, :, :, 0, 0]
    other = draw_normal(IN, seed=8)
    other -= target[:, 0] * (other @ target[:, 0]) / target.square().sum()
    assert (change @ other).abs().max() < 1e-12
    # With another second moment the same key is touched: the direction is not that of the key.
    _, change, _ = solved(1, target, rule.value[0, :, 0], 1)
    assert (change[0, :, :, 0, 0] @ other).abs().max() > 1e-3


def test_a_kernel_is_least_squares_within_its_directions() -> None:
    targets, values = draw_normal(IN, 30, seed=4), draw_normal(OUT, 30, seed=5)
    weight, change, directions = solved(3, targets, values, 2)
    key = F.pad(targets[None, :, None, :], (1, 1, 1, 1))
    columns = F.unfold(torch.einsum("nihw,si->nshw", key, directions), 3)[0]
    missing = values - F.conv2d(key, weight[0])[0, :, 0]
    dense = torch.linalg.lstsq(columns.T, missing.T, driver="gelsd").solution.T @ columns
    torch.testing.assert_close(F.conv2d(key, change[0])[0, :, 0], dense)
    assert (missing - dense).norm() > 0.1 * missing.norm()
