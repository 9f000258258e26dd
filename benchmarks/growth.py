"""The growth of rules and statistics, and their share of a GPU's peak.

Both grow with resolution, rank and context. A rule's seconds are the ``seconds.solve`` of ``build
--json``, taken in one process that reads the model once and solves many rules. Statistics are timed
by the clock, with an empty cache. The best of several turns counts.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import CannotRun, Figure, measure_seconds
from benchmarks.stylegan2_1024 import make_weights
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
from editspec_runtime.modalities.image.streams import STATISTICS

LAYERS = tuple(f"layer{number}" for number in range(4, 11))
RANKS, CONTEXTS = (1, 4, 16), (1, 5, 25)
STEPS = 201
"""The steps of ``direct``: a tenth of its default."""

SAMPLES = 16
"""The latents of a rule's second moment: enough that it is not singular."""


@dataclass(frozen=True)
class Case:
    """A rule, described by the quantities that it grows with.

    Attributes
    ----------
    layer, rank
        The edited layer, and the number of directions.
    images
        The number of images in the context.
    """

    layer: str
    rank: int = 1
    images: int = 1

    def __str__(self) -> str:
        return f"{self.layer}, rank {self.rank}, context of {self.images}"

    def edit(self, method: str, size: int) -> dict[str, Any]:
        """Return the case as an edit of images of `size` pixels.

        The mask covers 9 of 32 positions in each direction, at any resolution.
        """
        mask = {"box": [round(share * size) for share in (0.3125, 0.3125, 0.59375, 0.59375)]}
        solver: dict[str, Any] = {"method": method}
        if method == "direct":
            solver["steps"] = STEPS
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
    """Measure rules and statistics of StyleGAN2-256 by layer, rank and context."""
    device = pick_device("auto")
    layers, middle, turns = LAYERS, "layer8", 5
    if quick:
        layers, middle, turns = LAYERS[::2], "layer6", 2
    cases = [Case(layer) for layer in layers]
    cases += [Case(middle, rank) for rank in RANKS[1:]]
    cases += [Case(middle, 1, images) for images in CONTEXTS[1:]]
    yield from measure_growth(make_weights(256), 256, cases, device, turns)


def on_a_gpu(quick: bool) -> Iterator[Figure]:
    """Measure a rule and the statistics of StyleGAN2 of 256 and 1024 pixels on a GPU."""
    if not torch.cuda.is_available():
        raise CannotRun("there is no GPU")
    samples = 1_000 if quick else 10_000
    for size, layer in ((256, "layer8"), (1024, "layer10")):
        device = pick_device("cuda")
        yield from measure_share_of_peak(make_weights(size), size, Case(layer), device, samples)


def measure_growth(
    tensors: Mapping[str, Tensor],
    size: int,
    cases: Sequence[Case],
    device: torch.device,
    turns: int,
) -> Iterator[Figure]:
    """Measure the rule of each case and the statistics of each layer.

    The details of a rule have its ratio to the first case.
    """
    found = solve_cases(tensors, size, cases, device, turns)
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
        seconds = min(time_statistics(model, layer, 2 * SAMPLES) for _ in range(turns))
        shape, work = model.layer(layer), count_operations(model, layer)
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


def measure_share_of_peak(
    tensors: Mapping[str, Tensor], size: int, case: Case, device: torch.device, samples: int
) -> Iterator[Figure]:
    """Measure a rule, and the share of the device's peak that the statistics reach."""
    name = f"StyleGAN2-{size} {case}"
    milliseconds = 1e3 * solve_cases(tensors, size, [case], device, 5)[case]["least-squares"]
    yield Figure(
        f"rule by least-squares, {name}", milliseconds, "ms", "at most 50", milliseconds <= 50
    )
    model = make_model("stylegan2", tensors, device=device)
    # The first use of a GPU chooses kernels and takes memory, which later uses need not.
    time_statistics(model, case.layer, SAMPLES)
    seconds = time_statistics(model, case.layer, samples)
    reached = samples * count_operations(model, case.layer) / seconds
    most = measure_peak(device, torch.float32)
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


def solve_cases(
    tensors: Mapping[str, Tensor],
    size: int,
    cases: Sequence[Case],
    device: torch.device,
    turns: int,
) -> dict[Case, dict[str, float]]:
    """Solve each case by each method, and return the ``seconds.solve``."""
    methods = ("least-squares", "direct")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(dict(tensors), folder / "base.safetensors")
        spec = {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "base.safetensors"},
            "statistics": {"samples": SAMPLES},
            "edits": [case.edit(method, size) for case, method in product(cases, methods)],
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        session = BuildSession.of(
            folder / "spec.json", str(device), no_progress, cache=Cache(folder / "cache")
        )
        generator = generator_of(session)
        seconds: dict[Case, dict[str, float]] = {case: {} for case in cases}
        for number, (case, method) in enumerate(product(cases, methods)):
            seconds[case][method] = time_rule(session, generator, number, turns)
        return seconds


def time_rule(session: BuildSession, generator: Generator, number: int, turns: int) -> float:
    """Return the best ``seconds.solve`` of an edit on the unedited model.

    The first turn does not count.
    """
    rule = session.compile(number)
    taken = []
    for _ in range(1 + turns):
        shutil.rmtree(session.cache.root / "solutions", ignore_errors=True)
        seconds = dict.fromkeys(STAGES, 0.0)
        session.change(rule, generator, seconds)
        taken.append(seconds["solve"])
    return min(taken[1:])


def time_statistics(model: Generator, layer: str, samples: int) -> float:
    """Return the seconds of the second moment with an empty cache."""
    sample = LatentSample(LatentStream(STATISTICS, model.architecture.latent_size), samples)
    device = model.weight(layer).device
    with tempfile.TemporaryDirectory() as name:
        cache = Cache(Path(name))
        seconds, _ = measure_seconds(
            lambda: second_moment(model, layer, sample, EDITSPEC, cache), device
        )
    return seconds


@torch.no_grad()
def count_operations(model: Generator, layer: str) -> float:
    """Count the floating point operations of one latent up to the key of `layer`.

    Only convolutions and matrix products are counted.
    """
    stream = LatentStream(STATISTICS, model.architecture.latent_size)
    latents = model.to_model(stream.items(range(1)))
    with FlopCounterMode(display=False) as counter:
        model.key_maps(layer)(latents)
    return float(counter.get_total_flops())


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating point operations a second of a large product of matrices."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    left @ right  # The first product loads the library.
    seconds = min(measure_seconds(lambda: left @ right, device)[0] for _ in range(5))
    return float(2 * size**3 / seconds)


BENCHMARKS = (growth, on_a_gpu)
