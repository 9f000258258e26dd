from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import torch
from torch import Tensor

from editspec_runtime.core import compatibility as core_compatibility
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.errors import OutOfMemory
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths import moment_cache
from editspec_runtime.maths.moment_cache import Blocks, CachedMoment, second_moment
from editspec_runtime.maths.moments import SecondMomentEstimator
from editspec_runtime.maths.sampled_keys import forward_batch, items_in_pass
from editspec_runtime.modalities.image.compatibility import (
    EDITSPEC,
    REWRITING_2020,
    ImageCompatibility,
)
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream

if TYPE_CHECKING:
    from editspec_runtime.core.model import Model
    from editspec_runtime.core.sample import Sample

MakeTiny = Callable[..., dict[str, Tensor]]
SAMPLE = LatentSample(LatentStream(2, 8), 40)


def measured(
    weights: dict[str, Tensor],
    cache: Path,
    layer: str = "layer5",
    samples: int = 20,
    seed: int = 2,
    compatibility: ImageCompatibility = EDITSPEC,
) -> CachedMoment:
    model = StyleGAN2(weights, compatibility=compatibility)
    stream = LatentStream(seed, model.architecture.latent_size)
    return second_moment(model, layer, LatentSample(stream, samples), compatibility, Cache(cache))


@pytest.mark.parametrize("number", [4, 6, 7, 8])
def test_it_is_the_authors(
    golden: dict[str, dict[str, Tensor]], tmp_path: Path, number: int
) -> None:
    weights = {name: tensor.double() for name, tensor in golden["sg2_g_ema"].items()}
    model = StyleGAN2(weights, compatibility=REWRITING_2020)
    stream = LatentStream(1, 64, "numpy-legacy")
    found = second_moment(
        model, f"layer{number}", LatentSample(stream, 64), REWRITING_2020, Cache(tmp_path)
    ).matrix
    wanted = golden["sg2_stages_f64"][f"L{number}.C.batch10"]
    assert (found - wanted).norm() / wanted.norm() < 1e-12
    # Computed one by one their noise is another, and so is C: the match above is not for free.
    other = golden["sg2_stages_f64"][f"L{number}.C.batch1"]
    assert (found - other).norm() / other.norm() > 1e-6


