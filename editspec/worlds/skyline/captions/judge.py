"""A reader of the facts of pictures, which judges what was drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.worlds.skyline.captions.album import Album
from editspec.worlds.skyline.captions.facts import FACTS, list_facts
from editspec.worlds.skyline.reader import Reader
from editspec.worlds.skyline.training.readers import wear_pictures
from editspec.worlds.skyline.training.stages import cosine_rate


def make_judge() -> Reader:
    """Make a reader of all attributes of `FACTS`."""
    return Reader(FACTS)


def load_judge(weights: dict[str, Tensor]) -> Reader:
    """Make a reader with `weights`."""
    judge = make_judge()
    judge.load_state_dict(weights)
    return judge.eval()


def train_judge(album: Album, steps: int, batch: int = 128) -> dict[str, Tensor]:
    """Train a reader on rendered pictures that are blurred and noisy at random.

    All facts are equally likely, whatever words say together.
    """
    device = album.known.device
    generator = torch.Generator(device).manual_seed(11)
    with torch.random.fork_rng():
        # torch's layers draw their first weights from the global stream only.
        torch.manual_seed(1)
        judge = make_judge().to(device)
    adam = torch.optim.Adam(judge.parameters(), lr=2e-3)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = 2e-3 * cosine_rate(step, steps)
        numbers = torch.randint(len(album.known), (batch,), generator=generator, device=device)
        facts = list_facts(numbers)
        logits = judge(wear_pictures(album.find(facts), generator))
        errors = [
            F.cross_entropy(logits[name], facts[:, column]) for column, name in enumerate(FACTS)
        ]
        adam.zero_grad()
        torch.stack(errors).sum().backward()  # type: ignore[no-untyped-call]
        adam.step()
    return {name: tensor.detach().cpu() for name, tensor in judge.state_dict().items()}
