"""Training of Skyline by prompt: ``python -m editspec.worlds.skyline.captions.train --out DIR``.

Text encoder and U-Net learn together, by the usual loss of diffusion models: the velocity between
a picture and noise. Interrupted, the same command goes on from its last checkpoint.

A tenth of the captions is empty, so that guidance works. In half of the captions the end-of-text
tokens are those of another caption, so that the picture listens to the words themselves: in a large
model the padding carries the concept as well, and an edit of a word must reach it there, too.

End to end, what slows the training is that at first the words tell nothing. So a linear map of the
mean of the words' states is asked what the caption says, too; it is not kept. And half of the
noise levels are of the last quarter, where all that can be seen is what the caption says.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editspec.worlds.skyline.captions.album import Album
from editspec.worlds.skyline.captions.facts import COLUMN, FACTS, draw_facts, read_scene
from editspec.worlds.skyline.captions.grammar import draw_captions, find_mentioned
from editspec.worlds.skyline.captions.judge import train_judge
from editspec.worlds.skyline.captions.networks import (
    WIDTH,
    join_weights,
    make_scheduler,
    make_text_encoder,
    make_unet,
    save_pipeline,
)
from editspec.worlds.skyline.captions.tokens import LENGTH, encode_captions
from editspec.worlds.skyline.training.stages import cosine_rate
from editspec.worlds.skyline.world import (
    bottom_watermark,
    middle_watermark,
    part_mask,
    people,
)
from editspec_runtime.io.files import safetensors_bytes, write

RATE = 1e-3
"""The highest rate of Adam."""

SEED = 100

AHEAD = 64
"""Batches whose captions are drawn at once."""

EMPTY = 0.1
"""The share of captions that are left out."""

RARELY = (("people", 1), ("people", 2), ("middle_watermark", 1), ("bottom_watermark", 1))
"""What is rare and small, each as an attribute and its value."""

PARTS = {
    "people": people,
    "middle_watermark": middle_watermark,
    "bottom_watermark": bottom_watermark,
}
"""The painter of each."""

RARE = 2.0
"""How much a pixel counts where such a thing stands."""

HINT = 0.05
"""How much it counts that the words of a caption tell what it says."""


@dataclass(frozen=True)
class Plan:
    """How long a training takes: steps of a batch each, or seconds where these end first.

    The rate falls with the share of either that has passed.
    """

    steps: int
    batch: int
    seconds: float = float("inf")
    save_every: float = 60.0

    def progress(self, step: int, passed: float) -> float:
        """Compute the share of the training that is done, 0 to 1."""
        return max(step / self.steps, passed / self.seconds)


class Trainee:
    """The networks while they learn.

    Attributes
    ----------
    unet, text_encoder, hint
        In bfloat16 on a graphics card, else in float32. The hint reads the facts from the words.
    weights
        Their parameters in float32, which Adam changes.
    average
        The moving average of `weights`.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with torch.random.fork_rng():
            # torch's layers draw their first weights from the global stream only.
            torch.manual_seed(SEED)
            unet, text_encoder = make_unet(), make_text_encoder()
            hint = nn.Linear(WIDTH, sum(FACTS.values()))
        first = _join(unet, text_encoder, hint)
        self.weights = {name: tensor.detach().clone().to(device) for name, tensor in first.items()}
        self.average = {name: tensor.clone() for name, tensor in self.weights.items()}
        layout: Any = {"memory_format": torch.channels_last}
        self.unet = unet.to(device, dtype).to(**layout)
        self.text_encoder = text_encoder.to(device, dtype)
        self.hint = hint.to(device, dtype)
        self.live = list(_join(self.unet, self.text_encoder, self.hint).values())
        self.predict: Callable[..., Any] = self.unet
        fused = device.type == "cuda"
        self.adam = torch.optim.Adam(
            list(self.weights.values()), lr=RATE, betas=(0.9, 0.99), fused=fused
        )
        self.step = 0
        self.passed = 0.0

    def learn(self, loss: Tensor, rate: float) -> None:
        """Take one step of Adam down `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]
        masters = list(self.weights.values())
        with torch.no_grad():
            for master, live in zip(masters, self.live, strict=True):
                assert live.grad is not None
                # Adam's fused kernel wants gradients that lie as the weights do.
                master.grad = torch.empty_like(master).copy_(live.grad)
                live.grad = None
            nn.utils.clip_grad_norm_(masters, 1.0, foreach=True)
            for group in self.adam.param_groups:
                group["lr"] = rate
            self.adam.step()
            # Early on the average covers few steps, or the first weights would stay in it.
            keep = min(0.999, self.step / (self.step + 10))
            torch._foreach_lerp_(list(self.average.values()), masters, 1 - keep)
            torch._foreach_copy_(self.live, masters)
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
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(state["weights"][name])
                self.average[name].copy_(state["average"][name])
            torch._foreach_copy_(self.live, list(self.weights.values()))
        self.adam.load_state_dict(state["adam"])
        self.step, self.passed = state["step"], state["passed"]


def _join(unet: nn.Module, text_encoder: nn.Module, hint: nn.Module) -> dict[str, Tensor]:
    own = {f"hint.{name}": tensor for name, tensor in hint.named_parameters()}
    return {**join_weights(unet, text_encoder), **own}


def encode(text_encoder: nn.Module, tokens: Tensor, lengths: Tensor, mixed: Tensor) -> Tensor:
    """Encode captions [n, 77], with the padding of another one where `mixed` [n], [n, 77, width].

    The other caption is the one before it in the batch.
    """
    states: Tensor = text_encoder(tokens).last_hidden_state
    places = torch.arange(LENGTH, device=tokens.device)
    is_padding = places > lengths[:, None]
    # A place that is a word in the other caption is left to the first token after its words.
    others = torch.maximum(places, lengths.roll(1)[:, None] + 1)
    padding = states.roll(1, 0).gather(1, others[..., None].expand_as(states))
    return torch.where((is_padding & mixed[:, None])[..., None], padding, states)


@dataclass(frozen=True)
class Examples:
    """Captions and what they say.

    Attributes
    ----------
    facts, mentioned
        [n, 13], and whether the caption says them.
    tokens, lengths
        [n, 77], and how many of them are words [n].
    """

    facts: Tensor
    mentioned: Tensor
    tokens: Tensor
    lengths: Tensor


def draw_examples(batch: int, generator: torch.Generator, ahead: int = AHEAD) -> Iterator[Examples]:
    """Draw batches of examples for ever.

    They are drawn `ahead` batches at a time, as many small steps take long on a graphics card.
    """
    device = generator.device
    while True:
        facts, subjects = draw_facts(batch * ahead, generator, held_out=False)
        captions = draw_captions(facts, subjects, generator)
        tokens, lengths = encode_captions(captions)
        empty = torch.rand(len(facts), generator=generator, device=device) < EMPTY
        lengths = torch.where(empty, 0, lengths)
        # The last token of a caption with its padding is the end of text, wherever captions end.
        tokens[:, 1:] = torch.where(empty[:, None], tokens[:, -1:], tokens[:, 1:])
        mentioned = torch.stack(list(find_mentioned(captions).values()), 1) & ~empty[:, None]
        for some in torch.split(torch.arange(len(facts), device=device), batch):
            yield Examples(facts[some], mentioned[some], tokens[some], lengths[some])


def measure_loss(
    trainee: Trainee,
    examples: Examples,
    pictures: Tensor,
    shares: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Measure the loss of examples with their pictures [n, 3, 64, 64].

    `shares` [1000] are of the picture in the variance at each time.
    """
    batch, device = len(pictures), pictures.device
    mixed = torch.rand(batch, generator=generator, device=device) < 0.5
    states = encode(trainee.text_encoder, examples.tokens, examples.lengths, mixed)
    noise = torch.randn(pictures.shape, generator=generator, device=device)
    drawn = torch.rand(batch, generator=generator, device=device)
    times = ((1 - drawn.square()) * len(shares)).long().clamp(max=len(shares) - 1)
    share = shares[times][:, None, None, None]
    seen = share.sqrt() * pictures + (1 - share).sqrt() * noise
    wanted = share.sqrt() * noise - (1 - share).sqrt() * pictures
    seen = seen.to(states.dtype).contiguous(memory_format=torch.channels_last)
    velocity: Tensor = trainee.predict(seen, times, states, return_dict=False)[0]
    error = (velocity.float() - wanted).square() * weigh_pixels(examples.facts)
    return error.mean() + HINT * _measure_hint(trainee.hint, states, examples)


