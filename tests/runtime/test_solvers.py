from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from editspec_runtime.core.compatibility import EDITSPEC, REWRITING_2020
from editspec_runtime.core.rule import Rule, SolverSettings
from editspec_runtime.errors import NumericalError
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.methods.solvers import delta, rule_loss, solve
from editspec_runtime.modalities.image.generator import Box

MakeTiny = Callable[..., dict[str, Tensor]]
METHODS = {
    "projected-gradient": SolverSettings("projected-gradient", 60, 0.05, 10),
    "direct": SolverSettings("direct", 60, 0.05, None),
}


def problem(
    weights: dict[str, Tensor],
    layer: str,
    method: str,
    *,
    identity: bool = False,
    region: Box | None = None,
) -> tuple[StyleGAN2, Rule]:
    """A rule on a tiny model: the values of one image in the place of another's."""
    model = StyleGAN2(weights)
    dtype = weights["input.input"].dtype
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(4)).to(dtype)
    reached, other = (model.prefix(layer, one[None]) for one in z)
    shape = model.layer(layer)
    region = region or Box(0, 1, shape.key_size // 2 + 1, shape.key_size)
    covered = region.scaled(shape.scale)
    key, arguments = model.crop(layer, reached, region)
    value = model.value(layer, reached if identity else other)[
        :, :, covered.rows(), covered.columns()
    ]
    rule = Rule(
        "e",
        "stylegan2",
        layer,
        shape.parameter,
        2,
        METHODS[method],
        key,
        value,
        arguments,
        torch.empty(0),
        torch.empty(0),
        {},
    )
    return model, rule


def directions(rule: Rule, rank: int = 2) -> Tensor:
    random = torch.randn(rule.key.shape[1], rank, generator=torch.Generator().manual_seed(5)).to(
        rule.key
    )
    return torch.linalg.qr(random)[0].T.contiguous()


def solved(model: StyleGAN2, rule: Rule, d: Tensor) -> Tensor:
    return delta(solve(model.function(rule.layer), model.weight(rule.layer), rule, d, EDITSPEC), d)


def loss(model: StyleGAN2, rule: Rule, change: Tensor | float = 0.0) -> float:
    return rule_loss(model.function(rule.layer), rule, model.weight(rule.layer) + change).item()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_the_rule_holds_better_and_only_in_its_directions(
    make_tiny: MakeTiny, layer: str, method: str
) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny().items()}
    model, rule = problem(weights, layer, method)
    d = directions(rule)
    change = solved(model, rule, d)
    assert loss(model, rule, change) < 0.95 * loss(model, rule)
    # As a matrix over input channels the change has the rank of D, and a key orthogonal to D does
    # not see it.
    matrix = change[0].movedim(1, -1).reshape(-1, d.shape[1])
    assert torch.linalg.matrix_rank(matrix) == 2
    key = torch.randn(d.shape[1], generator=torch.Generator().manual_seed(6)).to(d)
    outside = key - d.T @ (d @ key)
    assert (matrix @ outside).abs().max() < 1e-12
    assert (matrix @ key).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", range(2, 9))
def test_the_identity_edit_has_no_loss(make_tiny: MakeTiny, number: int, method: str) -> None:
    model, rule = problem(make_tiny(), f"layer{number}", method, identity=True)
    short = dataclasses.replace(rule, solver=dataclasses.replace(rule.solver, steps=5))
    change = solved(model, short, directions(rule))
    assert loss(model, rule, change) < 1e-6
    model, other = problem(make_tiny(), f"layer{number}", method)
    assert loss(model, other) > 1e-2


