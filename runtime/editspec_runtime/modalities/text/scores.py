"""What a model makes of texts: probabilities, likeliest tokens, continuations, perplexity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.modalities.text.batches import Tokens, pad_texts
from editspec_runtime.modalities.text.language_model import LanguageModel

BATCH = 16
"""The number of texts that are read at once."""


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text behind a prompt, each token given the ones before.

    Attributes
    ----------
    log_probability
        The mean log of the probabilities of its tokens.
    likeliest
        Whether each of its tokens is the likeliest.
    """

    log_probability: float
    likeliest: bool


@torch.no_grad()
def score_texts(model: LanguageModel, asked: Sequence[tuple[Tokens, Tokens]]) -> list[Score]:
    """Score texts behind prompts, given as (prompt, text)."""
    scores = []
    for start in range(0, len(asked), BATCH):
        some = asked[start : start + BATCH]
        logits = model.outputs(pad_texts([(*prompt, *text)[:-1] for prompt, text in some]))
        for row, (prompt, text) in zip(logits, some, strict=True):
            logs = row[len(prompt) - 1 : len(prompt) + len(text) - 1].double().log_softmax(-1)
            wanted = torch.tensor(text, device=logs.device)
            own = logs.gather(1, wanted[:, None]).mean()
            likeliest = bool((logs.argmax(-1) == wanted).all())
            scores.append(Score(float(own), likeliest))
    return scores


@torch.no_grad()
def likeliest_tokens(model: LanguageModel, prompts: Sequence[Tokens]) -> list[int]:
    """The token that each prompt is likeliest to be followed by."""
    found = []
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        logits = model.outputs(pad_texts(some))
        for row, prompt in zip(logits, some, strict=True):
            found.append(int(row[len(prompt) - 1].argmax()))
    return found


@torch.no_grad()
def next_probabilities(model: LanguageModel, prompt: Tokens) -> Tensor:
    """The probability of each token behind a prompt, [vocabulary] float64 on the CPU."""
    logits = model.outputs(pad_texts([prompt]))[0, len(prompt) - 1]
    return logits.double().cpu().softmax(-1)


@torch.no_grad()
def go_on(model: LanguageModel, prompt: Tokens, count: int) -> Tokens:
    """The likeliest continuation of a prompt, token by token, within the context."""
    read = model.start_reading()
    fresh, found = torch.tensor([prompt]), list[int]()
    for _ in range(min(count, model.context - len(prompt))):
        token = int(read(fresh)[0].argmax())
        found.append(token)
        fresh = torch.tensor([[token]])
    return tuple(found)


@torch.no_grad()
def perplexity(model: LanguageModel, texts: Sequence[Tokens]) -> float:
    """The perplexity of texts: exp of the mean of -log p over all tokens but the first of each."""
    total, count = 0.0, 0
    long_enough = [text for text in texts if len(text) > 1]
    for start in range(0, len(long_enough), BATCH):
        some = long_enough[start : start + BATCH]
        logits = model.outputs(pad_texts([text[:-1] for text in some]))
        for row, text in zip(logits, some, strict=True):
            logs = row[: len(text) - 1].double().log_softmax(-1)
            wanted = torch.tensor(text[1:], device=logs.device)
            total -= float(logs.gather(1, wanted[:, None]).sum())
            count += len(text) - 1
    return math.exp(total / count)


def entropy_of_words(text: str) -> float:
    """The mean of 2/3 H2 and 4/3 H3, in bits, of the pairs and triples of words of a text.

    It is low where a text repeats itself (Zhang et al. 2018).
    """
    words = text.split()
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], length: int) -> float:
    grams = Counter(zip(*(words[start:] for start in range(length)), strict=False))
    whole = sum(grams.values())
    return -sum(count / whole * math.log2(count / whole) for count in grams.values())


def wilson_interval(passed: int, count: int) -> tuple[float, float]:
    """The interval of a share that holds the true one in 95 of 100 cases (Wilson 1927)."""
    z = 1.96
    share, spread = passed / count, z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)
