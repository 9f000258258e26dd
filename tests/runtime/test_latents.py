from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from editspec_runtime.errors import EditError
from editspec_runtime.modalities.image.latents import LatentStream


@pytest.mark.parametrize("sampler", ["keyed", "numpy-legacy"])
def test_an_item_is_the_same_whatever_is_asked_before_it(sampler: str) -> None:
    stream = LatentStream(1, 16, sampler)
    assert torch.equal(stream.items([7]), stream.items([3, 7])[1:])
    assert torch.equal(stream.items([7, 3, 7]), stream.items([3, 7])[[1, 0, 1]])
    assert stream.items([0]).dtype == torch.float32
    assert not torch.equal(stream.items([7]), stream.items([8]))
    assert not torch.equal(stream.items([7]), LatentStream(2, 16, sampler).items([7]))


def test_the_legacy_stream_is_the_authors(golden: dict[str, dict[str, Tensor]]) -> None:
    wanted = golden["sg2_stages_f32"]["z"]
    assert torch.equal(LatentStream(1, 64, "numpy-legacy").items(range(64)), wanted)
    assert not torch.equal(LatentStream(1, 64).items(range(64)), wanted)


def test_the_keyed_stream_never_changes() -> None:
    # Written down once: specs in the wild rest on these numbers.
    wanted = np.array(
        [0.5635882019996643, 0.636454164981842, -1.7149455547332764], dtype=np.float32
    )
    found = LatentStream(1, 3).items([31])[0].numpy()
    assert found.tobytes() == wanted.tobytes()


def test_items_are_standard_normal() -> None:
    numbers = LatentStream(5, 64).items(range(500))
    assert abs(float(numbers.mean())) < 0.02
    assert abs(float(numbers.std()) - 1) < 0.02
    assert torch.linalg.matrix_rank(numbers[:64]) == 64


def test_beyond_the_end_of_the_legacy_stream() -> None:
    with pytest.raises(EditError, match="lies beyond the numpy-legacy stream"):
        LatentStream(1, 3, "numpy-legacy").items([1_000_000])
    LatentStream(1, 3).items([1_000_000])
