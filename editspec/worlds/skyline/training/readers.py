"""The training of the reader of attributes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.worlds.skyline.reader import ATTRIBUTES, Reader, truth
from editspec.worlds.skyline.training.batches import draw_latents
from editspec.worlds.skyline.training.first_weights import SEED
from editspec.worlds.skyline.training.stages import cosine_rate
from editspec.worlds.skyline.world import Scene, render, scenes


def train_reader(device: torch.device, scale: float) -> dict[str, Tensor]:
    """The state of a reader trained on rendered scenes, overridden ones among them, blurred and
    noisy at random.
    """
    generator = torch.Generator().manual_seed(SEED + 1)
    with torch.random.fork_rng():
        torch.manual_seed(
            SEED
        )  # torch's layers draw their first weights from the global stream only
        reader = Reader().to(device)
    steps = round(2500 * scale)
    adam = torch.optim.Adam(reader.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: cosine_rate(step, steps))
    for step in range(steps):
        scene = _shuffle(scenes(draw_latents(64, generator)), generator)
        images, target = _wear(render(scene), generator).to(device), truth(scene)
        logits = reader(images)
        loss = sum(
            (F.cross_entropy(logits[name], target[name].to(device)) for name in ATTRIBUTES),
            torch.zeros(()),
        )
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
        if step % 250 == 0:
            print(f"reader {step}/{steps} loss {loss.item():.4f}", flush=True)
    return {name: tensor.detach().cpu() for name, tensor in reader.state_dict().items()}


def _shuffle(scene: Scene, generator: torch.Generator) -> Scene:
    """Half of the scenes with attributes that do not occur together, or not as often, by
    themselves.
    """
    overridden = {
        name: torch.randint(n, (len(scene),), generator=generator) for name, n in ATTRIBUTES.items()
    }
    other = scene.replace(**overridden)
    keep = torch.rand(len(scene), generator=generator) < 0.5
    return Scene(
        **{
            name: torch.where(keep, value, getattr(other, name))
            for name, value in vars(scene).items()
        }
    )


def _wear(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures a little blurred, off in contrast and noisy, as a generator may draw them."""
    batch = len(images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(batch, 1, 1, 1, generator=generator)
    noise = (
        torch.randn(images.shape, generator=generator)
        * 0.15
        * torch.rand(batch, 1, 1, 1, generator=generator)
    )
    contrast = 1 + 0.2 * (torch.rand(batch, 1, 1, 1, generator=generator) - 0.5)
    return (images + share * (blurred - images)) * contrast + noise
