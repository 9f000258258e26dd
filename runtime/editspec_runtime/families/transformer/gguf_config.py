"""``config.json`` of a model from the fields of its GGUF file; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.transformer.layouts import GEMMA, GPT2, LLAMA, NEOX, Layout

COMMON = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base": "rope_theta",
    "use_parallel_residual": "use_parallel_residual",
}
"""The fields of configurations by those of GGUF."""

GPT = {
    "context_length": "n_positions",
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
"""Those of GPT-2."""

CLOSE = 1e-3
"""How far the factors of rotary positions may be from those of a scaling."""

LLAMA3_CONTEXT = 8192
"""The context that the scaling of Llama 3 starts from, in all of its releases."""


@dataclass(frozen=True)
class Source:
    """A model at the hub, and what its conversion to GGUF changes.

    Attributes
    ----------
    model_type, layout
        The kind of the model, and the names of its tensors.
    fields
        The fields of its configuration by those of GGUF.
    turned
        Whether the rows of queries and keys are reordered, so that neighbours turn together.
    mixed
        Whether queries, keys and values, which are interleaved head by head, are taken apart.
    norm_shift
        Whether 1 is added to the gains of norms.
    """

    model_type: str
    layout: Layout
    fields: Mapping[str, str]
    turned: bool = False
    mixed: bool = False
    norm_shift: bool = False


CONFIGS = {
    "llama": Source("llama", LLAMA, COMMON, turned=True),
    "qwen2": Source("qwen2", LLAMA, COMMON),
    "qwen3": Source("qwen3", LLAMA, COMMON),
    "gemma": Source("gemma", LLAMA, COMMON, norm_shift=True),
    "gemma2": Source("gemma2", GEMMA, COMMON, norm_shift=True),
    "gemma3": Source("gemma3_text", GEMMA, COMMON, norm_shift=True),
    "gptneox": Source("gpt_neox", NEOX, COMMON, mixed=True),
    "gpt2": Source("gpt2", GPT2, GPT),
}
"""The models that are converted, by the name of their architecture in a file."""


@dataclass(frozen=True)
class Gguf:
    """The description of a model in a GGUF file.

    Attributes
    ----------
    kind
        The name of its architecture.
    said
        The fields of the file.
    shapes
        The shapes of its tensors by their names in the file, the outermost axis first.
    factors
        By what each frequency of the rotary positions is divided; None where by nothing.
    """

    kind: str
    said: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    factors: Sequence[float] | None = None

    def field(self, name: str) -> Any:
        """A field of the architecture; None where the file has none."""
        return self.said.get(f"{self.kind}.{name}")

    def number(self, name: str, usual: int | None = None) -> int:
        """A whole number among the fields. Raises `WeightsError` where there is none."""
        found = self.field(name)
        if found is None:
            found = usual
        # A list says that blocks differ in it.
        if not isinstance(found, int):
            raise WeightsError(
                f"This file says {self.kind}.{name}: {found}, and one number is needed.",
                "Get the file again, or another conversion of the model.",
            )
        return found


def make_config(gguf: Gguf) -> dict[str, Any]:
    """Make the content of ``config.json``.

    Raises `WeightsError` where the file says what is not computed here.
    """
    source = CONFIGS[gguf.kind]
    config: dict[str, Any] = {"model_type": source.model_type}
    for name, own in source.fields.items():
        value = gguf.field(name)
        if value is not None:
            config[own] = value
    for name in ("block_count", "embedding_length", "attention.head_count"):
        gguf.number(name)
    config["vocab_size"] = gguf.shapes["token_embd.weight"][0]
    config["tie_word_embeddings"] = "output.weight" not in gguf.shapes
    for name in ("bos", "eos"):
        token = gguf.said.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None:
            config[f"{name}_token_id"] = token
    experts = gguf.field("expert_count")
    if experts:
        config["num_experts"] = experts
    _add_size_of_heads(config, gguf)
    _add_scaling(config, gguf)
    return config


def _add_size_of_heads(config: dict[str, Any], gguf: Gguf) -> None:
    turning = gguf.field("rope.dimension_count")
    if CONFIGS[gguf.kind].mixed:
        size = gguf.number("embedding_length") // gguf.number("attention.head_count")
        config["rotary_pct"] = (turning or size) / size
    elif turning is not None and "head_dim" not in config:
        config["head_dim"] = turning


def _add_scaling(config: dict[str, Any], gguf: Gguf) -> None:
    """Add the scaling of rotary positions."""
    form = gguf.field("rope.scaling.type")
    factor = gguf.field("rope.scaling.factor")
    if form not in (None, "none") and factor is not None:
        # Those that are not computed here are refused when the configuration is read.
        config["rope_scaling"] = {"rope_type": form, "factor": factor}
    if gguf.factors is None:
        return
    # A file holds the factors alone. Those of Llama 3 follow from the largest one.
    largest = max(gguf.factors)
    scaling = {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": LLAMA3_CONTEXT,
    }
    wanted = _factors_of_llama3(largest, config.get("rope_theta", 10_000.0), len(gguf.factors))
    pairs = zip(wanted, gguf.factors, strict=True)
    if not all(math.isclose(one, two, rel_tol=CLOSE) for one, two in pairs):
        raise WeightsError(
            "This file scales its rotary positions by factors that are not those of Llama 3.",
            "Get the model from the hub, as config.json and *.safetensors.",
        )
    config["rope_scaling"] = scaling


def _factors_of_llama3(factor: float, theta: float, count: int) -> list[float]:
    """The factors of the scaling of Llama 3, of each of `count` frequencies."""
    found = []
    for number in range(count):
        length = 2 * math.pi * theta ** (number / count)
        share = (LLAMA3_CONTEXT / length - 1) / 3
        blend = min(max(share, 0.0), 1.0)
        found.append(1 / ((1 - blend) / factor + blend))
    return found
