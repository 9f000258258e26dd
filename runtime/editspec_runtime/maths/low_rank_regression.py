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
AT_ONCE = 16
"""The directions whose systems [in, in] are held together."""


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
    by_tap = moment.view(features, taps, features, taps).permute(1, 3, 0, 2).contiguous()
    pull_by_tap = pull.view(outputs, features, taps)
    directions = _first_directions(by_tap, solve_whole(moment, pull), rank)
    reached: list[float] = []
    while True:
        seen = by_tap @ directions.T
        projected = _join_taps(directions @ seen)
        pulled = torch.einsum("oct,sc->ost", pull_by_tap, directions).reshape(outputs, -1)
        coefficients = solve_whole(projected, pulled)
        reached.append(-float((coefficients * pulled).sum()))
        gained = reached[-2] - reached[-1] if len(reached) > 1 else float("inf")
        if len(reached) > ROUNDS or gained < ENOUGH * abs(reached[-1]):
            return coefficients, directions, reached
        moved = _move_directions(
            by_tap, seen, pull_by_tap, coefficients.view(outputs, rank, taps), directions
        )
        directions = torch.linalg.qr(moved.T)[0].T.contiguous()


def _first_directions(by_tap: Tensor, whole: Tensor, rank: int) -> Tensor:
    """Find the top directions of the whole change in the metric of one tap's moment."""
    taps, _, features, _ = by_tap.shape
    own = by_tap.diagonal(dim1=0, dim2=1).sum(-1)
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
    by_tap = moment.view(features, taps, features, taps).permute(1, 3, 0, 2)
    return _join_taps(directions @ (by_tap @ directions.T))


def _join_taps(by_tap: Tensor) -> Tensor:
    """Bring [taps, taps, s, s] into the order of unknowns, [s * taps, s * taps]."""
    size = by_tap.shape[0] * by_tap.shape[2]
    return by_tap.permute(2, 0, 3, 1).reshape(size, size)


def _move_directions(
    by_tap: Tensor, seen: Tensor, pull: Tensor, coefficients: Tensor, directions: Tensor
) -> Tensor:
    """Solve for one direction after the other, with the coefficients as they are.

    Parameters
    ----------
    by_tap, seen
        A [taps, taps, in, in], and A D^T [taps, taps, in, s].
    pull, coefficients, directions
        R [out, in, taps], Q [out, s, taps] and D [s, in].

    Returns
    -------
    Tensor
        Directions [s, in], which are not orthonormal.
    """
    moved = directions.clone()
    rank, features = moved.shape
    weights = torch.einsum("ost,ouv->stvu", coefficients, coefficients)
    pulled = torch.einsum("ost,oct->sc", coefficients, pull)
    # Large products are many times as fast as einsum is over transposed maps of taps.
    flat = by_tap.flatten(2).flatten(0, 1)
    own_weights = weights.diagonal(dim1=0, dim2=3).flatten(0, 1).T.contiguous()
    # The products with each direction lie together, as one of them changes at a time.
    seen = seen.movedim(3, 2).contiguous()
    for number in range(rank):
        place = number % AT_ONCE
        if place == 0:
            own = own_weights[number : number + AT_ONCE] @ flat
            roots, failed = torch.linalg.cholesky_ex(own.view(-1, features, features))
        if bool(failed[place]):
            # A direction that no coefficient uses has no best place, and stays.
            continue
        others = weights[number].clone()
        others[:, :, number] = 0
        rest = pulled[number] - others.flatten() @ seen.flatten(0, 2)
        moved[number] = torch.cholesky_solve(rest[:, None], roots[place])[:, 0]
        seen[:, :, number] = by_tap @ moved[number]
    return moved
