"""Refinement of a change by steps on outputs: those of a rule's items, and those to preserve.

A layer's values are not what people look at. These steps go on from the change that a method found,
with the loss of Eqn. 3 on outputs in place of values, within the rank of the change. Where the rule
asks for a change, what is missing counts as its share of it: else the large changes are all that
is learned, and a roof that should get a little darker stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import LayerRule, Refinement
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.directions import inverse_root
from editspec_runtime.maths.low_rank import delta, kernel_of
from editspec_runtime.maths.parallel import map_parts, separate_models
from editspec_runtime.maths.sampled_keys import numbers_per_item
from editspec_runtime.methods.losses import require_finite

Result = TypeVar("Result")

RULE_BATCH, KEPT_BATCH = 6, 6
"""The numbers of items of the rule and of preserved items in a step."""

PART = 2
"""The number of items that one thread computes together."""

FLOOR = 1e-3
"""What is added to the second moment of keys before they are whitened, as a share of its mean."""

LEAST = 0.1
"""The share of the mean change that counts as a change that is asked for."""


def weigh_outputs(wanted: Tensor, unedited: Tensor) -> Tensor:
    """Compute how much each position of wanted outputs counts, [n, 1, ...].

    Where a change is asked for, the mean change over the change that is asked for there; 1
    elsewhere. So half of a small change is missed as much as half of a large one.

    Parameters
    ----------
    wanted, unedited
        The outputs that are wanted of some items, and those of the model as it is, [n, c, ...].
        A change is the mean absolute difference over c.
    """
    asked = (wanted - unedited).abs().mean(1, keepdim=True)
    # Weighted by itself, so that positions without a change do not count.
    mean = asked.square().sum() / asked.sum().clamp_min(torch.finfo(asked.dtype).tiny)
    changes = asked > LEAST * mean
    return torch.where(changes, mean / asked.where(changes, mean), 1)


def find_whitening(moment: Tensor) -> Tensor:
    """Compute the matrix that whitens keys and keeps their mean square, [in, in] float64.

    `moment` is C of the keys, [in, in] float64. Where keys are hardly ever seen, they stay smaller.
    """
    relative = moment / moment.diagonal().mean()
    return inverse_root(relative + FLOOR * torch.eye(len(moment)).to(moment))


def refine(problem: Problem, model: Model, rule: LayerRule, change: Change) -> Change:
    """Refine the change of one rule; its rank stays.

    The result is no worse than `change` in the objective: the weight of the rule times the mean
    absolute difference of the outputs of its items to the wanted ones, each position as
    `weigh_outputs` says, plus that of the preserved items to their unedited outputs, each position
    by its area.

    Parameters
    ----------
    problem
        The edit, for progress and losses.
    model
        The model as the rules before left it.
    rule
        The rule; its `refinement` has the items and the settings.
    change
        The change that a method found, low-rank or full.
    """
    assert rule.refinement is not None
    root = None
    if rule.refinement.whiten:
        root = find_whitening(problem.statistics(model, rule.layer).moment())
    steps = _Steps(model, rule, rule.refinement, root)
    parts = steps.parts(change)
    before = float(steps.objective(parts))
    refined = steps.descend(problem, parts)
    after = float(steps.objective(refined))
    return steps.change(refined) if after < before else change


@dataclass(frozen=True)
class _Batch:
    """Some items by their numbers, and how much each counts in the objective."""

    numbers: Tensor
    shares: Tensor


class _Steps:
    """Adam on the parts of the change of one rule.

    Parameters
    ----------
    model, rule, refinement
        As in `refine`.
    root
        The matrix H that whitens keys, [in, in] float64; None where they stay as they are.
    """

    def __init__(
        self, model: Model, rule: LayerRule, refinement: Refinement, root: Tensor | None
    ) -> None:
        self.model, self.rule, self.refinement = model, rule, refinement
        self.weight = model.weight(rule.layer)
        self.exact_root = None if root is None else root.to(self.weight.device)
        self.root = None if root is None else root.to(self.weight)
        self.size = kernel_of(self.weight).square().mean().sqrt()
        self.count = len(refinement.items)
        self.items = torch.cat([refinement.items, refinement.kept])
        last = list(model.architecture.layers)[-1]
        self.models = separate_models(model, PART * numbers_per_item(model, last), len(self.items))
        with torch.no_grad():
            unedited = torch.cat(self._map(self._outputs_before, self._one_by_one()))
        self.wanted = torch.cat([refinement.wanted, unedited[self.count :]])
        importance = weigh_outputs(refinement.wanted, unedited[: self.count])
        self.importance = torch.cat([importance, refinement.kept_area])

    def parts(self, change: Change) -> list[Tensor]:
        """The tensors that the steps move: A and D, or the whole change.

        All have about the same size, so that one rate suits them, and weights of any scale. Of
        whitened keys they are D H^-1, with rows of one size, and the whole change times H^-1.
        """
        if change.full is not None:
            return [self._before_root(kernel_of(self._kernel(change.full))) / self.size]
        assert change.coefficients is not None
        assert change.directions is not None
        coefficients = change.coefficients.to(self.weight) / self.size
        # Of an orthonormal row of n numbers, the root mean square is that of 1 / n.
        scale = math.sqrt(change.directions.shape[1])
        directions = scale * change.directions.to(self.weight)
        if self.root is None:
            return [coefficients, directions]
        directions = self._before_root(directions)
        sizes = directions.square().mean(1).sqrt()
        by_direction = sizes.view(-1, *[1] * (coefficients.ndim - 2))
        return [coefficients * by_direction, directions / sizes[:, None]]

    def change(self, parts: list[Tensor]) -> Change:
        """The change of parts, whose directions become orthonormal again."""
        if len(parts) == 1:
            whole = (self._after_root(parts[0]) * self.size).view_as(self.weight)
            return Change(full=self.model.to_checkpoint(self.rule.layer, whole))
        coefficients = parts[0].double()
        directions = self._after_root(parts[1]).double()
        basis, mixed = torch.linalg.qr(directions.T / math.sqrt(directions.shape[1]))
        turned = torch.einsum("os...,ts->ot...", coefficients, mixed) * self.size
        return Change(basis.T.contiguous().to(self.weight), turned.to(self.weight))

    @torch.no_grad()
    def objective(self, parts: list[Tensor]) -> Tensor:
        """Compute the objective over all items, a scalar."""
        losses = self._map(partial(self._loss, parts), self._one_by_one())
        return torch.stack(losses).sum()

    def descend(self, problem: Problem, parts: list[Tensor]) -> list[Tensor]:
        """Take the steps; each is over a few items, and shorter than the one before."""
        refinement = self.refinement
        # The layout of the gradients, which Adam needs, is that of sums.
        parts = [part.clone(memory_format=torch.contiguous_format) for part in parts]
        adam = Adam(parts, refinement.learning_rate)
        generator = torch.Generator().manual_seed(0)
        for step in range(refinement.steps):
            adam.rate = refinement.learning_rate * (1 - step / refinement.steps)
            batches = self._draw_batches(generator)
            found = self._map(partial(self._loss_and_gradients, parts), batches)
            losses, gradients = zip(*found, strict=True)
            require_finite(torch.stack(losses).sum(), step, problem.on_loss)
            for part, several in zip(parts, zip(*gradients, strict=True), strict=True):
                part.grad = torch.stack(several).sum(0)
            adam.step()
            problem.progress(step + 1, refinement.steps)
        return parts

    def _one_by_one(self) -> list[_Batch]:
        """All items, one at a time."""
        return self._batches(torch.arange(len(self.items)), 1)

    def _draw_batches(self, generator: torch.Generator) -> list[_Batch]:
        """Draw the items of a step."""
        own = torch.randperm(self.count, generator=generator)[:RULE_BATCH]
        kept = torch.randperm(len(self.items) - self.count, generator=generator)[:KEPT_BATCH]
        return self._batches(torch.cat([own, self.count + kept]), PART)

    def _batches(self, numbers: Tensor, size: int) -> list[_Batch]:
        """Batches of items, of which those of the rule and those kept count as their means do."""
        own = numbers < self.count
        mine, kept = int(own.sum()), int((~own).sum())
        shares = torch.where(own, self.refinement.weight / max(mine, 1), 1 / max(kept, 1))
        parts = zip(torch.split(numbers, size), torch.split(shares, size), strict=True)
        return [_Batch(*part) for part in parts]

    def _map(
        self, compute: Callable[[_Batch, Model], Result], batches: list[_Batch]
    ) -> list[Result]:
        """Compute something of several batches, some of them at once."""
        functions = [_on(model, compute) for model in self.models]
        return list(map_parts(functions, batches))

    def _loss_and_gradients(
        self, parts: list[Tensor], batch: _Batch, model: Model
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What a batch adds to the objective and to its gradients by the parts."""
        # Each thread has leaves of its own.
        own = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            loss = self._loss(own, batch, model)
            gradients = torch.autograd.grad(loss, own)
        return loss.detach(), gradients

    def _loss(self, parts: list[Tensor], batch: _Batch, model: Model) -> Tensor:
        """What a batch adds to the objective."""
        missing = self._outputs(parts, batch, model) - self.wanted[batch.numbers]
        weighted = self.importance[batch.numbers] * missing.abs()
        return (batch.shares.to(weighted) * weighted.flatten(1).mean(1)).sum()

    def _outputs(self, parts: list[Tensor], batch: _Batch, model: Model) -> Tensor:
        """Compute the outputs of a batch with another weight of the layer."""
        layer = self.rule.layer
        with torch.no_grad():
            trace = model.trace(layer, self.items[batch.numbers])
        value = model.function(layer)(trace.key, self._weight(parts), trace.arguments)
        return model.forward_from(layer, value, trace)

    def _outputs_before(self, batch: _Batch, model: Model) -> Tensor:
        return model.outputs(self.items[batch.numbers])

    def _weight(self, parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return self.weight + (self._after_root(parts[0]) * self.size).view_as(self.weight)
        coefficients, directions = parts[0], self._after_root(parts[1])
        change = delta(coefficients * self.size, directions / math.sqrt(directions.shape[1]))
        return self.weight + change.view(self.weight.shape)

    def _after_root(self, part: Tensor) -> Tensor:
        """Multiply the axis of the inputs with H."""
        if self.root is None:
            return part
        return (part.movedim(1, -1) @ self.root).movedim(-1, 1)

    def _before_root(self, part: Tensor) -> Tensor:
        """Find the part that `_after_root` makes this one of."""
        if self.exact_root is None:
            return part
        last = part.movedim(1, -1).to(self.exact_root)
        before: Tensor = torch.linalg.solve(self.exact_root, last, left=False)
        return before.movedim(-1, 1).to(part)

    def _kernel(self, full: Tensor) -> Tensor:
        """Bring a change from the shape of the checkpoint into that of the weight."""
        parameter = self.rule.parameter
        new = self.model.weights[parameter] + full.to(self.weight)
        changed = self.model.with_weights({**self.model.weights, parameter: new})
        return (changed.weight(self.rule.layer) - self.weight).contiguous()


def _on(model: Model, compute: Callable[[_Batch, Model], Result]) -> Callable[[_Batch], Result]:
    """Bind the model of a computation."""
    return lambda batch: compute(batch, model)
