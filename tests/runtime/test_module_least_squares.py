"""Least squares through batch normalization and rectifiers: a convolution and what follows it, of
any network.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from editspec_runtime.core.method import KeyStatistics, Settings
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.families.torch_module.functions import ModuleFunction, Pointwise
from editspec_runtime.families.torch_module.network import TorchModule
from editspec_runtime.families.torch_module.source import Points, Source
from editspec_runtime.maths.channelwise_descent import minimise
from editspec_runtime.maths.channelwise_least_squares import ChannelwiseProblem
from editspec_runtime.maths.low_rank import delta
from editspec_runtime.methods import least_squares, projected_gradient
from editspec_runtime.methods.layer_problem import LayerProblem
from editspec_runtime.methods.losses import rule_loss
from editspec_runtime.methods.registry import METHODS
from editspec_runtime.modalities.image.maps import Box

COLLATERAL_WEIGHT = 0.05
FOLLOWERS = ("rectified", "leaky", "normalized", "normalized and rectified")


def followers(name: str) -> list[nn.Module]:
    """What follows the convolution of 6 channels."""
    normalization, random = nn.BatchNorm2d(6), torch.Generator().manual_seed(7)
    with torch.no_grad():
        normalization.weight.normal_(generator=random)
        normalization.bias.normal_(generator=random)
        normalization.running_mean.normal_(generator=random)  # type: ignore[union-attr]
        normalization.running_var.uniform_(0.1, 2, generator=random)  # type: ignore[union-attr]
    assert normalization.weight.min() < 0 < normalization.weight.max()
    return {
        "rectified": [nn.ReLU()],
        "leaky": [nn.Identity(), nn.LeakyReLU(0.2)],
        "normalized": [normalization],
        "normalized and rectified": [nn.Dropout(), normalization, nn.ReLU(inplace=True)],
    }[name]


def task(name: str, seed: int = 0) -> tuple[ModuleFunction, Tensor, LayerRule, Tensor, Tensor]:
    """The values of one image in the place of another's: the function, its weight, the rule,
    directions, and C.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.ConvTranspose2d(5, 6, 4, 2, 1), *followers(name), nn.Conv2d(6, 3, 1)
        ).double()
    random = torch.Generator().manual_seed(seed + 100)
    points = {"rectified": Points("0", str(len(module) - 2), "0.weight")}
    model = TorchModule(dict(module.state_dict()), Source(module, "code", points, (5, 4, 4)))
    z = torch.randn(10, 80, generator=random).double()
    reached, other = (model.trace("rectified", one[None]) for one in z[:2])
    key, arguments = model.crop("rectified", reached, Box(0, 1, 3, 4))
    value = model.layer_value("rectified", other)[:, :, :6, 2:]
    keys = model.trace("rectified", z[2:]).key.movedim(1, -1).flatten(0, -2)
    directions = torch.linalg.qr(torch.randn(5, 2, generator=random).double())[0].T.contiguous()
    nothing = torch.empty(0)
    rule = LayerRule("rectified", "0.weight", key, value, arguments, nothing, nothing)
    return (
        model.function("rectified"),
        model.weight("rectified"),
        rule,
        directions,
        keys.T @ keys / len(keys),
    )


def layer_problem(
    function: ModuleFunction, weight: Tensor, rule: LayerRule, moment: Tensor, settings: Settings
) -> LayerProblem:
    statistics = KeyStatistics(lambda: moment, lambda: pytest.fail("no sample is needed"))
    return LayerProblem(rule, function, weight, settings, statistics=statistics)


def smooth(collateral_weight: float = COLLATERAL_WEIGHT) -> Settings:
    return METHODS["least-squares"].make_settings(collateral_weight=collateral_weight)


def posed(
    function: ModuleFunction, weight: Tensor, rule: LayerRule, d: Tensor, moment: Tensor
) -> ChannelwiseProblem:
    return least_squares.pose(layer_problem(function, weight, rule, moment, smooth()), d)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_the_factored_function_is_the_function(name: str) -> None:
    function, weight, rule, d, _ = task(name)
    channelwise = function.channelwise(rule.key, weight, d, rule.arguments)
    assert channelwise is not None
    a = torch.randn(1, 6, 2, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    wanted = function(rule.key, weight + delta(a, d), rule.arguments).flatten(2)
    torch.testing.assert_close(channelwise(a[0].flatten(1)), wanted, rtol=1e-11, atol=1e-11)
    assert (channelwise(-a[0].flatten(1)) - wanted).abs().max() > 0.1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FOLLOWERS)
