"""Least squares for matrices that read the same keys: one decomposition for all of them.

Minimise |W K - V|^2 + w tr((W - W0) M (W - W0)^T) over each W, where M is C with what is preserved.
The change is R S K (w M + K^T S K)^-1: its rows lie in the span of M^-1 K, which does not depend on
the matrix. So D is one for all, and only the residuals R = V - W0 K differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.core.rule import LayerRule, key_rows
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.directions import inverse_root, orient
from editspec_runtime.methods.layer_problem import (
    LayerProblem,
    layer_problem,
    mix_moment,
    note_missing,
    require_better,
)
from editspec_runtime.methods.losses import missing_value

SPAN = "span"
"""The directions that all keys of a rule give."""


@dataclass(frozen=True)
class Decomposition:
    """The directions of rules with the same keys, and the way from residuals to coefficients.

    Attributes
    ----------
    directions
        D [s, in] float64, orthonormal rows.
    answers
        [n, s] float64: the coefficients of a matrix are R^T times these, for residuals R [n, out].
    """

    directions: Tensor
    answers: Tensor


def are_shared(problem: Problem) -> bool:
    """Whether all rules of an edit read the same keys, in directions that all of them give."""
    if problem.directions != SPAN or getattr(problem.settings, "collateral", None) is not None:
        return False
    keys = {layer.keys for layer in problem.model.architecture.layers.values()}
    return keys != {""} and len(keys) == 1


@torch.no_grad()
def solve_shared(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit whose layers read the same keys.

    No rule changes the keys of another, so that all are resolved on the model as it is. Raises
    `NumericalError` where the keys are not finite, or no change is better than none.
    """
    changes: dict[str, Change] = {}
    found: Decomposition | None = None
    first: LayerRule | None = None
    for resolve in problem.rules:
        rule = resolve(problem.model)
        each = layer_problem(problem, rule, problem.model)
        if found is None or first is None or not _same_keys(first, rule):
            note_missing(each)
            found, first = decompose(each), rule
        lacking = key_rows(missing_value(each.function, each.rule, each.weight).double())
        change = Change(
            found.directions.to(each.weight), (lacking.T @ found.answers).to(each.weight)
        )
        require_better(each, change)
        changes[rule.parameter] = change
    return changes


def _same_keys(first: LayerRule, second: LayerRule) -> bool:
    """Whether two rules have the same keys, and preserve the same."""
    if first.key is not second.key and not torch.equal(first.key, second.key):
        return False
    kept, other = first.preserved, second.preserved
    if kept is None or other is None:
        return kept is other
    same = kept is other or torch.equal(kept.key, other.key)
    return same and torch.equal(kept.key_weights, other.key_weights)


def decompose(problem: LayerProblem) -> Decomposition:
    """Decompose the keys of a rule in the metric of what must stay.

    With M^-1/2 K^T = U s V^T the change is R^T V s / (s^2 + w) U^T M^-1/2, whatever the number of
    keys and however they depend on each other.
    """
    moment = problem.moment
    preserved = problem.rule.preserved
    if preserved is not None:
        share = getattr(problem.settings, "preserve_share", 0.0)
        moment = mix_moment(preserved, moment, share)
    keys = key_rows(problem.rule.key.double()).cpu()
    if not bool(keys.isfinite().all()):
        raise NumericalError(
            "The keys of the rule are not finite: the text encoder overflows.",
            "Use precision: float64.",
        )
    root = _inverse_factor(moment)
    rows = keys @ root
    right, values, left = torch.linalg.svd(rows, full_matrices=False)
    threshold = values[0] * max(rows.shape) * torch.finfo(values.dtype).eps
    count = min(int((values > threshold).sum()), problem.rank or len(values))
    right, values, left = right[:, :count], values[:count], left[:count]
    # The weight beside the sum of squares; that of the problem is beside their mean.
    weight = problem.collateral_weight * len(keys)
    shares = values / (values.square() + weight)
    basis, triangle = torch.linalg.qr(root @ left.T)
    directions = orient(basis, keys)
    signs = (directions * basis.T).sum(1).sign()
    answers = (right * shares) @ (triangle * signs[:, None]).T
    return Decomposition(directions, answers)


def _inverse_factor(moment: Tensor) -> Tensor:
    """A factor L^-T of the inverse of M [in, in]: M^-1 = L^-T L^-1."""
    root, failed = torch.linalg.cholesky_ex(moment)
    if bool(failed) or not bool(root.isfinite().all()):
        return inverse_root(moment)
    identity = torch.eye(len(moment), dtype=moment.dtype)
    factor: Tensor = torch.linalg.solve_triangular(root, identity, upper=False).mT
    return factor.contiguous()
