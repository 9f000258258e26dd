"""The curvature of a least-squares loss at some unknowns, and the steps that it gives.

All output channels share one design, so that a product with the curvatures of all of them is two
products of matrices. Few unknowns are cheapest to solve for by a factorisation for each channel,
many by conjugate gradients on those products. A rule of few positions has few axes that matter,
however many unknowns there are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.maths.weighted_squares import WeightedSquares

FEW = 32
"""The largest number of axes of a channel that are solved for by a factorisation."""
INEXACTNESS = 1e-2
"""Conjugate gradients end where their residual is this share of the first one."""
PRODUCTS = 60
"""The largest number of conjugate gradients of a step."""
SPANNED = 1e-6
"""A vector counts as spanned by others where this share of its length is left, or less."""


class Solver(Protocol):
    """A quadratic model of the loss of each channel."""

    @property
    def sizes(self) -> Tensor:
        """The mean of the diagonal of each curvature, [O]."""

    def damp(self, shift: Tensor) -> Damped:
        """Add `shift` [O] to the diagonals. It may be added in place: a solver is damped once."""


class Damped(Protocol):
    """A damped model of the loss of each channel, which is minimised for any gradient."""

    def step(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Find the step [O, n] to the minimum for a gradient [O, n].

        Returns the step, and whether the curvature of each channel is positive definite as far as
        the solver can see, [O] bool.
        """


@dataclass(frozen=True)
class Curvature:
    """The curvature [n, n] of each channel, in terms of what channels share.

    There are O channels, J items and P positions. The curvature is the sum over the items of

        design^T diag(weight) design + energy pull pull^T - pulled pull^T - pull pulled^T
            - share gram

    Attributes
    ----------
    design
        [J, P, n], shared by the channels.
    weight
        [J, O, P].
    pull, pulled
        [J, O, n].
    energy, share
        [J, O, 1].
    gram
        [J, n, n], shared by the channels. None without demodulation: then `pull` is zero.
    """

    design: Tensor
    weight: Tensor
    pull: Tensor
    pulled: Tensor
    energy: Tensor
    share: Tensor
    gram: Tensor | None

    def matrices(self, squares: WeightedSquares) -> Tensor:
        """Compute the curvatures, [O, n, n], from the products of the columns of the design."""
        curvature = squares.weigh(self.weight)
        if self.gram is not None:
            # One product, because a difference for each item would pass over all of it again.
            flat = curvature.view(len(curvature), -1)
            flat.addmm_(self.share[..., 0].mT, self.gram.flatten(1), alpha=-1)
        # Summed over the items, as one product.
        left = torch.cat([self.energy * self.pull - self.pulled, -self.pull])
        right = torch.cat([self.pull, self.pulled])
        return curvature.baddbmm_(left.movedim(0, -1), right.movedim(0, 1))


@dataclass(frozen=True)
class FactorisedSolver:
    """Steps from the curvatures [O, n, n] themselves, each factorised."""

    curvatures: Tensor

    @property
    def sizes(self) -> Tensor:
        """The mean of the diagonal of each curvature, [O]."""
        return self.curvatures.diagonal(dim1=1, dim2=2).mean(1)

    def damp(self, shift: Tensor) -> Factors:
        """Factorise the curvatures with `shift` added, in place, as `Solver.damp` may."""
        diagonal = self.curvatures.diagonal(dim1=1, dim2=2)
        diagonal += shift[:, None] + torch.finfo(self.curvatures.dtype).tiny
        root, failed = torch.linalg.cholesky_ex(self.curvatures)
        sound = failed == 0
        if not bool(sound.all()):
            root = torch.where(sound[:, None, None], root, torch.eye(root.shape[-1]).to(root))
        return Factors(root, sound)


