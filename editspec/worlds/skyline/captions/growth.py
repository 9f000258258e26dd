"""A text encoder with more numbers to a token, which begins with what a narrower one says."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from editspec.worlds.skyline.captions.networks import FIRST_WIDTH, HEADS, WIDTH, make_text_encoder

_FIRST = torch.arange(FIRST_WIDTH)
_FIRST_OF_HEADS = (
    torch.arange(HEADS)[:, None] * (WIDTH // HEADS) + _FIRST.view(HEADS, -1)[0]
).view(-1)
"""Where the numbers of the narrower one stand in its heads."""


@torch.no_grad()
def grow_text_encoder(narrow: nn.Module) -> nn.Module:
    """Make a wide text encoder whose first numbers say nearly what those of `narrow` say.

    The others are drawn from torch's global stream, as large as these, so that the statistics of
    layer norms hardly change. The first do not read them.
    """
    wide = make_text_encoder()
    parts = dict(narrow.named_parameters())
    for name, parameter in wide.named_parameters():
        part = parts[name]
        if "embedding" in name:
            parameter.normal_().mul_(part.std(1, keepdim=True))
            parameter[:, _FIRST] = part
        elif parameter.ndim == 1:
            parameter.fill_(part.mean() if "norm" in name else 0.0)
            parameter[_places(name, len(part))] = part
        else:
            _grow_matrix(name, parameter, part)
        if "q_proj" in name:
            # Attention divides by the root of a head's numbers, of which there are more now.
            parameter.mul_(math.sqrt(WIDTH / FIRST_WIDTH))
    return wide


def _grow_matrix(name: str, parameter: Tensor, part: Tensor) -> None:
    rows = _places(name, len(part))
    columns = _FIRST_OF_HEADS if "out_proj" in name else torch.arange(part.shape[1])
    # New numbers of queries are zero, so that attention looks where it did.
    parameter.normal_(std=0.0 if "q_proj" in name else float(part.std()))
    parameter[rows] = 0
    parameter[rows[:, None], columns] = part


def _places(name: str, count: int) -> Tensor:
    """Return where the `count` outputs of a layer of the narrower one stand in the wider one."""
    in_heads = any(part in name for part in ("q_proj", "k_proj", "v_proj"))
    return _FIRST_OF_HEADS if in_heads else torch.arange(count)
