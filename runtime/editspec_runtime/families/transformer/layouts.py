"""The names that layouts of transformers give to their tensors; imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Layout:
    """The names of the parts of a layout, without their endings ``.weight`` and ``.bias``.

    Attributes
    ----------
    name
        The name of the layout.
    base
        The text before the names of all parts but the head; some files leave it out.
    embedding, positions
        The tables of tokens and of positions; the latter is empty for rotary positions.
    block
        The text before the names of a block's parts, behind `base`; ``{}`` is its number.
    attention_norm, mlp_norm
        The norms before attention and MLP; the latter is empty where both share one.
    query, key, value
        The projections of the attention; or one that holds all three, as `fused`.
    attention_out
        The projection of the attention's result.
    gate, up, down
        The matrices of the MLP; a layout without a gate has none. `down` is the memory.
    final_norm, head
        The norm and the matrix before the logits; the latter is not below `base`.
    inputs_first
        Whether matrices of blocks are stored [in, out].
    after_norms
        The norms behind attention and MLP, of the models that have them.
    """

    name: str
    base: str
    embedding: str
    block: str
    attention_norm: str
    attention_out: str
    up: str
    down: str
    final_norm: str
    head: str
    positions: str = ""
    mlp_norm: str = ""
    query: str = ""
    key: str = ""
    value: str = ""
    fused: str = ""
    gate: str = ""
    inputs_first: bool = False
    after_norms: tuple[str, ...] = field(default=())

    def find_base(self, names: Collection[str]) -> str:
        """The base that these names of tensors have: that of the layout, or none."""
        for base in (self.base, ""):
            if f"{base}{self.embedding}.weight" in names:
                return base
        return self.base

    def part(self, base: str, block: int, name: str) -> str:
        """The name of a part of a block."""
        return f"{base}{self.block.format(block)}.{name}"

    def count_blocks(self, base: str, names: Collection[str]) -> int:
        """The number of blocks up to the first gap."""
        number = 0
        while f"{self.part(base, number, self.down)}.weight" in names:
            number += 1
        return number


LLAMA = Layout(
    name="llama",
    base="model.",
    embedding="embed_tokens",
    block="layers.{}",
    attention_norm="input_layernorm",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    final_norm="norm",
    head="lm_head",
)
"""The layout of Llama, Mistral, Qwen2, Qwen3 and the first Gemma."""

GEMMA = replace(
    LLAMA,
    name="gemma",
    mlp_norm="pre_feedforward_layernorm",
    after_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
)
"""The layout of Gemma 2 and 3, which normalise what attention and MLP give."""

GPT2 = Layout(
    name="gpt2",
    base="transformer.",
    embedding="wte",
    positions="wpe",
    block="h.{}",
    attention_norm="ln_1",
    fused="attn.c_attn",
    attention_out="attn.c_proj",
    mlp_norm="ln_2",
    up="mlp.c_fc",
    down="mlp.c_proj",
    final_norm="ln_f",
    head="lm_head",
    inputs_first=True,
)

NEOX = Layout(
    name="gpt-neox",
    base="gpt_neox.",
    embedding="embed_in",
    block="layers.{}",
    attention_norm="input_layernorm",
    fused="attention.query_key_value",
    attention_out="attention.dense",
    mlp_norm="post_attention_layernorm",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    final_norm="final_layer_norm",
    head="embed_out",
)

GPTJ = Layout(
    name="gpt-j",
    base="transformer.",
    embedding="wte",
    block="h.{}",
    attention_norm="ln_1",
    query="attn.q_proj",
    key="attn.k_proj",
    value="attn.v_proj",
    attention_out="attn.out_proj",
    up="mlp.fc_in",
    down="mlp.fc_out",
    final_norm="ln_f",
    head="lm_head",
)

LAYOUTS = (GEMMA, LLAMA, GPT2, NEOX, GPTJ)
"""The layouts, in the order in which names are tried as theirs."""


def find_layout(names: Collection[str]) -> Layout | None:
    """The layout whose first block has these names of tensors; None where none has."""
    for layout in LAYOUTS:
        base = layout.find_base(names)
        first = [layout.attention_out, layout.down, *layout.after_norms]
        wanted = [f"{layout.part(base, 0, name)}.weight" for name in first]
        if all(name in names for name in wanted):
            return layout
    return None
