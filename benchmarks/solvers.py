"""Solvers against the yardstick, the paper's own loop: the same rule, C cached, in turn in one run.

A solver's seconds are what ``editspec build --json`` says of its stages; the yardstick is no
command and is timed here.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import yardstick
from benchmarks.figures import CannotRun, Figure, timed
from benchmarks.projects import Project
from benchmarks.stylegan2_1024 import weights
from editspec.modalities.image.drawing import generator_of
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
    """A project, and its rule with all that solves it."""

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
        """The task of a project's only edit, solved as the paper does. Computes its second
        moment.
        """
        session = project.session(PAPER)
        generator = generator_of(session)
        rule = session.rule(0, generator)
        function, moment = (
            generator.function(rule.layer),
            session.second_moment(generator, rule.layer).matrix,
        )
        assert isinstance(function, StyledConvolution)
        return Task(name, project, function, generator.weight(rule.layer), rule, moment)

    def directions(self) -> Tensor:
        """D, from C and the context's keys."""
        rank = self.edit.rank
        assert rank is not None
        context, counts = self.rule.context_keys.cpu(), self.rule.context_weights.cpu()
        return zca_directions(self.second_moment, context, counts, rank).to(self.weight)

    def built(self, solver: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """The entry of the edit in the command's JSON, and the change that it made."""
        edit = self.project.build(solver)
        patch, name = read_patch(self.project.patch), self.rule.parameter
        return edit, delta(patch.coefficients[name][None], patch.directions[name]).to(self.weight)

    def loss(self, change: Tensor) -> float:
        return rule_loss(self.function, self.rule, self.weight + change).item()

    def collateral(self, change: Tensor, directions: Tensor) -> float:
        """tr(dW C dW^T) / tr(W C W^T)."""
        settings = METHODS["least-squares"].make_settings()
        statistics = KeyStatistics(lambda: self.second_moment, lambda: self.second_moment[:0])
        problem = pose(
            LayerProblem(self.rule, self.function, self.weight, settings, statistics=statistics),
            directions,
        )
        unknowns = coefficients_of(change, directions)[0].flatten(1).double() @ problem.root
        return unknowns.square().sum().item() / problem.energy


def solvers(quick: bool) -> Iterator[Figure]:
    """Each solver against the yardstick."""
    for task in (large, skyline):
        with tempfile.TemporaryDirectory() as folder:
            yield from compared(task(Path(folder)), 1 if quick else 3)


def on_a_gpu(quick: bool) -> Iterator[Figure]:
    """The comparison on a GPU."""
    if not torch.cuda.is_available():
        raise CannotRun("no GPU here")
    with tempfile.TemporaryDirectory() as folder:
        yield from compared(large(Path(folder), "cuda"), 3)


def compared(task: Task, turns: int) -> Iterator[Figure]:
    """The yardstick beside each solver, in turn; of what is short, a turn has three builds."""
    d, device = task.directions(), task.weight.device
    plain: list[float] = []
    edits: dict[str, list[dict[str, Any]]] = {
        "projected-gradient": [],
        "direct": [],
        "least-squares": [],
    }
    for _ in range(turns):
        seconds, theirs = timed(
            lambda: yardstick.solve(task.function, task.weight, task.rule, task.edit.method, d),
            device,
        )
        plain.append(seconds)
        for solver, builds in ((PAPER, 1), (DIRECT, 3), (SMOOTH, 3)):
            for _ in range(builds):
                edits[solver["method"]].append(task.built(solver)[0])
    whole = statistics.median(plain)
    spent = {
        method: {
            stage: statistics.median(edit["seconds"][stage] for edit in those) for stage in STAGES
        }
        for method, those in edits.items()
    }
    budget, unedited = task.collateral(theirs, d), task.loss(0 * theirs)
    beside = {
        "yardstick_seconds": whole,
        "yardstick_loss": task.loss(theirs),
        "unedited_loss": unedited,
    }
    for method, least in (("projected-gradient", 2), ("direct", 20), ("least-squares", 300)):
        yield Figure.at_least(
            f"{method}, {task.name}",
            whole / spent[method]["solve"],
            least,
            **spent[method],
            loss=edits[method][-1]["loss"],
            **beside,
        )
    _, equal = task.built({"method": "least-squares", "collateral": budget})
    above = task.loss(equal) - task.loss(theirs)
    yield Figure(
        f"least-squares at the yardstick's collateral, {task.name}: its loss above the yardstick's",
        above,
        "",
        "at most 0",
        above <= 0,
        {"loss": task.loss(equal), "collateral": budget},
    )


def large(folder: Path, device: str = "cpu") -> Task:
    """StyleGAN2-256 at layer 8 (512 channels, 32 x 32), random weights: the values of one image
    where another's are.
    """
    save_file(weights(256), folder / "base.safetensors")
    box = {"box": [80, 80, 152, 152]}
    edit = {
        "name": "e",
        "layer": "layer8",
        "source": {"latent": 1, "mask": box},
        "target": {"latent": 0, "mask": box},
        "context": [{"latent": latent, "mask": box} for latent in range(5)],
    }
    model = {"family": "stylegan2", "weights": "base.safetensors"}
    spec = {"version": 1, "model": model, "statistics": {"samples": 24}, "edits": [edit]}
    name = "StyleGAN2-256 layer8 rank 1" + (
        f", {torch.cuda.get_device_name()}" if device != "cpu" else ""
    )
    return Task.of(name, Project(folder, spec, device))


def skyline(folder: Path) -> Task:
    """One dome of Skyline becomes a spire, rank 1."""
    box = {"box": [8, 4, 22, 30]}
    edit = {
        "name": "dome-to-spire",
        "layer": "layer6",
        "source": {"latent": 1268, "mask": box},
        "target": {"latent": 1932, "mask": box},
    }
    model = {"family": "stylegan2", "weights": "builtin:skyline"}
    return Task.of(
        "Skyline layer6 rank 1", Project(folder, {"version": 1, "model": model, "edits": [edit]})
    )


BENCHMARKS = (solvers, on_a_gpu)
