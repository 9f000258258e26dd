"""Kinds of images that examples of both tell apart: those that must stay, and those to change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 0.1
"""What is added to the diagonal of the products of examples, as a share of its mean."""


@dataclass(frozen=True)
class Kind:
    """A linear classifier of items by their numbers, from examples of two kinds.

    Attributes
    ----------
    slope
        What each number adds to the score of an item, [f] float64.
    offset
        The score of an item of zeros.
    least
        The score from which on an item is said to be of the first kind: half of the examples of
        that kind have it, each scored by the regression on all others.
    """

    slope: Tensor
    offset: float
    least: float

    @staticmethod
    def learn(ones: Tensor, others: Tensor) -> Kind:
        """Learn to tell items `ones` [n, f] from `others` [m, f], by ridge regression."""
        examples = torch.cat([ones, others]).double()
        wanted = torch.cat([torch.ones(len(ones)), -torch.ones(len(others))]).double()
        middle, mean = examples.mean(0), wanted.mean()
        centred = examples - middle
        products = centred @ centred.T
        ridge = RIDGE * products.diagonal().mean()
        inverse = torch.linalg.inv(products + ridge * torch.eye(len(products)).to(products))
        shares = inverse @ (wanted - mean)
        # What the regression on all other examples makes of each, in closed form.
        left_out = wanted - shares / inverse.diagonal()
        slope = centred.T @ shares
        return Kind(slope, float(mean - slope @ middle), float(left_out[: len(ones)].median()))

    def contains(self, items: Tensor) -> Tensor:
        """Tell which items [n, f] are of the first kind, [n] of truth values."""
        return items.double() @ self.slope + self.offset >= self.least
