"""What an edit must not touch: the metric, learned directions, whole layers, steps on outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.method import Change, KeyStatistics, Problem
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import LayerRule, PreservedKeys, Refinement
from editspec_runtime.maths.channelwise import design_of
from editspec_runtime.maths.low_rank import delta, kernel_of
from editspec_runtime.maths.low_rank_regression import find_low_rank, objective, solve_whole
from editspec_runtime.maths.tapped_moments import preserved_moment
from editspec_runtime.methods.refine import weigh_outputs
from editspec_runtime.methods.solve_edit import solve_edit
from editspec_runtime.modalities.image.generator import Generator
from tests.cases import CASES, draw_normal, given, latents_of, relative_error, statistics_of

KEPT = 3
"""The number of preserved images."""


def preserve(model: Generator, layer: str, order: tuple[int, ...] = (0, 1, 2)) -> PreservedKeys:
    """Whole images of a model, each position with the same share."""
    latents = latents_of(model, KEPT, 77)[list(order)]
    with torch.no_grad():
        trace = model.trace(layer, latents)
        value = model.layer_value(layer, trace)
    key_count, value_count = trace.key[0, 0].numel(), value[0, 0].numel()
    count = len(order)
    key_weights = value.new_ones(count, key_count) / (count * key_count)
    value_weights = value.new_ones(count, value_count) / (count * value_count)
    return PreservedKeys(trace.key, trace.arguments, key_weights, value_weights)


def tapped_statistics(model: Model, layer: str) -> KeyStatistics:
    """C, and E[x x^T] of the keys under all taps, over a few images."""
    plain = statistics_of(model, layer)

    def taps() -> Tensor:
        assert isinstance(model, Generator)
        with torch.no_grad():
            trace = model.trace(layer, latents_of(model, 12, 1000))
            units = torch.eye(trace.key.shape[1]).to(trace.key)
            rows = design_of(
                model.function(layer), trace.key, model.weight(layer), units, trace.arguments
            ).flatten(0, 1)
        return rows.double().T @ rows.double() / len(rows)

    return replace(plain, taps=taps)


def solve(
    family: str, name: str = "least-squares", **settings: Any
) -> tuple[Generator, LayerRule, Tensor]:
    """Solve the edit of a family's case; return its model, its rule, and its change of W."""
    model, rule, change = solve_change(family, name, **settings)
    return model, rule, whole_change(change, model, rule.layer)


def solve_change(
    family: str,
    name: str = "least-squares",
    *,
    preserved: bool = True,
    order: tuple[int, ...] = (0, 1, 2),
    rank: int | None = 2,
    directions: str = "zca",
    refinement: Refinement | None = None,
    kept: Callable[..., PreservedKeys] = preserve,
    **settings: Any,
) -> tuple[Generator, LayerRule, Change]:
    """Solve the edit of a family's case; return its model, its rule, and its change."""
    case = given(family, name, settings=settings)
    rules: list[LayerRule] = []

    def resolve(model: Model) -> LayerRule:
        assert isinstance(model, Generator)
        keys = kept(model, rule.layer, order) if preserved else None
        rules.append(replace(rule, preserved=keys, refinement=refinement))
        return rules[-1]

    rule = case.edit.rules[0](case.model)
    problem = replace(
        case.problem,
        rules=[resolve],
        rank=rank,
        directions=directions,
        statistics=tapped_statistics,
    )
    (change,) = solve_edit(problem).changes.values()
    return case.model, rules[0], change


def whole_change(change: Change, model: Generator, layer: str) -> Tensor:
    """A change as the kernel [out, in, *taps] that it adds."""
    if change.full is not None:
        weight = model.weights[model.layer(layer).parameter]
        new = model.with_weights(
            {**model.weights, model.layer(layer).parameter: weight + change.full}
        )
        return kernel_of(new.weight(layer) - model.weight(layer))
    assert change.coefficients is not None
    assert change.directions is not None
    return delta(change.coefficients, change.directions)


