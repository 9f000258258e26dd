"""Products of the columns of a design, weighted position by position."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 2**22
"""The amount of numbers in a block of products of the design, which limits the memory."""


@dataclass(frozen=True)
class WeightedSquares:
    """The products design^T diag(w) design for many weights w of the positions.

    The products of the columns of the design are computed once, if they fit into one block.

    Attributes
    ----------
    design
        The design, [J, P, n].
    """

    design: Tensor

    def weigh(self, weight: Tensor) -> Tensor:
        """Compute the products [O, n, n] for weights [J, O, P], summed over the items."""
        count = self.design.shape[2]
        rows, columns = self.triangle
        total = weight.new_zeros(weight.shape[1], len(rows))
        for part, pairs in zip(torch.split(weight, self.block, 2), self.pairs(), strict=True):
            total += (part @ pairs).sum(0)
        whole = weight.new_empty(len(total), count**2)
        for places in (rows * count + columns, columns * count + rows):
            whole.index_copy_(1, places, total)
        return whole.view(-1, count, count)

    def pairs(self) -> Iterable[Tensor]:
        """The products of every two columns of the design, block by block of positions.

        A block of p positions is [J, p, n * (n + 1) / 2].
        """
        blocks = torch.split(self.design, self.block, 1)
        if len(blocks) == 1:
            return self.kept_pairs
        rows, columns = self.triangle
        return (seen[..., rows] * seen[..., columns] for seen in blocks)

    @cached_property
    def kept_pairs(self) -> tuple[Tensor, ...]:
        """The products of every two columns, if all positions are one block."""
        rows, columns = self.triangle
        return (self.design[..., rows] * self.design[..., columns],)

    @cached_property
    def triangle(self) -> Tensor:
        """The rows and columns of the upper triangle of a matrix [n, n]."""
        return torch.triu_indices(
            self.design.shape[2], self.design.shape[2], device=self.design.device
        )

    @property
    def block(self) -> int:
        """The number of positions in a block."""
        return max(1, BLOCK // self.triangle.shape[1])
