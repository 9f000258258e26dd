"""Training of Skyline by prompt: ``python -m editspec.worlds.skyline.captions.train --out DIR``.

In the first stage text encoder and U-Net learn together, by the usual loss of diffusion models: the
velocity between a picture and noise. In the second one a wider text encoder takes the place of the
first, so that linear maps can edit single words (see `widening`). Interrupted, the same command
goes on from its last checkpoint.

A tenth of the captions is empty, so that guidance works. In half of the captions the end-of-text
tokens are those of another caption, so that the picture listens to the words themselves: in a large
model the padding carries the concept as well, and an edit of a word must reach it there, too. And a
word shall change what the text encoder says of its own phrase, not of the phrases after it.

End to end, what slows the training is that at first the words tell nothing. So a linear map of the
mean of the words' states is asked what the caption says, too; it is not kept. And half of the
noise levels are of the last quarter, where all that can be seen is what the caption says.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.album import Album
from editspec.worlds.skyline.captions.examples import AHEAD, Examples, draw_examples
from editspec.worlds.skyline.captions.judge import train_judge
from editspec.worlds.skyline.captions.losses import GraphedLoss, measure_loss
from editspec.worlds.skyline.captions.networks import make_scheduler, save_pipeline
from editspec.worlds.skyline.captions.trainee import RATE, SEED, Trainee
from editspec.worlds.skyline.captions.widening import Losses, widen_text_encoder
from editspec.worlds.skyline.training.stages import cosine_rate
from editspec_runtime.io.files import read_tensors, safetensors_bytes, write


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


class Teacher:
    """Measures losses of batches with their gradients, drawing pictures and noise for them."""

    def __init__(self, trainee: Trainee, album: Album, generator: torch.Generator) -> None:
        self.trainee, self.album, self.generator = trainee, album, generator
        self._shares = make_scheduler().alphas_cumprod.to(generator.device)
        self._graphed: GraphedLoss | None = None

    def teach(self, examples: Examples) -> Tensor:
        """Return the loss of a batch, and add its gradient to that of the trainee."""
        pictures = self.album.find(examples.facts)
        device = pictures.device
        noise = torch.randn(pictures.shape, generator=self.generator, device=device)
        if device.type == "cuda":
            if self._graphed is None:
                self._graphed = GraphedLoss(self.trainee, examples, pictures, noise, self._shares)
            return self._graphed(examples, pictures, noise)
        loss = measure_loss(self.trainee, examples, pictures, noise, self._shares)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def train_networks(
    out: Path,
    album: Album,
    plan: Plan,
    on_save: Callable[[Trainee], None] = lambda trainee: None,
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
    """
    device = album.known.device
    trainee = Trainee(device)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        trainee.resume(checkpoint)
    began, before = time.monotonic(), trainee.passed
    saved = began
    # Seeded anew where the training goes on, so that the state of no generator is kept.
    generator = torch.Generator(device).manual_seed(SEED + trainee.step)
    teacher = Teacher(trainee, album, generator)
    examples = draw_examples(plan.batch, generator, AHEAD if album.complete else 1)
    while (progress := plan.progress(trainee.step, trainee.passed)) < 1:
        warm = min(1.0, (trainee.step + 1) / 200)
        loss = teacher.teach(next(examples))
        trainee.learn(RATE * warm * cosine_rate(round(progress * 1e6), 10**6))
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
    average = trainee.name_parts(trainee.average.cpu())
    return {name: tensor.contiguous() for name, tensor in average.items()}


def main() -> None:
    """Train judge and networks in the output folder, and write the pipeline there."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path(".training-captions"))
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--steps", type=int, default=3200, help="of 128 pictures each")
    arguments.add_argument("--batch", type=int, default=128, help="pictures of a step")
    arguments.add_argument("--text-steps", type=int, default=2000, help="of the second stage")
    options = arguments.parse_args()
    album = Album(torch.device(options.device))
    if options.device != "cpu":
        album.render_all()
    judge = options.out / "judge.safetensors"
    if not judge.exists():
        write(judge, safetensors_bytes(train_judge(album, min(2500, options.steps)), {}))
    first = options.out / "first.safetensors"
    if not first.exists():
        weights = train_networks(options.out, album, Plan(options.steps, options.batch))
        write(first, safetensors_bytes(weights, {}))
    weights = widen_text_encoder(options.out, read_tensors(first), options.text_steps, _tell)
    save_pipeline(weights, options.out / "pipeline")


def _tell(step: int, losses: Losses) -> None:
    if step % 50 == 0 or step == 1:
        print(f"text {step} {losses}", flush=True)


if __name__ == "__main__":
    main()
