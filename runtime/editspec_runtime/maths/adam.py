"""Adam (Kingma and Ba, 2015), by the step of torch's own optimiser."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam on some tensors, from the gradients that are stored at them.

    The numbers are those of ``torch.optim.Adam(tensors, lr=rate, fused=True)``. That class is not
    used because its first step imports the compiler of torch, which takes most of a second in every
    process, and because its steps take twice as long on small tensors.

    Parameters
    ----------
    tensors
        The tensors, which are changed in place. Each needs the memory layout of its gradients.
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
        """Take one step of all tensors that have a gradient."""
        tensors, gradients, means, squares, steps = [], [], [], [], []
        for number, tensor in enumerate(self.tensors):
            if tensor.grad is None:
                continue
            tensors.append(tensor)
            gradients.append(tensor.grad)
            means.append(self.means[number])
            squares.append(self.squares[number])
            steps.append(self.steps[number])
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
