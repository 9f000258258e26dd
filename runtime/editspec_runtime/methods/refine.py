"""Refinement of a change by steps on outputs: those of a rule's items, and those to preserve.

A layer's values are not what people look at. These steps go on from the change that a method found,
with the loss of Eqn. 3 on outputs in place of values, within the rank of the change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import LayerRule, Refinement
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.low_rank import delta, kernel_of
from editspec_runtime.methods.losses import compute_outputs, require_finite

RULE_BATCH, KEPT_BATCH = 6, 8
"""The numbers of items of the rule and of preserved items in a step."""


def refine(problem: Problem, model: Model, rule: LayerRule, change: Change) -> Change:
    """Refine the change of one rule; its rank stays.

    The result is no worse than `change` in the objective: the weight of the rule times the mean
    absolute difference of the outputs of its items to the wanted ones, plus that of the preserved
    items to their unedited outputs.

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
    steps = _Steps(model, rule, rule.refinement)
    parts = steps.parts(change)
    before = float(steps.objective(parts))
    refined = steps.descend(problem, [part.clone() for part in parts])
    after = float(steps.objective(refined))
    return steps.change(refined) if after < before else change


class _Steps:
    """Adam on the parts of the change of one rule.

    Parameters
    ----------
    model, rule, refinement
        As in `refine`.
    """

    def __init__(self, model: Model, rule: LayerRule, refinement: Refinement) -> None:
        self.model, self.rule, self.refinement = model, rule, refinement
        self.weight = model.weight(rule.layer)
        self.function = model.function(rule.layer)
        self.size = kernel_of(self.weight).square().mean().sqrt()
        with torch.no_grad():
            self.unedited = compute_outputs(model, refinement.kept)

    def parts(self, change: Change) -> list[Tensor]:
        """The tensors that the steps move: A and D, or the whole change.

        All have about the same size as the weight, so that one rate suits weights of any scale.
        """
        if change.full is not None:
            return [self._kernel(change.full) / self.size]
        assert change.coefficients is not None
        assert change.directions is not None
        coefficients = change.coefficients.to(self.weight) / self.size
        return [coefficients, change.directions.to(self.weight)]

    def change(self, parts: list[Tensor]) -> Change:
        """The change of parts, whose directions become orthonormal again."""
        if len(parts) == 1:
            whole = self.model.to_checkpoint(self.rule.layer, parts[0] * self.size)
            return Change(full=whole)
        coefficients, directions = (part.double() for part in parts)
        basis, mixed = torch.linalg.qr(directions.T)
        turned = torch.einsum("os...,ts->ot...", coefficients, mixed) * self.size
        return Change(basis.T.contiguous().to(self.weight), turned.to(self.weight))

    @torch.no_grad()
    def objective(self, parts: list[Tensor]) -> Tensor:
        """Compute the objective over all items, a scalar."""
        weight, refinement = self._weight(parts), self.refinement
        own = self._mean_difference(weight, refinement.items, refinement.wanted)
        if len(refinement.kept) == 0:
            return refinement.weight * own
        kept = self._mean_difference(weight, refinement.kept, self.unedited)
        return refinement.weight * own + kept

    @torch.enable_grad()
    def descend(self, problem: Problem, parts: list[Tensor]) -> list[Tensor]:
        """Take the steps; each is over a few items, and shorter than the one before."""
        refinement = self.refinement
        free = [part.requires_grad_() for part in parts]
        adam = Adam(free, refinement.learning_rate)
        generator = torch.Generator().manual_seed(0)
        for step in range(refinement.steps):
            adam.rate = refinement.learning_rate * (1 - step / refinement.steps)
            adam.zero_grad()
            loss = self._step_loss(free, generator)
            require_finite(loss, step, problem.on_loss)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            problem.progress(step + 1, refinement.steps)
        return [part.detach() for part in free]

    def _step_loss(self, parts: list[Tensor], generator: torch.Generator) -> Tensor:
        refinement = self.refinement
        mine = _draw(len(refinement.items), RULE_BATCH, generator)
        kept = _draw(len(refinement.kept), KEPT_BATCH, generator)
        items = torch.cat([refinement.items[mine], refinement.kept[kept]])
        wanted = torch.cat([refinement.wanted[mine], self.unedited[kept]])
        difference = (self._outputs(self._weight(parts), items) - wanted).abs().flatten(1).mean(1)
        loss = refinement.weight * difference[: len(mine)].mean()
        return loss + difference[len(mine) :].mean() if len(kept) else loss

    def _mean_difference(self, weight: Tensor, items: Tensor, wanted: Tensor) -> Tensor:
        """Compute the mean absolute difference of outputs, one item after the other."""
        pairs = zip(torch.split(items, 1), torch.split(wanted, 1), strict=True)
        differences = [(self._outputs(weight, item) - aim).abs().mean() for item, aim in pairs]
        return torch.stack(differences).mean()

    def _outputs(self, weight: Tensor, items: Tensor) -> Tensor:
        """Compute the outputs of items with another weight of the layer."""
        layer = self.rule.layer
        with torch.no_grad():
            trace = self.model.trace(layer, items)
        value = self.function(trace.key, weight, trace.arguments)
        return self.model.forward_from(layer, value, trace)

    def _weight(self, parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return self.weight + parts[0] * self.size
        change = delta(parts[0] * self.size, parts[1])
        return self.weight + change.view(self.weight.shape)

    def _kernel(self, full: Tensor) -> Tensor:
        """Bring a change from the shape of the checkpoint into that of the weight."""
        parameter = self.rule.parameter
        new = self.model.weights[parameter] + full.to(self.weight)
        changed = self.model.with_weights({**self.model.weights, parameter: new})
        return (changed.weight(self.rule.layer) - self.weight).contiguous()


def _draw(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Draw numbers of items, at most `most` of `count`."""
    return torch.randperm(count, generator=generator)[:most]
