"""Least squares through rectifiers: a convolution and what follows it, as modules of any network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from editspec_runtime.conventions import EDITSPEC
from editspec_runtime.families.module.network import ModuleFunction, ModuleGenerator, slope_of
from editspec_runtime.families.module.source import Points, Source
from editspec_runtime.generator import Box
from editspec_runtime.least_squares import Problem, least_squares, minimise
from editspec_runtime.rule import Rule, SolverSettings
from editspec_runtime.solvers import delta, rule_loss, solve

SMOOTHNESS = 0.05
RECTIFIERS = (nn.ReLU(), nn.LeakyReLU(0.2))


def task(rectifier: nn.Module, seed: int = 0) -> tuple[ModuleFunction, Tensor, Rule, Tensor, Tensor]:
    """The values of one image in the place of another's: the function, its weight, the rule, directions, and C."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.ConvTranspose2d(5, 6, 4, 2, 1), rectifier, nn.Conv2d(6, 3, 1)).double()
    random = torch.Generator().manual_seed(seed + 100)
    points = {"rectified": Points("0", "1", "0.weight")}
    model = ModuleGenerator(dict(module.state_dict()), Source(module, "code", points, (5, 4, 4)))
    z = torch.randn(10, 80, generator=random).double()
    reached, other = (model.prefix("rectified", one[None]) for one in z[:2])
    key, arguments = model.crop("rectified", reached, Box(0, 1, 3, 4))
    value = model.value("rectified", other)[:, :, :6, 2:]
    keys = model.prefix("rectified", z[2:]).key.movedim(1, -1).flatten(0, -2)
    directions = torch.linalg.qr(torch.randn(5, 2, generator=random).double())[0].T.contiguous()
    settings = SolverSettings.of({"method": "least-squares", "smoothness": SMOOTHNESS})
    nothing = torch.empty(0)
    rule = Rule("e", "torch", "rectified", "0.weight", 2, settings, key, value, arguments, nothing, nothing, {})
    return model.function("rectified"), model.weight("rectified"), rule, directions, keys.T @ keys / len(keys)


@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_the_factored_function_is_the_function(rectifier: nn.Module) -> None:
    function, weight, rule, d, _ = task(rectifier)
    factored = function.factored(rule.key, weight, d, rule.arguments, haloed=True)
    assert factored is not None
    a = torch.randn(1, 6, 2, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    wanted = function(rule.key, weight + delta(a, d), rule.arguments, haloed=True).flatten(2)
    torch.testing.assert_close(factored(a[0].flatten(1)), wanted, rtol=1e-11, atol=1e-11)
    assert (replace(factored, slope=1.0)(a[0].flatten(1)) - wanted).abs().max() > 0.1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_the_gradient_of_its_objective_is_zero(rectifier: nn.Module, seed: int) -> None:
    problem = Problem.of(*task(rectifier, seed))

    def gradient(unknowns: Tensor) -> Tensor:
        free = unknowns.clone().requires_grad_()
        problem.objective(free, SMOOTHNESS).sum().backward()
        assert free.grad is not None
        return free.grad

    found = minimise(problem, SMOOTHNESS, problem.nothing())
    before = gradient(problem.nothing()).abs().max()
    assert gradient(found).abs().max() < 1e-4 * before
    assert gradient(0.9 * found).abs().max() > 1e-2 * before
    # The gradient that the steps use is the same.
    state = problem.at(0.5 * found)
    stepped = problem.gradient(state) + 2 * SMOOTHNESS * problem.price * state.unknowns
    torch.testing.assert_close(stepped, gradient(0.5 * found), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_its_objective_is_not_above_that_of_projected_gradient(rectifier: nn.Module, seed: int) -> None:
    function, weight, rule, d, moment = task(rectifier, seed)
    problem = Problem.of(function, weight, rule, d, moment)
    projected = solve(
        function, weight, replace(rule, solver=SolverSettings("projected-gradient", 40, 0.02, 1)), d, EDITSPEC
    )

    def loss(coefficients: Tensor) -> float:
        return rule_loss(function, rule, weight + delta(coefficients, d)).item()

    nothing = torch.zeros_like(projected)
    assert loss(projected) < loss(nothing)
    theirs = problem.objective(projected[0].flatten(1) @ problem.root, SMOOTHNESS).mean()
    ours = problem.objective(minimise(problem, SMOOTHNESS, problem.nothing()), SMOOTHNESS).mean()
    assert ours <= theirs
    # The objective is about the true loss: the edit makes it less, too.
    assert loss(least_squares(function, weight, rule, d, moment)) < loss(nothing)


def test_only_what_is_known_to_act_on_each_number_alone_has_a_slope() -> None:
    leaky = nn.LeakyReLU(0.2)
    x = torch.linspace(-2, 2, 41)
    for modules in ([], [nn.ReLU()], [leaky, nn.Identity(), leaky], [leaky, nn.Dropout().eval(), nn.ReLU()]):
        slope = slope_of(modules)
        assert slope is not None
        torch.testing.assert_close(nn.Sequential(*modules)(x), torch.where(x > 0, x, slope * x))
    assert slope_of([leaky, leaky]) == pytest.approx(0.04)

    class Own(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(1)

    for module in (nn.Tanh(), nn.ELU(), nn.Softmax(1), nn.LeakyReLU(-0.2), nn.LeakyReLU(math.nan), Own()):
        assert slope_of([nn.ReLU(), module]) is None


def test_a_layer_of_another_class_is_not_taken_for_torchs_own() -> None:
    class Doubled(nn.ConvTranspose2d):
        def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
            return 2 * super().forward(x, output_size)

    function, weight, rule, d, _ = task(nn.ReLU())
    own = Doubled(5, 6, 4, 2, 1)
    other = replace(function, modules=(own, *function.modules[1:]))
    assert other.factored(rule.key, weight, d, rule.arguments, haloed=True) is None
    assert function.factored(rule.key, weight, d, rule.arguments, haloed=True) is not None
