"""The networks of Skyline by prompt while they learn, with their optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editspec.worlds.checkpoints import write_checkpoint
from editspec.worlds.skyline.captions.facts import FACTS
from editspec.worlds.skyline.captions.networks import (
    FIRST_WIDTH,
    join_weights,
    make_text_encoder,
    make_unet,
)

RATE = 8e-4
"""The highest rate of Adam."""

SEED = 100

_ALIGNED = 64
"""Every parameter begins at a multiple of as many numbers, as fast kernels want it."""


class Trainee:
    """The networks while they learn.

    All parameters lie in one row of numbers, so that a step of Adam takes few calls.

    Attributes
    ----------
    unet, text_encoder, hint
        In bfloat16 on a graphics card, else in float32. The hint reads the facts from the words.
    gradient
        Of all parameters, [numbers]; `backward` adds to it.
    weights
        The parameters in float32, which Adam changes, [numbers].
    average
        The moving average of `weights`, [numbers].
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with torch.random.fork_rng():
            # torch's layers draw their first weights from the global stream only.
            torch.manual_seed(SEED)
            unet, text_encoder = make_unet(FIRST_WIDTH), make_text_encoder(FIRST_WIDTH)
            hint = nn.Linear(FIRST_WIDTH, sum(FACTS.values()))
        parameters = _join(unet, text_encoder, hint)
        self._shapes = {name: tensor.shape for name, tensor in parameters.items()}
        size = sum(_pad(tensor.numel()) for tensor in parameters.values())
        self.weights = torch.zeros(size)
        for name, own in self.name_parts(self.weights).items():
            own.copy_(parameters[name].detach())
        self.weights = self.weights.to(device)
        self.average = self.weights.clone()
        self.unet, self.text_encoder = unet.to(device, dtype), text_encoder.to(device, dtype)
        self.hint = hint.to(device, dtype)
        self.gradient = torch.zeros(size, dtype=dtype, device=device)
        self._live = self.weights.to(dtype, copy=True)
        values, gradients = self.name_parts(self._live), self.name_parts(self.gradient)
        for name, parameter in _join(unet, text_encoder, hint).items():
            parameter.data, parameter.grad = values[name], gradients[name]
        self.adam = torch.optim.Adam(
            [self.weights], lr=RATE, betas=(0.9, 0.99), fused=device.type == "cuda"
        )
        self.step = 0
        self.passed = 0.0

    def name_parts(self, row: Tensor) -> dict[str, Tensor]:
        """Return the parts of a row [numbers] by the names of the parameters, as views of it.

        Convolutions lie with their channels last.
        """
        parts, begin = {}, 0
        for name, shape in self._shapes.items():
            part = row[begin : begin + shape.numel()]
            begin += _pad(shape.numel())
            if len(shape) == 4:
                outputs, inputs, height, width = shape
                parts[name] = part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
            else:
                parts[name] = part.view(shape)
        return parts

    def learn(self, rate: float) -> None:
        """Take one step of Adam down the gradient that `backward` has left, and clear it."""
        gradient = self.gradient.float().nan_to_num(0.0, 0.0, 0.0)
        gradient *= (1 / gradient.norm()).clamp(max=1.0)
        self.weights.grad = gradient
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        # Early on the average covers few steps, or the first weights would stay in it.
        keep = min(0.999, self.step / (self.step + 10))
        self.average.lerp_(self.weights, 1 - keep)
        self._live.copy_(self.weights)
        self.gradient.zero_()
        self.step += 1

    def save(self, path: Path) -> None:
        """Write a checkpoint, which replaces the last one in one step."""
        state = {
            "weights": self.weights,
            "average": self.average,
            "adam": self.adam.state_dict(),
            "step": self.step,
            "passed": self.passed,
        }
        write_checkpoint(path, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.weights.copy_(state["weights"])
        self.average.copy_(state["average"])
        self._live.copy_(self.weights)
        self.adam.load_state_dict(state["adam"])
        self.step, self.passed = state["step"], state["passed"]


def _join(unet: nn.Module, text_encoder: nn.Module, hint: nn.Module) -> dict[str, Tensor]:
    own = {f"hint.{name}": tensor for name, tensor in hint.named_parameters()}
    return {**join_weights(unet, text_encoder), **own}


def _pad(numbers: int) -> int:
    return -(-numbers // _ALIGNED) * _ALIGNED
