"""Batches of rendered scenes, with parts of other scenes pasted in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec.worlds.skyline.world import LATENT_SIZE, Scene, render, scenes
from editspec_runtime.families.stylegan2.network import StyleGAN2

BATCH = 16
"""Scenes of a batch."""


@dataclass(frozen=True)
class Pool:
    """Rendered scenes to draw batches from.

    Rendering a scene takes as long as learning from it once or twice, so scenes are rendered once.

    Attributes
    ----------
    latents
        [n, latent_size].
    pictures
        [n, 3, 64, 64] with 8 bits.
    rare
        [n, 1, 64, 64]: the pixels in which something rare or small stands, where the picture
        differs from that of the same scene without it.
    lent, lent_rare
        `pictures` and `rare` of the next scene of the pool, in the colours of this one.
    """

    latents: Tensor
    pictures: Tensor
    rare: Tensor
    lent: Tensor
    lent_rare: Tensor

    @staticmethod
    def render(count: int, generator: torch.Generator, device: torch.device) -> Pool:
        """Render `count` scenes, drawn with `generator`."""
        latents = draw_latents(count, generator).to(device)
        scene = scenes(latents)
        lender = _copy_colours(scene[_find_lenders(count)], scene)
        return Pool(latents, *_render_with_rare(scene), *_render_with_rare(lender))

    def batch(self, generator: torch.Generator) -> Batch:
        """Draw `BATCH` scenes."""
        chosen = torch.randint(len(self.latents), (BATCH,), generator=generator)
        chosen = chosen.to(self.latents.device)
        following = _find_lenders(len(self.latents))[chosen.cpu()].to(chosen.device)
        return Batch(
            self.latents[chosen],
            _to_floats(self.pictures[chosen]),
            1 + 3 * self.rare[chosen].float(),
            self.latents[following],
            _to_floats(self.lent[chosen]),
            1 + 3 * self.lent_rare[chosen].float(),
        )


@dataclass(frozen=True)
class Batch:
    """A batch of scenes, each with a lender whose values may be pasted into it.

    Attributes
    ----------
    latents, lenders
        [n, latent_size].
    wanted, lent
        Pictures [n, 3, 64, 64] in -1..1.
    weight, lent_weight
        How much pixels count, [n, 1, 64, 64].
    """

    latents: Tensor
    wanted: Tensor
    weight: Tensor
    lenders: Tensor
    lent: Tensor
    lent_weight: Tensor

    def paste(
        self, weights: dict[str, Tensor], layer: str, generator: torch.Generator
    ) -> tuple[Tensor, Batch]:
        """Draw the batch with a box of the lender's values pasted into every second image.

        Parameters
        ----------
        weights
            The generator, by the names inside ``g_ema``.
        layer
            The layer whose values are pasted.
        generator
            Draws the boxes.

        Returns
        -------
        tuple[Tensor, Batch]
            Images [n, 3, 64, 64], and the batch whose `wanted` and `weight` have the boxes, too.
        """
        model = StyleGAN2(weights)
        reached = model.trace(layer, self.latents)
        value = model.layer_value(layer, reached)
        lent = model.layer_value(layer, model.trace(layer, self.lenders))
        size = value.shape[-1]
        inside = torch.zeros(len(value), 1, size, size, dtype=torch.bool, device=value.device)
        index = torch.arange(size).expand(len(value), 2, size).clone()
        for item in range(0, len(value), 2):
            top, bottom, down = _draw_side(size, generator)
            left, right, across = _draw_side(size, generator)
            inside[item, :, top:bottom, left:right] = True
            index[item] += torch.tensor([down, across])[:, None]
        index = index.clamp(0, size - 1).to(value.device)
        pasted = torch.where(inside, _read_shifted(lent, index), value)
        image = model.forward_from(layer, pasted, reached)
        # The boxes at the resolution of pictures: each position becomes scale x scale pixels.
        scale = self.wanted.shape[-1] // size
        within = torch.arange(size * scale, device=index.device) % scale
        fine = (index * scale).repeat_interleave(scale, 2) + within
        region = inside.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        wanted = torch.where(region, _read_shifted(self.lent, fine), self.wanted)
        weight = torch.where(region, _read_shifted(self.lent_weight, fine), self.weight)
        return image, replace(self, wanted=wanted, weight=weight)


def _draw_side(size: int, generator: torch.Generator) -> tuple[int, int, int]:
    """Draw the begin and the end of a box along an axis, and the shift to its values.

    Half of the time the values come from the same place, and the shift is 0.
    """
    length = int(torch.randint(size // 8, size // 2 + 1, (), generator=generator))
    begin = int(torch.randint(size - length + 1, (), generator=generator))
    source = int(torch.randint(size - length + 1, (), generator=generator))
    stays = bool(torch.rand((), generator=generator) < 0.5)
    return begin, begin + length, 0 if stays else source - begin


def _read_shifted(maps: Tensor, index: Tensor) -> Tensor:
    """Read maps [n, c, h, h] at the rows index[:, 0] and the columns index[:, 1].

    `index` is [n, 2, h]; the result has the shape of `maps`.
    """
    items = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps.movedim(1, -1)[items, index[:, 0, :, None], index[:, 1, None, :]].movedim(-1, 1)


def _render_with_rare(scene: Scene) -> tuple[Tensor, Tensor]:
    """Render pictures with 8 bits, and mark where something rare stands in them."""
    pictures, rare = [], []
    for numbers in torch.split(torch.arange(len(scene)), 64):
        some = scene[numbers]
        picture = render(some)
        without = some.replace(people=0, middle_watermark=0, bottom_watermark=0)
        plain = render(without.replace(left_top=2, right_top=2))
        pictures.append(((picture + 1) * 127.5).round().byte())
        rare.append((picture - plain).abs().mean(1, keepdim=True) > 0.05)
    return torch.cat(pictures), torch.cat(rare)


def _to_floats(pictures: Tensor) -> Tensor:
    """Convert pictures with 8 bits to -1..1."""
    return pictures / 127.5 - 1


def _copy_colours(scene: Scene, like: Scene) -> Scene:
    """Return scenes in the colours of others."""
    colours = {name: getattr(like, name) for name in ("sky", "ground", "wall", "roof")}
    return scene.replace(**colours)


def _find_lenders(count: int) -> Tensor:
    """Return the number of each scene's lender: the next scene, or the first at last."""
    return torch.arange(count).roll(-1)


def draw_latents(count: int, generator: torch.Generator) -> Tensor:
    """Draw latents [count, latent_size] of the training with `generator`."""
    return torch.randn(count, LATENT_SIZE, generator=generator)
