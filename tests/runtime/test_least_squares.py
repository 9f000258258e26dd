from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.method import KeyStatistics, Settings
from editspec_runtime.core.model import LayerFunction
from editspec_runtime.core.progress import NoteCallback, ignore_note
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.errors import NumericalError
from editspec_runtime.families.proggan.network import ProgressiveGAN
from editspec_runtime.families.stylegan2.functions import StyledConvolution
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.maths import (
    channelwise_descent,
    channelwise_least_squares,
    robust_least_squares,
)
from editspec_runtime.maths.channelwise import ChannelwiseFunction
from editspec_runtime.maths.channelwise_descent import NotConverged, count_blocks, minimise
from editspec_runtime.maths.channelwise_least_squares import ChannelwiseProblem
from editspec_runtime.maths.low_rank import delta
from editspec_runtime.maths.robust_least_squares import (
    minimise_from_above,
    minimise_within,
    trace_curve,
)
from editspec_runtime.methods import projected_gradient
from editspec_runtime.methods.layer_problem import LayerProblem
from editspec_runtime.methods.least_squares import find_coefficients, pose
from editspec_runtime.methods.losses import rule_loss
from editspec_runtime.methods.registry import METHODS
from editspec_runtime.modalities.image.maps import HALO, Box

MakeTiny = Callable[..., dict[str, Tensor]]


def least_squares(**values: float) -> Settings:
    return METHODS["least-squares"].make_settings(**values)


SETTINGS = least_squares(collateral_weight=0.05)
PROJECTED = METHODS["projected-gradient"].make_settings(
    steps=40, learning_rate=0.02, project_every=1
)


@dataclass(frozen=True)
class Task:
    """A rule on a tiny model, its directions, and C."""

    function: LayerFunction
    weight: Tensor
    rule: LayerRule
    directions: Tensor
    second_moment: Tensor

    def layer_problem(
        self, settings: Settings = SETTINGS, on_note: NoteCallback = ignore_note
    ) -> LayerProblem:
        statistics = KeyStatistics(
            lambda: self.second_moment, lambda: pytest.fail("no sample is needed")
        )
        return LayerProblem(
            self.rule,
            self.function,
            self.weight,
            settings,
            statistics=statistics,
            family="f",
            on_note=on_note,
        )

    def problem(self) -> ChannelwiseProblem:
        return pose(self.layer_problem(), self.directions)

    def solved(self, settings: Settings = SETTINGS) -> Tensor:
        problem = self.layer_problem(settings)
        if settings is PROJECTED:
            return projected_gradient.find_coefficients(problem, self.directions)
        return find_coefficients(problem, self.directions)

    def loss(self, coefficients: Tensor | None = None) -> float:
        change = 0.0 if coefficients is None else delta(coefficients, self.directions)
        return rule_loss(self.function, self.rule, self.weight + change).item()