def answer_energies(model: Generator, rule: LayerRule, change: Tensor) -> tuple[float, float]:
    """The mean square of what a change adds to the linear answers: of preserved and of all keys."""
    kept = preserve(model, rule.layer)
    units = torch.eye(change.shape[1]).to(change)
    moment = preserved_moment(model.function(rule.layer), model.weight(rule.layer), units, kept)
    rows = change.flatten(1).double()
    everywhere = tapped_statistics(model, rule.layer).taps()
    return float(((rows @ moment) * rows).sum()), float(((rows @ everywhere) * rows).sum())


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize(
    ("rank", "directions"), [(2, "zca"), (2, "learned"), (None, "zca")], ids=str
)
def test_the_answers_of_preserved_keys_move_less_the_more_they_count(
    family: str, rank: int | None, directions: str
) -> None:
    found = []
    for share in (0.0, 0.6, 0.99):
        model, rule, change = solve(
            family,
            rank=rank,
            directions=directions,
            preserve_share=share,
            collateral_weight=1.0,
        )
        found.append(answer_energies(model, rule, change))
    ratios = [kept / everywhere for kept, everywhere in found]
    assert ratios[0] > 1.02 * ratios[-1]
    if rank is None:
        # What one objective gives up, another gains: the difference of both falls with the share.
        differences = [kept - everywhere for kept, everywhere in found]
        assert differences[0] > differences[1] > differences[2]


@pytest.mark.parametrize("family", CASES)
def test_what_is_preserved_without_limit_does_not_move(family: str) -> None:
    limits = []
    for weight in (1.0, 1e6):
        model, rule, change = solve(
            family, rank=None, collateral_weight=weight, preserve_share=0.9, ridge=1e-9
        )
        limits.append(answer_energies(model, rule, change)[0])
    assert limits[1] < 1e-6 * limits[0]


def test_a_preserved_answer_moves_by_no_more_than_the_objective_allows() -> None:
    # The objective of no change is what is missing; a solution's is no larger, nor is a part of it.
    weight, share = 30.0, 0.9
    model, rule, change = solve(
        "proggan", rank=None, collateral_weight=weight, preserve_share=share
    )
    before = model.function(rule.layer)(rule.key, model.weight(rule.layer), rule.arguments)
    missing = float((rule.value - before).square().sum(1).mean())
    assert weight * share * answer_energies(model, rule, change)[0] <= missing
    # The bound says something: the edit that is left alone goes beyond it.
    free = solve("proggan", rank=None, collateral_weight=1e-3, preserve_share=share)[2]
    assert weight * share * answer_energies(model, rule, free)[0] > missing


@pytest.mark.parametrize("family", CASES)
def test_preserving_everything_changes_nothing(family: str) -> None:
    def preserve_all(model: Generator, layer: str, order: tuple[int, ...] = ()) -> PreservedKeys:
        """The target's own positions, which the rule asks to change."""
        rule = given(family, "least-squares").edit.rules[0](model)
        keys, values = rule.key[0, 0].numel(), rule.value[0, 0].numel()
        return PreservedKeys(
            rule.key,
            rule.arguments,
            rule.value.new_full((len(rule.key), keys), 1 / (len(rule.key) * keys)),
            rule.value.new_full((len(rule.key), values), 1 / (len(rule.key) * values)),
        )

    moved = []
    for weight in (1e-3, 1e6):
        settings = {"collateral_weight": weight, "preserve_share": 0.9, "ridge": 1e-9}
        model, rule, change = solve(family, rank=None, kept=preserve_all, **settings)
        after = kernel_of(model.weight(rule.layer)) + change
        weights = (model.weight(rule.layer), after.view(model.weight(rule.layer).shape))
        function = model.function(rule.layer)
        one, other = (function(rule.key, each, rule.arguments) for each in weights)
        moved.append(float((one - other).abs().mean() / (rule.value - one).abs().mean()))
    assert moved[0] > 0.1
    assert moved[1] < 1e-4


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("directions", ["zca", "svd"])
def test_a_share_of_zero_is_the_edit_without_it(family: str, directions: str) -> None:
    _, _, without = solve(family, preserved=False, directions=directions)
    _, _, with_none = solve(family, directions=directions, preserve_share=0.0)
    _, _, with_some = solve(family, directions=directions, preserve_share=0.5)
    assert relative_error(with_none, without) < 1e-6
    assert relative_error(with_some, without) > 1e-3


