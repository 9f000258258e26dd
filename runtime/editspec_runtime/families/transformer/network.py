"""A transformer as a model whose layers can be read and edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.core.model import Keys, Trace
from editspec_runtime.families.transformer.architecture import TransformerArchitecture
from editspec_runtime.families.transformer.blocks import NOWHERE, Blocks, KeysAndValues, Stream
from editspec_runtime.families.transformer.config import TransformerConfig
from editspec_runtime.io.weights import Weights
from editspec_runtime.maths.channelwise import MatrixFunction
from editspec_runtime.modalities.text.batches import TokenBatch
from editspec_runtime.modalities.text.language_model import Continuation, Suffix


@dataclass(frozen=True)
class Carried:
    """All that the rest of the model needs besides a value."""

    mid: Tensor
    stream: Stream


class Transformer:
    """A transformer that goes on with texts.

    A batch is a `TokenBatch`, outputs are logits of the next token [n, positions, vocabulary].

    Parameters
    ----------
    weights
        The tensors by their names in the checkpoint.
    architecture
        Its layers, with the configuration.
    counts_first
        Whether the first position of a text counts among the keys. Its key is nearly the same for
        every text, and many times as long as any other.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        architecture: TransformerArchitecture,
        *,
        counts_first: bool = False,
    ) -> None:
        self.weights = weights
        self.architecture = architecture
        self.counts_first = counts_first
        assert architecture.config is not None
        self.config: TransformerConfig = architecture.config
        self.blocks = Blocks(self.config, architecture.base, weights)
        # Of a small tensor: of a large model each is read when it is asked for.
        self._device = weights[f"{architecture.base}{self.config.layout.final_norm}.weight"].device

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return self.config.vocabulary

    @property
    def context(self) -> int:
        """The number of positions that a text may have."""
        return self.config.context

    @property
    def adds_values(self) -> bool:
        """Whether values are added to the residual stream as they are."""
        return not self.config.layout.after_norms

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._device

    def keys(self, layer: str, batch: TokenBatch) -> Keys:
        """Compute the keys of a layer; padding has no weight."""
        weight = batch.filled.to(self.device).clone()
        if not self.counts_first:
            weight[:, 0] = False
        key = self.trace(layer, batch).key
        return Keys(key, weight.to(key))

    def trace(self, layer: str, batch: TokenBatch) -> Trace:
        """Compute all that reaches a layer."""
        return self._trace(layer, batch, None)

    def _trace(self, layer: str, batch: TokenBatch, kept: dict[int, KeysAndValues] | None) -> Trace:
        tokens = batch.tokens.to(self.device)
        stream = self._positions(tokens.shape[1], kept)
        block = self.architecture.block_of(layer)
        h = self.blocks.run(self.blocks.embed(tokens, stream), stream, 0, block)
        key, mid = self.blocks.to_key(block, h, stream)
        return Trace(key, {}, Carried(mid, stream))

    def function(self, layer: str) -> MatrixFunction:
        """W k + b, where the bias belongs to the value and never changes."""
        parameter = self.architecture.layers[layer].parameter
        return MatrixFunction(self.weights.get(parameter.removesuffix("weight") + "bias"))

    def layer_value(self, layer: str, trace: Trace) -> Tensor:
        """Compute the value of a layer with its own weight."""
        return self.function(layer)(trace.key, self.weight(layer), trace.arguments)

    def block_output(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        """Compute the residual stream behind the block of a layer, [n, positions, width]."""
        return self.blocks.finish(self.architecture.block_of(layer), trace.carried.mid, value)

    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        """Compute the logits that follow from a value."""
        carried: Carried = trace.carried
        h = self.block_output(layer, value, trace)
        first = self.architecture.block_of(layer) + 1
        h = self.blocks.run(h, carried.stream, first, self.config.blocks)
        return self.blocks.logits(h)

    def outputs(self, batch: TokenBatch) -> Tensor:
        """Compute the logits of the next token at every position."""
        last = list(self.architecture.layers)[-1]
        trace = self.trace(last, batch)
        return self.forward_from(last, self.layer_value(last, trace), trace)

    def weight(self, layer: str) -> Tensor:
        """The matrix [out, in]."""
        stored = self.weights[self.architecture.layers[layer].parameter]
        return stored.mT if self.config.layout.inputs_first else stored

    def to_checkpoint(self, layer: str, kernel: Tensor) -> Tensor:
        """Bring a matrix [out, in] into the order of the checkpoint."""
        return kernel.mT.contiguous() if self.config.layout.inputs_first else kernel

    def upstream(self, layer: str) -> Mapping[str, Tensor]:
        """The tensors that the keys of a layer depend on."""
        block = self.architecture.block_of(layer)
        layout, base = self.config.layout, self.architecture.base
        blocks = [f"{base}{layout.block.format(number)}." for number in range(block + 1)]
        own = layout.part(base, block, layout.down)
        heads = [f"{base}{name}." for name in (layout.embedding, layout.positions) if name]
        behind = [own]
        if layout.after_norms:
            behind.append(layout.part(base, block, layout.after_norms[1]))
        found = []
        for name in self.weights:
            named = name.startswith((*blocks, *heads))
            if named and not name.startswith(tuple(f"{each}." for each in behind)):
                found.append(name)
        if isinstance(self.weights, Weights):
            return self.weights.part(found)
        return {name: self.weights[name] for name in found}

    def with_weights(self, weights: Mapping[str, Tensor]) -> Transformer:
        """Make the model with other weights."""
        return Transformer(weights, self.architecture, counts_first=self.counts_first)

    def separate(self) -> Transformer:
        """The model itself: it holds no state while it runs."""
        return self

    def fingerprint(self) -> dict[str, Any]:
        """The configuration, and which positions count."""
        plain = {name: str(value) for name, value in vars(self.config).items() if name != "layout"}
        return {
            "family": self.architecture.family,
            "layout": self.config.layout.name,
            "config": plain,
            "counts_first": self.counts_first,
        }

    @property
    def block_count(self) -> int:
        """The number of blocks."""
        return self.config.blocks

    def embed(self, tokens: Tensor) -> Tensor:
        """Compute the stream before the first block of tokens [n, positions]."""
        tokens = tokens.to(self.device)
        return self.blocks.embed(tokens, self._positions(tokens.shape[1]))

    def run_block(
        self, block: int, stream: Tensor, change: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the stream behind a block and the value of its memory.

        Each is [n, positions, width]. `change` makes another value of the value before it is added.
        """
        positions = self._positions(stream.shape[1])
        key, mid = self.blocks.to_key(block, stream.clone(), positions)
        value = self.blocks.memory(block, key)
        if change is not None:
            value = change(value)
        return self.blocks.finish(block, mid, value), value

    def next_logits(self, stream: Tensor) -> Tensor:
        """Compute the logits of the token behind texts of one length, [n, vocabulary]."""
        return self.blocks.logits(stream[:, -1])

    def _positions(self, length: int, kept: dict[int, KeysAndValues] | None = None) -> Stream:
        """The stream of whole texts, of which the longest has a `length`."""
        return Stream(torch.arange(length, device=self.device)[None], kept=kept)

    def start_reading(self) -> Callable[[Tensor], Tensor]:
        """Start to read texts piece by piece; earlier pieces are not computed again."""
        past: dict[int, KeysAndValues] = {}
        seen = 0

        def read(tokens: Tensor) -> Tensor:
            """Read the next tokens of all texts, and return the logits of those after them."""
            nonlocal past, seen
            tokens = tokens.to(self.device)
            steps = torch.arange(seen + tokens.shape[1], device=self.device)
            places = steps.expand(len(tokens), -1)
            kept: dict[int, KeysAndValues] = {}
            stream = Stream(places[:, seen:], places[:, :seen], past, kept)
            embedded = self.blocks.embed(tokens, stream)
            h = self.blocks.run(embedded, stream, 0, self.config.blocks)
            past, seen = kept, places.shape[1]
            return self.blocks.logits(h[:, -1])

        return read

    def suffix(self, layer: str, batch: TokenBatch, starts: Tensor) -> Suffix:
        """Prepare the computation of what follows when values change from given positions on.

        Only positions from `starts` [n] on can change then, and only layers from `layer` on. Their
        number is that of the text that goes on longest.
        """
        kept: dict[int, KeysAndValues] = {}
        trace = self._trace(layer, batch, kept)
        block = self.architecture.block_of(layer)
        value = self.layer_value(layer, trace)
        carried: Carried = trace.carried
        lengths, starts = batch.lengths.to(self.device), starts.to(self.device)
        rows = torch.arange(len(starts), device=self.device)[:, None]
        first = (rows[:, 0], starts)
        h = self.block_output(layer, value, trace)
        block_output = h[first]
        self.blocks.run(h, carried.stream, block + 1, self.config.blocks)
        count, past = int((lengths - starts).max()), int(starts.max())
        # Behind the end of a text that is shorter lies its last position again, unseen.
        steps = torch.arange(count, device=self.device)
        places = starts[:, None] + steps
        taken = places.minimum(lengths[:, None] - 1)
        before = starts[:, None] - past + torch.arange(past, device=self.device)
        held = before.clamp_min(0)
        past_places = torch.where(before >= 0, before, NOWHERE)
        later = range(block + 1, self.config.blocks)
        kept_past = {}
        for number in later:
            keys, values = kept[number]
            kept_past[number] = (
                keys.transpose(1, 2)[rows, held].transpose(1, 2),
                values.transpose(1, 2)[rows, held].transpose(1, 2),
            )
        stream = Stream(places, past_places, kept_past)
        return Suffix(
            key=trace.key[first],
            value=value[first],
            block_output=block_output,
            continuation=_Rest(self, layer, carried.mid[rows, taken], value[rows, taken], stream),
        )


@dataclass(frozen=True)
class _Rest(Continuation):
    """What follows from a value at the first positions of suffixes."""

    model: Transformer
    layer: str
    mid: Tensor
    value: Tensor
    stream: Stream

    def __call__(self, shift: Tensor) -> Tensor:
        """Compute the stream behind the last block, [n, suffix, width]."""
        value = torch.cat([self.value[:, :1] + shift, self.value[:, 1:]], 1)
        blocks, block = self.model.blocks, self.model.architecture.block_of(self.layer)
        h = blocks.finish(block, self.mid, value)
        return blocks.run(h, self.stream, block + 1, self.model.config.blocks)

    def logits(self, stream: Tensor) -> Tensor:
        """Compute logits from the stream behind the last block."""
        return self.model.blocks.logits(stream)
