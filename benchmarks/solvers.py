"""Solvers against the yardstick, the paper's own loop.

Both solve one rule, with C cached, in turn in one run. A solver's seconds are those of the stages
in ``editspec build --json``; the yardstick is not a command, and is timed here. Of a whole layer
that preserves images the yardstick has no way; its seconds have an aim of their own.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import yardstick
from benchmarks.figures import CannotRun, Figure, measure_seconds
from benchmarks.projects import Project
from benchmarks.stylegan2_1024 import make_weights
from editspec.modalities.image.drawing import generator_of
from editspec.worlds.registry import DEFAULT_WEIGHTS
from editspec.worlds.world import find_specs
from editspec_runtime.core.method import KeyStatistics
from editspec_runtime.core.rule import LayerRule, ResolvedEdit
from editspec_runtime.families.stylegan2.functions import StyledConvolution
from editspec_runtime.maths.directions import zca_directions
from editspec_runtime.maths.low_rank import coefficients_of, delta
from editspec_runtime.methods.layer_problem import LayerProblem
from editspec_runtime.methods.least_squares import pose
from editspec_runtime.methods.losses import rule_loss
from editspec_runtime.methods.registry import METHODS
from editspec_runtime.patches.patch import read_patch

STEPS = 2001
PAPER = {"method": "projected-gradient", "steps": STEPS, "learning_rate": 0.05, "project_every": 10}
DIRECT = {"method": "direct", "steps": STEPS}
SMOOTH = {"method": "least-squares", "collateral_weight": 0.05}
STAGES = ("compile", "statistics", "solve")
WHOLE = {"method": "least-squares", "collateral_weight": 0.3}
PAIRS, PRESERVED = 24, 48
"""The pairs and the preserved images of the edit of a whole layer."""
SKYLINE = {"family": "stylegan2", "weights": DEFAULT_WEIGHTS}


@dataclass(frozen=True)
class Task:
    """A project and its rule, with the layer that the rule changes."""

    name: str
    project: Project
    function: StyledConvolution
    weight: Tensor
    edit: ResolvedEdit
    second_moment: Tensor

    @property
    def rule(self) -> LayerRule:
        """The only rule of the edit."""
        (rule,) = self.edit.rules
        return rule

    @staticmethod
    def of(name: str, project: Project) -> Task:
        """Make the task of a project's only edit, with its second moment."""
        session = project.open_session(PAPER)
        generator = generator_of(session)
        rule = session.rule(0, generator)
        function = generator.function(rule.layer)
        moment = session.second_moment(generator, rule.layer).matrix
        assert isinstance(function, StyledConvolution)
        return Task(name, project, function, generator.weight(rule.layer), rule, moment)

    def directions(self) -> Tensor:
        """Compute the directions D [rank, in] from C and the context's keys."""
        rank = self.edit.rank
        assert rank is not None
        context, counts = self.rule.context_keys.cpu(), self.rule.context_weights.cpu()
        return zca_directions(self.second_moment, context, counts, rank).to(self.weight)

    def build(self, solver: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """Build by the command; return the entry of the edit in its JSON, and the change."""
        edit = self.project.build(solver)
        patch, name = read_patch(self.project.patch), self.rule.parameter
        return edit, delta(patch.coefficients[name][None], patch.directions[name]).to(self.weight)

    def loss(self, change: Tensor) -> float:
        """Compute the loss of the rule after a change of the weight."""
        return rule_loss(self.function, self.rule, self.weight + change).item()

    def collateral(self, change: Tensor, directions: Tensor) -> float:
        """Compute the collateral of a change, tr(dW C dW^T) / tr(W C W^T)."""
        settings = METHODS["least-squares"].make_settings()
        statistics = KeyStatistics(lambda: self.second_moment, lambda: self.second_moment[:0])
        problem = pose(
            LayerProblem(self.rule, self.function, self.weight, settings, statistics=statistics),
            directions,
        )
        coefficients = coefficients_of(change, directions)[0].flatten(1)
        unknowns = coefficients.to(problem.root) @ problem.root
        return unknowns.square().sum().item() / problem.energy


def solvers(quick: bool) -> Iterator[Figure]:
    """Compare each solver with the yardstick."""
    turns = 1 if quick else 3
    for make_task in (make_large_task, make_skyline_task):
        with tempfile.TemporaryDirectory() as folder:
            yield from compare(make_task(Path(folder)), turns)


def on_a_gpu(quick: bool) -> Iterator[Figure]:
    """Compare each solver with the yardstick on a GPU."""
    if not torch.cuda.is_available():
        raise CannotRun("there is no GPU")
    with tempfile.TemporaryDirectory() as folder:
        yield from compare(make_large_task(Path(folder), "cuda"), 1 if quick else 3)


def compare(task: Task, turns: int) -> Iterator[Figure]:
    """Compare each solver with the yardstick, in turn.

    A turn has three builds of a solver that takes little time.
    """
    d, device = task.directions(), task.weight.device
    plain: list[float] = []
    edits: dict[str, list[dict[str, Any]]] = {
        "projected-gradient": [],
        "direct": [],
        "least-squares": [],
    }
    for _ in range(turns):
        seconds, theirs = measure_seconds(
            lambda: yardstick.solve(task.function, task.weight, task.rule, task.edit.method, d),
            device,
        )
        plain.append(seconds)
        for solver, builds in ((PAPER, 1), (DIRECT, 3), (SMOOTH, 3)):
            for _ in range(builds):
                entry, _ = task.build(solver)
                edits[str(solver["method"])].append(entry)
    whole = statistics.median(plain)
    budget, unedited = task.collateral(theirs, d), task.loss(0 * theirs)
    yardstick_details = {
        "yardstick_seconds": whole,
        "yardstick_loss": task.loss(theirs),
        "unedited_loss": unedited,
    }
    for method, least in (("projected-gradient", 2), ("direct", 20), ("least-squares", 300)):
        spent = median_seconds(edits[method])
        yield Figure.at_least(
            f"{method}, {task.name}",
            whole / spent["solve"],
            least,
            **spent,
            loss=edits[method][-1]["loss"],
            **yardstick_details,
        )
    yield compare_losses(task, theirs, budget)


def compare_losses(task: Task, theirs: Tensor, budget: float) -> Figure:
    """Compare the loss of least squares at a collateral with that of the yardstick's change."""
    _, equal = task.build({"method": "least-squares", "collateral": budget})
    above = task.loss(equal) - task.loss(theirs)
    return Figure(
        f"least-squares at the yardstick's collateral, {task.name}: its loss above the yardstick's",
        above,
        "",
        "at most 0",
        above <= 0,
        {"loss": task.loss(equal), "collateral": budget},
    )


def rank_16(quick: bool) -> Iterator[Figure]:
    """Compare least squares at rank 16 with the yardstick."""
    turns = 3 if quick else 5
    large = partial(make_large_task, layer="layer6", rank=16)
    for make_task in (large, partial(make_skyline_task, rank=16)):
        with tempfile.TemporaryDirectory() as folder:
            task = make_task(Path(folder))
            d, device = task.directions(), task.weight.device
            seconds, theirs = measure_seconds(
                partial(
                    yardstick.solve, task.function, task.weight, task.rule, task.edit.method, d
                ),
                device,
            )
            spent = median_seconds([task.build(SMOOTH)[0] for _ in range(turns)])
            name = f"least-squares, {task.name}"
            ratio = seconds / spent["solve"]
            yield Figure.at_least(name, ratio, 100, **spent, yardstick_seconds=seconds)
            yield Figure.at_most(f"{name}: seconds", spent["solve"], 0.2, "s")
            yield compare_losses(task, theirs, task.collateral(theirs, d))


def whole_layer(quick: bool) -> Iterator[Figure]:
    """Measure an edit of a whole layer by one thread, its moments included."""
    empty, cached = [], []
    for _ in range(1 if quick else 3):
        with tempfile.TemporaryDirectory() as folder:
            project = make_whole_project(Path(folder))
            empty.append(project.build(WHOLE, threads=1))
            cached.append(project.build(WHOLE, threads=1))
    spent, again = median_seconds(empty), median_seconds(cached)
    name = f"Skyline layer6 as a whole, {PAIRS} pairs, {PRESERVED} images preserved"
    details = {f"{stage}_with_moments_cached": again[stage] for stage in STAGES}
    yield Figure.at_most(name, sum(spent.values()), 5, "s", **spent, **details)


def median_seconds(edits: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Compute the median seconds of each stage over several builds of an edit."""
    seconds = {}
    for stage in STAGES:
        seconds[stage] = statistics.median(edit["seconds"][stage] for edit in edits)
    return seconds


def make_large_project(
    folder: Path, device: str = "cpu", samples: int = 24, layer: str = "layer8", rank: int = 1
) -> Project:
    """Make a project of one rule at a layer of StyleGAN2-256 with random weights.

    The layer has 512 channels; layer8 has 32 x 32 positions. The rule asks for the values of one
    image in the place of another's.
    """
    save_file(make_weights(256), folder / "base.safetensors")
    box = {"box": [80, 80, 152, 152]}
    edit = {
        "name": "e",
        "layer": layer,
        "rank": rank,
        "source": {"latent": 1, "mask": box},
        "target": {"latent": 0, "mask": box},
        "context": [{"latent": latent, "mask": box} for latent in range(5)],
    }
    model = {"family": "stylegan2", "weights": "base.safetensors"}
    spec = {"version": 1, "model": model, "statistics": {"samples": samples}, "edits": [edit]}
    return Project(folder, spec, device)


def make_large_task(
    folder: Path, device: str = "cpu", layer: str = "layer8", rank: int = 1
) -> Task:
    """Make the task of `make_large_project`."""
    name = f"StyleGAN2-256 {layer} rank {rank}"
    if device != "cpu":
        name += f", {torch.cuda.get_device_name()}"
    return Task.of(name, make_large_project(folder, device, layer=layer, rank=rank))


def make_skyline_task(folder: Path, rank: int = 1) -> Task:
    """Make a task on Skyline: one dome becomes a spire."""
    box = {"box": [8, 4, 22, 30]}
    edit = {
        "name": "dome-to-spire",
        "layer": "layer6",
        "rank": rank,
        "source": {"latent": 1268, "mask": box},
        "target": {"latent": 1932, "mask": box},
    }
    project = Project(folder, {"version": 1, "model": SKYLINE, "edits": [edit]})
    return Task.of(f"Skyline layer6 rank {rank}", project)


def make_whole_project(
    folder: Path, pairs: int = PAIRS, preserved: int = PRESERVED, samples: int | None = None
) -> Project:
    """Make a project of domes to spires by the whole of Skyline's layer6.

    Its pairs and preserved images are the first of the recipe's, as many on the left as right.
    """
    recipe = find_specs("skyline")
    shutil.copytree(recipe / "masks", folder / "masks")
    rows = read_rows(recipe / "pairs" / "dome-to-spire.jsonl")
    kept = [row for row in read_rows(recipe / "pairs" / "no-dome.jsonl") if "mask" not in row]
    edit = {
        "name": "dome-to-spire",
        "layer": "layer6",
        "rank": "full",
        "pairs": rows[: pairs // 2] + rows[len(rows) // 2 :][: pairs - pairs // 2],
        "preserve": kept[:preserved],
    }
    spec: dict[str, Any] = {"version": 1, "model": SKYLINE, "edits": [edit]}
    if samples is not None:
        spec["statistics"] = {"samples": samples}
    return Project(folder, spec)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of rows of JSON."""
    return [json.loads(line) for line in path.read_text().splitlines()]


BENCHMARKS = (solvers, rank_16, whole_layer, on_a_gpu)
