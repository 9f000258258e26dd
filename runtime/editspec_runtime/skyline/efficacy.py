"""How well an edited generator draws what the perfect edit would have made of every scene."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.generator import Generator
from editspec_runtime.skyline.world import Scene, changed, render


@torch.no_grad()
def drawn(generator: Generator, latents: Tensor) -> Tensor:
    """The generator's pictures of `latents`, clamped to -1..1 as a picture file would clamp them."""
    return torch.cat([generator.images(batch).clamp(-1, 1) for batch in torch.split(latents, 16)])


def edit_numbers(original: Scene, counterfactual: Scene, unedited: Tensor, edited: Tensor) -> dict[str, float]:
    """Compare edited pictures with the exact counterfactuals.

    Parameters
    ----------
    original, counterfactual
        n scenes, and the same as the perfect edit would have made them.
    unedited, edited
        The pictures [n, 3, 64, 64] of the model before and after the edit.

    Returns
    -------
    dict[str, float]
        ``efficacy``: of the pixels in which the counterfactual render differs from the original render by more than
        0.1 (mean |RGB|), the share in which the edited picture is closer to the counterfactual render; ``unmodified``:
        the same share of the unedited pictures; ``outside``: mean |edited - unedited| over all other pixels;
        ``distance``: mean |edited - counterfactual render| over the pixels that differ; ``pixels``: their share.
    """
    before, after = render(original), render(counterfactual)
    differs = changed(before, after)

    def closer(pictures: Tensor) -> float:
        nearer = (pictures - after).abs().mean(1) < (pictures - before).abs().mean(1)
        return nearer[differs].float().mean().item()

    return {
        "efficacy": closer(edited),
        "unmodified": closer(unedited),
        "outside": (edited - unedited).abs().mean(1)[~differs].mean().item(),
        "distance": (edited - after).abs().mean(1)[differs].mean().item(),
        "pixels": differs.float().mean().item(),
    }
