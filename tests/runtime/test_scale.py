"""Rates are relative to the scale of a weight: what is small changes by small steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from editspec_runtime.core.method import Problem
from editspec_runtime.maths.scale import scale_of, typical_scale
from editspec_runtime.methods.solve_edit import solve_edit
from editspec_runtime.modalities.image.compatibility import REWRITING_2020
from tests.cases import CASES, given


def draw_weight(size: float) -> torch.Tensor:
    """A weight whose root mean square is near `size`."""
    return size * torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(1))


def test_a_scale_is_a_power_of_two_near_the_root_mean_square() -> None:
    for size in (1.0, 0.04, 3.0, 100.0):
        weight = draw_weight(size)
        found, exact = scale_of(weight), weight.square().mean().sqrt().item()
        assert torch.tensor(found).log2().frac() == 0
        assert exact / 2**0.5 <= found <= exact * 2**0.5
    # What training moves a little keeps its rate to the bit, and a weight of zeros has one.
    assert scale_of(draw_weight(1.2)) == scale_of(draw_weight(0.8)) == 1.0
    assert scale_of(torch.zeros(3, 3)) == scale_of(torch.full((3,), float("nan"))) == 1.0
    weights = [draw_weight(0.04), draw_weight(1.0), draw_weight(0.04)]
    assert typical_scale(weights) == scale_of(weights[0])


@pytest.mark.parametrize("method", ["direct", "layer", "all-weights"])
@pytest.mark.parametrize("family", CASES)
def test_the_first_step_is_as_large_as_the_scale_says(family: str, method: str) -> None:
    case = given(family, method, settings={"steps": 1, "learning_rate": 1e-4})
    layers = case.model.architecture.layers
    scale = scale_of(case.model.weight(CASES[family].layer))
    if method == "all-weights":
        scale = typical_scale(case.model.weight(layer) for layer in layers)
    assert largest_step(case.problem) == pytest.approx(1e-4 * scale, rel=0.01)
    theirs = replace(case.problem, compatibility=REWRITING_2020)
    assert largest_step(theirs) == pytest.approx(1e-4, rel=0.01)


def test_small_weights_change_by_small_steps() -> None:
    """The negative control of the scales above, which may all be 1."""
    weight = CASES["torch"].make(torch.float64).weight("first")
    assert scale_of(weight) < 0.5


@pytest.mark.parametrize("method", ["projected-gradient", "low-rank"])
def test_what_projects_its_change_steps_as_far(method: str) -> None:
    ours = given("torch", method, settings={"steps": 1, "learning_rate": 1e-4}).problem
    theirs = replace(ours, compatibility=REWRITING_2020)
    scale = scale_of(ours.model.weight(CASES["torch"].layer))
    assert largest_step(ours) == pytest.approx(scale * largest_step(theirs), rel=0.01)


def largest_step(problem: Problem) -> float:
    """The largest number in the change that a method finds, or in its coefficients."""
    changes = solve_edit(problem).changes.values()
    found = [change.full if change.full is not None else change.coefficients for change in changes]
    return max(float(tensor.abs().max()) for tensor in found if tensor is not None)
