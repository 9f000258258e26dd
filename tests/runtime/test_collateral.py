from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import Cache, default_cache
from editspec_runtime.maths.collateral import Collateral, predict_collateral
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.patches.patch import Patch
from tests.cases import draw_normal

MakeTiny = Callable[..., dict[str, Tensor]]
STREAM = LatentStream(2, 8)


def model_of(weights: dict[str, Tensor]) -> StyleGAN2:
    return StyleGAN2({name: tensor.double() for name, tensor in weights.items()})


def factors(parameter: str, rank: int = 2) -> Patch:
    directions = torch.linalg.qr(draw_normal(6, rank, seed=1))[0].T.contiguous()
    return Patch({parameter: directions}, {parameter: draw_normal(6, rank, 3, 3, seed=2)}, {})


def prediction(model: StyleGAN2, layer: str, change: Patch, samples: int = 20) -> Collateral:
    return predict(model, layer, change, LatentSample(STREAM, samples))


def predict(
    model: StyleGAN2, layer: str, change: Patch, sample: LatentSample, cache: Cache | None = None
) -> Collateral:
    cache = cache or default_cache()
    moment = second_moment(model, layer, sample, EDITSPEC, cache).matrix
    parameter = model.layer(layer).parameter
    coefficients = change.coefficients.get(parameter, change.deltas.get(parameter))
    assert coefficients is not None
    directions = change.directions.get(parameter)
    return predict_collateral(
        model, layer, coefficients, directions, moment, sample, EDITSPEC, cache
    )


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_the_correlated_value_is_the_measured_change_of_the_convolution(
    make_tiny: MakeTiny, layer: str
) -> None:
    model = model_of(make_tiny())
    change = factors(model.layer(layer).parameter)
    found = prediction(model, layer, change)
    key = model.trace(layer, STREAM.items(range(20)).double()).key
    positions = key.shape[0] * key.shape[2] * key.shape[3]
    moved = model.function(layer).convolution(key, change.delta(model.layer(layer).parameter))
    torch.testing.assert_close(
        found.correlated * found.energy, float(moved.square().sum()) / positions
    )
    # The taps taken as independent: each alone, and their changes added up.
    alone = 0.0
    for y in range(3):
        for x in range(3):
            tap = change.delta(model.layer(layer).parameter)[:, :, y, x]
            alone += float(torch.einsum("nihw,oi->nohw", key, tap).square().sum()) / positions
    torch.testing.assert_close(found.independent * found.energy, alone)
    assert abs(found.correlated / found.independent - 1) > 0.01


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_few_coefficients_are_summed_by_themselves(make_tiny: MakeTiny, layer: str) -> None:
    model = model_of(make_tiny(channels=12))
    parameter = model.layer(layer).parameter
    directions = torch.linalg.qr(draw_normal(12, 1, seed=1))[0].T.contiguous()
    change = Patch({parameter: directions}, {parameter: draw_normal(12, 1, 3, 3, seed=2)}, {})
    full = Patch({}, {}, {}, {parameter: change.delta(parameter)[None]})
    one, other = prediction(model, layer, change), prediction(model, layer, full)
    assert one.correlated == pytest.approx(other.correlated, rel=1e-12)
    assert abs(one.correlated / one.independent - 1) > 0.01


@dataclasses.dataclass(frozen=True)
class Counted(LatentSample):
    """A sample that notes which of its items are asked for."""

    asked: set[int] = dataclasses.field(default_factory=set)

    def batches(self, model: Generator, size: int, numbers: range) -> Iterator[Tensor]:
        self.asked.update(numbers)
        return super().batches(model, size, numbers)


def test_large_maps_are_asked_for_less(make_tiny: MakeTiny, tmp_path: Path) -> None:
    model = StyleGAN2(make_tiny(size=256, channels=16))
    # C does not depend on how many items tell the correlation: any will do.
    change, moment = draw_normal(16, 16, 3, 3, seed=4), torch.eye(16, dtype=torch.float64)

    def predict_of(layer: str, sample: LatentSample) -> Collateral:
        cache = Cache(tmp_path)
        return predict_collateral(model, layer, change, None, moment, sample, EDITSPEC, cache)

    asked = {}
    for layer in ("layer4", "layer12", "layer14"):
        sample = Counted(STREAM, 80)
        found = predict_of(layer, sample)
        count = asked[layer] = len(sample.asked)
        assert sample.asked == set(range(count))
        assert found == predict_of(layer, LatentSample(STREAM, count))
        assert found != predict_of(layer, LatentSample(STREAM, count - 4))
    # Small maps: the whole sample. Then a map of four times the positions is asked for a quarter
    # as often, so that the keys of what is asked for need the same memory.
    assert asked["layer4"] == 80
    assert asked["layer14"] < asked["layer12"] < 80
    assert asked["layer12"] // 4 == asked["layer14"]


def test_factors_and_the_full_change_predict_the_same(make_tiny: MakeTiny) -> None:
    model = model_of(make_tiny())
    parameter = model.layer("layer6").parameter
    change = factors(parameter)
    full = Patch({}, {}, {}, {parameter: change.delta(parameter)[None]})
    one, other = prediction(model, "layer6", change), prediction(model, "layer6", full)
    torch.testing.assert_close(one.independent, other.independent)
    torch.testing.assert_close(one.correlated, other.correlated)


def test_taking_the_weight_away_changes_all_of_it(make_tiny: MakeTiny) -> None:
    model = model_of(make_tiny())
    parameter = model.layer("layer6").parameter
    gone = prediction(model, "layer6", Patch({}, {}, {}, {parameter: -model.weights[parameter]}))
    assert gone.independent == pytest.approx(1)
    nothing = prediction(
        model, "layer6", Patch({}, {}, {}, {parameter: 0 * model.weights[parameter]})
    )
    assert (nothing.independent, nothing.correlated) == (0, 0)


def test_a_change_along_what_keys_never_show_costs_nothing(make_tiny: MakeTiny) -> None:
    weights = make_tiny()
    # Channel 3 of the key is silent: its style is always zero.
    weights["convs.3.conv.modulation.weight"][3] = weights["convs.3.conv.modulation.bias"][3] = 0
    model = model_of(weights)
    parameter = model.layer("layer6").parameter
    silent = torch.eye(6, dtype=torch.float64)[3:4]
    found = prediction(
        model,
        "layer6",
        Patch({parameter: silent}, {parameter: draw_normal(6, 1, 3, 3, seed=3)}, {}),
    )
    assert (found.independent, found.correlated) == (0, 0)


def test_keys_that_are_kept_give_the_same(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(make_tiny())
    change = factors("convs.3.conv.weight")
    first = prediction(model, "layer6", change)
    assert len(list(default_cache().root.glob("keys/*"))) == 1
    assert prediction(model, "layer6", change) == first
    # Keys of another layer's sample are not taken for these: the kept ones are found by what they
    # depend on.
    assert prediction(model, "layer6", change, samples=10) != first
    monkeypatch.setattr("editspec_runtime.maths.sampled_keys.KEPT_KEYS", 0)
    uncached = prediction(model, "layer6", change)
    assert uncached.correlated == pytest.approx(first.correlated, rel=1e-12)
    assert len(list(default_cache().root.glob("keys/*"))) == 2