@pytest.mark.parametrize("haloed", [True, False])
@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_what_is_computed_of_the_key_once_changes_no_number(
    make_tiny: MakeTiny, layer: str, haloed: bool
) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny().items()}
    model = StyleGAN2(weights)
    reached = model.prefix(
        layer, torch.randn(3, 8, generator=torch.Generator().manual_seed(4)).double()
    )
    shape = model.layer(layer)
    key, arguments = reached.key, reached.arguments
    if haloed:
        key, arguments = model.crop(layer, reached, Box(0, 1, shape.key_size - 1, shape.key_size))
    function, weight = model.function(layer), model.weight(layer)

    def value_and_gradient(
        answer: Callable[[Tensor], Tensor], scale: float
    ) -> tuple[Tensor, Tensor]:
        free = (scale * weight).requires_grad_()
        value = answer(free)
        (value * value.detach().cos()).sum().backward()
        assert free.grad is not None
        return value.detach(), free.grad

    for scale in (1.0, 0.3):
        wanted = value_and_gradient(lambda w: function(key, w, arguments, haloed=haloed), scale)
        for found, expected in zip(
            value_and_gradient(function.bound(key, arguments, haloed=haloed), scale),
            wanted,
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    # Of another key it is another function.
    other = function.bound(1.01 * key, arguments, haloed=haloed)(weight)
    assert (other - function(key, weight, arguments, haloed=haloed)).abs().max() > 1e-3


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_direct_is_adam_on_the_coefficients(make_tiny: MakeTiny, layer: str) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny().items()}
    model, rule = problem(weights, layer, "direct")
    d, function, weight = directions(rule), model.function(layer), model.weight(layer)
    plain = torch.zeros(1, 6, 2, 3, 3).double().requires_grad_()
    adam = torch.optim.Adam([plain], lr=rule.solver.learning_rate)
    for _ in range(rule.solver.steps):
        adam.zero_grad()
        rule_loss(function, rule, weight + delta(plain, d)).backward()
        adam.step()
    found = solve(function, weight, rule, d, REWRITING_2020)
    assert (found - plain).norm() < 1e-9 * plain.norm()
    shorter = dataclasses.replace(rule, solver=dataclasses.replace(rule.solver, steps=59))
    assert (
        solve(function, weight, shorter, d, REWRITING_2020) - plain
    ).norm() > 1e-4 * plain.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_a_crop_of_one_position_has_an_answer(make_tiny: MakeTiny, layer: str, method: str) -> None:
    model, rule = problem(make_tiny(), layer, method, region=Box(3, 4, 4, 5))
    change = solved(model, rule, directions(rule))
    assert change.isfinite().all()
    assert loss(model, rule, change) < 0.9 * loss(model, rule)


def test_the_best_iterate_is_returned(make_tiny: MakeTiny) -> None:
    model, rule = problem(make_tiny(), "layer6", "direct")
    rough = dataclasses.replace(
        rule, solver=dataclasses.replace(rule.solver, learning_rate=1.0, steps=5)
    )
    d = directions(rule)
    function, weight = model.function("layer6"), model.weight("layer6")
    best = solve(function, weight, rough, d, EDITSPEC)
    last = solve(function, weight, rough, d, REWRITING_2020)
    assert loss(model, rule, delta(best, d)) < loss(model, rule)
    assert loss(model, rule, delta(best, d)) < loss(model, rule, delta(last, d))


@pytest.mark.parametrize("method", METHODS)
def test_an_edit_that_would_change_nothing_is_named(make_tiny: MakeTiny, method: str) -> None:
    model, rule = problem(make_tiny(), "layer6", method)
    wild = dataclasses.replace(rule, solver=dataclasses.replace(rule.solver, learning_rate=20.0))
    d = directions(rule)
    function, weight = model.function("layer6"), model.weight("layer6")
    with pytest.raises(NumericalError, match="would change nothing"):
        solve(function, weight, wild, d, EDITSPEC)
    last = solve(function, weight, wild, d, REWRITING_2020)
    assert loss(model, rule, delta(last, d)) > loss(model, rule)


def test_a_rule_within_reach_is_met(make_tiny: MakeTiny) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny().items()}
    model, rule = problem(weights, "layer6", "direct")
    d = directions(rule)
    wanted = 0.3 * torch.randn(1, 6, 2, 3, 3, generator=torch.Generator().manual_seed(8)).double()
    function, weight = model.function("layer6"), model.weight("layer6")
    value = function(rule.key, weight + delta(wanted, d), rule.arguments, haloed=True)
    settings = SolverSettings("direct", 1500, 0.01, None)
    rule = dataclasses.replace(rule, value=value, solver=settings)
    assert loss(model, rule, solved(model, rule, d)) < 0.02 * loss(model, rule)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_problem_gives_the_same_bits(make_tiny: MakeTiny, method: str) -> None:
    model, rule = problem(make_tiny(), "layer6", method)
    assert torch.equal(solved(model, rule, directions(rule)), solved(model, rule, directions(rule)))


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_not_finite_is_named(make_tiny: MakeTiny, method: str) -> None:
    model, rule = problem(make_tiny(), "layer6", method)
    broken = dataclasses.replace(rule, value=rule.value * float("nan"))
    with pytest.raises(NumericalError, match="The loss is nan after 0 steps"):
        solved(model, broken, directions(rule))