@pytest.mark.parametrize("directions", ["zca", "learned"])
def test_the_order_of_what_is_preserved_does_not_matter(directions: str) -> None:
    _, _, one = solve("stylegan2", directions=directions)
    _, _, other = solve("stylegan2", directions=directions, order=(2, 0, 1))
    assert relative_error(other, one) < 1e-8
    _, _, less = solve("stylegan2", directions=directions, order=(2, 0))
    assert relative_error(less, one) > 1e-3


def test_every_method_with_directions_avoids_those_of_preserved_keys() -> None:
    for name in ("projected-gradient", "direct", "least-squares"):
        _, _, without = solve("stylegan2", name, preserved=False)
        _, _, with_some = solve("stylegan2", name, preserve_share=0.9)
        spaces = [
            torch.linalg.svd(c.flatten(2).movedim(2, 0).flatten(0, 1))[2][:2]
            for c in (without, with_some)
        ]
        cosine = torch.linalg.svdvals(spaces[0] @ spaces[1].T)[-1]
        assert cosine < 0.999, name


def test_the_whole_change_is_that_of_stacked_least_squares() -> None:
    settings = {"collateral_weight": 0.3, "preserve_share": 0.7, "ridge": 0.02}
    model, rule, change = solve("proggan", rank=None, **settings)
    kept = preserve(model, rule.layer)
    weight = kernel_of(model.weight(rule.layer)).double()
    # By definition: a row for each position, its keys under the taps side by side.
    own = F.unfold(rule.key, 3).mT.flatten(0, 1)
    missing = (
        (rule.value - model.function(rule.layer)(rule.key, weight, rule.arguments))
        .movedim(1, -1)
        .flatten(0, -2)
    )
    stay = F.unfold(kept.key, 3, padding=1).mT.flatten(0, 1)
    moment = tapped_statistics(model, rule.layer).taps()
    root = torch.linalg.cholesky(moment).mT
    ridge = (0.02 * moment.diagonal().mean()) ** 0.5 * torch.eye(len(moment)).double()
    rows = torch.cat(
        [
            own / len(own) ** 0.5,
            (0.3 * 0.3) ** 0.5 * root,
            (0.3 * 0.7 / len(stay)) ** 0.5 * stay,
            0.3**0.5 * ridge,
        ]
    )
    wanted = torch.zeros(len(rows), missing.shape[1]).double()
    wanted[: len(own)] = missing / len(own) ** 0.5
    reference = torch.linalg.lstsq(rows, wanted, driver="gelsd").solution.T
    assert relative_error(change.flatten(1), reference) < 1e-9
    assert relative_error(change.flatten(1), 1.01 * reference) > 1e-3


def random_problem(features: int, taps: int) -> tuple[Tensor, Tensor]:
    """A moment A and a pull R of 5 outputs."""
    size = features * taps
    rows = draw_normal(3 * size, size, seed=1)
    return rows.T @ rows / len(rows), draw_normal(5, size, seed=2)


def test_with_one_tap_the_low_rank_change_is_the_best_there_is() -> None:
    moment, pull = random_problem(8, 1)
    coefficients, directions, _ = find_low_rank(moment, pull, 8, 2)
    found = objective(moment, pull, coefficients @ directions)
    # Eckart and Young, in the metric of A.
    root = torch.linalg.cholesky(moment)
    left, values, right = torch.linalg.svd(solve_whole(moment, pull) @ root, full_matrices=False)
    best = (left[:, :2] * values[:2]) @ right[:2] @ torch.linalg.inv(root)
    assert found == pytest.approx(objective(moment, pull, best), rel=1e-9)
    worse = (left[:, 1:3] * values[1:3]) @ right[1:3] @ torch.linalg.inv(root)
    assert objective(moment, pull, worse) > found + 1e-3 * abs(found)


