"""The text encoders of a model, computed by the library that made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.diffusion.config import EncoderConfig
from editspec_runtime.io.extra_registry import load_extra

EXTRA, LIBRARY = "diffusion", "transformers"

OWN = "text_model."
"""What some versions of the library put before the names of a text encoder."""


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder.

    Attributes
    ----------
    name
        Its folder.
    module
        The module of the library, with the weights of the model.
    penultimate
        Whether the states before its last block are taken. If not, those behind its last norm are.
    """

    name: str
    module: Any
    penultimate: bool

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Compute what it gives for tokens [n, positions]: [n, positions, width]."""
        if not self.penultimate:
            found: Tensor = self.module(tokens).last_hidden_state
            return found
        states: Tensor = self.module(tokens, output_hidden_states=True).hidden_states[-2]
        return states


def make_encoder(
    config: EncoderConfig, weights: Mapping[str, Tensor], *, penultimate: bool
) -> TextEncoder:
    """Make a text encoder around the tensors of a model.

    Raises
    ------
    UsageError
        The library is not installed.
    WeightsError
        Tensors are missing.
    """
    library = load_extra(EXTRA, package=LIBRARY)
    own = {}
    for name, tensor in weights.items():
        if name.startswith(f"{config.name}/"):
            own[name.removeprefix(f"{config.name}/").removeprefix(OWN)] = tensor
    settings = library.CLIPTextConfig.from_dict(dict(config.content), attn_implementation="sdpa")
    with torch.device("meta"):
        module = library.CLIPTextModel(settings)
    expected = {name.removeprefix(OWN): name for name, _ in module.named_parameters()}
    missing = sorted(set(expected) - set(own))
    if missing:
        raise WeightsError(
            f"The weights of {config.name} lack {', '.join(missing[:4])}.",
            "Get the whole folder of the model again.",
        )
    device = next(iter(own.values())).device
    for name, buffer in module.named_buffers():
        holder = module.get_submodule(name.rpartition(".")[0])
        holder.register_buffer(name.rpartition(".")[2], _make_buffer(buffer, device), False)
    state = {whole: own[name] for name, whole in expected.items()}
    module.load_state_dict(state, strict=False, assign=True)
    return TextEncoder(config.name, module.eval(), penultimate)


def _make_buffer(buffer: Tensor, device: torch.device) -> Tensor:
    """Make a buffer of the library, which holds the numbers of positions."""
    assert not buffer.is_floating_point()
    return torch.arange(buffer.numel(), device=device).view(buffer.shape)
