"""The yardstick: the paper's own way to solve a rule of StyleGAN2, as a plain loop.

2001 steps of Adam on the whole weight, the change projected into the directions every ten steps and
at the end, the demodulation from one kernel per image, the last iterate returned: what the authors'
code does, step by step, with nothing taken from our solvers. Under ``compatibility:
rewriting-2020`` ``projected-gradient`` gives the same change; ``tests/benchmarks`` holds both
against each other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.rule import LayerRule
from editspec_runtime.families.stylegan2.functions import (
    GAIN,
    SLOPE,
    StyledConvolution,
    filter_channels,
)


def value_of(function: StyledConvolution, rule: LayerRule, weight: Tensor) -> Tensor:
    """f(K*; W) of a haloed key: convolution, demodulation by a kernel [n, out, in, 3, 3] of each
    image, the rest.
    """
    kernel = weight * (1 / math.sqrt(weight[0, 0].numel()))
    if function.blur is None:
        value = F.conv2d(rule.key, kernel[0])
    else:
        wide = F.conv_transpose2d(rule.key, kernel[0].transpose(0, 1), stride=2, padding=1)
        value = filter_channels(wide, function.blur, padding=0)
    modulated = kernel * rule.arguments["style"][:, None, :, None, None]
    value = value * torch.rsqrt(modulated.square().sum((2, 3, 4)) + 1e-8)[:, :, None, None]
    value = value + function.strength * rule.arguments["noise"] + function.bias[:, None, None]
    return F.leaky_relu(value, SLOPE) * GAIN


def projected(change: Tensor, directions: Tensor) -> Tensor:
    """A change [1, out, in, 3, 3] of a weight, projected at every tap into the span of D [s,
    in].
    """
    rows = change.permute(0, 1, 3, 4, 2)
    return (rows @ directions.T @ directions).permute(0, 1, 4, 2, 3)


def solve(
    function: StyledConvolution, weight: Tensor, rule: LayerRule, settings: Any, directions: Tensor
) -> Tensor:
    """W - W0 after the last step and its projection, [1, out, in, 3, 3]; steps and rate are those
    of projected gradient descent's `settings`.
    """
    free = weight.clone().requires_grad_()
    adam = torch.optim.Adam([free], lr=settings.learning_rate)
    for step in range(settings.steps):
        adam.zero_grad()
        loss = (rule.value - value_of(function, rule, free)).abs().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if step % settings.project_every == 0 or step == settings.steps - 1:
            with torch.no_grad():
                free.copy_(weight + projected(free - weight, directions))
    return (free - weight).detach()
