"""The losses of the stages: attributes in w, then images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.worlds.skyline.training.batches import Pool, draw_latents
from editspec.worlds.skyline.training.stages import Stage
from editspec.worlds.skyline.world import TOPS, Scene, scenes
from editspec_runtime.families.stylegan2.network import StyleGAN2

PASTED = ("layer6", "layer7", "layer8")
"""The layers into whose values those of another image are pasted; one of them a step."""


def attribute_loss(weights: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Compute the squared error of w against the attributes, and 0 in the rest."""
    latents = draw_latents(1024, generator).to(weights["input.input"].device)
    styles, wanted = StyleGAN2(weights).mapping(latents), _attributes(scenes(latents))
    found, rest = styles[:, : wanted.shape[1]], styles[:, wanted.shape[1] :]
    return F.mse_loss(found, wanted) + rest.square().mean()


def image_loss(
    weights: dict[str, Tensor],
    stage: Stage,
    pool: Pool,
    generator: torch.Generator,
    *,
    plain: bool = False,
) -> Tensor:
    """Compute the error of pictures and of their gradients.

    The error is squared where ``stage.sharp`` is 0, absolute where it is 1, and mixed in between.
    Nothing is pasted where `plain`.
    """
    batch = pool.batch(generator)
    with torch.autocast(batch.latents.device.type, dtype=torch.bfloat16, enabled=stage.half):
        if plain:
            drawn = StyleGAN2(weights).outputs(batch.latents)
        else:
            layer = PASTED[int(torch.randint(len(PASTED), (), generator=generator))]
            drawn, batch = batch.paste(weights, layer, generator)
    drawn, wanted, weight = drawn.float(), batch.wanted, batch.weight
    sharp = stage.sharp
    loss = torch.zeros((), device=drawn.device)
    for order in (_identity, _difference_across, _difference_down):
        error = order(drawn) - order(wanted)
        scale = weight if order is _identity else 1.0
        if sharp < 1.0:
            loss = loss + (1 - sharp) * 4 * (scale * error.square()).mean()
        if sharp > 0.0:
            share = 1.0 if order is _identity else 0.5
            loss = loss + sharp * (scale * error.abs()).mean() * share
    return loss


def _identity(image: Tensor) -> Tensor:
    return image


def _difference_across(image: Tensor) -> Tensor:
    return image[..., 1:] - image[..., :-1]


def _difference_down(image: Tensor) -> Tensor:
    return image[..., 1:, :] - image[..., :-1, :]


def _attributes(scene: Scene) -> Tensor:
    """Convert attributes to numbers around 0, [n, m]; those of absent objects are 0."""
    people = scene.people.float()
    trees = (scene.left_tree | scene.right_tree).float()
    columns = [
        2 * getattr(scene, name) - 1 for name in ("sky", "sun_height", "ground", "wall", "roof")
    ]
    columns += [
        2 * scene.left_height - 1,
        2 * scene.right_height - 1,
        trees * (2 * scene.ground - 1),
    ]
    columns += [(scene.sun_site == site).float() for site in range(3)]
    for name in ("left_top", "right_top"):
        columns += [(getattr(scene, name) == kind).float() * 2 for kind in range(len(TOPS) - 1)]
    flags = ("windows_lit", "left_tree", "right_tree", "middle_watermark", "bottom_watermark")
    columns += [2 * getattr(scene, name).float() - 1 for name in flags]
    columns += [people * (scene.people_site == site).float() * 2 for site in range(2)]
    return torch.stack(columns, 1)
