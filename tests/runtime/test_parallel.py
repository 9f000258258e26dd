"""Parts: computed in order, each by one thread, with equal results for any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths import parallel, sampled_keys
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.maths.parallel import (
    Threads,
    count_threads,
    map_parts,
    separate_models,
    unshared_operations,
)
from editspec_runtime.methods import projected_gradient
from editspec_runtime.methods.solve_edit import solve_edit
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from tests.cases import PAIRS, given

PATIENCE = 600
"""Seconds after which threads count as threads that hang."""

PROJECTED = "projected-gradient"
MakeTiny = Callable[..., dict[str, Tensor]]
THREADS = (1, 2, 4)


def test_operations_are_unshared_inside_a_block_alone() -> None:
    torch.set_num_threads(3)
    with unshared_operations():
        assert (torch.get_num_threads(), count_threads()) == (1, 3)
        with unshared_operations():
            assert (torch.get_num_threads(), count_threads()) == (1, 3)
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), count_threads()) == (3, 3)
    with pytest.raises(ValueError, match="inside"), unshared_operations():
        raise ValueError("inside")
    assert torch.get_num_threads() == 3


def test_blocks_of_several_threads_do_not_end_one_another() -> None:
    torch.set_num_threads(3)
    inside, leave = threading.Event(), threading.Event()
    found: list[int] = []

    def compute() -> None:
        with unshared_operations():
            inside.set()
            leave.wait(PATIENCE)
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    assert inside.wait(PATIENCE)
    with unshared_operations():
        pass
    assert torch.get_num_threads() == 3
    leave.set()
    thread.join()
    assert found == [1, 3]


def test_parts_run_at_once_and_come_in_order() -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE)

    def meet(item: int) -> tuple[int, int, int]:
        # Three parts wait for one another: they can only all be running.
        meeting.wait()
        return item, torch.get_num_threads(), count_threads()

    torch.set_num_threads(3)
    assert list(map_parts([meet] * 3, range(6))) == [(item, 1, 1) for item in range(6)]
    assert torch.get_num_threads() == 3


def test_parts_inside_of_a_part_are_computed_by_its_thread() -> None:
    def outer(_: int) -> set[int]:
        found = map_parts([lambda _: threading.get_ident()] * count_threads(), range(4))
        return {*found, threading.get_ident()}

    assert [len(names) for names in map_parts([outer] * 2, range(3))] == [1, 1, 1]


def test_a_function_is_called_by_one_thread_at_a_time() -> None:
    running, overlaps = set(), []

    def make(name: int) -> Callable[[int], None]:
        def compute(_: int) -> None:
            if name in running:
                overlaps.append(name)
            running.add(name)
            torch.randn(64, 64).mm(torch.randn(64, 64))
            running.remove(name)

        return compute

    list(map_parts([make(0), make(1), make(2)], range(60)))
    assert overlaps == []


def test_an_error_of_a_part_is_raised_and_the_rest_is_left() -> None:
    begun: list[int] = []

    def compute(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise KeyError(item)
        return item

    found = map_parts([compute] * 2, range(100))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(found)
    assert len(begun) < 20
    assert not [each for each in threading.enumerate() if each.name.startswith("part")]


def test_parts_record_gradients_as_the_caller_does() -> None:
    weight = torch.ones(4, requires_grad=True)
    with Threads(2) as pool:
        parts = list(pool.map(lambda item: (item * weight).sum(), [1.0, 2.0, 3.0]))
        torch.stack(parts).sum().backward()
        assert weight.grad is not None
        assert weight.grad.tolist() == [6.0] * 4
        with torch.no_grad():
            free = list(pool.map(lambda item: item * weight, [1.0, 2.0]))
    assert not any(part.requires_grad for part in free)


def by_threads(compute: Callable[[], Tensor]) -> list[bytes]:
    """The bytes of a tensor, computed with 1, 2 and 4 threads."""
    found = []
    for count in THREADS:
        torch.set_num_threads(count)
        found.append(compute().numpy().tobytes())
    return found


def shared_sum() -> Tensor:
    """A sum of many numbers, by all threads that torch is set to."""
    numbers = torch.randn(2**22, generator=torch.Generator().manual_seed(0))
    return numbers.double().sum()


def test_a_sum_that_threads_share_is_told_apart() -> None:
    # What the tests below compare does differ where an operation is shared.
    assert len(set(by_threads(shared_sum))) > 1

    def unshared_sum() -> Tensor:
        with unshared_operations():
            return shared_sum()

    assert len(set(by_threads(unshared_sum))) == 1


def large_maps(make_tiny: MakeTiny) -> StyleGAN2:
    """A model with so many channels and positions that torch shares its operations."""
    return StyleGAN2(make_tiny(size=64, channels=48))


def test_c_has_the_same_bits_for_any_number_of_threads(
    make_tiny: MakeTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, caches = large_maps(make_tiny), iter(range(100))

    def compute() -> Tensor:
        sample = LatentSample(LatentStream(2, 8), 40)
        cache = Cache(tmp_path / str(next(caches)))
        return second_moment(model, "layer9", sample, EDITSPEC, cache).matrix

    sharing = set()
    convolve = F.conv2d

    def record(*given: Any, **named: Any) -> Tensor:
        sharing.add(torch.get_num_threads())
        return convolve(*given, **named)

    monkeypatch.setattr(F, "conv2d", record)
    assert len(set(by_threads(compute))) == 1
    assert sharing == {1}
    # Without these two, threads share operations. Whether C has other bits then is the library's
    # choice of kernels, which follows from the processor.
    monkeypatch.setattr(parallel, "unshared_operations", nullcontext)
    monkeypatch.setattr(sampled_keys, "separate_models", lambda model, *_: [model])
    by_threads(compute)
    assert sharing == set(THREADS)


def test_images_have_the_same_bits_for_any_number_of_threads(make_tiny: MakeTiny) -> None:
    model, latents = large_maps(make_tiny), LatentStream(1, 8).items(range(5))
    with torch.no_grad():
        assert len(set(by_threads(lambda: render_images(model, latents)))) == 1


def test_where_memory_ends_batches_are_computed_alone_before_they_are_split(
    make_tiny: MakeTiny, tmp_path: Path
) -> None:
    class Crowded(StyleGAN2):
        """A model of which only one batch at a time fits into memory."""

        running = 0
        refused = False

        def map_tiles(self, layer: str, tiles: int) -> Callable[[Tensor], Iterator[Tensor]]:
            tiles_of = super().map_tiles(layer, tiles)

            def compute(latents: Tensor) -> Iterator[Tensor]:
                Crowded.running += 1
                try:
                    found = list(tiles_of(latents))
                    # Two batches are surely running where two may.
                    wait.wait(0.2)
                    if Crowded.running > 1:
                        Crowded.refused = True
                        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
                finally:
                    Crowded.running -= 1
                return iter(found)

            return compute

    wait = threading.Event()
    weights, sample = make_tiny(), LatentSample(LatentStream(2, 8), 64)
    torch.set_num_threads(2)
    crowded = second_moment(Crowded(weights), "layer5", sample, EDITSPEC, Cache(tmp_path / "a"))
    assert Crowded.refused
    whole = second_moment(StyleGAN2(weights), "layer5", sample, EDITSPEC, Cache(tmp_path / "b"))
    assert torch.equal(crowded.matrix, whole.matrix)


@pytest.mark.parametrize(("numbers", "count"), [(2**20, 4), (2**25, 2), (2**27, 1)])
def test_large_parts_are_computed_a_few_at_a_time(
    tiny: dict[str, Tensor], numbers: int, count: int
) -> None:
    torch.set_num_threads(4)
    model = StyleGAN2(tiny)
    assert separate_models(model, numbers, 100) == [model] * count
    assert separate_models(model, 1, 3) == [model] * 3


def test_a_model_that_cannot_be_shared_is_used_by_one_thread(tiny: dict[str, Tensor]) -> None:
    class Alone:
        weights = tiny

    torch.set_num_threads(4)
    model: Sequence[object] = separate_models(Alone(), 1, 100)  # type: ignore[type-var]
    assert len(model) == 1


@pytest.mark.parametrize("family", [family for family, method in PAIRS if method == PROJECTED])
def test_blocks_of_channels_give_what_all_channels_give(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve() -> Tensor:
        changes = solve_edit(given(family, PROJECTED).problem).changes
        return torch.cat([each.coefficients.flatten() for each in changes.values()])

    whole = solve()
    monkeypatch.setattr(projected_gradient, "CHANNELS", 4)
    (in_blocks,) = set(by_threads(solve))
    found = torch.frombuffer(bytearray(in_blocks), dtype=whole.dtype)
    assert float((found - whole).norm()) < 1e-9 * float(whole.norm())
