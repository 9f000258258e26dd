"""Every family's model is a `Model`; its keys are those of its maps; positions count by weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.model import Keys, Model, Observable, TiledKeys, Trainable
from editspec_runtime.core.sample import Sample
from editspec_runtime.errors import NumericalError
from editspec_runtime.families.proggan.network import ProgressiveGAN
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.families.torch_module.network import TorchModule
from editspec_runtime.families.torch_module.source import Source
from editspec_runtime.maths.moments import SecondMomentEstimator
from editspec_runtime.maths.retrieval import search, share_above
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from tests.cases import draw_normal

MakeTiny = Callable[..., dict[str, Tensor]]


class Picture(nn.Module):
    """A row of positions, then a map of them."""

    latent_size = 6

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(6, 32)
        self.row = nn.Linear(4, 3)
        self.wide = nn.Conv2d(3, 2, 3, padding=1)
        self.end = nn.Linear(16, 48)

    def forward(self, latents: Tensor) -> Tensor:
        row = self.row(self.start(latents).reshape(-1, 8, 4))
        square = self.wide(row.mT.reshape(-1, 3, 8, 1).expand(-1, -1, -1, 8))
        return self.end(square.mean(3).flatten(1)).reshape(-1, 3, 4, 4)


@pytest.fixture(params=["stylegan2", "proggan", "torch"])
def model(
    request: pytest.FixtureRequest, make_tiny: MakeTiny, golden: dict[str, dict[str, Tensor]]
) -> Generator:
    if request.param == "stylegan2":
        return StyleGAN2(make_tiny())
    if request.param == "proggan":
        return ProgressiveGAN(golden["pg_state_dict"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = Picture()
    return TorchModule(dict(module.state_dict()), Source(module, "code"))


def sample_of(model: Generator, count: int = 3) -> LatentSample:
    return LatentSample(LatentStream(3, model.architecture.latent_size), count)


def batch_of(model: Generator) -> Tensor:
    (batch,) = sample_of(model).batches(model, 3, range(3))
    return batch


@torch.no_grad()
def test_a_generator_is_a_model_with_its_powers(model: Generator) -> None:
    given: Model = model
    sample: Sample = sample_of(model)
    assert sample.first(2).count == 2
    assert sample.first(2).fingerprint() != sample.fingerprint()
    for power in (TiledKeys, Observable, Trainable):
        assert isinstance(model, power)
    batch = batch_of(model)
    whole = given.outputs(batch)
    for name, layer in given.architecture.layers.items():
        trace = given.trace(name, batch)
        value = given.function(name)(trace.key, given.weight(name), trace.arguments)
        assert torch.equal(value, given.layer_value(name, trace))
        torch.testing.assert_close(given.forward_from(name, value, trace), whole)
        assert not torch.equal(given.forward_from(name, 0 * value, trace), whole)
        assert given.to_checkpoint(name, given.weight(name)).shape == (
            given.weights[layer.parameter].shape
        )
        assert layer.parameter not in given.upstream(name)
        assert (layer.positions, layer.value_positions) == (
            trace.key[0, 0].numel(),
            value[0, 0].numel(),
        )
    changed = {name: tensor + 1 for name, tensor in given.weights.items()}
    other = given.with_weights(changed)
    assert other.fingerprint() == given.fingerprint()
    assert all(torch.equal(other.weights[name], changed[name]) for name in changed)


@torch.no_grad()
def test_keys_are_the_positions_of_the_maps(model: Generator) -> None:
    batch = batch_of(model)
    for name, layer in model.architecture.layers.items():
        maps = model.key_maps(name)(batch)
        wanted = maps.movedim(1, -1).reshape(-1, layer.in_features)
        keys = model.keys(name, batch)
        assert keys.weight is None
        assert keys.values.shape == (3, layer.positions, layer.in_features)
        rows, weight = keys.rows()
        assert weight is None
        assert torch.equal(rows, wanted)
        (tile,) = model.key_tiles(name, 1)(batch)
        assert torch.equal(tile.values, keys.values)
        torch.testing.assert_close(model.trace(name, batch).key, maps)


def test_the_estimate_is_the_weighted_mean_of_all_outer_products() -> None:
    keys, weight = draw_normal(4, 7, 5, seed=1), draw_normal(4, 7, seed=2).abs()
    estimator = SecondMomentEstimator(5)
    for some, how_much in zip(keys.split(2), weight.split(2), strict=True):
        estimator.update(some, how_much)
    found = estimator.estimate()
    wanted = torch.einsum("np,npi,npj->ij", weight, keys, keys) / weight.sum()
    torch.testing.assert_close(found.matrix, wanted, rtol=1e-12, atol=1e-14)
    assert found.weight == pytest.approx(float(weight.sum()), rel=1e-12)
    plain = SecondMomentEstimator(5)
    plain.update(keys)
    torch.testing.assert_close(
        plain.estimate().matrix, torch.einsum("npi,npj->ij", keys, keys) / 28
    )
    assert (plain.estimate().matrix - found.matrix).norm() > 0.01 * found.matrix.norm()


@pytest.mark.parametrize("padding", [float("nan"), 100.0])
def test_padding_has_no_effect(padding: float) -> None:
    keys = draw_normal(2, 3, 4, seed=3)
    padded = torch.cat([keys, torch.full((2, 2, 4), padding, dtype=torch.float64)], 1)
    weight = torch.tensor([[1.0, 1, 1, 0, 0]] * 2)

    def estimate(values: Tensor, weight: Tensor | None) -> Tensor:
        estimator = SecondMomentEstimator(4)
        estimator.update(values, weight)
        return estimator.estimate().matrix

    plain = estimate(keys, None)
    assert torch.equal(estimate(padded, weight), plain)
    # Positions that count do have one.
    assert not torch.allclose(estimate(padded, torch.ones_like(weight)), plain)


def test_without_a_position_that_counts_there_is_no_moment() -> None:
    estimator = SecondMomentEstimator(2)
    estimator.update(draw_normal(1, 3, 2, seed=4), torch.zeros(1, 3))
    with pytest.raises(NumericalError, match="No position"):
        estimator.estimate()


@dataclass(frozen=True)
class Texts:
    """Three texts of one, two and three tokens, padded: a sample of a model without maps."""

    count: int = 3
    longest: int = 3

    def first(self, count: int) -> Texts:
        return Texts(min(count, self.count))

    def fingerprint(self) -> list[Any]:
        return [self.count]

    def batches(self, model: Any, size: int, numbers: range) -> Any:
        yield [number + 1 for number in numbers]


class Reader:
    """A model whose keys are the places of tokens, and whose padding is larger than any of them."""

    architecture = Architecture("toy", {"mlp": Layer("mlp", "mlp.weight", 2, 2, None, None)})

    def keys(self, layer: str, batch: list[int]) -> Keys:
        values = torch.full((len(batch), 3, 2), 9.0)
        weight = torch.zeros(len(batch), 3)
        for row, length in enumerate(batch):
            values[row, :length, 0] = torch.arange(length).float()
            weight[row, :length] = 1
        return Keys(values, weight)

    def weight(self, layer: str) -> Tensor:
        return torch.eye(2)


def test_padding_never_matches() -> None:
    model: Any = Reader()
    direction = torch.tensor([[1.0, 0.0]])
    found = search(model, "mlp", direction, Texts(), 2, EDITSPEC)
    assert [(match.item, match.score) for match in found] == [(2, 2.0), (1, 1.0)]
    # Of the six tokens, three are at place 1 or 2.
    assert share_above(model, "mlp", direction, 1.0, Texts(), EDITSPEC) == 0.5