@dataclass(frozen=True)
class Factors:
    """The factors of damped curvatures.

    Attributes
    ----------
    root
        The Cholesky factor of each channel, [O, n, n].
    sound
        Whether the curvature of each channel has one, [O] bool.
    """

    root: Tensor
    sound: Tensor

    def step(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Find the step as `Damped.step` does; none where the curvature is indefinite."""
        # The two solves of cholesky_solve, which would copy the factors.
        half = torch.linalg.solve_triangular(self.root, -gradient[..., None], upper=False)
        step = torch.linalg.solve_triangular(self.root.mT, half, upper=True)[..., 0]
        return step * self.sound[:, None], self.sound


@dataclass(frozen=True)
class IterativeSolver:
    """Steps from products with the curvatures, in float32, by conjugate gradients.

    The unknowns are in axes in which the columns of the design are orthogonal, so that the diagonal
    is a good preconditioner. Float32 is enough for a step: the objective and the gradient that it
    is judged by are float64.

    Attributes
    ----------
    rows
        The design, [J * P, n].
    weight
        [O, J * P].
    diagonals
        The diagonals without the part of `share`, [O, n].
    axes
        Pull and pulled, [2 * J, O, n]; None without demodulation.
    energy, share, gram
        As in `Curvature`. The last two are None where every share is zero.
    """

    rows: Tensor
    weight: Tensor
    diagonals: Tensor
    axes: Tensor | None = None
    energy: Tensor | None = None
    share: Tensor | None = None
    gram: Tensor | None = None

    @staticmethod
    def of(curvature: Curvature) -> IterativeSolver:
        """Make the solver of a curvature."""
        rows = curvature.design.flatten(0, 1).float()
        weight = curvature.weight.transpose(0, 1).flatten(1).float()
        diagonals = weight.abs() @ rows.square()
        if curvature.gram is None:
            return IterativeSolver(rows, weight, diagonals)
        energy, pull, pulled = (
            tensor.float() for tensor in (curvature.energy, curvature.pull, curvature.pulled)
        )
        diagonals += ((energy * pull - 2 * pulled) * pull).sum(0).clamp_min_(0)
        axes = torch.cat([pull, pulled])
        if not bool(curvature.share.any()):
            return IterativeSolver(rows, weight, diagonals, axes, energy)
        share, gram = curvature.share.float(), curvature.gram.float()
        return IterativeSolver(rows, weight, diagonals, axes, energy, share, gram)

    @property
    def sizes(self) -> Tensor:
        """The mean of the diagonal of each curvature, [O]."""
        return self.diagonals.mean(1).double()

    def multiply(self, vectors: Tensor) -> Tensor:
        """Multiply each curvature with a vector, [O, n]."""
        product = (vectors @ self.rows.mT).mul_(self.weight) @ self.rows
        if self.axes is None or self.energy is None:
            return product
        along, across = (self.axes * vectors).sum(-1, keepdim=True).chunk(2)
        shares = torch.cat([self.energy * along - across, -along])
        product += (self.axes * shares).sum(0)
        if self.share is not None and self.gram is not None:
            product -= (self.share * (vectors @ self.gram)).sum(0)
        return product

    def damp(self, shift: Tensor) -> ConjugateGradients:
        """Add `shift` to what each product gives."""
        return ConjugateGradients(self, shift.float()[:, None])


@dataclass(frozen=True)
class ConjugateGradients:
    """Conjugate gradients on the products of a solver with `added` [O, 1] on the diagonals."""

    solver: IterativeSolver
    added: Tensor

    def step(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Find the step as `Damped.step` does, to a share of `INEXACTNESS`.

        A channel ends where it meets negative curvature. Its step so far still leads downwards.
        """
        added = self.added
        scale = self.solver.diagonals + added + torch.finfo(torch.float32).tiny
        step = torch.zeros_like(scale)
        residual = -gradient.float()
        scaled = residual / scale
        direction = scaled.clone()
        left = (residual * scaled).sum(1)
        enough = INEXACTNESS**2 * left
        going = left > 0
        sound = torch.ones_like(going)
        for _ in range(PRODUCTS):
            product = self.solver.multiply(direction).addcmul_(added, direction)
            curved = (direction * product).sum(1)
            upwards = curved > 0
            sound &= upwards | ~going
            going &= upwards
            length = torch.where(going, left / curved, 0)[:, None]
            step.addcmul_(length, direction)
            residual.addcmul_(length, product, value=-1)
            torch.div(residual, scale, out=scaled)
            before, left = left, (residual * scaled).sum(1)
            going &= left > enough
            if not bool(going.any()):
                break
            direction.mul_((left / before)[:, None]).add_(scaled)
        return step.double(), sound


@dataclass(frozen=True)
class ReducedSolver:
    """Steps in the few axes in which the model of a channel has slope or coupling.

    A rule of fewer positions than unknowns sees as many axes as it has positions. Along the hidden
    ones, gradient and coupling are combinations of the pull of each item and of the unknowns
    themselves, and so is the step, but for the part of `share`, which turns it. Conjugate gradients
    do without that part: there it costs more than it gains.

    Attributes
    ----------
    inner
        The solver in the seen axes and those of the basis: factorised where they are few.
    basis
        Of the hidden axes, [O, J + 1, hidden]: orthonormal, or zero.
    seen
        The number of seen axes, which are the first.
    """

    inner: Solver
    basis: Tensor
    seen: int

    @staticmethod
    def of(curvature: Curvature, unknowns: Tensor, squares: WeightedSquares) -> ReducedSolver:
        """Make the solver of a curvature at `unknowns` [O, n] that sees the first axes alone.

        `squares` are of the design in the seen axes, with a column of zeros for each vector of the
        basis, as `see` makes them.
        """
        seen = squares.design.shape[2] - len(curvature.pull) - 1
        hidden = torch.cat([curvature.pull[..., seen:], unknowns[None, :, seen:]])
        basis = _orthonormalise(hidden)
        reduced = dataclasses.replace(
            curvature,
            design=squares.design,
            pull=_shorten(curvature.pull, basis, seen),
            pulled=_shorten(curvature.pulled, basis, seen),
        )
        if squares.design.shape[2] > FEW:
            without = dataclasses.replace(reduced, share=torch.zeros_like(curvature.share))
            return ReducedSolver(IterativeSolver.of(without), basis, seen)
        gram = curvature.gram
        if gram is not None:
            within = F.pad(gram[:, :seen, :seen], (0, basis.shape[1], 0, basis.shape[1]))
            reduced = dataclasses.replace(reduced, gram=within)
        matrices = reduced.matrices(squares)
        if gram is not None and bool(curvature.share.any()):
            rows = (curvature.share[..., None] * _shorten_rows(gram, basis, seen)).sum(0)
            matrices[:, seen:] -= rows
            matrices[:, :seen, seen:] -= rows[..., :seen].mT
        return ReducedSolver(FactorisedSolver(matrices), basis, seen)

    @property
    def sizes(self) -> Tensor:
        """The mean of the diagonal of each curvature, [O]."""
        share = (self.seen + self.basis.shape[1]) / (self.seen + self.basis.shape[2])
        return share * self.inner.sizes

    def damp(self, shift: Tensor) -> Reduced:
        """Add `shift` to the diagonals in the few axes."""
        return Reduced(self.inner.damp(shift), self.basis, self.seen)


@dataclass(frozen=True)
class Reduced:
    """A damped model in few axes; `basis` and `seen` are those of `ReducedSolver`."""

    inner: Damped
    basis: Tensor
    seen: int

    def step(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Find the step as `Damped.step` does."""
        found, sound = self.inner.step(_shorten(gradient, self.basis, self.seen))
        hidden = (found[:, None, self.seen :] @ self.basis)[:, 0]
        return torch.cat([found[:, : self.seen], hidden], 1), sound


def align(rows: Tensor) -> Tensor:
    """Find orthogonal axes [n, n] in which the columns of `rows` [p, n] are orthogonal.

    The axes that the rows see come first.
    """
    if len(rows) >= rows.shape[1]:
        whole: Tensor = torch.linalg.eigh(rows.mT @ rows)[1]
        return whole.flip(1)
    # Rows that are fewer than their columns span few axes, whatever the others are.
    axes, _ = torch.linalg.qr(rows.mT, mode="complete")
    spanned = axes[:, : len(rows)]
    within = rows @ spanned
    _, turn = torch.linalg.eigh(within.mT @ within)
    return torch.cat([spanned @ turn.flip(1), axes[:, len(rows) :]], 1)


def see(design: Tensor, seen: int, hidden: int) -> WeightedSquares:
    """Make the squares of the first columns of a design, and of zeros for the basis of the rest."""
    return WeightedSquares(F.pad(design[..., :seen], (0, hidden)))


def _shorten(vectors: Tensor, basis: Tensor, seen: int) -> Tensor:
    """Compute the coordinates of vectors [..., O, n] in the seen axes and those of the basis."""
    hidden = (basis @ vectors[..., seen:, None])[..., 0]
    return torch.cat([vectors[..., :seen], hidden], -1)


def _shorten_rows(gram: Tensor, basis: Tensor, seen: int) -> Tensor:
    """Compute the rows of the basis of symmetric matrices [J, n, n], [J, O, k, m].

    Their columns are those of the axes that `_shorten` has.
    """
    channels, count, _ = basis.shape
    # One product for all channels, which many small ones would take far longer for.
    rows = basis.flatten(0, 1) @ gram[:, seen:]
    rows = rows.view(len(gram), channels, count, -1)
    return torch.cat([rows[..., :seen], rows[..., seen:] @ basis.mT], -1)


def _orthonormalise(vectors: Tensor) -> Tensor:
    """Orthonormalise k vectors of each channel, [k, O, m]; returns [O, k, m].

    A vector that the ones before it span becomes zero.
    """
    axes: list[Tensor] = []
    for vector in vectors:
        length = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        rest = vector
        # Twice, because rounding leaves a part along the axes before.
        for axis in axes * 2:
            rest = rest - (rest * axis).sum(1, keepdim=True) * axis
        left = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
        axes.append(torch.where(left > SPANNED * length, rest / left, 0))
    return torch.stack(axes, 1)
