from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.method import Change, Settings
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.errors import NumericalError
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.maths.low_rank import delta
from editspec_runtime.methods import direct, projected_gradient, registry
from editspec_runtime.methods.layer_problem import LayerProblem, require_better
from editspec_runtime.methods.losses import rule_loss
from editspec_runtime.modalities.image.compatibility import EDITSPEC, REWRITING_2020
from editspec_runtime.modalities.image.maps import Box

MakeTiny = Callable[..., dict[str, Tensor]]
METHODS = {"projected-gradient": projected_gradient, "direct": direct}


def settings(method: str, steps: int = 60, learning_rate: float = 0.05) -> Settings:
    given = {"steps": steps, "learning_rate": learning_rate}
    return registry.METHODS[method].make_settings(**given)


def problem(
    weights: dict[str, Tensor],
    layer: str,
    method: str,
    *,
    identity: bool = False,
    region: Box | None = None,
) -> tuple[StyleGAN2, LayerProblem]:
    """A rule on a tiny model: the values of one image in the place of another's."""
    model = StyleGAN2(weights)
    dtype = weights["input.input"].dtype
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(4)).to(dtype)
    reached, other = (model.trace(layer, one[None]) for one in z)
    shape = model.layer(layer)
    region = region or Box(0, 1, shape.key_size // 2 + 1, shape.key_size)
    covered = region.scale_up(shape.scale)
    key, arguments = model.crop(layer, reached, region)
    value = model.layer_value(layer, reached if identity else other)[
        :, :, covered.rows(), covered.columns()
    ]
    nothing = torch.empty(0)
    rule = LayerRule(layer, shape.parameter, key, value, arguments, nothing, nothing)
    return model, LayerProblem(rule, model.function(layer), model.weight(layer), settings(method))


def directions(task: LayerProblem, rank: int = 2) -> Tensor:
    key, generator = task.rule.key, torch.Generator().manual_seed(5)
    random = torch.randn(key.shape[1], rank, generator=generator).to(key)
    return torch.linalg.qr(random)[0].T.contiguous()


def solve(task: LayerProblem, d: Tensor, compatibility: Compatibility = EDITSPEC) -> Tensor:
    """A of the change, by the method that the settings name; refused where it is none."""
    task = dataclasses.replace(task, compatibility=compatibility)
    coefficients = METHODS[task.settings.method].find_coefficients(task, d)
    require_better(task, Change(d, coefficients))
    return coefficients


def solved(task: LayerProblem, d: Tensor) -> Tensor:
    return delta(solve(task, d), d)


def loss(task: LayerProblem, change: Tensor | float = 0.0) -> float:
    return rule_loss(task.function, task.rule, task.weight + change).item()


def with_settings(task: LayerProblem, **changes: float) -> LayerProblem:
    return dataclasses.replace(task, settings=task.settings.model_copy(update=changes))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_the_rule_holds_better_and_only_in_its_directions(
    make_tiny: MakeTiny, layer: str, method: str
) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny().items()}
    _, task = problem(weights, layer, method)
    d = directions(task)
    change = solved(task, d)
    assert loss(task, change) < 0.95 * loss(task)
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
    _, task = problem(make_tiny(), f"layer{number}", method, identity=True)
    short = with_settings(task, steps=5)
    change = solved(short, directions(task))
    assert loss(task, change) < 1e-6
    _, other = problem(make_tiny(), f"layer{number}", method)
    assert loss(other) > 1e-2


@pytest.mark.parametrize("haloed", [True, False])
@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_what_is_computed_of_the_key_once_changes_no_number(
    make_tiny: MakeTiny, layer: str, haloed: bool
) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny().items()}
    model = StyleGAN2(weights)
    reached = model.trace(
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
        wanted = value_and_gradient(lambda w: function(key, w, arguments), scale)
        for found, expected in zip(
            value_and_gradient(function.with_key(key, arguments), scale),
            wanted,
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    # Of another key it is another function.
    other = function.with_key(1.01 * key, arguments)(weight)
    assert (other - function(key, weight, arguments)).abs().max() > 1e-3


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_direct_is_adam_on_the_coefficients(make_tiny: MakeTiny, layer: str) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny().items()}
    _, task = problem(weights, layer, "direct")
    d = directions(task)
    plain = torch.zeros(1, 6, 2, 3, 3).double().requires_grad_()
    adam = torch.optim.Adam([plain], lr=task.settings.learning_rate)
    for _ in range(task.settings.steps):
        adam.zero_grad()
        rule_loss(task.function, task.rule, task.weight + delta(plain, d)).backward()
        adam.step()
    found = solve(task, d, REWRITING_2020)
    assert (found - plain).norm() < 1e-9 * plain.norm()
    shorter = solve(with_settings(task, steps=59), d, REWRITING_2020)
    assert (shorter - plain).norm() > 1e-4 * plain.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_a_crop_of_one_position_has_an_answer(make_tiny: MakeTiny, layer: str, method: str) -> None:
    _, task = problem(make_tiny(), layer, method, region=Box(3, 4, 4, 5))
    change = solved(task, directions(task))
    assert change.isfinite().all()
    assert loss(task, change) < 0.9 * loss(task)


def test_the_best_iterate_is_returned(make_tiny: MakeTiny) -> None:
    _, task = problem(make_tiny(), "layer6", "direct")
    rough = with_settings(task, learning_rate=1.0, steps=5)
    d = directions(task)
    best, last = solve(rough, d), solve(rough, d, REWRITING_2020)
    assert loss(task, delta(best, d)) < loss(task)
    assert loss(task, delta(best, d)) < loss(task, delta(last, d))


@pytest.mark.parametrize("method", METHODS)
def test_an_edit_that_would_change_nothing_is_named(make_tiny: MakeTiny, method: str) -> None:
    _, task = problem(make_tiny(), "layer6", method)
    wild = with_settings(task, learning_rate=20.0)
    d = directions(task)
    with pytest.raises(NumericalError, match="would change nothing"):
        solve(wild, d)
    last = solve(wild, d, REWRITING_2020)
    assert loss(task, delta(last, d)) > loss(task)


def test_a_rule_within_reach_is_met(make_tiny: MakeTiny) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny().items()}
    _, task = problem(weights, "layer6", "direct")
    d = directions(task)
    wanted = 0.3 * torch.randn(1, 6, 2, 3, 3, generator=torch.Generator().manual_seed(8)).double()
    value = task.function(task.rule.key, task.weight + delta(wanted, d), task.rule.arguments)
    reachable = dataclasses.replace(task.rule, value=value)
    task = dataclasses.replace(task, rule=reachable, settings=settings("direct", 1500, 0.01))
    assert loss(task, solved(task, d)) < 0.02 * loss(task)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_problem_gives_the_same_bits(make_tiny: MakeTiny, method: str) -> None:
    _, task = problem(make_tiny(), "layer6", method)
    assert torch.equal(solved(task, directions(task)), solved(task, directions(task)))


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_not_finite_is_named(make_tiny: MakeTiny, method: str) -> None:
    _, task = problem(make_tiny(), "layer6", method)
    unreal = dataclasses.replace(task.rule, value=task.rule.value * float("nan"))
    broken = dataclasses.replace(task, rule=unreal)
    with pytest.raises(NumericalError, match="The loss is nan after 0 steps"):
        solved(broken, directions(task))
