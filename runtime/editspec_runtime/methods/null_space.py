"""A change in the space that the keys of the sample hardly use (AlphaEdit, Fang et al. 2024).

The change answers the keys of the rule as far as they lie in that space, and none of the keys that
the sample is full of. Keys that are preserved count as keys whose answer does not change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.core.rule import key_rows
from editspec_runtime.errors import NumericalError
from editspec_runtime.methods.layer_problem import LayerProblem, note_missing, solve_each
from editspec_runtime.methods.losses import missing_value


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit, one after the other.

    Raises `NumericalError` as `find_change` and `solve_each` do.
    """
    return solve_each(problem, find_change)


@torch.no_grad()
def find_change(problem: LayerProblem) -> Change:
    """Find dW = R K^T U (U^T (K K^T + S) U + ridge I)^-1 U^T.

    K are the keys of the rule, R the values that they lack, S the sum of k k^T over preserved keys.
    U [in, m] are the eigenvectors of C below the threshold.

    Raises `NumericalError` where no eigenvalue of C lies below the threshold.
    """
    rule, settings = problem.rule, problem.settings
    moment = problem.moment.to(problem.weight.device)
    values, vectors = torch.linalg.eigh(moment)
    mean = float(values.mean())
    threshold = problem.compatibility.eigenvalue(settings.threshold, mean)
    space = vectors[:, values < threshold]
    if not space.shape[1]:
        least = float(values[0]) / threshold * settings.threshold
        raise NumericalError(
            f"Every direction of the keys of {rule.layer} is in use: no eigenvalue of their second "
            f"moment lies below {threshold:.3g}.",
            f"Raise solver.threshold above {least:.3g}.",
        )
    note_missing(problem)
    keys = key_rows(rule.key.double()) @ space
    lacking = missing_value(problem.function, rule, problem.weight).double()
    bracket = keys.T @ keys
    if rule.preserved is not None:
        rows, weights = rule.preserved.rows()
        kept = rows.double() @ space
        if rule.preserved.added:
            kept = kept * weights.double().sqrt()[:, None]
        bracket = bracket + kept.T @ kept
    bracket.diagonal().add_(problem.compatibility.eigenvalue(settings.ridge, mean))
    solved = torch.linalg.solve(bracket, keys.T)
    change = _factor(space @ solved, key_rows(lacking))
    assert problem.rank is not None
    if len(change[0]) > problem.rank:
        change = _cut(*change, problem.rank)
    directions, coefficients = (part.to(problem.weight) for part in change)
    return Change(directions, coefficients)


def _factor(columns: Tensor, lacking: Tensor) -> tuple[Tensor, Tensor]:
    """Factor the change R^T X^T for X [in, n] and R [n, out] into orthonormal D, and A."""
    basis, triangle = torch.linalg.qr(columns)
    signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(basis)
    coefficients = lacking.T @ (triangle * signs[:, None]).T
    return (basis * signs).T.contiguous(), coefficients


def _cut(directions: Tensor, coefficients: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Cut a change to its largest singular values."""
    _, _, right = torch.linalg.svd(coefficients, full_matrices=False)
    kept = right[:rank]
    return kept @ directions, coefficients @ kept.T