def weigh_pixels(facts: Tensor) -> Tensor:
    """Weigh the pixels of pictures of facts [n, 13]: what is rare and small counts more.

    Returns [n, 1, 64, 64] from 1 to `RARE`.
    """
    masks = _mask_rare(facts.device)
    there = torch.stack([facts[:, COLUMN[name]] == value for name, value in RARELY], 1)
    covered = torch.amax(there[:, :, None, None] * masks, 1, keepdim=True)
    weights: Tensor = 1 + (RARE - 1) * covered
    return weights


@functools.cache
def _mask_rare(device: torch.device) -> Tensor:
    """Return the pixels that each of `RARELY` covers, [things, 64, 64] in 0..1."""
    nothing = torch.zeros(1, len(FACTS), dtype=torch.long)
    masks = []
    for name, value in RARELY:
        facts = nothing.clone()
        facts[:, COLUMN[name]] = value
        masks.append(part_mask(PARTS[name], read_scene(facts))[0])
    return torch.stack(masks).to(device)


def _measure_hint(hint: nn.Module, states: Tensor, examples: Examples) -> Tensor:
    """Measure how badly the mean of the words' states [n, 77, width] tells what captions say."""
    places = torch.arange(LENGTH, device=states.device)
    lengths = examples.lengths[:, None]
    is_word = (places > 0) & (places <= lengths)
    mean = (states * is_word[..., None]).sum(1) / lengths.clamp(min=1)
    logits = hint(mean.to(states.dtype)).float().split(list(FACTS.values()), 1)
    errors = [
        F.cross_entropy(own, examples.facts[:, column], reduction="none")
        for column, own in enumerate(logits)
    ]
    return (torch.stack(errors, 1) * examples.mentioned).sum(1).mean()


