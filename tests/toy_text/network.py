"""The toy network: for each letter of a text, the probabilities of the next one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.core.model import Keys, Trace
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.maths.channelwise import MatrixFunction
from tests.toy_text.architecture import read_architecture

LETTERS = "abcdefghijklmnop"


@dataclass(frozen=True)
class Texts:
    """A batch of texts: letters as numbers [n, positions], and 0 where there is no letter."""

    letters: Tensor
    weight: Tensor


def encode(texts: list[str]) -> Texts:
    """Texts of different lengths as one batch; the short ones are padded."""
    longest = max(len(text) for text in texts)
    letters = torch.zeros(len(texts), longest, dtype=torch.long)
    weight = torch.zeros(len(texts), longest)
    for row, text in enumerate(texts):
        letters[row, : len(text)] = torch.tensor([LETTERS.index(letter) for letter in text])
        weight[row, : len(text)] = 1
    return Texts(letters, weight)


class Toy:
    """The model; takes `Texts`, gives probabilities [n, positions, letters]."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        infos = {name: TensorInfo("F32", tuple(each.shape)) for name, each in weights.items()}
        self.architecture = read_architecture(infos)

    def keys(self, layer: str, batch: Texts) -> Keys:
        """The keys of a layer; padding counts nothing."""
        key = self.trace(layer, batch).key
        return Keys(key, batch.weight.to(key))

    def trace(self, layer: str, batch: Texts) -> Trace:
        """All that reaches a layer."""
        key = self.weights["embedding.weight"][batch.letters.to(self.device)]
        if layer == "second":
            key = key @ self.weights["first.weight"].mT
        return Trace(key, {}, None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights["embedding.weight"].device

    def function(self, layer: str) -> MatrixFunction:
        """W k, whatever the layer."""
        return MatrixFunction()

    def layer_value(self, layer: str, trace: Trace) -> Tensor:
        """The value of a layer with its own weight."""
        return self.function(layer)(trace.key, self.weight(layer), trace.arguments)

    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        """The probabilities that follow from a value."""
        if layer == "first":
            value = value @ self.weights["second.weight"].mT
        return value.softmax(-1)

    def outputs(self, batch: Texts) -> Tensor:
        """The probabilities of the next letter."""
        trace = self.trace("second", batch)
        return self.forward_from("second", self.layer_value("second", trace), trace)

    def weight(self, layer: str) -> Tensor:
        """The matrix [out, in]."""
        return self.weights[self.architecture.layers[layer].parameter]

    def to_checkpoint(self, layer: str, kernel: Tensor) -> Tensor:
        """A matrix is stored as it is."""
        return kernel

    def upstream(self, layer: str) -> dict[str, Tensor]:
        """What the keys of a layer depend on."""
        names = ["embedding.weight"] + (["first.weight"] if layer == "second" else [])
        return {name: self.weights[name] for name in names}

    def with_weights(self, weights: Mapping[str, Tensor]) -> Toy:
        """The same around other weights."""
        return Toy(weights)

    def fingerprint(self) -> dict[str, Any]:
        """Nothing but the family."""
        return {"family": self.architecture.family}


def make_toy(
    weights: Mapping[str, Tensor],
    fields: ModelFields,
    origin: object,
    compatibility: Compatibility,
) -> Toy:
    """The model around tensors that are in place."""
    return Toy(weights)


@dataclass(frozen=True)
class RandomTexts:
    """Texts of 1 to 6 letters: item n depends on the seed and n alone."""

    seed: int
    count: int
    longest: int = 6

    @property
    def positions(self) -> int:
        """All letters."""
        return sum(len(self.text(number)) for number in range(self.count))

    def first(self, count: int) -> RandomTexts:
        """The first of them."""
        return RandomTexts(self.seed, min(count, self.count))

    def text(self, number: int) -> str:
        """Item `number`."""
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        length = int(torch.randint(1, self.longest + 1, (), generator=generator))
        letters = torch.randint(len(LETTERS), (length,), generator=generator)
        return "".join(LETTERS[int(letter)] for letter in letters)

    def fingerprint(self) -> list[Any]:
        """What the texts depend on."""
        return ["random letters", self.seed, self.count]

    def batches(self, model: Toy, size: int, numbers: range) -> Iterator[Texts]:
        """The texts of some numbers, `size` at a time."""
        for start in range(0, len(numbers), size):
            yield encode([self.text(number) for number in numbers[start : start + size]])
