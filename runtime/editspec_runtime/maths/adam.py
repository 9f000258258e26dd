"""Adam (Kingma and Ba, 2015), by the step of torch's own optimiser."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam over some tensors, from the gradients that they have.

    The numbers are those of ``torch.optim.Adam(tensors, lr=rate, fused=True)``. Its first step
    imports the compiler of torch, which takes the larger part of a second of every process, and its
    steps take twice as long on small tensors.

    Parameters
    ----------
    tensors
        What is changed, in place; each lies in memory as its gradients do.
    rate
        The learning rate.
    """

    def __init__(self, tensors: Iterable[Tensor], rate: float) -> None:
        self.tensors = list(tensors)
        self.rate = rate
        self.means = [torch.zeros_like(tensor) for tensor in self.tensors]
        self.squares = [torch.zeros_like(tensor) for tensor in self.tensors]
        self.steps = [torch.zeros((), device=tensor.device) for tensor in self.tensors]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for tensor in self.tensors:
            tensor.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step of all tensors that have a gradient."""
        columns: tuple[list[Tensor], ...] = ([], [], [], [], [])
        for row in zip(self.tensors, self.means, self.squares, self.steps, strict=True):
            if row[0].grad is not None:
                for column, part in zip(columns, (row[0], row[0].grad, *row[1:]), strict=True):
                    column.append(part)
        tensors, gradients, means, squares, steps = columns
        adam(
            tensors,
            gradients,
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
