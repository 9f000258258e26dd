"""How a rule and the statistics grow: with resolution, rank and context; and what a GPU makes of
large models.

A rule's seconds are the ``seconds.solve`` of ``build --json``, taken here where one process solves
many rules of a model that is read once. Statistics are timed by the clock, with nothing in the
cache. The best of several turns counts.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import CannotRun, Figure, timed
from benchmarks.stylegan2_1024 import weights
from editspec.engine.built import STAGES
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec_runtime.core.progress import no_progress
from editspec_runtime.executors.devices import pick_device
from editspec_runtime.families.open import make_model
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream

LAYERS = tuple(f"layer{number}" for number in range(4, 11))
RANKS, CONTEXTS = (1, 4, 16), (1, 5, 25)
STEPS = 201
"""Steps of ``direct``: a tenth of its default."""
SAMPLES = 16
"""Latents of the second moment that a rule is solved with: enough that it is not singular."""


@dataclass(frozen=True)
class Case:
    """A rule by what it grows with.

    Attributes
    ----------
    layer, rank
        Where, and within how many directions.
    images
        How many images its context has.
    """

    layer: str
    rank: int = 1
    images: int = 1

    def __str__(self) -> str:
        return f"{self.layer}, rank {self.rank}, context of {self.images}"

    def edit(self, method: str, size: int) -> dict[str, Any]:
        """The case as an edit of images of `size` pixels: nine in 32 positions of a map, either
        way.
        """
        mask = {"box": [round(share * size) for share in (0.3125, 0.3125, 0.59375, 0.59375)]}
        solver: dict[str, Any] = {"method": method} | (
            {"steps": STEPS} if method == "direct" else {}
        )
        return {
            "name": f"{self.layer}-{self.rank}-{self.images}-{method}",
            "layer": self.layer,
            "rank": self.rank,
            "source": {"latent": 100, "mask": mask},
            "target": {"latent": 0, "mask": mask},
            "context": [{"latent": latent, "mask": mask} for latent in range(self.images)],
            "solver": solver,
        }


def growth(quick: bool) -> Iterator[Figure]:
    """A rule and the statistics of StyleGAN2-256 at several layers, ranks and contexts."""
    device = pick_device("auto")
    layers, middle = (LAYERS[::2], "layer6") if quick else (LAYERS, "layer8")
    cases = [Case(layer) for layer in layers]
    cases += [Case(middle, rank) for rank in RANKS[1:]] + [
        Case(middle, 1, images) for images in CONTEXTS[1:]
    ]
    yield from grown(weights(256), 256, cases, device, 2 if quick else 5)


def on_a_gpu(quick: bool) -> Iterator[Figure]:
    """StyleGAN2 of 256 and 1024 pixels: a rule, the statistics, and the share of the GPU's peak
    that they reach.
    """
    if not torch.cuda.is_available():
        raise CannotRun("no GPU here")
    samples = 1_000 if quick else 10_000
    for size, layer in ((256, "layer8"), (1024, "layer10")):
        yield from whole(weights(size), size, Case(layer), pick_device("cuda"), samples)


def grown(
    tensors: Mapping[str, Tensor],
    size: int,
    cases: Sequence[Case],
    device: torch.device,
    turns: int,
) -> Iterator[Figure]:
    """The rule of each case of a model, each beside the first; and the statistics of each layer."""
    found = solved(tensors, size, cases, device, turns)
    first = found[cases[0]]
    for case, spent in found.items():
        yield Figure(
            f"rule by least-squares, {case}",
            1e3 * spent["least-squares"],
            "ms",
            details={
                "against_the_first": spent["least-squares"] / first["least-squares"],
                f"direct_{STEPS}_steps_ms": 1e3 * spent["direct"],
                "direct_against_the_first": spent["direct"] / first["direct"],
            },
        )
    model = make_model("stylegan2", tensors, device=device)
    for layer in dict.fromkeys(case.layer for case in cases):
        seconds = min(seconds_of_statistics(model, layer, 2 * SAMPLES) for _ in range(turns))
        shape, work = model.layer(layer), operations(model, layer)
        yield Figure(
            f"statistics, {layer}",
            2 * SAMPLES / seconds,
            "latents/s",
            details={
                "channels": shape.in_features,
                "positions": shape.positions,
                "gflop_a_latent": work / 1e9,
                "gflop_s": 2 * SAMPLES * work / seconds / 1e9,
            },
        )


def whole(
    tensors: Mapping[str, Tensor], size: int, case: Case, device: torch.device, samples: int
) -> Iterator[Figure]:
    """The rule of a case of a model, and the statistics of `samples` latents beside the peak of the
    device.
    """
    name = f"StyleGAN2-{size} {case}"
    milliseconds = 1e3 * solved(tensors, size, [case], device, 5)[case]["least-squares"]
    yield Figure(
        f"rule by least-squares, {name}", milliseconds, "ms", "at most 50", milliseconds <= 50
    )
    model = make_model("stylegan2", tensors, device=device)
    seconds_of_statistics(model, case.layer, SAMPLES)  # kernels and memory as they are later
    seconds = seconds_of_statistics(model, case.layer, samples)
    reached, most = samples * operations(model, case.layer) / seconds, peak(device, torch.float32)
    yield Figure(
        f"statistics, {name}: share of the peak of a matrix product",
        100 * reached / most,
        "%",
        details={
            "latents": samples,
            "seconds": seconds,
            "latents_a_second": samples / seconds,
            "tflop_s": reached / 1e12,
            "peak_tflop_s": most / 1e12,
        },
    )


def solved(
    tensors: Mapping[str, Tensor],
    size: int,
    cases: Sequence[Case],
    device: torch.device,
    turns: int,
) -> dict[Case, dict[str, float]]:
    """The ``seconds.solve`` of each case by each method."""
    methods = ("least-squares", "direct")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(dict(tensors), folder / "base.safetensors")
        spec = {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "base.safetensors"},
            "statistics": {"samples": SAMPLES},
            "edits": [case.edit(method, size) for case in cases for method in methods],
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        session = BuildSession.of(
            folder / "spec.json", str(device), no_progress, cache=Cache(folder / "cache")
        )
        generator = generator_of(session)
        numbers = iter(range(len(spec["edits"])))
        return {
            case: {
                method: seconds_of_a_rule(session, generator, next(numbers), turns)
                for method in methods
            }
            for case in cases
        }


def seconds_of_a_rule(
    session: BuildSession, generator: Generator, number: int, turns: int
) -> float:
    """The ``seconds.solve`` of an edit on the unedited model, after a turn that does not count."""
    rule = session.compile(number)
    taken = []
    for _ in range(1 + turns):
        shutil.rmtree(session.cache.root / "solutions", ignore_errors=True)
        seconds = dict.fromkeys(STAGES, 0.0)
        session.change(rule, generator, seconds)
        taken.append(seconds["solve"])
    return min(taken[1:])


def seconds_of_statistics(model: Generator, layer: str, samples: int) -> float:
    """How long C takes where nothing is in the cache."""
    sample = LatentSample(LatentStream(2, model.architecture.latent_size), samples)
    with tempfile.TemporaryDirectory() as cache:
        return timed(
            lambda: second_moment(model, layer, sample, EDITSPEC, Cache(Path(cache))),
            model.weight(layer).device,
        )[0]


@torch.no_grad()
def operations(model: Generator, layer: str) -> float:
    """Floating point operations of one latent up to the key of `layer`, in convolutions and matrix
    products.
    """
    latents = model.to_model(LatentStream(2, model.architecture.latent_size).items(range(1)))
    with FlopCounterMode(display=False) as counter:
        model.key_maps(layer)(latents)
    return float(counter.get_total_flops())


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second in a large product of matrices."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    left @ right
    seconds = min(timed(lambda: left @ right, device)[0] for _ in range(5))
    return float(2 * size**3 / seconds)


BENCHMARKS = (growth, on_a_gpu)
