from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from editspec_runtime.core.method import KeyStatistics, OutputLoss, Problem, Settings
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.errors import NumericalError
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.methods.ablate import ablate_units
from editspec_runtime.methods.all_weights import find_deltas
from editspec_runtime.methods.layer_problem import LayerProblem
from editspec_runtime.methods.losses import absolute_difference, rule_loss
from editspec_runtime.methods.low_rank import find_factors
from editspec_runtime.methods.one_layer import find_delta
from editspec_runtime.methods.registry import METHODS
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.maps import Box
from editspec_runtime.modalities.image.rendering import render_images

MakeTiny = Callable[..., dict[str, Tensor]]


def settings(method: str, steps: int, learning_rate: float) -> Settings:
    given = {"steps": steps, "learning_rate": learning_rate}
    return METHODS[method].make_settings(**given)


def problem(weights: dict[str, Tensor], layer: str, given: Settings, rank: int = 2) -> LayerProblem:
    """A rule on a tiny model: the values of one image in the place of another's."""
    model = StyleGAN2({name: tensor.double() for name, tensor in weights.items()})
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(4)).double()
    reached, other = (model.trace(layer, one[None]) for one in z)
    shape = model.layer(layer)
    region = Box(0, 1, shape.key_size // 2 + 1, shape.key_size)
    covered = region.scale_up(shape.scale)
    key, arguments = model.crop(layer, reached, region)
    value = model.layer_value(layer, other)[:, :, covered.rows(), covered.columns()]
    nothing = torch.empty(0)
    rule = LayerRule(layer, shape.parameter, key, value, arguments, nothing, nothing)
    return LayerProblem(rule, model.function(layer), model.weight(layer), given, rank)


def loss(task: LayerProblem, change: Tensor | float = 0.0) -> float:
    return rule_loss(task.function, task.rule, task.weight + change).item()


def factors(task: LayerProblem) -> tuple[Tensor, Tensor]:
    change = find_factors(task)
    assert change.directions is not None
    assert change.coefficients is not None
    return change.directions, change.coefficients


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_never_exceeds_its_rank(make_tiny: MakeTiny, layer: str, rank: int) -> None:
    task = problem(make_tiny(), layer, settings("low-rank", 40, 0.05), rank)
    d, a = factors(task)
    torch.testing.assert_close(d @ d.T, torch.eye(rank, dtype=torch.float64))
    change = torch.einsum("osyx,si->oiyx", a, d)
    assert torch.linalg.matrix_rank(change.movedim(1, -1).reshape(-1, 6)) == rank
    assert loss(task, change) < 0.95 * loss(task)
    # Without the cut the change would have full rank.
    free = find_delta(task)
    assert torch.linalg.matrix_rank(free[0].movedim(1, -1).reshape(-1, 6)) == 6


def test_a_layer_without_constraint_comes_closer_than_any_rank(make_tiny: MakeTiny) -> None:
    task = problem(make_tiny(), "layer6", settings("low-rank", 150, 0.05), 1)
    free = dataclasses.replace(task, settings=settings("layer", 150, 0.05))
    d, a = factors(task)
    limited = loss(task, torch.einsum("osyx,si->oiyx", a, d))
    assert loss(task, find_delta(free)) < limited


def image_rule(model: StyleGAN2) -> LayerRule:
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(5)).double()
    source, target = (model.images(one[None]).detach() for one in z)
    target[:, :, :, 16:] = source[:, :, :, 16:]
    area = torch.zeros(1, 1, 32, 32).double()
    area[..., 16:] = 1
    nothing = torch.empty(0)
    parameter = "convs.3.conv.weight"
    return LayerRule("layer6", parameter, z[1:], target, {"area": area}, nothing, nothing)


def all_weights(
    model: StyleGAN2, rule: LayerRule, steps: int, loss: OutputLoss | None = None
) -> dict[str, Tensor]:
    def statistics(_: Generator, layer: str) -> KeyStatistics:
        raise AssertionError(f"nothing of {layer} is needed")

    given = settings("all-weights", steps, 0.002)
    problem = Problem(model, [lambda _: rule], given, None, None, statistics, EDITSPEC)
    return find_deltas(dataclasses.replace(problem, output_loss=loss), rule)


def test_all_weights_draw_the_composited_image_where_it_counts(make_tiny: MakeTiny) -> None:
    model = StyleGAN2({name: tensor.double() for name, tensor in make_tiny().items()})
    rule = image_rule(model)
    before = {name: tensor.clone() for name, tensor in model.weights.items()}
    changes = all_weights(model, rule, 60)
    assert set(changes) == {name for name in before if not name.startswith("noises.")}
    assert all(torch.equal(model.weights[name], before[name]) for name in before)
    after = model.with_weights({name: before[name] + changes.get(name, 0) for name in before})

    def difference(one: StyleGAN2) -> float:
        return absolute_difference(
            render_images(one, rule.key), rule.value, rule.arguments["area"]
        ).item()

    assert difference(after) < 0.7 * difference(model)


def test_the_loss_of_images_is_a_parameter(make_tiny: MakeTiny) -> None:
    model = StyleGAN2({name: tensor.double() for name, tensor in make_tiny().items()})
    rule = image_rule(model)

    def brightness(images: Tensor, wanted: Tensor, area: Tensor) -> Tensor:
        return (images.mean() - 5).square()

    changes = all_weights(model, rule, 20, brightness)
    after = model.with_weights(
        {name: tensor + changes.get(name, 0) for name, tensor in model.weights.items()}
    )
    assert render_images(after, rule.key).mean() > render_images(model, rule.key).mean()
    with pytest.raises(NumericalError, match="The loss is nan"):
        all_weights(
            model,
            rule,
            20,
            lambda images, wanted, area: images.mean() * float("nan"),
        )


def test_ablated_units_are_not_seen(make_tiny: MakeTiny) -> None:
    model = StyleGAN2(make_tiny())
    reached, weight = model.trace("layer6", torch.ones(1, 8)), model.weight("layer6")
    convolution = model.function("layer6").convolution
    for units in ((), (2,), (4, 0)):
        change = ablate_units(weight, units)
        d, a = change.directions, change.coefficients
        assert d is not None
        assert a is not None
        ablated = weight[0] + torch.einsum("osyx,si->oiyx", a, d)
        silent = reached.key.clone()
        silent[:, list(units)] = 0
        torch.testing.assert_close(
            convolution(reached.key, ablated), convolution(silent, weight[0])
        )
        assert torch.equal(ablated, weight[0]) == (not units)