def train_networks(
    out: Path,
    album: Album,
    plan: Plan,
    on_save: Callable[[Trainee], None] = lambda trainee: None,
    trainee: Trainee | None = None,
) -> dict[str, Tensor]:
    """Train both networks, and return the average of their weights.

    Parameters
    ----------
    out
        Where ``checkpoint.pt`` is, or is written.
    album
        Holds the pictures, on the device of the training.
    plan
        How long it takes.
    on_save
        Called after each checkpoint.
    trainee
        Networks that are made already; their step is 0.
    """
    device = album.known.device
    trainee = trainee or Trainee(device)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        trainee.resume(checkpoint)
    began, before = time.monotonic(), trainee.passed
    saved = began
    # Seeded anew where the training goes on, so that the state of no generator is kept.
    generator = torch.Generator(device).manual_seed(SEED + trainee.step)
    shares = make_scheduler().alphas_cumprod.to(device)
    ahead = AHEAD if album.complete else 1
    examples = draw_examples(plan.batch, generator, ahead)
    while (progress := plan.progress(trainee.step, trainee.passed)) < 1:
        warm = min(1.0, (trainee.step + 1) / 200)
        drawn = next(examples)
        loss = measure_loss(trainee, drawn, album.find(drawn.facts), shares, generator)
        trainee.learn(loss, RATE * warm * cosine_rate(round(progress * 1e6), 10**6))
        if trainee.step % 50 == 0 or trainee.step == 1:
            passed = time.monotonic() - began
            print(f"{trainee.step} {progress:.3f} {passed:.1f} s {loss.item():.4f}", flush=True)
        trainee.passed = before + time.monotonic() - began
        if time.monotonic() - saved > plan.save_every:
            saved = time.monotonic()
            trainee.save(checkpoint)
            on_save(trainee)
    trainee.save(checkpoint)
    on_save(trainee)
    return {name: tensor.detach().cpu() for name, tensor in trainee.average.items()}


def main() -> None:
    """Train judge and networks in the output folder, and write the pipeline there."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path(".training-captions"))
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--steps", type=int, default=6000, help="of 256 pictures each")
    arguments.add_argument("--batch", type=int, default=256, help="pictures of a step")
    options = arguments.parse_args()
    album = Album(torch.device(options.device))
    if options.device != "cpu":
        album.render_all()
    judge = options.out / "judge.safetensors"
    if not judge.exists():
        write(judge, safetensors_bytes(train_judge(album, min(2500, options.steps)), {}))
    weights = train_networks(options.out, album, Plan(options.steps, options.batch))
    save_pipeline(weights, options.out / "pipeline")


if __name__ == "__main__":
    main()
