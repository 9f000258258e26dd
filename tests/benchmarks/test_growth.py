"""The benchmark of growth on a model of a handful of channels: what a GPU runs, on the CPU. Nothing
is timed here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks import growth
from benchmarks.growth import Case, count_operations, measure_growth, measure_share_of_peak
from editspec_runtime.families.open import make_model

CPU = torch.device("cpu")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "STEPS", 3)


@pytest.mark.usefixtures("few")
def test_rules_and_statistics_of_every_case(make_tiny: Callable[..., dict[str, Tensor]]) -> None:
    cases = [Case("layer5"), Case("layer6"), Case("layer6", rank=2), Case("layer6", images=3)]
    figures = list(measure_growth(make_tiny(), 32, cases, CPU, 1))
    assert [figure.name for figure in figures] == [
        *(f"rule by least-squares, {case}" for case in cases),
        "statistics, layer5",
        "statistics, layer6",
    ]
    assert all(figure.value > 0 for figure in figures)
    assert all(figure.details["direct_3_steps_ms"] > 0 for figure in figures[:4])


@pytest.mark.usefixtures("few")
def test_the_share_of_the_peak(make_tiny: Callable[..., dict[str, Tensor]]) -> None:
    rule, share = measure_share_of_peak(make_tiny(), 32, Case("layer6"), CPU, 20)
    assert rule.aim == "at most 50"
    assert 0 < share.value < 100
    assert share.details["latents"] == 20


def test_operations_are_those_of_the_convolutions_and_products_up_to_the_key(
    make_tiny: Callable[..., dict[str, Tensor]],
) -> None:
    model = make_model("stylegan2", make_tiny(channels=6, latent_size=8), device=CPU)
    # layer3 is the first that sees a convolution: one of 4 x 4 positions. Before it, the mapping's
    # two products.
    mapping = 2 * 2 * 8 * 8
    first = count_operations(model, "layer2")
    assert first >= mapping
    assert count_operations(model, "layer3") - first >= 2 * 9 * 6 * 6 * 4 * 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(growth.CannotRun, match="there is no GPU"):
        next(growth.on_a_gpu(quick=True))