def test_the_gradient_of_its_objective_is_zero(name: str, seed: int) -> None:
    problem = posed(*task(name, seed))

    def gradient(unknowns: Tensor) -> Tensor:
        free = unknowns.clone().requires_grad_()
        problem.objective(free, COLLATERAL_WEIGHT).sum().backward()
        assert free.grad is not None
        return free.grad

    found = minimise(problem, COLLATERAL_WEIGHT, problem.nothing())
    before = gradient(problem.nothing()).abs().max()
    assert gradient(found).abs().max() < 1e-4 * before
    assert gradient(0.9 * found).abs().max() > 1e-2 * before
    # The gradient that the steps use is the same.
    state = problem.at(0.5 * found)
    stepped = problem.gradient(state) + 2 * COLLATERAL_WEIGHT * problem.price * state.unknowns
    torch.testing.assert_close(stepped, gradient(0.5 * found), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", FOLLOWERS)
def test_its_objective_is_not_above_that_of_projected_gradient(name: str, seed: int) -> None:
    function, weight, rule, d, moment = task(name, seed)
    problem = posed(function, weight, rule, d, moment)
    settings = METHODS["projected-gradient"].make_settings(
        steps=40, learning_rate=0.02, project_every=1
    )
    projected = projected_gradient.find_coefficients(
        layer_problem(function, weight, rule, moment, settings), d
    )

    def loss(coefficients: Tensor) -> float:
        return rule_loss(function, rule, weight + delta(coefficients, d)).item()

    nothing = torch.zeros_like(projected)
    assert loss(projected) < loss(nothing)
    theirs = problem.objective(projected[0].flatten(1) @ problem.root, COLLATERAL_WEIGHT).mean()
    ours = problem.objective(
        minimise(problem, COLLATERAL_WEIGHT, problem.nothing()), COLLATERAL_WEIGHT
    ).mean()
    assert ours <= theirs
    # The objective is about the true loss: the edit makes it less, too.
    found = least_squares.find_coefficients(
        layer_problem(function, weight, rule, moment, smooth()), d
    )
    assert loss(found) < loss(nothing)


def pointwise(modules: list[nn.Module], *, channels_last: bool = False) -> Pointwise | None:
    return Pointwise.of(
        modules, [module.state_dict() for module in modules], 6, channels_last=channels_last
    )


def test_what_acts_on_every_number_alone_is_known() -> None:
    leaky, identity = nn.LeakyReLU(0.2), nn.Identity()
    x = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(8)).double()
    chains = [followers(name) for name in FOLLOWERS]
    chains += [
        [],
        [leaky, identity, leaky],
        [*followers("normalized"), nn.BatchNorm2d(6, affine=False), leaky],
    ]
    for modules in chains:
        found = pointwise(modules)
        assert found is not None
        plain = found.multiplier[:, None, None] * x + found.shift[:, None, None]
        torch.testing.assert_close(
            nn.Sequential(*modules).double().eval()(x.clone()),
            torch.where(plain > 0, plain, found.slope * plain),
        )


def test_what_does_anything_else_is_not_known() -> None:
    class Own(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(1)

    others = [nn.Tanh(), nn.ELU(), nn.Softmax(1), nn.LeakyReLU(-0.2), nn.LeakyReLU(math.nan), Own()]
    others += [nn.BatchNorm2d(6, track_running_stats=False), nn.InstanceNorm2d(6)]
    for module in others:
        assert pointwise([nn.Identity(), module]) is None
    # Behind a rectifier a shift has no such form; and where channels come last, what is normalized
    # are no channels.
    normalized = followers("normalized")
    assert pointwise([nn.ReLU(), *normalized]) is None
    assert pointwise([nn.BatchNorm1d(6)], channels_last=True) is None
    assert pointwise([nn.BatchNorm1d(6)]) is not None


def test_a_layer_of_another_class_is_not_taken_for_torchs_own() -> None:
    class Doubled(nn.ConvTranspose2d):
        def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
            return 2 * super().forward(x, output_size)

    function, weight, rule, d, _ = task("rectified")
    own = Doubled(5, 6, 4, 2, 1)
    other = replace(function, modules=(own, *function.modules[1:]))
    assert other.channelwise(rule.key, weight, d, rule.arguments) is None
    assert function.channelwise(rule.key, weight, d, rule.arguments) is not None


def test_of_a_normalized_convolution_the_limit_is_the_least_squares() -> None:
    function, weight, rule, d, moment = task("normalized")

    def answer(coefficients: Tensor) -> Tensor:
        return function(rule.key, weight + delta(coefficients, d), rule.arguments)

    start = torch.zeros(1, 6, 2, 4, 4).double()
    columns = torch.autograd.functional.jacobian(answer, start).flatten(0, 3).flatten(1)
    cholesky = torch.linalg.cholesky(d @ moment @ d.T)
    turned = torch.linalg.solve(cholesky, columns.view(-1, 6, 2, 16)).flatten(1)
    dense = torch.linalg.lstsq(
        turned, (rule.value - answer(start)).flatten(), driver="gelsd"
    ).solution.view(6, 2, 16)
    wanted = torch.linalg.solve(cholesky.T, dense).view(1, 6, 2, 4, 4)
    for collateral_weight, near in ((0.0, 1e-7), (1.0, None)):
        settings = smooth(collateral_weight)
        found = least_squares.find_coefficients(
            layer_problem(function, weight, rule, moment, settings), d
        )
        apart = (found - wanted).norm() / wanted.norm()
        assert apart < near if near else apart > 1e-2
