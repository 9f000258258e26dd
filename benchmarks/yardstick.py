"""The yardstick: the paper's own way to solve a rule, as a plain loop.

The loop does step by step what the authors' code does for StyleGAN2, and shares no code with our
solvers: 2001 steps of Adam on the whole weight, the change projected into the directions every ten
steps and at the end, the demodulation from one kernel per image, and the last iterate as the
result. Under ``compatibility: rewriting-2020``, ``projected-gradient`` gives the same change, which
``tests/benchmarks`` verifies.
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


def compute_value(function: StyledConvolution, rule: LayerRule, weight: Tensor) -> Tensor:
    """Compute the layer's value f(K*; W) of the rule's haloed key.

    Takes a weight [1, out, in, 3, 3] and gives values [n, out, height, width]. The demodulation is
    computed from a kernel [n, out, in, 3, 3] per image (StyleGAN2, Karras et al. 2020, eq. 3).
    """
    kernel = weight * (1 / math.sqrt(weight[0, 0].numel()))
    if function.blur is None:
        value = F.conv2d(rule.key, kernel[0])
    else:
        # A layer that doubles the resolution convolves by the transpose, and blurs.
        wide = F.conv_transpose2d(rule.key, kernel[0].transpose(0, 1), stride=2, padding=1)
        value = filter_channels(wide, function.blur, padding=0)
    modulated = kernel * rule.arguments["style"][:, None, :, None, None]
    value = value * torch.rsqrt(modulated.square().sum((2, 3, 4)) + 1e-8)[:, :, None, None]
    value = value + function.strength * rule.arguments["noise"] + function.bias[:, None, None]
    return F.leaky_relu(value, SLOPE) * GAIN


def project(change: Tensor, directions: Tensor) -> Tensor:
    """Project a change [1, out, in, 3, 3] at every tap into the span of D [s, in]."""
    rows = change.permute(0, 1, 3, 4, 2)
    return (rows @ directions.T @ directions).permute(0, 1, 4, 2, 3)


def solve(
    function: StyledConvolution, weight: Tensor, rule: LayerRule, settings: Any, directions: Tensor
) -> Tensor:
    """Solve a rule; return W - W0 [1, out, in, 3, 3] after the last projection.

    Steps and rate are those of `settings`, the settings of ``projected-gradient``.
    """
    free = weight.clone().requires_grad_()
    adam = torch.optim.Adam([free], lr=settings.learning_rate)
    for step in range(settings.steps):
        adam.zero_grad()
        # The mean absolute difference, as in the code of the authors.
        loss = (rule.value - compute_value(function, rule, free)).abs().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if step % settings.project_every == 0 or step == settings.steps - 1:
            with torch.no_grad():
                free.copy_(weight + project(free - weight, directions))
    return (free - weight).detach()
