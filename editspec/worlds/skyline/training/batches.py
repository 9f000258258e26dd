"""Batches of rendered scenes, with parts of other scenes pasted in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec.worlds.skyline.world import LATENT_SIZE, Scene, render, scenes
from editspec_runtime.families.stylegan2.network import StyleGAN2

BATCH = 16


@dataclass(frozen=True)
class Pool:
    """Rendered scenes to draw batches from; rendering them takes as long as learning from them once
    or twice.

    Pictures are kept with 8 bits; `rare` marks the pixels in which something rare or small stands:
    where the picture differs from that of the same scene without it. `lent` and `lent_rare` are
    those of the next scene of the pool in the colours of this one.
    """

    latents: Tensor
    pictures: Tensor
    rare: Tensor
    lent: Tensor
    lent_rare: Tensor

    @staticmethod
    def render(count: int, generator: torch.Generator, device: torch.device) -> Pool:
        """`count` scenes, drawn with `generator`."""
        latents = draw_latents(count, generator).to(device)
        scene = scenes(latents)
        return Pool(
            latents,
            *_render_with_rare(scene),
            *_render_with_rare(_in_colours_of(scene[_following(count)], scene)),
        )

    def batch(self, generator: torch.Generator) -> Batch:
        """`BATCH` scenes."""
        chosen = torch.randint(len(self.latents), (BATCH,), generator=generator).to(
            self.latents.device
        )
        following = _following(len(self.latents))[chosen.cpu()].to(chosen.device)
        return Batch(
            self.latents[chosen],
            _unpack(self.pictures[chosen]),
            1 + 3 * self.rare[chosen].float(),
            self.latents[following],
            _unpack(self.lent[chosen]),
            1 + 3 * self.lent_rare[chosen].float(),
        )


@dataclass(frozen=True)
class Batch:
    """Latents [n, d], pictures [n, 3, 64, 64] in -1..1 and weights of pixels [n, 1, 64, 64]; and
    those of lenders.
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
        """The batch drawn with a box of the lender's values pasted into every second image's, and
        what is wanted.
        """
        model = StyleGAN2(weights)
        reached = model.trace(layer, self.latents)
        value = model.layer_value(layer, reached)
        lent = model.layer_value(layer, model.trace(layer, self.lenders))
        size = value.shape[-1]
        inside = torch.zeros(len(value), 1, size, size, dtype=torch.bool, device=value.device)
        index = torch.arange(size).expand(len(value), 2, size).clone()
        for item in range(0, len(value), 2):
            spans = [_draw_span(size, generator) for _ in range(2)]
            (top, bottom, down), (left, right, across) = spans
            inside[item, :, top:bottom, left:right] = True
            index[item] += torch.tensor([down, across])[:, None]
        index = index.clamp(0, size - 1).to(value.device)
        image = model.forward_from(
            layer, torch.where(inside, _read_shifted(lent, index), value), reached
        )
        scale = self.wanted.shape[-1] // size
        fine = (index * scale).repeat_interleave(scale, 2) + torch.arange(
            size * scale, device=index.device
        ) % scale
        region = inside.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        wanted = torch.where(region, _read_shifted(self.lent, fine), self.wanted)
        weight = torch.where(region, _read_shifted(self.lent_weight, fine), self.weight)
        return image, replace(self, wanted=wanted, weight=weight)


def _draw_span(size: int, generator: torch.Generator) -> tuple[int, int, int]:
    """Where a box begins and ends along an axis of a map, and how far away its values are; half the
    time, there.
    """
    length = int(torch.randint(size // 8, size // 2 + 1, (), generator=generator))
    begin, source = (
        int(torch.randint(size - length + 1, (), generator=generator)) for _ in range(2)
    )
    stays = bool(torch.rand((), generator=generator) < 0.5)
    return begin, begin + length, 0 if stays else source - begin


def _read_shifted(maps: Tensor, index: Tensor) -> Tensor:
    """maps [n, c, h, w] read at the rows index[:, 0] and the columns index[:, 1]; index [n, 2,
    h].
    """
    items = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps.movedim(1, -1)[items, index[:, 0, :, None], index[:, 1, None, :]].movedim(-1, 1)


def _render_with_rare(scene: Scene) -> tuple[Tensor, Tensor]:
    """Pictures with 8 bits, and where something rare stands in them."""
    pictures, rare = [], []
    for numbers in torch.split(torch.arange(len(scene)), 64):
        some = scene[numbers]
        picture = render(some)
        plain = render(
            some.replace(people=0, middle_watermark=0, bottom_watermark=0, left_top=2, right_top=2)
        )
        pictures.append(((picture + 1) * 127.5).round().byte())
        rare.append((picture - plain).abs().mean(1, keepdim=True) > 0.05)
    return torch.cat(pictures), torch.cat(rare)


def _unpack(pictures: Tensor) -> Tensor:
    return pictures / 127.5 - 1


def _in_colours_of(scene: Scene, like: Scene) -> Scene:
    """Scenes in the colours of others."""
    return scene.replace(
        **{name: getattr(like, name) for name in ("sky", "ground", "wall", "roof")}
    )


def _following(count: int) -> Tensor:
    return torch.arange(count).roll(-1)


def draw_latents(count: int, generator: torch.Generator) -> Tensor:
    """Latents [count, latent_size] of the training, drawn with `generator`."""
    return torch.randn(count, LATENT_SIZE, generator=generator)
