"""The steps of least squares: factorised, by conjugate gradients, and in few axes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from editspec_runtime.maths import curvature as curvature_module
from editspec_runtime.maths import weighted_squares
from editspec_runtime.maths.curvature import (
    Curvature,
    FactorisedSolver,
    IterativeSolver,
    ReducedSolver,
    align,
    see,
)
from editspec_runtime.maths.weighted_squares import WeightedSquares

CHANNELS, UNKNOWNS = 7, 40


def curvature_of(
    items: int = 2, positions: int = 30, *, demodulated: bool = True, newton: bool = True
) -> Curvature:
    """A curvature as a loss has it: positive definite without the part of Newton's method."""
    random = torch.Generator().manual_seed(items + positions)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).double()

    # Columns of unequal length that are orthogonal, as in aligned axes.
    rows = normal(items * positions, UNKNOWNS)
    _, axes = torch.linalg.eigh(rows.mT @ rows)
    design = (rows @ axes.flip(1)).view(items, positions, UNKNOWNS)
    weight = normal(items, CHANNELS, positions).square() + 0.1
    answer = normal(items, CHANNELS, positions)
    pull = 0.3 * normal(items, CHANNELS, UNKNOWNS)
    if not demodulated:
        nothing = torch.zeros(1, CHANNELS, 1).double()
        return Curvature(design, weight, 0 * pull[:1], 0 * pull[:1], nothing, nothing, None)
    root = normal(items, UNKNOWNS, UNKNOWNS)
    bent = weight * answer
    energy = (bent * answer).sum(-1, keepdim=True)
    share = normal(items, CHANNELS, 1) * newton
    return Curvature(design, weight, pull, bent @ design, energy, share, root @ root.mT)


def matrices_of(curvature: Curvature) -> Tensor:
    """The curvatures, entry by entry as the docstring has them."""
    total = torch.zeros(CHANNELS, UNKNOWNS, UNKNOWNS).double()
    for item, design in enumerate(curvature.design):
        for channel in range(CHANNELS):
            item_pull = curvature.pull[item % len(curvature.pull), channel]
            pulled = curvature.pulled[item % len(curvature.pull), channel]
            energy = curvature.energy[item % len(curvature.pull), channel]
            total[channel] += design.mT @ (curvature.weight[item, channel, :, None] * design)
            total[channel] += energy * torch.outer(item_pull, item_pull)
            both = torch.outer(pulled, item_pull)
            total[channel] -= both + both.mT
            if curvature.gram is not None:
                total[channel] -= curvature.share[item, channel] * curvature.gram[item]
    return total


@pytest.mark.parametrize("demodulated", [True, False])
def test_matrices_and_products_are_the_curvature(
    monkeypatch: pytest.MonkeyPatch, demodulated: bool
) -> None:
    curvature = curvature_of(demodulated=demodulated)
    wanted = matrices_of(curvature)
    found = curvature.matrices(WeightedSquares(curvature.design))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    # Where the products of all positions do not fit, blocks of them are added up.
    monkeypatch.setattr(weighted_squares, "BLOCK", 7 * UNKNOWNS**2)
    in_blocks = WeightedSquares(curvature.design)
    assert len(list(in_blocks.pairs())) == 9
    torch.testing.assert_close(curvature.matrices(in_blocks), wanted, rtol=1e-10, atol=1e-10)
    vectors = torch.randn(CHANNELS, UNKNOWNS, generator=torch.Generator().manual_seed(1))
    product = IterativeSolver.of(curvature).multiply(vectors)
    exact = (wanted @ vectors.double()[..., None])[..., 0]
    assert (product - exact).norm() < 1e-5 * exact.norm()
    if demodulated:
        # The part of Newton's method is in both: without it the product is another.
        other = dataclasses.replace(curvature, share=0 * curvature.share)
        assert (IterativeSolver.of(other).multiply(vectors) - exact).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize("demodulated", [True, False])
def test_the_iterative_step_is_the_factorised_one(demodulated: bool) -> None:
    curvature = curvature_of(demodulated=demodulated, newton=False)
    gradient = torch.randn(CHANNELS, UNKNOWNS, generator=torch.Generator().manual_seed(2)).double()
    shift = torch.linspace(1, 5, CHANNELS).double()
    exact = FactorisedSolver(curvature.matrices(WeightedSquares(curvature.design)))
    wanted, sound = exact.damp(shift).step(gradient)
    assert sound.all()
    # The step is minus the gradient over the damped curvature.
    damped = matrices_of(curvature) + shift[:, None, None] * torch.eye(UNKNOWNS).double()
    torch.testing.assert_close((damped @ wanted[..., None])[..., 0], -gradient)
    found, sound = IterativeSolver.of(curvature).damp(shift).step(gradient)
    assert sound.all()
    # What it promises is what counts: within a share of the square of the inexactness.
    lost = 1 - (gradient * found).sum(1) / (gradient * wanted).sum(1)
    assert lost.abs().max() < 1e-3
    assert (found - wanted).norm() < 3e-2 * wanted.norm()


