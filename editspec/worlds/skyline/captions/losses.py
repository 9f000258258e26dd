"""What the training of Skyline by prompt lessens."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editspec.worlds.skyline.captions.examples import Examples
from editspec.worlds.skyline.captions.facts import COLUMN, FACTS, read_scene
from editspec.worlds.skyline.captions.tokens import LENGTH
from editspec.worlds.skyline.captions.trainee import Trainee
from editspec.worlds.skyline.world import (
    bottom_watermark,
    middle_watermark,
    part_mask,
    people,
)

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

ELSEWHERE = 0.1
"""How much it counts that a word changes other phrases."""


def measure_loss(
    trainee: Trainee, examples: Examples, pictures: Tensor, noise: Tensor, shares: Tensor
) -> Tensor:
    """Measure the loss of examples with their pictures, and noise, [n, 3, 64, 64] each.

    `shares` [1000] are of the picture in the variance at each time.
    """
    both = torch.cat([examples.tokens, examples.reworded])
    states, reworded = trainee.text_encoder(both).last_hidden_state.chunk(2)
    share = shares[examples.times][:, None, None, None]
    seen = share.sqrt() * pictures + (1 - share).sqrt() * noise
    wanted = share.sqrt() * noise - (1 - share).sqrt() * pictures
    seen = seen.to(states.dtype).contiguous(memory_format=torch.channels_last)
    read = mix_padding(states, examples.lengths, examples.mixed)
    velocity = trainee.unet(seen, examples.times, read, return_dict=False)[0]
    error: Tensor = (velocity.float() - wanted).square() * weigh_pixels(examples.facts)
    hint = _measure_hint(trainee.hint, states, examples)
    elsewhere = measure_elsewhere(states, reworded, examples.outside)
    return error.mean() + HINT * hint + ELSEWHERE * elsewhere


def mix_padding(states: Tensor, lengths: Tensor, mixed: Tensor) -> Tensor:
    """Take the padding of another caption's states [n, places, width] where `mixed` [n].

    The other caption is the one before it in the batch.
    """
    count = states.shape[1]
    places = torch.arange(count, device=states.device)
    is_padding = places > lengths[:, None]
    # A place that is a word in the other caption is left to the first token after its words.
    others = torch.maximum(places, lengths.roll(1)[:, None] + 1).clamp(max=count - 1)
    padding = states.roll(1, 0).gather(1, others[..., None].expand_as(states))
    return torch.where((is_padding & mixed[:, None])[..., None], padding, states)


def measure_elsewhere(states: Tensor, reworded: Tensor, outside: Tensor) -> Tensor:
    """Measure the mean share of a word's effect that is outside of its phrase.

    Parameters
    ----------
    states, reworded
        The states of captions, and with another word in them, [n, 77, width].
    outside
        Which tokens are not of that word's phrase, [n, 77] truth values.
    """
    change = (reworded.float() - states.float()).square().sum(2)
    return ((change * outside).sum(1) / (change.sum(1) + 1e-3)).mean()


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


class GraphedLoss:
    """The loss and its gradient, recorded once on a graphics card and replayed.

    A step is more than a thousand small kernels, which Python starts more slowly than they run.

    Raises
    ------
    RuntimeError
        The step cannot be recorded.
    """

    def __init__(
        self,
        trainee: Trainee,
        examples: Examples,
        pictures: Tensor,
        noise: Tensor,
        shares: Tensor,
    ) -> None:
        self._inputs = [tensor.clone() for tensor in (*vars(examples).values(), pictures, noise)]
        *parts, pictures, noise = self._inputs
        examples = Examples(*parts)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Kernels are chosen in the first runs, which a recording must not contain.
            for _ in range(3):
                loss = measure_loss(trainee, examples, pictures, noise, shares)
                loss.backward()  # type: ignore[no-untyped-call]
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = measure_loss(trainee, examples, pictures, noise, shares)
            self._loss.backward()  # type: ignore[no-untyped-call]
        trainee.gradient.zero_()

    def __call__(self, examples: Examples, pictures: Tensor, noise: Tensor) -> Tensor:
        """Measure the loss, and add its gradient to that of the trainee."""
        given = (*vars(examples).values(), pictures, noise)
        for own, tensor in zip(self._inputs, given, strict=True):
            own.copy_(tensor)
        self._graph.replay()
        return self._loss.detach()