@pytest.mark.parametrize("rank", [1, 3])
def test_no_round_of_learning_directions_makes_them_worse(rank: int) -> None:
    moment, pull = random_problem(6, 9)
    coefficients, directions, reached = find_low_rank(moment, pull, 6, rank)
    assert len(reached) > 2
    assert all(later <= before for before, later in pairwise(reached))
    assert torch.allclose(directions @ directions.T, torch.eye(rank).double(), atol=1e-12)
    whole = torch.einsum("ost,si->oit", coefficients.view(5, rank, 9), directions).flatten(1)
    assert objective(moment, pull, whole) == pytest.approx(reached[-1], rel=1e-9)
    assert reached[-1] > objective(moment, pull, solve_whole(moment, pull))
    # No other directions nearby are better.
    for seed in range(3):
        other = torch.linalg.qr((directions + 0.05 * draw_normal(rank, 6, seed=seed)).T)[0].T
        spread = torch.kron(other.contiguous(), torch.eye(9).double())
        best = solve_whole(spread @ moment @ spread.T, pull @ spread.T) @ spread
        assert objective(moment, pull, best) > reached[-1] - 1e-4 * abs(reached[-1])


def test_at_the_full_rank_the_low_rank_change_is_the_whole_one() -> None:
    moment, pull = random_problem(4, 3)
    coefficients, directions, _ = find_low_rank(moment, pull, 4, 4)
    whole = torch.einsum("ost,si->oit", coefficients.view(5, 4, 3), directions).flatten(1)
    assert relative_error(whole, solve_whole(moment, pull)) < 1e-9


def refinement_of(model: Generator, layer: str, **settings: Any) -> Refinement:
    """Refinement towards the pictures of other latents, with two images kept."""
    latents = latents_of(model, 5, 5)
    with torch.no_grad():
        wanted = 0.7 * model.outputs(latents[:2]) + 0.3 * model.outputs(latents[3:])
    usual = {"steps": 12, "learning_rate": 0.01, "weight": 4.0}
    area = draw_normal(*wanted[:, :1].shape, seed=6).abs().to(wanted)
    return Refinement(latents[:2], wanted, latents[2:4], area, **{**usual, **settings})


def counts(asked: Tensor) -> Tensor:
    """How much each position counts by the change that is asked for there, one by one."""
    sizes = asked.abs().mean(1, keepdim=True)
    mean = float(sizes.square().sum() / sizes.sum())
    weights = [mean / size if size > 0.1 * mean else 1.0 for size in sizes.flatten().tolist()]
    return torch.tensor(weights).view(sizes.shape).to(sizes)