@pytest.mark.parametrize("solver", [FactorisedSolver, IterativeSolver])
def test_an_indefinite_curvature_is_seen(solver: type) -> None:
    curvature = curvature_of(newton=False)
    one = (torch.arange(CHANNELS) == 3).double()[:, None]
    bent = dataclasses.replace(curvature, share=curvature.share + 1e3 * one)
    gradient = torch.ones(CHANNELS, UNKNOWNS).double()
    shift = torch.ones(CHANNELS).double()
    if solver is FactorisedSolver:
        made = FactorisedSolver(bent.matrices(WeightedSquares(bent.design)))
    else:
        made = IterativeSolver.of(bent)
    step, sound = made.damp(shift).step(gradient)
    assert sound.tolist() == [number != 3 for number in range(CHANNELS)]
    # No step leads upwards.
    assert (-(gradient * step).sum(1) >= 0).all()


@pytest.mark.parametrize("solver", [FactorisedSolver, IterativeSolver])
def test_few_axes_hold_the_whole_step(monkeypatch: pytest.MonkeyPatch, solver: type) -> None:
    items, positions = 2, 9
    if solver is IterativeSolver:
        monkeypatch.setattr(curvature_module, "FEW", items * positions)
    curvature = curvature_of(items, positions, newton=False)
    seen = items * positions
    unknowns = torch.randn(CHANNELS, UNKNOWNS, generator=torch.Generator().manual_seed(3)).double()
    # A gradient as the loss has it: of the seen axes, the pulls and the unknowns.
    gradient = 0.7 * curvature.pull[0] - 0.2 * curvature.pull[1] + 0.5 * unknowns
    gradient[:, :seen] += 1
    shift = torch.linspace(1, 5, CHANNELS).double()
    exact = FactorisedSolver(curvature.matrices(WeightedSquares(curvature.design))).damp(shift)
    wanted, _ = exact.step(gradient)
    reduced = ReducedSolver.of(curvature, unknowns, see(curvature.design, seen, items + 1))
    assert isinstance(reduced.inner, solver)
    assert reduced.basis.shape[1] == items + 1
    assert seen + items + 1 < UNKNOWNS
    found, sound = reduced.damp(shift).step(gradient)
    assert sound.all()
    assert (found - wanted).norm() < 3e-2 * wanted.norm()
    # Where the unknowns are zero, they span nothing, and the rest is as before.
    start = ReducedSolver.of(curvature, 0 * unknowns, see(curvature.design, seen, items + 1))
    gradient -= 0.5 * unknowns
    gradient[:, :seen] += 0.5 * unknowns[:, :seen]
    wanted, _ = exact.step(gradient)
    found, _ = start.damp(shift).step(gradient)
    assert (found - wanted).norm() < 3e-2 * wanted.norm()


def test_few_axes_have_their_part_of_newtons_curvature() -> None:
    items, positions = 2, 9
    curvature, seen = curvature_of(items, positions), items * positions
    unknowns = torch.randn(CHANNELS, UNKNOWNS, generator=torch.Generator().manual_seed(3)).double()
    reduced = ReducedSolver.of(curvature, unknowns, see(curvature.design, seen, items + 1))
    own = torch.eye(seen, UNKNOWNS).double().expand(CHANNELS, -1, -1)
    axes = torch.cat([own, torch.nn.functional.pad(reduced.basis, (seen, 0))], 1)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(axes.shape[1]).double().expand(7, -1, -1))
    assert isinstance(reduced.inner, FactorisedSolver)
    wanted = axes @ matrices_of(curvature) @ axes.mT
    torch.testing.assert_close(reduced.inner.curvatures, wanted, rtol=1e-9, atol=1e-9)
    # The part of Newton's method is in it, of seen and of hidden axes.
    without = (
        axes @ matrices_of(dataclasses.replace(curvature, share=0 * curvature.share)) @ axes.mT
    )
    assert (wanted - without)[:, :seen, seen:].norm() > 0.1 * without.norm()


@pytest.mark.parametrize("rows", [4, 30])
def test_columns_are_orthogonal_in_aligned_axes(rows: int) -> None:
    given = torch.randn(rows, 12, generator=torch.Generator().manual_seed(rows)).double()
    # One more row that the others span, so that even fewer axes are seen.
    given = torch.cat([given, given[:1] + given[1:2]])
    axes = align(given)
    torch.testing.assert_close(axes @ axes.T, torch.eye(12).double())
    products = axes.T @ given.T @ given @ axes
    lengths = products.diagonal()
    torch.testing.assert_close(products, torch.diag(lengths), rtol=0, atol=1e-9)
    assert (lengths.diff() < 1e-9).all()
    assert (lengths[rows:].abs() < 1e-9).all()
    assert (given.T @ given - products).norm() > 1
