"""Facts on a model: prompts behind the texts of the context, and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_compiler.modalities.text.schema import Fact
from editspec_compiler.modalities.text.tokens import Located, Tokenizer
from editspec_runtime.modalities.text.batches import Tokens, pad_texts
from editspec_runtime.modalities.text.language_model import LanguageModel

ROWS = 64
"""The number of texts of which keys are taken at once."""


@dataclass(frozen=True)
class Templates:
    """The texts before a prompt in which a rule holds; that without one is not among them.

    Attributes
    ----------
    texts
        Texts as they stand before the prompt.
    tokens
        Tokens that the model made, which a full stop follows.
    bare_weight
        The share of the prompt without a text before it in a mean; None for that of every other.
    """

    texts: tuple[str, ...] = ()
    tokens: tuple[Tokens, ...] = ()
    bare_weight: float | None = None

    def locate(self, tokenizer: Tokenizer, fact: Fact) -> list[Located]:
        """Locate a fact by itself first, and then behind each text."""
        found = [tokenizer.locate(fact)]
        found += [tokenizer.locate(fact, text) for text in self.texts]
        found += [tokenizer.locate_behind(fact, tokens) for tokens in self.tokens]
        return found

    def shares(self) -> Tensor:
        """The share of each in a mean, [1 + texts] float64."""
        count = len(self.texts) + len(self.tokens)
        if self.bare_weight is None or not count:
            return torch.full((1 + count,), 1 / (1 + count), dtype=torch.float64)
        rest = (1 - self.bare_weight) / count
        return torch.tensor([self.bare_weight] + count * [rest], dtype=torch.float64)


@dataclass(frozen=True)
class Placed:
    """Facts on a model at a layer: n facts in m texts each.

    Attributes
    ----------
    keys, values
        Keys and values at the subject's last token, [n, m, in] and [n, m, out].
    outputs
        The residual stream behind the layer's block there, of the bare prompt, [n, width].
    """

    keys: Tensor
    values: Tensor
    outputs: Tensor

    def mean_keys(self, shares: Tensor) -> Tensor:
        """The mean key of each fact, [n, in]."""
        return torch.einsum("nmi,m->ni", self.keys, shares.to(self.keys))

    def mean_values(self, shares: Tensor) -> Tensor:
        """The mean value of each fact, [n, out]."""
        return torch.einsum("nmi,m->ni", self.values, shares.to(self.values))


@torch.no_grad()
def place_facts(model: LanguageModel, layer: str, facts: Sequence[Sequence[Located]]) -> Placed:
    """Compute keys and values of facts, each given in equally many texts, the bare one first."""
    rows = [located for fact in facts for located in fact]
    keys, values, outputs = [], [], []
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        # Nothing behind the subject reaches its key.
        batch = pad_texts([row.tokens[: row.place + 1] for row in some])
        trace = model.trace(layer, batch)
        value = model.layer_value(layer, trace)
        output = model.block_output(layer, value, trace)
        index = (torch.arange(len(some)), torch.tensor([row.place for row in some]))
        keys.append(trace.key[index])
        values.append(value[index])
        outputs.append(output[index])
    count = len(facts[0])
    bare = torch.cat(outputs)[::count]
    shaped = [torch.cat(each).view(len(facts), count, -1) for each in (keys, values)]
    return Placed(shaped[0], shaped[1], bare)