def outputs_loss(model: Generator, rule: LayerRule, change: Tensor) -> Tensor:
    """The objective of a refinement, from the definition."""
    refinement = rule.refinement
    assert refinement is not None
    parameter = model.layer(rule.layer).parameter
    kernel = change.view(model.weight(rule.layer).shape)
    new = model.weight(rule.layer) + kernel
    stored = model.to_checkpoint(rule.layer, new)
    edited = model.with_weights({**model.weights, parameter: stored.to(new)})
    asked = (refinement.wanted - model.outputs(refinement.items)).detach()
    missing = edited.outputs(refinement.items) - refinement.wanted
    moved = edited.outputs(refinement.kept) - model.outputs(refinement.kept).detach()
    own = (counts(asked) * missing.abs()).mean()
    return refinement.weight * own + (refinement.kept_area * moved.abs()).mean()


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize(("name", "rank"), [("least-squares", 2), ("least-squares", None)])
def test_steps_on_outputs_lower_their_objective_within_the_rank(
    family: str, name: str, rank: int | None
) -> None:
    model = given(family, name).model
    refinement = refinement_of(model, CASES[family].layer)
    _, rule, before = solve(family, name, rank=rank)
    _, refined_rule, after = solve(family, name, rank=rank, refinement=refinement)
    rule = replace(rule, refinement=refinement)
    assert outputs_loss(model, refined_rule, after) < outputs_loss(model, rule, before)
    if rank is not None:
        rows = after.movedim(1, -1).flatten(0, -2)
        assert int(torch.linalg.matrix_rank(rows, rtol=1e-9)) == rank


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("rank", [2, None])
def test_steps_on_outputs_are_those_of_adam(rank: int | None, whiten: bool) -> None:
    model, rule, start = solve("stylegan2", rank=rank)
    steps, rate = 3, 0.05
    refinement = refinement_of(model, rule.layer, steps=steps, learning_rate=rate, whiten=whiten)
    _, rule, found = solve("stylegan2", rank=rank, refinement=refinement)
    size = model.weight(rule.layer).square().mean().sqrt()
    root = torch.eye(start.shape[1]).to(start)
    if whiten:
        moment = statistics_of(model, rule.layer).moment()
        values, vectors = torch.linalg.eigh(moment / moment.diagonal().mean())
        root = ((vectors * (values + 1e-3).rsqrt()) @ vectors.T).to(start)
    into = torch.linalg.inv(root.double()).to(start)
    parts = [torch.einsum("oi...,ij->oj...", start / size, into)]
    if rank is not None:
        change = solve_change("stylegan2", rank=rank)[2]
        assert change.coefficients is not None
        assert change.directions is not None
        wide = change.directions.shape[1] ** 0.5
        rows = change.directions @ into
        lengths = rows.norm(dim=1)
        turned = torch.einsum("os...,s->os...", change.coefficients / size, lengths)
        parts = [turned, rows / lengths[:, None] * wide]
    free = [part.clone().contiguous().requires_grad_() for part in parts]
    adam = torch.optim.Adam(free, lr=rate)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * (1 - step / steps)
        adam.zero_grad()
        whole = free[0] * size
        if rank is not None:
            whole = torch.einsum("os...,si->oi...", whole, free[1] / wide)
        whole = torch.einsum("oi...,ij->oj...", whole, root)
        outputs_loss(model, rule, whole).backward()
        adam.step()
    expected = free[0].detach() * size
    if rank is not None:
        expected = torch.einsum("os...,si->oi...", expected, free[1].detach() / wide)
    expected = torch.einsum("oi...,ij->oj...", expected, root)
    assert relative_error(found, expected) < 1e-6


def test_half_of_a_small_change_is_missed_as_much_as_half_of_a_large_one() -> None:
    unedited = torch.zeros(1, 3, 2, 2)
    wanted = torch.tensor([0.9, 0.1, 0.001, 0.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    weights = weigh_outputs(wanted, unedited)
    missing = (weights * (wanted - unedited).abs())[0, 0]
    assert missing[0, 0] == pytest.approx(missing[0, 1])
    # What hardly changes counts as it is, and so does everything where nothing changes.
    assert weights[0, 0, 1].tolist() == [1, 1]
    assert torch.equal(weigh_outputs(unedited, unedited), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("rank", [2, None])
def test_steps_on_outputs_are_the_same_with_two_threads(rank: int | None) -> None:
    refinement = refinement_of(given("stylegan2", "least-squares").model, "layer3", steps=3)
    changes = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            changes.append(solve("stylegan2", rank=rank, refinement=refinement)[2])
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*changes)


def test_steps_that_make_outputs_worse_are_thrown_away() -> None:
    model = given("stylegan2", "least-squares").model
    wild = refinement_of(model, CASES["stylegan2"].layer, learning_rate=100.0, steps=3)
    _, _, before = solve("stylegan2")
    _, _, after = solve("stylegan2", refinement=wild)
    assert torch.equal(after, before)


def test_a_problem_without_preserved_keys_needs_no_taps() -> None:
    case = given("stylegan2", "least-squares")

    def no_taps(model: Model, layer: str) -> KeyStatistics:
        plain = statistics_of(model, layer)
        return replace(plain, taps=lambda: pytest.fail("no taps are needed"))

    problem: Problem = replace(case.problem, statistics=no_taps)
    assert solve_edit(problem).changes