def task(
    make_tiny: MakeTiny,
    layer: str = "layer6",
    seed: int = 0,
    *,
    rank: int = 2,
    dtype: torch.dtype = torch.float64,
    region: tuple[int, int, int, int] | None = None,
) -> Task:
    """The values of one image in the place of another's."""
    model = StyleGAN2({name: tensor.to(dtype) for name, tensor in make_tiny(seed).items()})
    random = torch.Generator().manual_seed(seed + 100)
    z = torch.randn(10, 8, generator=random).to(dtype)
    reached, other = (model.trace(layer, one[None]) for one in z[:2])
    shape = model.layer(layer)
    box = Box(*region) if region else Box(0, 1, shape.key_size // 2 + 1, shape.key_size)
    covered = box.scale_up(shape.scale)
    key, arguments = model.crop(layer, reached, box)
    value = model.layer_value(layer, other)[:, :, covered.rows(), covered.columns()]
    keys = model.trace(layer, z[2:]).key.movedim(1, -1).flatten(0, -2).double()
    directions = torch.linalg.qr(torch.randn(6, rank, generator=random).double())[0].T.contiguous()
    nothing = torch.empty(0)
    rule = LayerRule(layer, shape.parameter, key, value, arguments, nothing, nothing)
    return Task(
        model.function(layer),
        model.weight(layer),
        rule,
        directions.to(dtype),
        keys.T @ keys / len(keys),
    )


@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_the_factored_function_is_the_function(make_tiny: MakeTiny, layer: str) -> None:
    given = task(make_tiny, layer)
    rule, d = given.rule, given.directions
    channelwise = given.function.channelwise(rule.key, given.weight, d, rule.arguments)
    assert channelwise is not None
    for scale in (0.0, 0.3, 3.0):
        a = scale * torch.randn(1, 6, 2, 3, 3, generator=torch.Generator().manual_seed(3)).double()
        wanted = given.function(rule.key, given.weight + delta(a, d), rule.arguments)
        found = channelwise(a[0].flatten(1)).view_as(wanted)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
        if scale:
            assert (channelwise(-a[0].flatten(1)).view_as(wanted) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("demodulated", [True, False])
@pytest.mark.parametrize("clamp", [None, 1.0])
def test_the_gradient_by_hand_is_that_of_autograd(demodulated: bool, clamp: float | None) -> None:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).double()

    images, channels, positions, count = 2, 5, 12, 4
    root = normal(images, count, count)
    demodulation = {
        "energy": 30 + normal(images, channels),
        "cross": normal(images, channels, count),
        "gram": root @ root.mT,
    }
    function = ChannelwiseFunction(
        3 * normal(images, channels, positions),
        normal(images, positions, count),
        normal(images, channels, positions),
        slope=0.2,
        gain=1.5,
        clamp=clamp,
        **(demodulation if demodulated else {}),
    )
    wanted, coefficients = (
        normal(images, channels, positions),
        normal(channels, count).requires_grad_(),
    )
    loss = (wanted - function(coefficients)).abs().mean()
    loss.backward()
    assert coefficients.grad is not None
    found, gradient = function.loss_and_gradient(coefficients.detach(), wanted)
    torch.testing.assert_close(found, loss.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, coefficients.grad, rtol=1e-12, atol=1e-14)
    # Without the clamp, or the factor, it is another: both are in it.
    _, other = dataclasses.replace(function, clamp=None if clamp else 0.5).loss_and_gradient(
        coefficients.detach(), wanted
    )
    assert (gradient - other).norm() > 1e-2 * gradient.norm()


# Rank 5 is solved iteratively; at layer2 its rule has fewer positions than unknowns.
@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_the_gradient_of_its_objective_is_zero(make_tiny: MakeTiny, layer: str, rank: int) -> None:
    problem = task(make_tiny, layer, rank=rank).problem()

    def gradient(unknowns: Tensor) -> Tensor:
        free = unknowns.clone().requires_grad_()
        problem.objective(free, 0.05).sum().backward()
        assert free.grad is not None
        return free.grad

    found = minimise(problem, 0.05, problem.nothing())
    before = gradient(problem.nothing()).abs().max()
    assert gradient(found).abs().max() < 1e-4 * before
    assert gradient(0.9 * found).abs().max() > 1e-2 * before
    # The gradient that the steps use is the same.
    state = problem.at(0.5 * found)
    stepped = problem.gradient(state) + 2 * 0.05 * problem.price * state.unknowns
    torch.testing.assert_close(stepped, gradient(0.5 * found), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_it_knows_where_values_are_clamped(make_tiny: MakeTiny, layer: str) -> None:
    given = task(make_tiny, layer)
    function = given.function
    assert isinstance(function, StyledConvolution)
    free = given.problem()
    clamp = free.function(free.nothing()).abs().quantile(0.8).item()
    problem = dataclasses.replace(
        given, function=dataclasses.replace(function, clamp=clamp)
    ).problem()
    unknowns = (
        0.1 * torch.randn(problem.nothing().shape, generator=torch.Generator().manual_seed(0))
    ).double()
    unknowns.requires_grad_()
    problem.at(unknowns).loss.sum().backward()
    gradient = problem.gradient(problem.at(unknowns.detach()))
    torch.testing.assert_close(gradient, unknowns.grad, rtol=1e-9, atol=1e-12)
    ours, theirs = (minimise(each, 0.05, each.nothing()) for each in (problem, free))
    assert problem.objective(ours, 0.05).mean() < 0.999 * problem.objective(theirs, 0.05).mean()


@pytest.mark.parametrize("collateral_weight", [1.0, 0.01])
@pytest.mark.parametrize("layer", ["layer2", "layer5", "layer6"])
def test_many_unknowns_have_the_objective_of_exact_steps(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch, layer: str, collateral_weight: float
) -> None:
    problem = task(make_tiny, layer, rank=5).problem()
    start = problem.nothing()
    assert start.shape[1] > channelwise_least_squares.FEW
    iterative = minimise(problem, collateral_weight, start)
    for module in (channelwise_least_squares, channelwise_descent):
        monkeypatch.setattr(module, "FEW", start.shape[1])
    exact = minimise(problem, collateral_weight, start)
    assert not torch.equal(iterative, exact)
    found, wanted = (
        problem.objective(each, collateral_weight).mean().item() for each in (iterative, exact)
    )
    assert found == pytest.approx(wanted, rel=1e-4)
    assert found < 0.9 * problem.objective(start, collateral_weight).mean()


@pytest.mark.parametrize("rank", [2, 5])
def test_the_start_is_near_the_solution(make_tiny: MakeTiny, rank: int) -> None:
    problem = task(make_tiny, "layer2", rank=rank).problem()
    none, start = problem.nothing(), problem.start(0.05)

    def reached(unknowns: Tensor) -> float:
        return problem.objective(unknowns, 0.05).mean().item()

    found = minimise(problem, 0.05, start)
    assert reached(found) <= reached(start) < reached(none)
    assert reached(start) - reached(found) < 0.5 * (reached(none) - reached(found))
    assert reached(found) <= reached(minimise(problem, 0.05, none)) * (1 + 1e-3)
    # No channel starts at more than it costs to change nothing, at any weight.
    for weight in (1e3, 1e-9):
        begun = problem.objective(problem.start(weight), weight)
        assert (begun <= problem.objective(none, weight)).all()
    assert not problem.start(0.0).any()


def test_near_the_minimum_a_factor_gives_two_steps(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = task(make_tiny, "layer6", rank=2).problem()
    solve, factors = ChannelwiseProblem.solver, []

    def record(self: ChannelwiseProblem, *given: Any) -> Any:
        factors[-1] += len(self.value[0])
        return solve(self, *given)

    monkeypatch.setattr(ChannelwiseProblem, "solver", record)
    objectives = []
    for again in (channelwise_descent.AGAIN, 0.0):
        monkeypatch.setattr(channelwise_descent, "AGAIN", again)
        factors.append(0)
        found = minimise(problem, 0.05, problem.nothing())
        objectives.append(float(problem.objective(found, 0.05).mean()))
    assert 0 < factors[0] < factors[1]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-6)


def test_a_rule_of_more_positions_than_unknowns_starts_at_no_change(make_tiny: MakeTiny) -> None:
    problem = task(make_tiny, "layer6", rank=2).problem()
    assert problem.count > len(problem.root)
    assert not problem.start(0.05).any()


@pytest.mark.parametrize("slope", [0.2, 0.0])
def test_the_missing_answer_gives_the_value(slope: float) -> None:
    random = torch.Generator().manual_seed(0)
    response, wanted = torch.randn(2, 2, 5, 12, generator=random).double()
    root = torch.randn(2, 4, 4, generator=random).double()
    function = ChannelwiseFunction(
        response,
        torch.randn(2, 12, 4, generator=random).double(),
        torch.randn(2, 5, 12, generator=random).double(),
        energy=30 + torch.rand(2, 5, generator=random).double(),
        cross=torch.randn(2, 5, 4, generator=random).double(),
        gram=root @ root.mT,
        slope=slope,
        gain=1.5,
    )
    missing = function.missing_answer(wanted)
    coefficients = torch.randn(5, 4, generator=random).double()
    torch.testing.assert_close(function(0 * coefficients), function.unedited)
    factor = function.demodulation(0 * coefficients)[0][..., None]
    value = 1.5 * F.leaky_relu((response + missing) * factor + function.offset, slope)
    # A rectifier reaches no value below zero.
    reachable = wanted if slope else wanted.clamp_min(0)
    torch.testing.assert_close(value, reachable)
    # With the factor of another change it would not.
    other = function.demodulation(coefficients)[0][..., None]
    other_value = 1.5 * F.leaky_relu((response + missing) * other + function.offset, slope)
    assert (other_value - reachable).norm() > 1e-2 * reachable.norm()


# With seed 6, projected gradient finds nothing better than no change.
@pytest.mark.parametrize("seed", sorted({*range(21)} - {6}))
def test_its_objective_is_not_above_that_of_projected_gradient(
    make_tiny: MakeTiny, seed: int
) -> None:
    given = task(
        make_tiny, ["layer4", "layer5", "layer6", "layer7"][seed % 4], seed, rank=1 + seed % 3
    )
    problem, projected = given.problem(), given.solved(PROJECTED)
    assert given.loss(projected) < given.loss()
    for collateral_weight in (1e-3, 0.05):
        theirs = problem.objective(projected[0].flatten(1) @ problem.root, collateral_weight).mean()
        ours = problem.objective(
            minimise(problem, collateral_weight, problem.nothing()), collateral_weight
        ).mean()
        assert ours <= theirs


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_the_curve_is_monotone(make_tiny: MakeTiny, layer: str) -> None:
    given = task(make_tiny, layer)
    points = trace_curve(given.problem())
    for point, next_ in pairwise(points):
        assert next_.collateral_weight < point.collateral_weight
        assert next_.loss <= point.loss
        assert next_.collateral >= point.collateral
    assert points[-1].loss < 0.9 * points[0].loss
    assert points[-1].collateral > 10 * points[0].collateral
    # Collateral is the paper's, of the full matrices.
    for point in points[::5]:
        assert point.collateral == pytest.approx(_collateral(given, point.coefficients), rel=1e-9)


def _collateral(given: Task, coefficients: Tensor) -> float:
    """tr(dW C dW^T) / tr(W C W^T) over all taps."""

    def energy(kernel: Tensor) -> float:
        return torch.einsum("loiyx,ij,lojyx->", kernel, given.second_moment, kernel).item()

    return energy(delta(coefficients, given.directions.double())) / energy(given.weight.double())


def test_a_budget_is_kept_and_used(make_tiny: MakeTiny) -> None:
    given = task(make_tiny)
    for budget in (1e-6, 0.003, 0.02):
        settings = least_squares(collateral=budget)
        assert 0.98 * budget < _collateral(given, given.solved(settings)) <= budget * (1 + 1e-9)
    free = minimise_within(given.problem(), 1e9)
    assert free.collateral < 1e9
    assert free.loss == pytest.approx(trace_curve(given.problem())[-1].loss, abs=1e-3)


def test_float32_is_near_float64(make_tiny: MakeTiny) -> None:
    for layer in ("layer5", "layer6"):
        single = task(make_tiny, layer, dtype=torch.float32)
        double = task(make_tiny, layer)
        found, wanted = single.solved(), double.solved()
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 1e-3 * wanted.norm()
        assert single.loss(found) == pytest.approx(double.loss(wanted), rel=1e-4)


@pytest.mark.parametrize("rank", [2, 5])
def test_blocks_of_channels_give_the_same_bits_by_any_number_of_threads(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    problem = task(make_tiny, "layer2", rank=rank).problem()
    start = problem.start(0.05)
    whole = minimise(problem, 0.05, start)
    assert count_blocks(problem) == 1
    monkeypatch.setattr(channelwise_descent, "NUMBERS", 2 * len(problem.root))
    monkeypatch.setattr(channelwise_descent, "CHANNELS", 2)
    assert count_blocks(problem) > 1
    found = []
    for count in (1, 2):
        monkeypatch.setattr(channelwise_descent, "count_threads", lambda count=count: count)
        found.append(minimise(problem, 0.05, start))
    assert torch.equal(*found)
    # Blocks end when they are done, and not when all channels are.
    reached, wanted = (problem.objective(each, 0.05).mean().item() for each in (found[0], whole))
    assert reached == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("rank", [2, 5])
def test_the_same_problem_gives_the_same_bits(make_tiny: MakeTiny, rank: int) -> None:
    first, second = (task(make_tiny, rank=rank).solved() for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("number", range(2, 9))
def test_the_identity_edit_changes_nothing(make_tiny: MakeTiny, number: int) -> None:
    given = task(make_tiny, f"layer{number}")
    value = given.function(given.rule.key, given.weight, given.rule.arguments)
    same = dataclasses.replace(given, rule=dataclasses.replace(given.rule, value=value))
    assert not same.solved().any()
    assert given.solved().any()


@pytest.mark.parametrize("collateral_weight", [1e-6, 0.05])
@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_a_crop_of_one_position_has_an_answer(
    make_tiny: MakeTiny, layer: str, collateral_weight: float
) -> None:
    given = task(make_tiny, layer, region=(3, 4, 4, 5))
    found = given.solved(least_squares(collateral_weight=collateral_weight))
    assert found.isfinite().all()
    assert given.loss(found) < given.loss()


def test_a_second_moment_that_is_nearly_singular_gives_no_nan(make_tiny: MakeTiny) -> None:
    given = task(make_tiny)
    values, vectors = torch.linalg.eigh(given.second_moment)
    values[:3] *= 1e-12
    near = dataclasses.replace(given, second_moment=(vectors * values) @ vectors.T)
    for collateral_weight in (0.0, 0.05):
        found = near.solved(least_squares(collateral_weight=collateral_weight))
        assert found.isfinite().all()
        assert near.loss(found) < near.loss()


def test_a_singular_second_moment_gets_a_ridge_and_a_note(make_tiny: MakeTiny) -> None:
    given = task(make_tiny)
    direction = given.directions[0]
    rest = torch.eye(6).double() - torch.outer(direction, direction)
    singular = dataclasses.replace(given, second_moment=rest @ given.second_moment @ rest)
    notes: list[str] = []
    found = find_coefficients(singular.layer_problem(on_note=notes.append), given.directions)
    assert found.isfinite().all()
    assert singular.loss(found) < singular.loss()
    (note,) = notes
    assert "singular in the directions of the context, and has a ridge of 1e-08" in note
    # Where the directions occur there is no ridge, and no note.
    notes.clear()
    find_coefficients(given.layer_problem(on_note=notes.append), given.directions)
    assert not notes


@pytest.mark.parametrize("factor", [0.0, float("nan")])
def test_a_second_moment_without_numbers_is_named(make_tiny: MakeTiny, factor: float) -> None:
    given = task(make_tiny)
    broken = dataclasses.replace(given, second_moment=factor * given.second_moment)
    with pytest.raises(
        NumericalError, match="second moment of the keys is singular in the directions"
    ):
        broken.solved()


def test_steps_that_do_not_converge_go_on_from_a_larger_weight(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = task(make_tiny)
    plain = minimise

    def stubborn(problem: ChannelwiseProblem, weight: float, start: Tensor) -> Tensor:
        """Converge from no change at weights of 1 and above, and from near at 0.01 and above."""
        if weight < 0.01 or (weight < 1 and not start.any()):
            raise NotConverged("not converged")
        return plain(problem, weight, start)

    monkeypatch.setattr(robust_least_squares, "minimise", stubborn)
    problem = given.problem()
    # The weight that is asked for is reached from above ...
    reached = minimise_from_above(problem, 0.02)
    assert reached.collateral_weight == 0.02
    wanted = plain(problem, 0.02, problem.nothing())
    objectives = [problem.objective(each, 0.02).mean() for each in (reached.unknowns, wanted)]
    assert objectives[0] == pytest.approx(objectives[1].item(), rel=1e-2)
    # ... or the last one that converges, of which the caller is told.
    assert 0.01 <= minimise_from_above(problem, 0.001).collateral_weight < 0.02
    assert 0.01 <= minimise_from_above(problem, 0.0).collateral_weight < 0.02
    notes: list[str] = []
    settings = least_squares(collateral_weight=0.001)
    find_coefficients(given.layer_problem(settings, on_note=notes.append), given.directions)
    assert "do not converge at a collateral weight of 0.001: the change is that of 0.01" in notes[0]

    def never(problem: ChannelwiseProblem, weight: float, start: Tensor) -> Tensor:
        """Converge nowhere."""
        raise NotConverged("not converged")

    monkeypatch.setattr(robust_least_squares, "minimise", never)
    with pytest.raises(NotConverged):
        minimise_from_above(problem, 0.02)


def test_a_loss_that_is_not_finite_is_named(make_tiny: MakeTiny) -> None:
    given = task(make_tiny)
    broken = dataclasses.replace(
        given, rule=dataclasses.replace(given.rule, value=given.rule.value * float("nan"))
    )
    with pytest.raises(NumericalError, match="The loss is nan"):
        broken.solved()


def test_weights_that_are_zero_have_no_collateral_to_keep_to(make_tiny: MakeTiny) -> None:
    given = task(make_tiny)
    zero = dataclasses.replace(given, weight=0 * given.weight)
    assert zero.solved().isfinite().all()
    assert zero.loss(zero.solved()) < zero.loss()
    with pytest.raises(NumericalError, match="The weights of the layer are zero") as error:
        zero.solved(least_squares(collateral=0.01))
    assert "collateral_weight" in error.value.hint
    with pytest.raises(NumericalError, match="The weights of the layer are zero"):
        trace_curve(zero.problem())
    assert given.solved(least_squares(collateral=0.01)).any()


class Convolution(LayerFunction):
    """A layer that is linear from key to value."""

    is_channelwise = True

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(key, kernel, padding=1)

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        return F.conv2d(key, weight[0], padding=0 if HALO in arguments else 1)

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> ChannelwiseFunction:
        response = self(key, weight, arguments).flatten(2)
        unit = torch.eye(9 * len(directions)).to(key).view(-1, len(directions), 3, 3)
        design = F.conv2d(torch.einsum("jihw,si->jshw", key, directions), unit).flatten(2).mT
        return ChannelwiseFunction(response, design, torch.zeros_like(response[:1]))


class Softmax(LayerFunction):
    """A layer whose output channels are tied together."""

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(key, kernel, padding=1)

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        return F.conv2d(key, weight[0], padding=0 if HALO in arguments else 1).softmax(1)


def test_a_function_without_that_form_is_refused(make_tiny: MakeTiny) -> None:
    with pytest.raises(
        NumericalError, match="not known to act on each output channel alone"
    ) as error:
        dataclasses.replace(task(make_tiny), function=Softmax()).solved()
    assert "projected-gradient" in error.value.hint


@pytest.mark.parametrize("region", [(0, 0, 6, 6), (2, 2, 4, 4)])
def test_of_a_linear_layer_the_limit_is_the_constrained_least_squares(
    make_tiny: MakeTiny, region: tuple[int, int, int, int]
) -> None:
    given = dataclasses.replace(task(make_tiny, region=region), function=Convolution())
    rule, d = given.rule, given.directions

    def answer(coefficients: Tensor) -> Tensor:
        return given.function(rule.key, given.weight + delta(coefficients, d), rule.arguments)

    # Dense: the change of all values by each coefficient, in coordinates in which tr(dW C dW^T) is
    # the norm.
    start = torch.zeros(1, 6, 2, 3, 3).double()
    columns = torch.autograd.functional.jacobian(answer, start).flatten(0, 3).flatten(1)
    moment = torch.linalg.cholesky(d @ given.second_moment @ d.T)
    turned = torch.linalg.solve(moment, columns.view(-1, 6, 2, 9)).flatten(1)
    asked = (rule.value - answer(start)).flatten()
    dense = torch.linalg.lstsq(turned, asked, driver="gelsd").solution.view(6, 2, 9)
    wanted = torch.linalg.solve(moment.T, dense).view(1, 6, 2, 3, 3)
    for collateral_weight, near in ((0.0, 1e-8), (1e-7, 1e-3)):
        found = given.solved(least_squares(collateral_weight=collateral_weight))
        assert (found - wanted).norm() < near * wanted.norm()
    smooth = given.solved(least_squares(collateral_weight=1.0))
    assert (smooth - wanted).norm() > 1e-2 * wanted.norm()
    points = trace_curve(given.problem())
    assert all(b.loss <= a.loss and b.collateral >= a.collateral for a, b in pairwise(points))


def dense_closed_form(given: Task) -> Tensor:
    """The closed form by a pseudo-inverse of what each coefficient adds to the values."""
    rule, d = given.rule, given.directions
    taps = given.weight.shape[-2:]
    missing = rule.value - given.function(rule.key, given.weight, rule.arguments)
    count = len(d) * taps.numel()
    unit = torch.eye(count).to(d).view(1, count, len(d), *taps)
    projected = torch.einsum("nihw,si->nshw", rule.key, d)
    design = given.function(projected, unit, rule.arguments)
    moment = torch.linalg.cholesky(d @ given.second_moment @ d.T)
    root = torch.kron(moment.contiguous(), torch.eye(taps.numel()).to(d))
    rows = torch.linalg.solve_triangular(root, design.movedim(1, 0).flatten(1), upper=False).T
    solution = torch.linalg.pinv(rows) @ missing.movedim(1, 0).flatten(1).T
    coefficients: Tensor = torch.linalg.solve_triangular(root.T, solution, upper=True).T
    return coefficients.reshape(1, given.weight.shape[1], len(d), *taps)


@pytest.mark.parametrize("layer", ["layer1", "layer5", "output_64x64"])
def test_of_a_progressive_gan_the_limit_is_the_closed_form(
    golden: dict[str, dict[str, Tensor]], layer: str
) -> None:
    model = ProgressiveGAN(
        {name: tensor.double() for name, tensor in golden["pg_state_dict"].items()}
    )
    shape, random = model.layer(layer), torch.Generator().manual_seed(4)
    latents = torch.randn(60, model.architecture.latent_size, generator=random).double()
    reached, other = (model.trace(layer, one[None]) for one in latents[:2])
    size = shape.key_size
    box = Box(0, size // 3, size // 2 + 1, size)
    key, arguments = model.crop(layer, reached, box)
    value = model.layer_value(layer, other)[:, :, box.rows(), box.columns()]
    keys = model.trace(layer, latents[2:]).key.movedim(1, -1).flatten(0, -2)
    directions = torch.linalg.qr(torch.randn(shape.in_features, 2, generator=random).double())[
        0
    ].T.contiguous()
    nothing = torch.empty(0)
    rule = LayerRule(layer, shape.parameter, key, value, arguments, nothing, nothing)
    given = Task(
        model.function(layer), model.weight(layer), rule, directions, keys.T @ keys / len(keys)
    )
    wanted = dense_closed_form(given)
    for settings in (least_squares(collateral_weight=0.0), METHODS["closed-form"].make_settings()):
        found = given.solved(settings)
        assert (found - wanted).norm() < 1e-12 * wanted.norm()
    assert given.loss(found) < given.loss()
    smooth = given.solved(least_squares(collateral_weight=1.0))
    assert (smooth - wanted).norm() > 1e-2 * wanted.norm()
