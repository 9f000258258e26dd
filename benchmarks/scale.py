"""Second moments, start-up and several processes.

Second moments are timed by what one thread computes, start-up by what a process computes and by the
clock, several processes by the clock; the best of several turns counts.
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

from benchmarks.figures import Figure, timed
from benchmarks.projects import forget
from benchmarks.stylegan2_1024 import weights as stylegan2_weights
from editspec.worlds.skyline import WEIGHTS
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream

PRODUCTS = ("convolution", "conv", "mm", "addmm", "matmul", "bmm", "linear", "mkldnn")
"""Parts of the names of torch's operators that convolve and multiply matrices."""

RULE = """
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
statistics: {samples: %d}
edits:
  - name: dome-to-spire
    layer: layer7
    rank: 1
    source: {latent: 1268, mask: {box: [8, 4, 22, 30]}}
    target: {latent: 1932, mask: {box: [8, 4, 22, 30]}}
    solver: {method: least-squares}
"""


def models() -> dict[str, StyleGAN2]:
    """The generators whose `layer8` is measured."""
    random = StyleGAN2(stylegan2_weights(256))
    return {
        "Skyline": StyleGAN2(read_weights(WEIGHTS).tensors),
        "StyleGAN2-256, random weights": random,
    }


def moments(quick: bool) -> Iterator[Figure]:
    """The second moment at layer8, beside that of whole images with the layer watched, on one
    thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, model in models().items():
            # A whole image of StyleGAN2-256 takes seconds: fewer of them, and both by the latent.
            samples, few = (256, 64) if name == "Skyline" else (64, 16)
            stream = LatentStream(2, model.architecture.latent_size)
            turns = [
                (
                    computing(prefix, model, stream, samples) / samples,
                    computing(hooked, model, stream, few) / few,
                )
                for _ in range(3 if quick else 7)
            ]
            ours, whole = (min(each) for each in zip(*turns, strict=True))
            one, other = prefix(model, stream, few), hooked(model, stream, few)
            yield Figure.at_least(
                f"{name}: C from keys, against whole images",
                whole / ours,
                3,
                latents_a_second=1 / ours,
                difference=float((one - other).norm() / other.norm()),
            )
            share = 100 * share_of_products(model, stream, samples)
            yield Figure(f"{name}: time of C in products", share, "%", "at least 90", share >= 90)
    finally:
        torch.set_num_threads(threads)


def prefix(model: StyleGAN2, stream: LatentStream, samples: int) -> Tensor:
    """C as `statistics` takes it."""
    with tempfile.TemporaryDirectory() as cache:
        sample = LatentSample(stream, samples)
        return second_moment(model, "layer8", sample, EDITSPEC, Cache(Path(cache))).matrix


@torch.no_grad()
def hooked(model: StyleGAN2, stream: LatentStream, samples: int) -> Tensor:
    """C from whole images, in batches too, read where they pass the layer of the same network."""
    seen: list[Tensor] = []
    enter = model._enter

    def watched(layer: str, *arguments: Any) -> Any:
        reached = enter(layer, *arguments)
        if layer == "layer8":
            seen.append(reached.key)
        return reached

    total, positions = torch.zeros(()).double(), 0
    model._enter = watched  # type: ignore[method-assign]
    try:
        for start in range(0, samples, 16):
            model.images(stream.items(range(start, min(start + 16, samples))))
            rows = seen.pop().movedim(1, -1).flatten(0, 2).double()
            total, positions = total + rows.T @ rows, positions + len(rows)
    finally:
        del model._enter
    return total / positions


def share_of_products(model: StyleGAN2, stream: LatentStream, samples: int) -> float:
    """The share of the CPU's time within operators that they spend in convolutions and matrix
    products.
    """
    with profile(activities=[ProfilerActivity.CPU]) as found:
        prefix(model, stream, samples)
    times = {
        event.key: event.self_cpu_time_total
        for event in found.key_averages()
        if event.key.startswith("aten::")
    }
    products = sum(spent for name, spent in times.items() if any(part in name for part in PRODUCTS))
    return products / sum(times.values())


def computing(work: Callable[..., Any], *arguments: Any) -> float:
    """How long one thread computes for some work, whoever else uses the machine."""
    begun = time.process_time()
    work(*arguments)
    return time.process_time() - begun


def startup(quick: bool) -> Iterator[Figure]:
    """How long commands take as processes; a build with C cached, beside `import torch`."""
    turns = 3 if quick else 7
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rule.yaml").write_text(RULE % 1000)
        command = [sys.executable, "-m", "editspec"]
        run(folder, [*command, "build", "rule.yaml", "-o", "warm"])
        best: dict[str, tuple[float, float]] = {}
        for turn in range(turns):
            (folder / "rule.yaml.lock").unlink(missing_ok=True)
            forget(Cache(folder / "cache"))
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
                before = os.times()
                spent, _ = timed(partial(run, folder, arguments), torch.device("cpu"))
                after = os.times()
                computed = (
                    after.children_user
                    + after.children_system
                    - before.children_user
                    - before.children_system
                )
                least = best.get(label, (1e9, 1e9))
                best[label] = (min(least[0], spent), min(least[1], computed))
    above, computed = (
        one - other for one, other in zip(best["build"], best["import torch"], strict=True)
    )
    yield Figure(
        "build with C cached, above import torch",
        above,
        "s",
        "at most 0.5",
        above <= 0.5,
        {"computing": computed},
    )
    for label, (spent, computed) in best.items():
        if label not in ("build", "import torch"):
            yield Figure(
                f"start-up: {label}",
                spent,
                "s",
                "at most 0.35",
                spent <= 0.35,
                {"computing": computed},
            )


def scaling(quick: bool) -> Iterator[Figure]:
    """The statistics of Skyline's `layer7` by 1 and by 2 processes of one thread each."""
    samples = 1024 if quick else 4096
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rule.yaml").write_text(RULE % samples)
        for count in (1, 2):
            # In the process, what is spread is timed alone: without start-up, and without the
            # environment.
            launcher = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(count),
            ]
            (folder / "timed.py").write_text(TIMED)
            out = run(
                folder, [*launcher, "timed.py"], EDITSPEC_CACHE=str(folder / f"cache-{count}")
            )
            spent, digest = out.split()[-2:]
            rows.append(
                {"processes": count, "latents": samples, "seconds": float(spent), "digest": digest}
            )
    one, two = rows
    assert one["digest"] == two["digest"]
    times = {"one": one["seconds"], "two": two["seconds"], "load": os.getloadavg()[0]}
    yield Figure(
        "C by two processes, against one", one["seconds"] / two["seconds"], "times", details=times
    )


TIMED = """
import os, sys, time
from editspec_runtime.executors import processes as distributed
if int(os.environ["RANK"]) > 0:
    sys.exit(distributed.help_out())

def work():
    from editspec.commands.statistics import statistics
    from editspec_runtime.io.digests import tensor_digest
    begun = time.perf_counter()
    (found,) = statistics("rule.yaml", device="cpu").moments
    moment = found.moment
    print(time.perf_counter() - begun, tensor_digest(moment.matrix))

if os.environ["WORLD_SIZE"] == "1":
    work()
else:
    from editspec.engine.resources import use_executor
    with distributed.leading() as executor, use_executor(executor):
        work()
"""


def run(folder: Path, arguments: list[str], **variables: str) -> str:
    """The output of a command."""
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


BENCHMARKS = (moments, startup, scaling)
