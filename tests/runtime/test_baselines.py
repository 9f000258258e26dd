from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from editspec_runtime.core.compatibility import EDITSPEC
from editspec_runtime.core.rule import Rule, SolverSettings
from editspec_runtime.errors import NumericalError
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.methods.baselines import (
    ablation,
    absolute_difference,
    all_weights,
    drawn,
    low_rank,
    one_layer,
)
from editspec_runtime.methods.solvers import rule_loss
from editspec_runtime.modalities.image.generator import Box

MakeTiny = Callable[..., dict[str, Tensor]]


def no_progress(done: int, total: int) -> None:
    """Say nothing."""


def problem(
    weights: dict[str, Tensor], layer: str, settings: SolverSettings, rank: int = 2
) -> tuple[StyleGAN2, Rule]:
    """A rule on a tiny model: the values of one image in the place of another's."""
    model = StyleGAN2({name: tensor.double() for name, tensor in weights.items()})
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(4)).double()
    reached, other = (model.prefix(layer, one[None]) for one in z)
    shape = model.layer(layer)
    region = Box(0, 1, shape.key_size // 2 + 1, shape.key_size)
    covered = region.scaled(shape.scale)
    key, arguments = model.crop(layer, reached, region)
    value = model.value(layer, other)[:, :, covered.rows(), covered.columns()]
    nothing = torch.empty(0)
    return model, Rule(
        "e",
        "stylegan2",
        layer,
        shape.parameter,
        rank,
        settings,
        key,
        value,
        arguments,
        nothing,
        nothing,
        {},
    )


def loss(model: StyleGAN2, rule: Rule, change: Tensor | float = 0.0) -> float:
    return rule_loss(model.function(rule.layer), rule, model.weight(rule.layer) + change).item()


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_never_exceeds_its_rank(make_tiny: MakeTiny, layer: str, rank: int) -> None:
    settings = SolverSettings("low-rank", 40, 0.05, 10)
    model, rule = problem(make_tiny(), layer, settings, rank)
    d, a = low_rank(model.function(layer), model.weight(layer), rule, EDITSPEC, no_progress)
    torch.testing.assert_close(d @ d.T, torch.eye(rank, dtype=torch.float64))
    change = torch.einsum("osyx,si->oiyx", a, d)
    assert torch.linalg.matrix_rank(change.movedim(1, -1).reshape(-1, 6)) == rank
    assert loss(model, rule, change) < 0.95 * loss(model, rule)
    # Without the cut the change would have full rank.
    free = one_layer(model.function(layer), model.weight(layer), rule, EDITSPEC, no_progress)
    assert torch.linalg.matrix_rank(free[0].movedim(1, -1).reshape(-1, 6)) == 6


def test_a_layer_without_constraint_comes_closer_than_any_rank(make_tiny: MakeTiny) -> None:
    model, rule = problem(make_tiny(), "layer6", SolverSettings("layer", 150, 0.05, 10), 1)
    function, weight = model.function("layer6"), model.weight("layer6")
    d, a = low_rank(function, weight, rule, EDITSPEC, no_progress)
    limited = loss(model, rule, torch.einsum("osyx,si->oiyx", a, d))
    assert loss(model, rule, one_layer(function, weight, rule, EDITSPEC, no_progress)) < limited


def image_rule(model: StyleGAN2, steps: int) -> Rule:
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(5)).double()
    source, target = (model.images(one[None]).detach() for one in z)
    target[:, :, :, 16:] = source[:, :, :, 16:]
    area = torch.zeros(1, 1, 32, 32).double()
    area[..., 16:] = 1
    settings = SolverSettings("all-weights", steps, 0.002, None)
    nothing = torch.empty(0)
    return Rule(
        "e",
        "stylegan2",
        "layer6",
        "convs.3.conv.weight",
        None,
        settings,
        z[1:],
        target,
        {"area": area},
        nothing,
        nothing,
        {},
    )


def test_all_weights_draw_the_composited_image_where_it_counts(make_tiny: MakeTiny) -> None:
    model = StyleGAN2({name: tensor.double() for name, tensor in make_tiny().items()})
    rule = image_rule(model, 60)
    before = {name: tensor.clone() for name, tensor in model.weights.items()}
    changes = all_weights(model, rule, EDITSPEC, no_progress)
    assert set(changes) == {name for name in before if not name.startswith("noises.")}
    assert all(torch.equal(model.weights[name], before[name]) for name in before)
    after = model.with_weights({name: before[name] + changes.get(name, 0) for name in before})

    def difference(one: StyleGAN2) -> float:
        return absolute_difference(drawn(one, rule.key), rule.value, rule.arguments["area"]).item()

    assert difference(after) < 0.7 * difference(model)


def test_the_loss_of_images_is_a_parameter(make_tiny: MakeTiny) -> None:
    model = StyleGAN2({name: tensor.double() for name, tensor in make_tiny().items()})
    rule = image_rule(model, 20)

    def brightness(images: Tensor, wanted: Tensor, area: Tensor) -> Tensor:
        return (images.mean() - 5).square()

    changes = all_weights(model, rule, EDITSPEC, no_progress, brightness)
    after = model.with_weights(
        {name: tensor + changes.get(name, 0) for name, tensor in model.weights.items()}
    )
    assert drawn(after, rule.key).mean() > drawn(model, rule.key).mean()
    with pytest.raises(NumericalError, match="The loss is nan"):
        all_weights(
            model,
            rule,
            EDITSPEC,
            no_progress,
            lambda images, wanted, area: images.mean() * float("nan"),
        )


def test_ablated_units_are_not_seen(make_tiny: MakeTiny) -> None:
    model = StyleGAN2(make_tiny())
    reached, weight = model.prefix("layer6", torch.ones(1, 8)), model.weight("layer6")
    convolution = model.function("layer6").convolution
    for units in ((), (2,), (4, 0)):
        d, a = ablation(weight, units)
        ablated = weight[0] + torch.einsum("osyx,si->oiyx", a, d)
        silent = reached.key.clone()
        silent[:, list(units)] = 0
        torch.testing.assert_close(
            convolution(reached.key, ablated), convolution(silent, weight[0])
        )
        assert torch.equal(ablated, weight[0]) == (not units)
