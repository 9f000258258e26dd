"""Products of the columns of a design, weighted position by position."""

from __future__ import annotations

from collections.abc import Iterator
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
        parts = torch.split(weight.transpose(0, 1).flatten(1), self.block, 1)
        products = (part @ pairs for part, pairs in zip(parts, self.pairs(), strict=True))
        total = next(products)
        for product in products:
            total += product
        return total.view(len(total), *2 * self.design.shape[2:])

    def pairs(self) -> Iterator[Tensor]:
        """Yield the products of every two columns of the design, block by block of rows.

        A block of p rows is [p, n * n]. Both triangles are in it: to fill one in from the other
        takes longer than the products.
        """
        blocks = torch.split(self.design.flatten(0, 1), self.block)
        if len(blocks) == 1:
            yield self.kept_pairs
            return
        for rows in blocks:
            yield _multiply_columns(rows)

    @cached_property
    def kept_pairs(self) -> Tensor:
        """The products of every two columns, if all rows are one block."""
        return _multiply_columns(self.design.flatten(0, 1))

    @property
    def block(self) -> int:
        """The number of rows of the design in a block."""
        return max(1, BLOCK // self.design.shape[2] ** 2)


def _multiply_columns(rows: Tensor) -> Tensor:
    """Multiply every two columns of rows [p, n], [p, n * n]."""
    return (rows[:, :, None] * rows[:, None]).flatten(1)