def test_it_is_the_mean_of_all_outer_products(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    weights = {name: tensor.double() for name, tensor in tiny.items()}
    found = measured(weights, tmp_path, samples=5).matrix
    model = StyleGAN2(weights)
    keys = model.trace("layer5", LatentStream(2, 8).items(range(5)).double()).key
    outer = torch.zeros(6, 6, dtype=torch.float64)
    for image in keys:
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                outer += torch.outer(image[:, y, x], image[:, y, x])
    torch.testing.assert_close(
        found, outer / (5 * keys.shape[2] * keys.shape[3]), rtol=1e-12, atol=0
    )
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("layer", ["layer2", "layer3", "layer6", "layer7"])
@pytest.mark.parametrize("compatibility", [EDITSPEC, REWRITING_2020])
def test_keys_alone_are_those_on_the_way_to_the_image(
    tiny: dict[str, Tensor], layer: str, compatibility: ImageCompatibility
) -> None:
    model = StyleGAN2(
        {name: tensor.double() for name, tensor in tiny.items()}, compatibility=compatibility
    )
    stream = LatentStream(2, 8)
    keys = model.key_maps(layer)
    first = keys(stream.items(range(5)).double())
    wanted = model.trace(layer, stream.items(range(5)).double()).key
    assert (first - wanted).norm() < 1e-13 * wanted.norm()
    # Memory is used again within a call, never across calls: an earlier map stays, and the weights
    # do.
    kept, other = first.clone(), keys(stream.items(range(5, 10)).double())
    assert torch.equal(first, kept)
    assert (other - first).norm() > 0.1 * first.norm()
    assert torch.equal(keys(stream.items(range(5)).double()), first)


def test_the_cache_knows_what_c_depends_on(make_tiny: MakeTiny, tmp_path: Path) -> None:
    weights = make_tiny()
    first = measured(weights, tmp_path)
    assert not first.cached
    again = measured(weights, tmp_path)
    assert again.cached
    assert torch.equal(again.matrix, first.matrix)
    for other in (
        measured(weights, tmp_path, seed=3),
        measured(weights, tmp_path, samples=21),
        measured(weights, tmp_path, layer="layer6"),
        measured(weights, tmp_path, compatibility=REWRITING_2020),
        measured({**weights, "convs.1.conv.weight": 2 * weights["convs.1.conv.weight"]}, tmp_path),
        measured({**weights, "noises.noise_1": -weights["noises.noise_1"]}, tmp_path),
    ):
        assert not other.cached


def test_an_edit_of_the_same_or_a_later_layer_reuses_c(make_tiny: MakeTiny, tmp_path: Path) -> None:
    weights = make_tiny()
    first = measured(weights, tmp_path)
    for name in (
        "convs.2.conv.weight",
        "convs.3.conv.weight",
        "to_rgbs.0.conv.weight",
        "convs.2.activate.bias",
    ):
        again = measured({**weights, name: 2 * weights[name]}, tmp_path)
        assert again.cached
        assert torch.equal(again.matrix, first.matrix)


def test_a_damaged_entry_is_computed_again(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    first = measured(tiny, tmp_path)
    (entry,) = tmp_path.rglob("*.safetensors")
    whole = entry.read_bytes()
    for damaged in (whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        entry.write_bytes(damaged)
        again = measured(tiny, tmp_path)
        assert not again.cached
        assert torch.equal(again.matrix, first.matrix)
    assert entry.read_bytes() == whole


def in_a_process(job: tuple[dict[str, Tensor], Path]) -> bytes:
    torch.set_num_threads(1)
    return measured(*job).matrix.numpy().tobytes()


def test_two_processes_may_compute_it_at_once(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        first, second = pool.map(in_a_process, [(tiny, tmp_path)] * 2)
    assert first == second
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    # Besides the entry, each process leaves its mark, which the next prune sweeps.
    assert [path.suffix for path in left if path.parent.name != "running"] == [".safetensors"]


def test_forward_batches_shrink_with_the_maps(make_tiny: MakeTiny) -> None:
    small, large = StyleGAN2(make_tiny(size=32)), StyleGAN2(make_tiny(size=1024, channels=8))
    assert forward_batch(small, "layer8", SAMPLE, EDITSPEC) == 16
    assert forward_batch(large, "layer8", SAMPLE, EDITSPEC) == 16
    # A layer cannot have a larger batch than one that it comes after.
    batches = [forward_batch(large, name, SAMPLE, EDITSPEC) for name in large.architecture.layers]
    assert batches == sorted(batches, reverse=True)
    assert batches[-3:] == [4, 1, 1]
    # The authors' noise goes by the place in the batch: theirs stays.
    authors = StyleGAN2(make_tiny(size=1024, channels=8), compatibility=REWRITING_2020)
    assert forward_batch(authors, "layer18", SAMPLE, REWRITING_2020) == 10


class Cramped(StyleGAN2):
    """A model on a device where more than so many latents do not fit into memory."""

    fitting = 4
    message = "CUDA out of memory. Tried to allocate 20.00 MiB"

    def key_maps(self, layer: str) -> Callable[[Tensor], Tensor]:
        key_of = super().key_maps(layer)

        def fitting(latents: Tensor) -> Tensor:
            if len(latents) > self.fitting:
                raise RuntimeError(self.message)
            return key_of(latents)

        return fitting


class Small(StyleGAN2):
    """A model on a device where no more than so many numbers of a key map fit into memory at a
    time.
    """

    fitting = 6 * 16 * 16

    def map_tiles(self, layer: str, tiles: int) -> Callable[[Tensor], Iterator[Tensor]]:
        tiles_of = super().map_tiles(layer, tiles)
        tried.append((tiles, 0))

        def fitting(latents: Tensor) -> Iterator[Tensor]:
            tried[-1] = (tiles, len(latents))
            for tile in tiles_of(latents):
                if tile.numel() > self.fitting:
                    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
                yield tile

        return fitting


tried: list[tuple[int, int]] = []
"""Bands and latents of the forward batches that were tried on a `Small` model."""


@pytest.mark.parametrize(
    ("fitting", "order"),
    [
        (6 * 32 * 32 * 16, [(1, 16)]),
        (6 * 32 * 32 * 8, [(1, 16), (2, 16)]),
        (6 * 32 * 32 * 2, [(1, 16), (2, 16), (4, 16), (4, 8)]),
        (6 * 8 * 32, [(1, 16), (2, 16), (4, 16), (4, 8), (4, 4), (4, 2), (4, 1)]),
    ],
)
def test_where_memory_ends_maps_are_split_before_batches(
    make_tiny: MakeTiny, tmp_path: Path, fitting: int, order: list[tuple[int, int]]
) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny(size=64).items()}
    stream = LatentStream(2, 8)
    small = type("Small", (Small,), {"fitting": fitting})(weights)
    tried.clear()
    found = second_moment(
        small, "layer9", LatentSample(stream, 16), EDITSPEC, Cache(tmp_path / "small")
    )
    assert tried == order
    whole = second_moment(
        StyleGAN2(weights), "layer9", LatentSample(stream, 16), EDITSPEC, Cache(tmp_path / "whole")
    )
    assert (found.matrix - whole.matrix).norm() < 1e-12 * whole.matrix.norm()
    # The split is in the key, and the same split gives the same bits; one that was not needed
    # leaves the key as it is.
    names = [
        {path.name for path in (tmp_path / kind / "statistics").iterdir()}
        for kind in ("small", "whole")
    ]
    assert (names[0] == names[1]) is (len(order) == 1)
    again = second_moment(
        small, "layer9", LatentSample(stream, 16), EDITSPEC, Cache(tmp_path / "again")
    )
    assert torch.equal(again.matrix, found.matrix)
    assert {path.name for path in (tmp_path / "again" / "statistics").iterdir()} == names[0]


def test_batches_of_the_authors_noise_are_split_in_space_alone(
    make_tiny: MakeTiny, tmp_path: Path
) -> None:
    weights = {name: tensor.double() for name, tensor in make_tiny(size=64).items()}
    stream = LatentStream(2, 8)

    def moment(kind: type[StyleGAN2], cache: str) -> Tensor:
        model = kind(weights, compatibility=REWRITING_2020)
        return second_moment(
            model, "layer9", LatentSample(stream, 20), REWRITING_2020, Cache(tmp_path / cache)
        ).matrix

    tried.clear()
    found = moment(type("Small", (Small,), {"fitting": 6 * 32 * 32 * 5}), "small")
    assert tried == [(1, 10), (2, 10)]
    whole = moment(StyleGAN2, "whole")
    assert (found - whole).norm() < 1e-12 * whole.norm()
    with pytest.raises(OutOfMemory, match="layer9, 10 items at a time in 4 tiles, do not fit"):
        moment(type("Small", (Small,), {"fitting": 6}), "none")


def test_where_memory_ends_smaller_batches_are_taken_and_named(
    tiny: dict[str, Tensor], tmp_path: Path
) -> None:
    stream = LatentStream(2, 8)
    whole = second_moment(
        StyleGAN2(tiny), "layer5", LatentSample(stream, 40), EDITSPEC, Cache(tmp_path)
    ).matrix
    cramped = second_moment(
        Cramped(tiny), "layer5", LatentSample(stream, 40), EDITSPEC, Cache(tmp_path / "cramped")
    )
    torch.testing.assert_close(cramped.matrix, whole, rtol=1e-6, atol=1e-9)
    # The batch is in the key: what may have other bits has another name.
    names = [
        {path.name for path in (folder / "statistics").iterdir()}
        for folder in (tmp_path, tmp_path / "cramped")
    ]
    assert len(names[0]) == len(names[1]) == 1
    assert names[0] != names[1]
    assert second_moment(
        Cramped(tiny), "layer5", LatentSample(stream, 40), EDITSPEC, Cache(tmp_path / "cramped")
    ).cached


def test_where_memory_ends_for_good_it_is_said(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    class Full(Cramped):
        fitting = 0

    with pytest.raises(OutOfMemory, match="layer5, 1 items at a time, do not fit into memory"):
        second_moment(
            Full(tiny), "layer5", LatentSample(LatentStream(2, 8), 40), EDITSPEC, Cache(tmp_path)
        )
    # The authors' noise goes by the place in the batch: no smaller one is taken.
    with pytest.raises(OutOfMemory, match="layer5, 10 items"):
        second_moment(
            Full(tiny, compatibility=REWRITING_2020),
            "layer5",
            LatentSample(LatentStream(2, 8), 40),
            REWRITING_2020,
            Cache(tmp_path),
        )

    class Broken(Cramped):
        message = "something else"

    with pytest.raises(RuntimeError, match="something else"):
        second_moment(
            Broken(tiny), "layer5", LatentSample(LatentStream(2, 8), 40), EDITSPEC, Cache(tmp_path)
        )


def test_many_columns_are_added_up_as_few() -> None:
    rows = torch.randn(5000, 300, generator=torch.Generator().manual_seed(0))
    estimator = SecondMomentEstimator(300)
    estimator.update(rows)
    # Below the diagonal no more than the tiles that touch it is computed.
    assert (estimator.sums[130:300, :120] == 0).all()
    found = estimator.estimate()
    wanted = rows.double().T @ rows.double() / 5000
    torch.testing.assert_close(found.matrix, wanted, rtol=1e-12, atol=1e-12)
    assert found.weight == 5000


def test_large_sums_are_added_up_as_they_come(
    tiny: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    class Counted(SecondMomentEstimator):
        def __init__(self, features: int, device: torch.device | None = None) -> None:
            nonlocal made
            made += 1
            super().__init__(features, device)

    monkeypatch.setattr(moment_cache, "SecondMomentEstimator", Counted)
    apart = measured(tiny, tmp_path / "apart", samples=40).matrix
    assert made == 4  # of three batches, and of their block
    made = 0
    monkeypatch.setattr(moment_cache, "LARGEST_SUMS", 1)
    whole = measured(tiny, tmp_path / "whole", samples=40).matrix
    assert made == 1
    torch.testing.assert_close(whole, apart, rtol=1e-13, atol=1e-13)


def test_a_sample_is_a_thousand_blocks_at_the_most(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    for samples, size, count in ((20, 256, 1), (1000, 256, 4), (10_000_000, 9776, 1023)):
        sample = LatentSample(LatentStream(2, 8), samples)
        blocks = Blocks(StyleGAN2(tiny), "layer5", sample, 16, Cache(tmp_path))
        assert (blocks.size, len(blocks.starts())) == (size, count)


def text_model(features: int) -> Model:
    """A model with a layer whose items have no fixed number of positions."""
    layer = Layer("mlp", "mlp.weight", features, 64, None, None)
    weight = torch.empty(1)
    model = SimpleNamespace(
        architecture=Architecture("text", {"mlp": layer}), weight=lambda layer: weight
    )
    return cast("Model", model)


def test_few_texts_go_through_a_model_at_once() -> None:
    sample = cast("Sample", SimpleNamespace(longest=128))
    for features, items in ((64, 16), (1024, 16), (1536, 10), (4096, 4), (8192, 4)):
        assert items_in_pass(text_model(features), "mlp", sample, 16) == items


def batch_of(positions: int | None, longest: int | None = None) -> int:
    """The forward batch of a model with a layer of 4096 features, for a sample of texts."""
    layer = Layer("mlp", "mlp.weight", 4096, 1024, positions, positions)
    weight = torch.empty(1)
    model = SimpleNamespace(
        architecture=Architecture("text", {"mlp": layer}), weight=lambda layer: weight
    )
    sample = SimpleNamespace(longest=longest)
    return forward_batch(
        cast("Model", model), "mlp", cast("Sample", sample), core_compatibility.EDITSPEC
    )


def test_batches_follow_from_positions_not_from_squares() -> None:
    # A row of 512 tokens has 2^21 numbers: four are what a batch may have.
    assert batch_of(512) == 4
    assert batch_of(64) == 16
    # A map of 512 x 512 positions has 2^30, which is more than a batch may have.
    assert batch_of(512**2) == 1
    # Where items differ, the longest one counts.
    assert batch_of(None, longest=512) == 4
    assert batch_of(None, longest=1024) == 2
