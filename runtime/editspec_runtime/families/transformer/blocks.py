"""The blocks of a transformer in plain torch, around a checkpoint's tensors.

A block reads the residual stream h [n, positions, width]. Attention adds to it what earlier
positions hold, and the MLP adds W k, where k is the key and W the memory that edits change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.transformer.config import Rotary, TransformerConfig
from editspec_runtime.io.lazy_tensors import LazyTensors
from editspec_runtime.io.weights import Weights


def _silu(x: Tensor) -> Tensor:
    """Compute SiLU, in the place of its input where no gradient needs that."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": _silu,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}

NOWHERE = 2**40
"""The position of a key that no query sees."""

KeysAndValues = tuple[Tensor, Tensor]
"""The keys and the values of an attention, [n, groups, positions, head_size]."""


@dataclass
class Stream:
    """Where the positions of a batch lie, and what lies before them.

    Attributes
    ----------
    places
        The place of each position in its text, [n, positions]; [1, positions] where all texts have
        the same.
    past_places
        The places of the positions before, [n, past]; `NOWHERE` where there is none. None where
        texts are read whole, so that the places are 0, 1, 2 and so on.
    past
        Keys and values of the positions before, by block.
    kept
        Where the keys and values of blocks are kept, by block; None to keep none.
    """

    places: Tensor
    past_places: Tensor | None = None
    past: Mapping[int, KeysAndValues] = field(default_factory=dict)
    kept: dict[int, KeysAndValues] | None = None
    _masks: dict[int | None, Tensor] = field(default_factory=dict)
    _turns: dict[Rotary, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def sees_all_before(self, window: int | None) -> bool:
        """Whether every query sees its own key and all before it, and no others."""
        return self.past_places is None and (window is None or self.places.shape[1] <= window)

    def mask(self, window: int | None) -> Tensor:
        """Whether a query sees a key, [n, 1, positions, past + positions]."""
        if window not in self._masks:
            seen = self.places
            if self.past_places is not None:
                seen = torch.cat([self.past_places, self.places], 1)
            distance = self.places[:, :, None] - seen[:, None]
            mask = distance >= 0
            if window is not None:
                mask = mask & (distance < window)
            self._masks[window] = mask[:, None]
        return self._masks[window]

    def turns(self, rotary: Rotary, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles of each position.

        The cosine of a pair stands at both of its features, [n, 1, positions, size]; the sines are
        [n, 1, positions, size / 2].
        """
        if rotary not in self._turns:
            angles = self.places[..., None].double() * _frequencies(rotary).to(self.places.device)
            cosines, sines = angles.cos().to(like), angles.sin().to(like)
            both = torch.cat([cosines, cosines], -1)
            for features in _pairs(rotary):
                both[..., features] = cosines
            self._turns[rotary] = both[:, None], sines[:, None]
        return self._turns[rotary]


def _frequencies(rotary: Rotary) -> Tensor:
    """The angles of one step, [size / 2] float64."""
    exponents = torch.arange(0, rotary.size, 2, dtype=torch.float64) / rotary.size
    frequencies = 1 / (rotary.theta**exponents) / rotary.factor
    if rotary.bands is None:
        return frequencies
    factor, low, high, context = rotary.bands
    # Llama 3.1: long waves are stretched by the factor, short ones are not, and those in between
    # are mixed.
    waves = 2 * math.pi / frequencies
    share = ((context / waves - low) / (high - low)).clamp(0, 1)
    return frequencies * (share + (1 - share) / factor)


def _pairs(rotary: Rotary) -> tuple[slice, slice]:
    """The features that turn with each other: the first and the second of each pair."""
    if rotary.interleaved:
        return slice(0, rotary.size, 2), slice(1, rotary.size, 2)
    half = rotary.size // 2
    return slice(0, half), slice(half, rotary.size)


def _turn(x: Tensor, rotary: Rotary, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the first features of queries or keys [n, heads, positions, head_size]."""
    cosines, sines = turns
    first, second = _pairs(rotary)
    turned = x[..., : rotary.size] * cosines
    turned[..., first].addcmul_(x[..., second], sines, value=-1)
    turned[..., second].addcmul_(x[..., first], sines)
    if rotary.size == x.shape[-1]:
        return turned
    return torch.cat([turned, x[..., rotary.size :]], -1)


def _attend_fused(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Mix values by how their keys match queries, in one operator.

    [n, heads, positions, head_size]; keys and values are those of groups of heads. Without a mask,
    queries see their own key and all before it.
    """
    return F.scaled_dot_product_attention(
        queries, keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float, cap: float | None
) -> Tensor:
    """Mix values by how their keys match queries, step by step.

    [n, heads, positions, head_size]; keys and values are those of groups of heads. A `cap` bounds
    how well they match.
    """
    repeats = queries.shape[1] // keys.shape[1]
    if repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    scores = (queries * scale) @ keys.mT
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ values


def _multiply(one: Tensor, other: Tensor) -> Tensor:
    """Multiply two tensors, in the place of the first where no gradient needs it."""
    return one * other if torch.is_grad_enabled() else one.mul_(other)


def _add(one: Tensor, other: Tensor) -> Tensor:
    """Add two tensors, in the place of the first where no gradient needs it."""
    return one + other if torch.is_grad_enabled() else one.add_(other)


@dataclass(frozen=True)
class Blocks:
    """The computation of a transformer.

    Attributes
    ----------
    config
        The numbers of the model.
    base
        The text before the names of its tensors.
    weights
        The tensors by their names in the checkpoint.
    """

    config: TransformerConfig
    base: str
    weights: Mapping[str, Tensor]

    def embed(self, tokens: Tensor, stream: Stream) -> Tensor:
        """Compute the residual stream before the first block, [n, positions, width]."""
        layout = self.config.layout
        table = self.weights[f"{self.base}{layout.embedding}.weight"]
        highest = int(tokens.max())
        if highest >= len(table):
            raise WeightsError(
                f"The tokenizer has a token {highest}, and the weights have embeddings of "
                f"{len(table)} tokens.",
                "Give weights and tokenizer.json of one model.",
            )
        found = F.embedding(tokens, table)
        if self.config.embedding_scale != 1.0:
            found = found * self.config.embedding_scale
        if layout.positions:
            table = self.weights[f"{self.base}{layout.positions}.weight"]
            # Padding may lie behind the last position, and nothing looks at it.
            found = found + F.embedding(stream.places.clamp_max(len(table) - 1), table)
        return found

    def run(self, h: Tensor, stream: Stream, start: int, end: int) -> Tensor:
        """Compute the residual stream behind block `end` - 1 from that before block `start`.

        Where no gradient is recorded, `h` is overwritten.
        """
        for block in range(start, end):
            if self.reads_blocks and h.requires_grad:
                # Else the graph would hold the weights of all blocks until it is gone back through.
                h = checkpoint(self._run_block, block, h, stream, use_reentrant=False)
            else:
                h = self._run_block(block, h, stream)
        return h

    def _run_block(self, block: int, h: Tensor, stream: Stream) -> Tensor:
        layout = self.config.layout
        key, mid = self.to_key(block, h, stream)
        return self._add_product(mid, block, layout.down, key, layout.after_norms[1:])

    @property
    def reads_blocks(self) -> bool:
        """Whether weights are read from their files each time that they are needed."""
        return isinstance(self.weights, Weights) and isinstance(self.weights.tensors, LazyTensors)

    def to_key(self, block: int, h: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """Compute the key of a block's memory, and the stream that its value is added to.

        [n, positions, in_features] and [n, positions, width]. Where no gradient is recorded, `h` is
        overwritten.
        """
        layout = self.config.layout
        normed = self._norm(layout.part("", block, layout.attention_norm), h)
        attended = self._attend(block, normed, stream)
        if layout.mlp_norm and self.config.parallel:
            normed = self._norm(layout.part("", block, layout.mlp_norm), h)
        before_sum = layout.after_norms[:1]
        mid = self._add_product(h, block, layout.attention_out, attended, before_sum)
        if layout.mlp_norm and not self.config.parallel:
            normed = self._norm(layout.part("", block, layout.mlp_norm), mid)
        activate = ACTIVATIONS[self.config.activation]
        up = self._linear(layout.part("", block, layout.up), normed)
        if layout.gate:
            gate = self._linear(layout.part("", block, layout.gate), normed)
            return _multiply(activate(gate), up), mid
        return activate(up), mid

    def memory(self, block: int, key: Tensor) -> Tensor:
        """Compute the value of a block's memory, [n, positions, width]."""
        layout = self.config.layout
        return self._linear(layout.part("", block, layout.down), key)

    def finish(self, block: int, mid: Tensor, value: Tensor) -> Tensor:
        """Add a value to the residual stream of a block."""
        return mid + self._before_sum(block, value)

    def _before_sum(self, block: int, value: Tensor) -> Tensor:
        """A value as it is added to the residual stream of a block."""
        after = self.config.layout.after_norms
        return self._norm(self.config.layout.part("", block, after[1]), value) if after else value

    def logits(self, h: Tensor) -> Tensor:
        """Compute the logits of the next token from the stream behind the last block."""
        layout, weights = self.config.layout, self.weights
        normed = self._norm(layout.final_norm, h)
        head = weights.get(f"{layout.head}.weight")
        if head is None:
            head = weights[f"{self.base}{layout.embedding}.weight"]
        found = F.linear(normed, head, weights.get(f"{layout.head}.bias"))
        cap = self.config.logit_cap
        return found if cap is None else cap * (found / cap).tanh()

    def _attend(self, block: int, x: Tensor, stream: Stream) -> Tensor:
        config = self.config
        queries, keys, values = self._project(block, x)
        rotary = config.rotary[block]
        if rotary is not None:
            turns = stream.turns(rotary, x)
            queries, keys = _turn(queries, rotary, turns), _turn(keys, rotary, turns)
        if block in stream.past:
            before, held = stream.past[block]
            keys, values = torch.cat([before, keys], 2), torch.cat([held, values], 2)
        if stream.kept is not None:
            stream.kept[block] = keys, values
        window, scale, cap = config.windows[block], config.attention_scale, config.attention_cap
        # On a GPU the way back through the fused operator may add up in any order.
        if cap is None and x.device.type == "cpu":
            mask = None if stream.sees_all_before(window) else stream.mask(window)
            found = _attend_fused(queries, keys, values, mask, scale)
        else:
            found = _attend(queries, keys, values, stream.mask(window), scale, cap)
        return found.transpose(1, 2).flatten(2)

    def _project(self, block: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [n, heads, positions, head_size], and keys and values of the groups."""
        config, layout = self.config, self.config.layout
        if not layout.fused:
            parts = []
            for name in (layout.query, layout.key, layout.value):
                projected = self._linear(layout.part("", block, name), x)
                parts.append(self._heads(projected))
            queries, keys, values = parts
            queries = self._norm_heads(block, layout.query, queries)
            keys = self._norm_heads(block, layout.key, keys)
            return queries, keys, values
        fused = self._linear(layout.part("", block, layout.fused), x)
        if layout.inputs_first:
            queries, keys, values = fused.chunk(3, -1)
            return self._heads(queries), self._heads(keys), self._heads(values)
        # GPT-NeoX interleaves the three, head by head.
        heads = fused.view(*fused.shape[:-1], config.heads, -1).transpose(1, 2)
        first, second, third = heads.chunk(3, -1)
        return first, second, third

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.config.head_size).transpose(1, 2)

    def _norm_heads(self, block: int, name: str, x: Tensor) -> Tensor:
        """Normalise queries or keys head by head, in the models that do so."""
        norm = self.config.layout.part("", block, name).replace("_proj", "_norm")
        return self._norm(norm, x) if f"{self.base}{norm}.weight" in self.weights else x

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._matrix(name), self.weights.get(f"{self.base}{name}.bias"))

    def _matrix(self, name: str) -> Tensor:
        """A matrix of a block, [out, in]."""
        stored = self.weights[f"{self.base}{name}.weight"]
        return stored.mT if self.config.layout.inputs_first else stored

    def _add_product(
        self, h: Tensor, block: int, part: str, x: Tensor, norms: Sequence[str]
    ) -> Tensor:
        """Add the product of a part of a block to the stream `h`, normalised by `norms` before.

        Where no gradient is recorded, `h` is overwritten.
        """
        name = self.config.layout.part("", block, part)
        if norms or torch.is_grad_enabled() or f"{self.base}{name}.bias" in self.weights:
            product = self._linear(name, x)
            for norm in norms:
                product = self._norm(self.config.layout.part("", block, norm), product)
            return _add(product, h)
        # The product adds to the stream as it is made, which saves a way through memory.
        h.view(-1, h.shape[-1]).addmm_(x.flatten(0, -2), self._matrix(name).mT)
        return h

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{self.base}{name}.weight"]
        epsilon = self.config.epsilon
        if not self.config.rms:
            bias = self.weights.get(f"{self.base}{name}.bias")
            return F.layer_norm(x, weight.shape, weight, bias, epsilon)
        if self.config.norm_shift:
            weight = weight + self.config.norm_shift
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
        return _multiply(x * (square + epsilon).rsqrt(), weight)
