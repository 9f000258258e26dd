"""Solvers against the yardstick, the paper's own loop: the same rule, C cached, side by side in one process."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import yardstick
from benchmarks.figures import CannotRun, Figure, medians
from benchmarks.stylegan2_1024 import weights
from editspec.workflow import Workshop, quiet
from editspec_runtime.conventions import REWRITING_2020
from editspec_runtime.directions import zca_directions
from editspec_runtime.families.stylegan2.network import StyledConvolution, StyleGAN2
from editspec_runtime.generator import Box
from editspec_runtime.least_squares import Problem, least_squares
from editspec_runtime.rule import Rule, SolverSettings
from editspec_runtime.solvers import coefficients_of, delta, rule_loss, solve

STEPS = 2001
PAPER = SolverSettings("projected-gradient", STEPS, 0.05, 10)
SMOOTHNESS = 0.05
CORE = """
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
edits:
  - name: dome-to-spire
    layer: layer8
    source: {latent: 1268, mask: {box: [8, 4, 22, 30]}}
    target: {latent: 1932, mask: {box: [8, 4, 22, 30]}}
"""


@dataclass(frozen=True)
class Task:
    """A rule with all that solves it."""

    name: str
    function: StyledConvolution
    weight: Tensor
    rule: Rule
    second_moment: Tensor

    def directions(self) -> Tensor:
        """D, from C and the context's keys."""
        assert self.rule.rank is not None
        context, counts = self.rule.context_keys, self.rule.context_weights
        return zca_directions(self.second_moment, context, counts, self.rule.rank).to(self.weight)

    def loss(self, change: Tensor) -> float:
        return rule_loss(self.function, self.rule, self.weight + change).item()

    def collateral(self, change: Tensor, directions: Tensor) -> float:
        """tr(dW C dW^T) / tr(W C W^T)."""
        problem = Problem.of(self.function, self.weight, self.rule, directions, self.second_moment)
        unknowns = coefficients_of(change, directions)[0].flatten(1).double() @ problem.root
        return unknowns.square().sum().item() / problem.energy


def solvers(quick: bool) -> Iterator[Figure]:
    """Each solver against the yardstick."""
    for task in (large(), skyline()):
        yield from compared(task, quick)


def on_a_gpu(quick: bool) -> Iterator[Figure]:
    """The same on a GPU."""
    if not torch.cuda.is_available():
        raise CannotRun("no GPU here")
    task = large()
    moved = {name: tensor.cuda() for name, tensor in vars(task.rule).items() if isinstance(tensor, Tensor)}
    arguments = {name: tensor.cuda() for name, tensor in task.rule.arguments.items()}
    rule = dataclasses.replace(task.rule, arguments=arguments, **moved)
    function = dataclasses.replace(
        task.function, strength=task.function.strength.cuda(), bias=task.function.bias.cuda()
    )
    name = f"{task.name}, {torch.cuda.get_device_name()}"
    yield from compared(Task(name, function, task.weight.cuda(), rule, task.second_moment.cuda()), quick)


def compared(task: Task, quick: bool) -> Iterator[Figure]:
    """The yardstick beside each solver: times of a share of the steps, losses and collateral of all of them."""
    function, weight, second_moment, d = task.function, task.weight, task.second_moment, task.directions()
    steps = 101 if quick else 401
    few = dataclasses.replace(task.rule, solver=dataclasses.replace(PAPER, steps=steps))
    on_coefficients = dataclasses.replace(task.rule, solver=SolverSettings("direct", steps, 0.05, None))

    def solved(settings: dict[str, object]) -> Tensor:
        rule = dataclasses.replace(task.rule, solver=SolverSettings.of({"method": "least-squares"} | settings))
        with torch.no_grad():
            return delta(least_squares(function, weight, rule, task.directions(), second_moment), d)

    plain, ours, small, smooth = medians(
        [
            lambda: yardstick.solve(function, weight, few, d),
            lambda: solve(function, weight, few, d, REWRITING_2020),
            lambda: solve(function, weight, on_coefficients, d, REWRITING_2020),
            lambda: solved({"smoothness": SMOOTHNESS}),
        ],
        3 if quick else 5,
    )
    per_step = {"yardstick_step_ms": round(1e3 * plain / steps, 3), "measured_steps": steps}
    whole = plain / steps * STEPS
    full = dataclasses.replace(task.rule, solver=PAPER)
    theirs = yardstick.solve(function, weight, full, d)
    same = delta(solve(function, weight, full, d, REWRITING_2020), d)
    apart = ((same - theirs).norm() / theirs.norm()).item()
    yield Figure.at_least(
        f"projected-gradient, {task.name}", plain / ours, 2,
        step_ms=round(1e3 * ours / steps, 3), **per_step, difference_after_2001_steps=apart,
        loss=task.loss(same), yardstick_loss=task.loss(theirs),
    )  # fmt: skip
    yield Figure.at_least(
        f"direct, {task.name}", plain / small, 20, step_ms=round(1e3 * small / steps, 3), **per_step
    )  # fmt: skip
    found, budget = solved({"smoothness": SMOOTHNESS}), task.collateral(theirs, d)
    equal = solved({"collateral": budget})
    yield Figure.at_least(
        f"least-squares with its directions, {task.name}", whole / smooth, 300,
        seconds=round(smooth, 4), yardstick_seconds=round(whole, 2), loss=task.loss(found),
        collateral=task.collateral(found, d), loss_at_equal_collateral=task.loss(equal),
        yardstick_loss=task.loss(theirs), yardstick_collateral=budget, unedited_loss=task.loss(0 * theirs),
    )  # fmt: skip
    above = task.loss(equal) - task.loss(theirs)
    yield Figure(
        f"least-squares at the yardstick's collateral, {task.name}: its loss above the yardstick's", above, "",
        "at most 0", above <= 0,
    )  # fmt: skip


@torch.no_grad()
def large() -> Task:
    """StyleGAN2-256 at layer 8 (512 channels, 32 x 32), random weights: the values of one image where another's are."""
    model, layer, region = StyleGAN2(weights(256)), "layer8", Box(10, 10, 19, 19)
    latents = torch.randn(24, 512, generator=torch.Generator().manual_seed(1))
    maps = torch.cat([model.prefix(layer, one[None]).key for one in latents])
    keys = maps.movedim(1, -1).flatten(0, -2).double()
    reached, other = (model.prefix(layer, one[None]) for one in latents[:2])
    key, arguments = model.crop(layer, reached, region)
    value = model.value(layer, other)[:, :, region.rows(), region.columns()]
    context = maps[:5, :, region.rows(), region.columns()].movedim(1, -1).flatten(0, -2)
    rule = Rule(
        "e", "stylegan2", layer, model.layer(layer).parameter, 1, PAPER, key, value, arguments,
        context, torch.ones(len(context)), {},
    )  # fmt: skip
    return Task(
        "StyleGAN2-256 layer8 rank 1", model.function(layer), model.weight(layer), rule, keys.T @ keys / len(keys)
    )


def skyline() -> Task:
    """One dome of Skyline becomes a spire, rank 1."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_text(CORE)
        workshop = Workshop.of(path, "cpu", quiet)
        generator = workshop.generator()
        rule = workshop.rule(0, generator)
        moment = workshop.second_moment(generator, rule.layer).matrix
    function = generator.function(rule.layer)
    assert isinstance(function, StyledConvolution)
    return Task("Skyline layer8 rank 1", function, generator.weight(rule.layer), rule, moment)


BENCHMARKS = (solvers, on_a_gpu)
