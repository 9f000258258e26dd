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
    """Train a reader on rendered scenes, and return its state.

    Half of the scenes have overridden attributes; pictures are blurred and noisy at random.
    """
    generator = torch.Generator().manual_seed(SEED + 1)
    with torch.random.fork_rng():
        # torch's layers draw their first weights from the global stream only.
        torch.manual_seed(SEED)
        reader = Reader().to(device)
    steps = round(2500 * scale)
    adam = torch.optim.Adam(reader.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: cosine_rate(step, steps))
    for step in range(steps):
        scene = _shuffle(scenes(draw_latents(64, generator)), generator)
        images, target = wear_pictures(render(scene), generator).to(device), truth(scene)
        logits = reader(images)
        errors = (F.cross_entropy(logits[name], target[name].to(device)) for name in ATTRIBUTES)
        loss = sum(errors, torch.zeros(()))
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
        if step % 250 == 0:
            print(f"reader {step}/{steps} loss {loss.item():.4f}", flush=True)
    return {name: tensor.detach().cpu() for name, tensor in reader.state_dict().items()}


def _shuffle(scene: Scene, generator: torch.Generator) -> Scene:
    """Draw new attributes for half of the scenes, each by itself.

    In the scenes of latents some attributes occur together, or seldom; the reader must not learn
    one from the other.
    """
    overridden = {
        name: torch.randint(n, (len(scene),), generator=generator) for name, n in ATTRIBUTES.items()
    }
    other = scene.replace(**overridden)
    keep = torch.rand(len(scene), generator=generator) < 0.5
    mixed = {
        name: torch.where(keep, value, getattr(other, name)) for name, value in vars(scene).items()
    }
    return Scene(**mixed)


def wear_pictures(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur pictures a little, and change contrast and noise, as a generator may."""
    batch, device = len(images), images.device
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(batch, 1, 1, 1, generator=generator, device=device)
    noise = torch.randn(images.shape, generator=generator, device=device) * 0.15
    noise = noise * torch.rand(batch, 1, 1, 1, generator=generator, device=device)
    drawn = torch.rand(batch, 1, 1, 1, generator=generator, device=device)
    contrast = 1 + 0.2 * (drawn - 0.5)
    return (images + share * (blurred - images)) * contrast + noise
