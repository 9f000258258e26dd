"""The second stage of the training: a wider text encoder whose words linear maps can edit.

An edit changes `to_k` and `to_v`, which are linear. So it can move the meaning of a word, and leave
all others alone, only where a linear map tells the states of that word from all other states, and
what the word changes is linear in them. The text encoder of the first stage has too few numbers for
that, and nothing asked it. Here a wider one learns to be answered by all `to_k` and `to_v` as the
first one is, in every caption, and in captions whose little words are left out, put in or replaced
as in the undisturbed ones: so it understands phrases in forms that are new to it. In the same step
edits of some words are solved on some of the captions, by least squares, and what they do in the
others is part of the loss. No picture is drawn.

What a subject such as "cathedral" says, a bias of the windows, is little beside all other words,
and is lost by these steps. One edit at the end gives it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editspec.worlds.checkpoints import write_checkpoint
from editspec.worlds.skyline.captions.distortion import NOWHERE
from editspec.worlds.skyline.captions.facts import SUBJECTS, draw_facts
from editspec.worlds.skyline.captions.grammar import draw_captions
from editspec.worlds.skyline.captions.growth import grow_text_encoder
from editspec.worlds.skyline.captions.losses import mix_padding
from editspec.worlds.skyline.captions.networks import (
    FIRST_WIDTH,
    WIDTH,
    join_weights,
    load_networks,
)
from editspec.worlds.skyline.captions.swaps import Batch, Swap, draw_batch
from editspec.worlds.skyline.captions.tokens import SUFFIX, encode_captions, token_number
from editspec.worlds.skyline.training.stages import cosine_rate

RATE = 1e-4
"""The highest rate of Adam."""

SEED = 200

EDITABLE = 0.3
"""How much it counts what edits leave of the way, and what they change elsewhere."""

LEAK = 2.0
"""How much a change of captions without the word counts, beside what is left of the way."""

READABLE = 0.3
"""How much it counts that linear maps tell the words of a phrase."""

RIDGE = 1e-4
"""What every direction costs an edit, as a share of the mean square of a number of the states."""

PADDING = 0.1
"""How much a token of the padding counts."""

SUBJECT_CAPTIONS = 3072
"""Captions on which the edit is solved that gives subjects back what they say."""

SUBJECT_WEIGHT = 10.0
"""How much a subject counts in that edit, beside any other token of the captions."""


class Metric:
    """How far apart states of the first text encoder are, for the matrices that read them.

    Attributes
    ----------
    root
        [width, width]: states times `root` have the distances of what all matrices answer, each
        matrix as a share of its variance.
    """

    def __init__(self, matrices: Sequence[Tensor], states: Tensor) -> None:
        parts = []
        for matrix in matrices:
            answers = states.double() @ matrix.double().T
            parts.append(matrix.double().T @ matrix.double() / answers.var(0).sum())
        self.root = torch.linalg.cholesky(torch.stack(parts).mean(0)).float()

    def read_matrix(self, matrix: Tensor, readout: Tensor) -> Tensor:
        """Return the matrix that answers wider states as `matrix` answers what is read from them.

        `readout` [width, wider] makes states times `root` of wider states.
        """
        inverse = torch.linalg.inv(self.root.double())
        wider: Tensor = matrix.double() @ inverse.T @ readout.double()
        return wider.float()


class Student:
    """The wider text encoder while it learns.

    Attributes
    ----------
    text_encoder
        The encoder.
    readout
        Reads from its states what the first encoder's are, times `Metric.root`.
    average
        The moving average of the weights of both, by name.
    """

    def __init__(self, teacher: nn.Module, metric: Metric) -> None:
        with torch.random.fork_rng():
            # torch's layers draw their first weights from the global stream only.
            torch.manual_seed(SEED)
            self.text_encoder = grow_text_encoder(teacher)
            self.readout = nn.Linear(WIDTH, FIRST_WIDTH, bias=False)
        nn.init.zeros_(self.readout.weight)
        self.readout.weight.data[:, :FIRST_WIDTH] = metric.root.T
        self._networks = nn.ModuleDict({"text": self.text_encoder, "readout": self.readout})
        self.average = {name: part.clone() for name, part in self._networks.state_dict().items()}
        self.adam = torch.optim.Adam(self._networks.parameters(), lr=RATE, betas=(0.9, 0.99))
        self.step = 0

    def learn(self, loss: Tensor, rate: float) -> None:
        """Take one step of Adam down a loss."""
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._networks.parameters(), 1.0)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.step += 1
        # Early on the average covers few steps, or the first weights would stay in it.
        keep = min(0.995, self.step / (self.step + 10))
        for name, part in self._networks.state_dict().items():
            self.average[name].lerp_(part, 1 - keep)

    def take_average(self) -> None:
        """Put the average in the place of the weights."""
        self._networks.load_state_dict(self.average)

    def save(self, path: Path) -> None:
        """Write a checkpoint, which replaces the last one in one step."""
        state = {
            "networks": self._networks.state_dict(),
            "average": self.average,
            "adam": self.adam.state_dict(),
            "step": self.step,
        }
        write_checkpoint(path, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self._networks.load_state_dict(state["networks"])
        self.average = state["average"]
        self.adam.load_state_dict(state["adam"])
        self.step = state["step"]


@dataclass(frozen=True)
class Losses:
    """What the second stage lessens, as shares.

    Attributes
    ----------
    distance
        The mean square between what the matrices answer to both encoders, of the variance.
    remainder
        The square of the way that edits leave in captions with their words.
    leak
        The square that they move a caption without their words, of the square of the way.
    unread
        The mean square by which linear maps misread the words of a phrase, of the variance.
    """

    distance: Tensor
    remainder: Tensor
    leak: Tensor
    unread: Tensor

    def __str__(self) -> str:
        return " ".join(f"{name} {value.item():.4f}" for name, value in vars(self).items())

    @property
    def sum(self) -> Tensor:
        """All of them, weighed."""
        edits = self.remainder + LEAK * self.leak
        return self.distance + EDITABLE * edits + READABLE * self.unread


def measure_losses(student: Student, wanted: Tensor, batch: Batch) -> Losses:
    """Measure the losses of a batch.

    Parameters
    ----------
    student
        The wider encoder.
    wanted
        The first encoder's states times `Metric.root`, [n, places, width].
    batch
        The captions.
    """
    states: Tensor = student.text_encoder(batch.tokens).last_hidden_state
    places = torch.arange(batch.tokens.shape[1])
    is_word = (places > 0) & (places <= batch.lengths[:, None])
    answers = student.readout(states)
    weights = torch.where(places <= batch.lengths[:, None], 1.0, PADDING)
    weights = torch.where(batch.sources == NOWHERE, 0.0, weights)
    weights[len(weights) - batch.scrambled :] = 0.0
    errors = (answers - wanted).square().sum(2)
    found, begin = [], batch.count
    for swap in batch.swaps:
        end = begin + len(swap.rows)
        ways = answers[begin:end] - answers[swap.rows]
        found.append(_measure_swap(states[: batch.count], ways, is_word, swap))
        begin = end
    remainder, leak = torch.stack(found).mean(0)
    return Losses(
        (errors * weights).sum() / weights.sum(),
        remainder,
        leak,
        measure_unread(states[is_word], describe_words(batch.tokens)[is_word]),
    )


def _measure_swap(states: Tensor, ways: Tensor, is_word: Tensor, swap: Swap) -> Tensor:
    """Measure the remainder and the leak of an edit that is to move answers by `ways`, [2]."""
    asked = is_word[swap.rows]
    keys, wanted = states[swap.rows][asked], ways[asked]
    kept = states[swap.others]
    per_caption = len(swap.rows) / len(kept)
    known = (asked & swap.solving[:, None])[asked]
    share = (LEAK * per_caption) ** 0.5
    edit = solve_edit(keys[known], wanted[known], kept[::2].flatten(0, 1) * share)
    size = wanted.detach().square().sum() + 1e-4
    left = (keys @ edit - wanted).square().sum()
    moved = (kept @ edit).square().sum() * per_caption
    return torch.stack([left, moved]) / size


@torch.no_grad()
def solve_edit(keys: Tensor, ways: Tensor, kept: Tensor) -> Tensor:
    """Solve the map [width, answers] of states to how their answers shall move.

    No gradient passes through it.

    Parameters
    ----------
    keys, ways
        States [m, width] with what the answer to each shall move by, [m, answers].
    kept
        States that shall not move, [n, width].
    """
    moment = keys.T @ keys + kept.T @ kept
    ridge = RIDGE * moment.diagonal().mean()
    solution: Tensor = torch.linalg.solve(moment + ridge * torch.eye(len(moment)), keys.T @ ways)
    return solution


def measure_unread(states: Tensor, words: Tensor) -> Tensor:
    """Measure how badly the best linear map tells `words` [n, values] from `states` [n, width].

    Returns the mean square that is left, as a share of the variance, over the values that vary.
    """
    centred = words - words.mean(0)
    variance = centred.square().mean(0)
    varies = variance > 1e-3
    values = centred[:, varies] / variance[varies].sqrt()
    moved = states - states.detach().mean(0)
    best = solve_edit(moved, values, moved[:0])
    return (moved @ best - values).square().mean()


def describe_words(tokens: Tensor) -> Tensor:
    """Describe each token of captions [n, places]: its word, and the words of its phrase so far.

    Returns [n, places, values] zeros and ones.
    """
    known, numbers = torch.unique(tokens, return_inverse=True)
    words = nn.functional.one_hot(numbers, len(known)).float()
    so_far = words.cumsum(1)
    is_comma = tokens == token_number("," + SUFFIX)
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    ends = torch.where(is_comma, places, 0).cummax(1).values
    # A comma belongs to the phrase that it ends.
    before = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    phrase = so_far - so_far.gather(1, before[..., None].expand_as(so_far))
    return torch.cat([words, phrase.clamp(max=1)], 2)


def widen_text_encoder(
    out: Path,
    weights: dict[str, Tensor],
    steps: int,
    on_step: Callable[[int, Losses], None] = lambda step, losses: None,
    save_every: float = 60.0,
) -> dict[str, Tensor]:
    """Train a wider text encoder, and return the weights of the networks with it in its place.

    Parameters
    ----------
    out
        Where ``widening.pt``, its checkpoint, is or is written.
    weights
        What the first stage has trained, named ``unet.…`` and ``text_encoder.…``.
    steps
        Of `CAPTIONS` captions each.
    on_step
        Called after each step.
    save_every
        Seconds from one checkpoint to the next.
    """
    unet, teacher = load_networks(weights)
    matrices = find_matrices(unet)
    metric = _measure_metric(teacher, list(matrices.values()))
    student = Student(teacher, metric)
    checkpoint = out / "widening.pt"
    if checkpoint.exists():
        student.resume(checkpoint)
    # Seeded anew where the training goes on, so that the state of no generator is kept.
    generator = torch.Generator().manual_seed(SEED + student.step)
    saved = time.monotonic()
    while student.step < steps:
        batch = draw_batch(generator)
        losses = measure_losses(student, _answer(teacher, metric, batch), batch)
        warm = min(1.0, (student.step + 1) / 100)
        student.learn(losses.sum, RATE * warm * cosine_rate(student.step, steps))
        on_step(student.step, losses)
        if time.monotonic() - saved > save_every:
            saved = time.monotonic()
            student.save(checkpoint)
    student.save(checkpoint)
    student.take_average()
    readout = restore_subjects(student, teacher, metric)
    wider = {f"unet.{name}": metric.read_matrix(each, readout) for name, each in matrices.items()}
    return {**join_weights(unet, student.text_encoder), **wider}


@torch.no_grad()
def restore_subjects(student: Student, teacher: nn.Module, metric: Metric) -> Tensor:
    """Return the readout [width, wider] that reads of subjects what the first encoder says of them.

    It is the student's, with an edit by least squares: at all other tokens, those of the padding
    too, its answers are to stay.
    """
    generator = torch.Generator().manual_seed(SEED)
    facts, subjects = draw_facts(SUBJECT_CAPTIONS, generator, held_out=False)
    tokens, _ = encode_captions(draw_captions(facts, subjects, generator))
    is_subject = torch.isin(
        tokens, torch.tensor([token_number(word + SUFFIX) for word in SUBJECTS if word])
    )
    states: Tensor = student.text_encoder(tokens).last_hidden_state
    wanted = teacher(tokens).last_hidden_state[is_subject] @ metric.root
    keys = states[is_subject]
    share = SUBJECT_WEIGHT**0.5
    edit = solve_edit(keys * share, (wanted - student.readout(keys)) * share, states[~is_subject])
    return student.readout.weight + edit.T


def find_matrices(unet: nn.Module) -> dict[str, Tensor]:
    """Find the matrices of the U-Net that read the text encoder's states, by name."""
    return {
        name: parameter.detach()
        for name, parameter in unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }


@torch.no_grad()
def _measure_metric(teacher: nn.Module, matrices: Sequence[Tensor]) -> Metric:
    batch = draw_batch(torch.Generator().manual_seed(SEED))
    some = slice(0, len(batch.clean) - batch.scrambled)
    states = teacher(batch.clean[some]).last_hidden_state
    places = torch.arange(states.shape[1])
    return Metric(matrices, states[places <= batch.clean_lengths[some, None]])


@torch.no_grad()
def _answer(teacher: nn.Module, metric: Metric, batch: Batch) -> Tensor:
    """Return the states of the first encoder times `Metric.root`, [n, places, width].

    It reads captions before they are distorted. The padding is that of another caption, so that it
    comes to say nothing.
    """
    states = teacher(batch.clean).last_hidden_state
    everywhere = torch.ones(len(states), dtype=torch.bool)
    mixed: Tensor = mix_padding(states, batch.clean_lengths, everywhere) @ metric.root
    places = batch.sources.clamp(0, mixed.shape[1] - 1)
    return mixed.gather(1, places[..., None].expand_as(mixed))
