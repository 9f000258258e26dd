"""Adam on the weight, projected into the directions (paper section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.core.model import ByChannels
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.low_rank import coefficients_of, delta
from editspec_runtime.maths.parallel import Threads, count_threads
from editspec_runtime.methods.layer_problem import LayerProblem, solve_in_directions
from editspec_runtime.methods.losses import Best, require_finite

CHANNELS = 256
"""The number of output channels that one thread computes until the next projection.

The steps of fewer channels take longer to begin than to compute.
"""


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit, one after the other.

    Raises `NumericalError` as `solve_each` does.
    """
    return solve_in_directions(problem, find_coefficients)


def find_coefficients(problem: LayerProblem, directions: Tensor) -> Tensor:
    """Find A of the change W - W0 = A D by projected Adam on W.

    W is projected into W0 + A D after the first step, after every `project_every` steps and after
    the last step. Adam's state is not projected. Both are as in the paper's experiments.

    Output channels that do not depend on one another meet only where the loss is added up, which is
    where W was projected. So blocks of them are computed at once.

    Parameters
    ----------
    problem
        The rule and its layer.
    directions
        D [s, in], orthonormal rows, in the precision of the weight.

    Returns
    -------
    Tensor
        A, in the shape of the weight with s in place of in.
    """
    settings = problem.settings
    blocks = _make_blocks(problem, directions)
    axis = _output_axis(problem.weight)
    best = Best()
    with Threads(min(count_threads(), len(blocks))) as threads:
        for steps in _rounds(settings.steps, settings.project_every):
            # Only a weight that was just projected satisfies the constraint.
            coefficients = torch.cat([block.coefficients for block in blocks], axis)
            shares = list(threads.map(partial(_Block.descend, steps=len(steps)), blocks))
            loss = torch.stack(shares).sum()
            best.offer(require_finite(loss, steps.start, problem.on_loss), coefficients)
            problem.progress(steps.stop, settings.steps)
        shares = list(threads.map(_Block.measure, blocks))
    coefficients = torch.cat([block.coefficients for block in blocks], axis)
    loss = torch.stack(shares).sum()
    best.offer(require_finite(loss, settings.steps, problem.on_loss), coefficients)
    return best.iterate if problem.compatibility.keep_best else coefficients


class _Block:
    """A block of output channels of the weight, from projection to projection.

    Parameters
    ----------
    problem, directions
        As in `find_coefficients`.
    answer
        The values of channels as a function of their weight and their place.
    channels
        The place of these channels among all.

    Attributes
    ----------
    coefficients
        The rows of A of these channels, in the last projection.
    """

    def __init__(
        self,
        problem: LayerProblem,
        directions: Tensor,
        answer: Callable[[Tensor, slice], Tensor],
        channels: slice,
    ) -> None:
        axis = _output_axis(problem.weight)
        places = [slice(None)] * axis + [channels]
        self.answer, self.channels, self.directions = answer, channels, directions
        self.value, self.count = problem.rule.value[:, channels], problem.rule.value.numel()
        self.weight = problem.weight[tuple(places)]
        self.free = self.weight.clone().requires_grad_()
        self.adam = Adam([self.free], problem.learning_rate)
        self.project_gradient = problem.settings.project_gradient
        self.coefficients = coefficients_of(torch.zeros_like(self.weight), directions)

    def descend(self, steps: int) -> Tensor:
        """Take some steps and project; return the share in the loss before the first of them."""
        first = self.free.new_zeros(())
        for step in range(steps):
            self.adam.zero_grad()
            loss = self._loss()
            if step == 0:
                first = loss.detach()
            loss.backward()  # type: ignore[no-untyped-call]
            if self.project_gradient:
                assert self.free.grad is not None
                kept = coefficients_of(self.free.grad, self.directions)
                self.free.grad.copy_(delta(kept, self.directions))
            self.adam.step()
        with torch.no_grad():
            self.coefficients = coefficients_of(self.free - self.weight, self.directions)
            self.free.copy_(self.weight + delta(self.coefficients, self.directions))
        return first

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Compute the share in the loss."""
        return self._loss()

    def _loss(self) -> Tensor:
        return (self.value - self.answer(self.free, self.channels)).abs().sum() / self.count


def _make_blocks(problem: LayerProblem, directions: Tensor) -> list[_Block]:
    """Cut the output channels into blocks, or take all as one where they may not be cut.

    The channels of a GPU are one block, as it computes all of them at once.
    """
    rule, function, weight = problem.rule, problem.function, problem.weight
    if weight.is_cuda or not isinstance(function, ByChannels):
        whole = function.with_key(rule.key, rule.arguments)
        return [_Block(problem, directions, lambda weight, _: whole(weight), slice(None))]
    answer = function.with_key_by_channels(rule.key, rule.arguments)
    blocks = []
    for start in range(0, weight.shape[_output_axis(weight)], CHANNELS):
        channels = slice(start, start + CHANNELS)
        blocks.append(_Block(problem, directions, answer, channels))
    return blocks


def _output_axis(weight: Tensor) -> int:
    """The axis of the outputs: some weights have an axis of length 1 before it."""
    return 1 if weight.ndim == 5 else 0


def _rounds(steps: int, every: int) -> Iterator[range]:
    """Yield the steps from one projection to the next.

    Steps count from 0: the first one is projected, as in the authors' code.
    """
    start = 0
    while start < steps:
        stop = min(1 if start == 0 else start + every, steps)
        yield range(start, stop)
        start = stop
