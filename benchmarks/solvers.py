"""Solvers against the yardstick, the paper's own loop.

Both solve one rule, with C cached, in turn in one run. A solver's seconds are those of the stages
in ``editspec build --json``; the yardstick is not a command, and is timed here.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
        unknowns = coefficients_of(change, directions)[0].flatten(1).double() @ problem.root
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
    _, equal = task.build({"method": "least-squares", "collateral": budget})
    above = task.loss(equal) - task.loss(theirs)
    yield Figure(
        f"least-squares at the yardstick's collateral, {task.name}: its loss above the yardstick's",
        above,
        "",
        "at most 0",
        above <= 0,
        {"loss": task.loss(equal), "collateral": budget},
    )


def median_seconds(edits: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Compute the median seconds of each stage over several builds of an edit."""
    seconds = {}
    for stage in STAGES:
        seconds[stage] = statistics.median(edit["seconds"][stage] for edit in edits)
    return seconds


def make_large_project(folder: Path, device: str = "cpu", samples: int = 24) -> Project:
    """Make a project of one rule at layer8 of StyleGAN2-256 with random weights.

    The layer has 512 channels of 32 x 32 positions. The rule asks for the values of one image in
    the place of another's.
    """
    save_file(make_weights(256), folder / "base.safetensors")
    box = {"box": [80, 80, 152, 152]}
    edit = {
        "name": "e",
        "layer": "layer8",
        "source": {"latent": 1, "mask": box},
        "target": {"latent": 0, "mask": box},
        "context": [{"latent": latent, "mask": box} for latent in range(5)],
    }
    model = {"family": "stylegan2", "weights": "base.safetensors"}
    spec = {"version": 1, "model": model, "statistics": {"samples": samples}, "edits": [edit]}
    return Project(folder, spec, device)


def make_large_task(folder: Path, device: str = "cpu") -> Task:
    """Make the task of `make_large_project`."""
    name = "StyleGAN2-256 layer8 rank 1"
    if device != "cpu":
        name += f", {torch.cuda.get_device_name()}"
    return Task.of(name, make_large_project(folder, device))


def make_skyline_task(folder: Path) -> Task:
    """Make a task on Skyline: one dome becomes a spire, rank 1."""
    box = {"box": [8, 4, 22, 30]}
    edit = {
        "name": "dome-to-spire",
        "layer": "layer6",
        "source": {"latent": 1268, "mask": box},
        "target": {"latent": 1932, "mask": box},
    }
    model = {"family": "stylegan2", "weights": DEFAULT_WEIGHTS}
    project = Project(folder, {"version": 1, "model": model, "edits": [edit]})
    return Task.of("Skyline layer6 rank 1", project)


BENCHMARKS = (solvers, on_a_gpu)
