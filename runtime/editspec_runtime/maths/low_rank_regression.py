"""Least squares over a whole layer, and its best change of a rank.

A change B [out, n] of n = in * taps unknowns a channel minimises

    tr(B A B^T) - 2 tr(R B^T)

where A [n, n] holds the moments of the rule, of what is preserved, and of all keys, and R [out, n]
what the rule pulls at. All channels share A, so that one factorisation solves them all. At a rank,
B = Q (D x 1) with coefficients Q [out, s * taps] and directions D [s, in] that all taps share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError

ROUNDS = 30
"""The largest number of rounds of the alternating solves."""
ENOUGH = 1e-4
"""The rounds end where one gains less than this share of the objective."""


def solve_whole(moment: Tensor, pull: Tensor) -> Tensor:
    """Find B [out, n] of the least objective for A [n, n] and R [out, n].

    Raises `NumericalError` if A is singular.
    """
    root, failed = torch.linalg.cholesky_ex(moment)
    if bool(failed) or not bool(root.isfinite().all()):
        raise NumericalError(
            "The keys of the rule and of what it must not touch do not determine the change.",
            "Raise solver.collateral_weight, or statistics.samples.",
        )
    solution: Tensor = torch.cholesky_solve(pull.T, root).T
    return solution


def objective(moment: Tensor, pull: Tensor, change: Tensor) -> float:
    """Compute tr(B A B^T) - 2 tr(R B^T) of a change B."""
    return float(((change @ moment - 2 * pull) * change).sum())


def find_low_rank(
    moment: Tensor, pull: Tensor, features: int, rank: int
) -> tuple[Tensor, Tensor, list[float]]:
    """Find Q and D of the least objective by solves that alternate between them.

    Each solve is exact for what it solves, so that the objective never rises. The first D is that
    of the best approximation of the whole change where the taps count as independent.

    Parameters
    ----------
    moment, pull
        A [n, n] and R [out, n].
    features
        The number of inputs; n = features * taps.
    rank
        The number s of directions, at most `features`.

    Returns
    -------
    tuple[Tensor, Tensor, list[float]]
        Q [out, s * taps], D [s, in] with orthonormal rows, and the objective after each round.
    """
    outputs, taps = len(pull), len(moment) // features
    by_tap = moment.view(features, taps, features, taps)
    pull_by_tap = pull.view(outputs, features, taps)
    directions = _first_directions(by_tap, solve_whole(moment, pull), rank)
    reached: list[float] = []
    while True:
        projected = _project(by_tap, directions)
        pulled = torch.einsum("oct,sc->ost", pull_by_tap, directions).reshape(outputs, -1)
        coefficients = solve_whole(projected, pulled)
        reached.append(-float((coefficients * pulled).sum()))
        gained = reached[-2] - reached[-1] if len(reached) > 1 else float("inf")
        if len(reached) > ROUNDS or gained < ENOUGH * abs(reached[-1]):
            return coefficients, directions, reached
        moved = _move_directions(
            by_tap, pull_by_tap, coefficients.view(outputs, rank, taps), directions
        )
        directions = torch.linalg.qr(moved.T)[0].T.contiguous()


def _first_directions(by_tap: Tensor, whole: Tensor, rank: int) -> Tensor:
    """Find the top directions of the whole change in the metric of one tap's moment."""
    features, taps = by_tap.shape[:2]
    own = by_tap.diagonal(dim1=1, dim2=3).sum(-1)
    root = torch.linalg.cholesky(own)
    rows = whole.view(len(whole), features, taps).movedim(2, 1).flatten(0, 1) @ root
    _, _, right = torch.linalg.svd(rows, full_matrices=False)
    found = torch.linalg.solve_triangular(root.mT, right[:rank].mT, upper=True)
    basis: Tensor = torch.linalg.qr(found)[0].T.contiguous()
    return basis


def project_taps(moment: Tensor, directions: Tensor) -> Tensor:
    """Compute (D x 1) A (D x 1)^T, [s * taps, s * taps], of A [in * taps, in * taps]."""
    features = directions.shape[1]
    taps = len(moment) // features
    return _project(moment.view(features, taps, features, taps), directions)


def _project(by_tap: Tensor, directions: Tensor) -> Tensor:
    half = torch.einsum("sc,ctdv->stdv", directions, by_tap)
    both = torch.einsum("stdv,ud->stuv", half, directions)
    return both.reshape(both.shape[0] * both.shape[1], -1)


def _move_directions(
    by_tap: Tensor, pull: Tensor, coefficients: Tensor, directions: Tensor
) -> Tensor:
    """Solve for one direction after the other, with the coefficients as they are.

    The coefficients are [out, s, taps]; returns directions [s, in], which are not orthonormal.
    """
    moved = directions.clone()
    weights = torch.einsum("ost,ouv->stuv", coefficients, coefficients)
    pulled = torch.einsum("ost,oct->sc", coefficients, pull)
    seen = torch.einsum("ctdv,ud->ctuv", by_tap, moved)
    for number in range(len(moved)):
        own = torch.einsum("tv,ctdv->cd", weights[number, :, number], by_tap)
        others = weights[number].clone()
        others[:, number] = 0
        rest = pulled[number] - torch.einsum("tuv,ctuv->c", others, seen)
        root, failed = torch.linalg.cholesky_ex(own)
        if bool(failed):
            # A direction that no coefficient uses has no best place, and stays.
            continue
        moved[number] = torch.cholesky_solve(rest[:, None], root)[:, 0]
        seen[:, :, number] = torch.einsum("ctdv,d->ctv", by_tap, moved[number])
    return moved
