"""Second moments and start-up.

Second moments are timed by the processor time of one thread, start-up by the processor time of a
process and by the clock. The best of several turns counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.figures import Figure, measure_seconds
from benchmarks.projects import forget_solutions
from benchmarks.stylegan2_1024 import make_weights
from editspec.worlds.registry import DEFAULT_WEIGHTS
from editspec.worlds.skyline import WEIGHTS
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.modalities.image.streams import STATISTICS

PRODUCTS = ("convolution", "conv", "mm", "addmm", "matmul", "bmm", "linear", "mkldnn")
"""Parts of the names of torch's operators that convolve and multiply matrices."""

START_UP = {
    "--help": 0.2,
    "build --help": 0.2,
    "validate": 0.3,
    "inspect SPEC": 0.3,
    "schema": 0.35,
    "families": 0.17,
}
"""The seconds that a command without torch may take at most."""

RULE = """
version: 1
model: {family: stylegan2, weights: "%(weights)s"}
statistics: {samples: %(samples)d}
edits:
  - name: dome-to-spire
    layer: layer7
    rank: 1
    source: {latent: 1268, mask: {box: [8, 4, 22, 30]}}
    target: {latent: 1932, mask: {box: [8, 4, 22, 30]}}
    solver: {method: least-squares}
"""


def make_models() -> dict[str, StyleGAN2]:
    """Make the generators whose `layer8` is measured."""
    return {
        "Skyline": StyleGAN2(read_weights(WEIGHTS).tensors),
        "StyleGAN2-256, random weights": StyleGAN2(make_weights(256)),
    }


def moments(quick: bool) -> Iterator[Figure]:
    """Measure C of layer8 against C from whole images, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, model in make_models().items():
            # A whole image of StyleGAN2-256 takes seconds, so fewer are drawn; both times are per
            # latent.
            samples, few = (256, 64) if name == "Skyline" else (64, 16)
            stream = LatentStream(STATISTICS, model.architecture.latent_size)
            ours, whole = [], []
            for _ in range(3 if quick else 7):
                ours.append(time_thread(moment_from_keys, model, stream, samples) / samples)
                whole.append(time_thread(moment_from_images, model, stream, few) / few)
            one = moment_from_keys(model, stream, few)
            other = moment_from_images(model, stream, few)
            yield Figure.at_least(
                f"{name}: C from keys, against whole images",
                min(whole) / min(ours),
                3,
                latents_a_second=1 / min(ours),
                difference=float((one - other).norm() / other.norm()),
            )
            share = 100 * measure_share_of_products(model, stream, samples)
            yield Figure(f"{name}: time of C in products", share, "%", "at least 90", share >= 90)
    finally:
        torch.set_num_threads(threads)


def moment_from_keys(model: StyleGAN2, stream: LatentStream, samples: int) -> Tensor:
    """Compute C as the command ``statistics`` does, from the layers up to the key."""
    with tempfile.TemporaryDirectory() as cache:
        sample = LatentSample(stream, samples)
        return second_moment(model, "layer8", sample, EDITSPEC, Cache(Path(cache))).matrix


@torch.no_grad()
def moment_from_images(model: StyleGAN2, stream: LatentStream, samples: int) -> Tensor:
    """Compute C from whole images, as a hook on the layer would."""
    seen: list[Tensor] = []
    enter = model._enter

    def record_key(layer: str, *arguments: Any) -> Any:
        reached = enter(layer, *arguments)
        if layer == "layer8":
            seen.append(reached.key)
        return reached

    total, positions = torch.zeros(()).double(), 0
    model._enter = record_key  # type: ignore[method-assign, assignment]
    try:
        for start in range(0, samples, 16):
            model.images(stream.items(range(start, min(start + 16, samples))))
            rows = seen.pop().movedim(1, -1).flatten(0, 2).double()
            total, positions = total + rows.T @ rows, positions + len(rows)
    finally:
        # Removes the attribute of the object, so that the method of the class is found again.
        del model._enter
    return total / positions


def measure_share_of_products(model: StyleGAN2, stream: LatentStream, samples: int) -> float:
    """Measure the share of convolutions and products in the time of operators."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        moment_from_keys(model, stream, samples)
    products = total = 0.0
    for event in found.key_averages():
        if not event.key.startswith("aten::"):
            continue
        total += event.self_cpu_time_total
        if any(part in event.key for part in PRODUCTS):
            products += event.self_cpu_time_total
    return products / total


def time_thread(work: Callable[..., Any], *arguments: Any) -> float:
    """Measure the processor time of some work, which other programs do not change."""
    begun = time.process_time()
    work(*arguments)
    return time.process_time() - begun


def startup(quick: bool) -> Iterator[Figure]:
    """Measure commands as processes, and a build with C cached against `import torch`."""
    turns = 3 if quick else 7
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rule(folder, 1000)
        command = [sys.executable, "-m", "editspec"]
        run(folder, [*command, "build", "rule.yaml", "-o", "warm"])
        best: dict[str, tuple[float, float]] = {}
        for turn in range(turns):
            (folder / "rule.yaml.lock").unlink(missing_ok=True)
            forget_solutions(Cache(folder / "cache"))
            for label, arguments in (
                ("import torch", [sys.executable, "-c", "import torch"]),
                ("build", [*command, "build", "rule.yaml", "-o", f"out-{turn}"]),
                ("--help", [*command, "--help"]),
                ("build --help", [*command, "build", "--help"]),
                ("validate", [*command, "validate", "rule.yaml"]),
                ("schema", [*command, "schema"]),
                ("families", [*command, "families"]),
                ("inspect SPEC", [*command, "inspect", "rule.yaml"]),
            ):
                before = children_seconds()
                job = partial(run, folder, arguments)
                spent, _ = measure_seconds(job, torch.device("cpu"))
                computed = children_seconds() - before
                least = best.get(label, (1e9, 1e9))
                best[label] = (min(least[0], spent), min(least[1], computed))
    above = best["build"][0] - best["import torch"][0]
    computed = best["build"][1] - best["import torch"][1]
    yield Figure(
        "build with C cached, above import torch",
        above,
        "s",
        "at most 0.5",
        above <= 0.5,
        {"computing": computed},
    )
    for label, most in START_UP.items():
        spent, computed = best[label]
        yield Figure(
            f"start-up: {label}",
            spent,
            "s",
            f"at most {most}",
            spent <= most,
            {"computing": computed},
        )


def children_seconds() -> float:
    """Return the processor time of all processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system


def write_rule(folder: Path, samples: int) -> None:
    """Write a spec of one rule on Skyline into a folder, as rule.yaml."""
    text = RULE % {"weights": DEFAULT_WEIGHTS, "samples": samples}
    (folder / "rule.yaml").write_text(text)


def run(folder: Path, arguments: list[str], **variables: str) -> str:
    """Run a command in a folder, and return its output."""
    environment = {"EDITSPEC_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        arguments,
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment | variables,
    )
    if result.returncode:
        sys.exit(result.stderr)
    return result.stdout


BENCHMARKS = (moments, startup)
