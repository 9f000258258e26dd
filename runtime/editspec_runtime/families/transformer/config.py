"""What ``config.json`` says of a transformer; imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.transformer.layouts import GEMMA, GPT2, GPTJ, LLAMA, NEOX, Layout
from editspec_runtime.io.json_text import JsonError, parse_json

FILE = "config.json"

SUPPORTED = "Llama, SmolLM2, Mistral, Qwen2, Qwen3, Gemma 1 to 3, GPT-2, GPT-NeoX, Pythia and GPT-J"

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_fast": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "relu": "relu",
}
"""Activations by the words of configurations."""

QUANTISED = ("quantization_config", "compression_config")
"""What configurations say of quantised weights."""

WHOLE = {
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 10_000),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), 100_000),
    **dict.fromkeys(("hidden_size", "n_embd", "intermediate_size", "head_dim"), 10**7),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions", "n_ctx"), 10**9),
    **dict.fromkeys(("sliding_window", "rotary_dim"), 10**9),
}
"""The whole numbers of configurations, with the largest that is read."""

POSITIVE = (
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rope_theta",
    "rotary_emb_base",
    "rope_local_base_freq",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
"""The numbers of configurations that are above 0."""


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of the queries and keys of a block.

    Attributes
    ----------
    size
        The number of features of a head that turn.
    theta
        The base of the angles.
    interleaved
        Whether neighbouring features turn together; else those of two halves.
    factor
        A factor that positions are divided by.
    bands
        (factor, low, high, context) of the scaling of Llama 3, which depends on the frequency;
        None where there is none.
    """

    size: int
    theta: float
    interleaved: bool = False
    factor: float = 1.0
    bands: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class TransformerConfig:
    """The numbers of a transformer that its tensors do not tell.

    Attributes
    ----------
    kind
        The ``model_type`` of the configuration.
    layout
        The names of its tensors.
    blocks, width, heads, groups, head_size
        The numbers of blocks, of features, of query heads, of key heads and of their features.
    vocabulary, context
        The numbers of tokens, and of positions.
    activation
        The nonlinearity of the MLP.
    epsilon, rms, norm_shift
        The constant of the norms, whether they leave the mean in, and what is added to their gains.
    rotary, windows
        Of each block: its rotary positions, and how many positions it sees; None for all.
    parallel
        Whether attention and MLP read the same input.
    embedding_scale, attention_scale
        The factors of embeddings, and of the products of queries and keys.
    attention_cap, logit_cap
        The largest absolute values that tanh lets through; None where there is no cap.
    bos
        The token that begins a text; None where there is none.
    """

    kind: str
    layout: Layout
    blocks: int
    width: int
    heads: int
    groups: int
    head_size: int
    vocabulary: int
    context: int
    activation: str
    epsilon: float
    rms: bool = True
    norm_shift: float = 0.0
    rotary: tuple[Rotary | None, ...] = ()
    windows: tuple[int | None, ...] = field(default=())
    parallel: bool = False
    embedding_scale: float = 1.0
    attention_scale: float = 1.0
    attention_cap: float | None = None
    logit_cap: float | None = None
    bos: int | None = None


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json`` beside weights; `path` is their folder, file or index.

    Raises `WeightsError` where it is missing or is not JSON.
    """
    place = (path if path.is_dir() else path.parent) / FILE
    try:
        content = parse_json(place.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(
            f"{place} is missing, which says how the weights of a transformer are computed with.",
            "Give the folder as the hub has it: config.json, *.safetensors and tokenizer.json.",
        ) from error
    except (OSError, JsonError) as error:
        raise WeightsError(f"{place} cannot be read as JSON.", "Get the file again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{place} is not a mapping.", "Get the file again.")
    return content


def parse_config(content: Mapping[str, Any], layout: Layout | None = None) -> TransformerConfig:
    """Read a configuration.

    `layout` is that of the names of the tensors, which tells the architecture where the
    configuration does not name it. Raises `WeightsError` where the architecture is unknown, the
    weights are quantised, or the numbers are missing or of a kind that is not supported.
    """
    kind = content.get("model_type")
    if kind is None and layout is not None and layout.name in USUAL:
        kind = USUAL[layout.name]
    quantised = [name for name in QUANTISED if content.get(name)]
    if quantised:
        said = content[quantised[0]]
        method = said.get("quant_method") if isinstance(said, Mapping) else said
        named = method if isinstance(method, str) else "a method of its own"
        raise WeightsError(
            f"These weights are quantised ({named}), so that no change can be added to them.",
            "Get the model in float32, float16 or bfloat16.",
        )
    experts = [name for name in content if "expert" in name and content[name]]
    if experts:
        raise WeightsError(
            f"This model is a mixture of experts ({experts[0]}: {content[experts[0]]}): each token "
            "passes other matrices, so that no single one holds a fact.",
            f"Edit a dense model: {SUPPORTED}.",
        )
    if not isinstance(kind, str) or kind not in KINDS:
        named = f"model_type: {json.dumps(kind)}" if kind else "no model_type"
        if isinstance(kind, str):
            named = f"model_type: {kind}"
        raise WeightsError(
            f"{FILE} says {named}, and editspec does not know how this architecture computes.",
            f"These are known: {SUPPORTED}.",
        )
    _require_numbers(content)
    try:
        return KINDS[kind]({**content, "model_type": kind})
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else "its numbers do not fit"
        raise WeightsError(
            f"{FILE} does not describe a model of model_type {kind}: {said}.",
            "Get the file again, of the same version as the weights.",
        ) from error


def _require_numbers(content: Mapping[str, Any]) -> None:
    """Raise a `WeightsError` where a number is not one that a model can have."""
    for name in WHOLE:
        value = content.get(name)
        if value is None:
            continue
        if type(value) is not int or not 0 < value <= WHOLE[name]:
            raise WeightsError(
                f"{FILE} says {name}: {json.dumps(value)}, where a whole number from 1 to "
                f"{WHOLE[name]} was expected.",
                "Get the file again, of the same version as the weights.",
            )
    kinds, blocks = content.get("layer_types"), content.get("num_hidden_layers")
    if kinds is not None and not (isinstance(kinds, list) and len(kinds) == blocks):
        raise WeightsError(
            f"{FILE} says layer_types: {json.dumps(kinds)}, where a list of {blocks} kinds was "
            "expected, one for each block.",
            "Get the file again, of the same version as the weights.",
        )
    for name in POSITIVE:
        value = content.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < math.inf):
            raise WeightsError(
                f"{FILE} says {name}: {json.dumps(value)}, where a number above 0 was expected.",
                "Get the file again, of the same version as the weights.",
            )


def _refuse(content: Mapping[str, Any], **wanted: Any) -> None:
    """Raise a `WeightsError` where a field has another value than the one that is computed."""
    for name, value in wanted.items():
        found = content.get(name, value)
        if found != value:
            raise WeightsError(
                f"{FILE} says {name}: {found}, and editspec computes {value} alone.",
                f"These are known: {SUPPORTED}.",
            )


def _activation(word: object) -> str:
    if not isinstance(word, str) or word not in ACTIVATIONS:
        named = word if isinstance(word, str) else json.dumps(word)
        raise WeightsError(
            f"{FILE} names the activation {named}, which editspec does not know.",
            f"These are known: {', '.join(ACTIVATIONS)}.",
        )
    return ACTIVATIONS[word]


def _rotary(
    content: Mapping[str, Any],
    size: int,
    *,
    block_kind: str = "full_attention",
    usual: float = 10_000.0,
    interleaved: bool = False,
) -> Rotary:
    """Read rotary positions, as configurations of several years say them."""
    said = content.get("rope_parameters") or content.get("rope_scaling") or {}
    said = said.get(block_kind, said) if isinstance(said, Mapping) else said
    if not isinstance(said, Mapping):
        raise WeightsError(
            f"{FILE} scales its rotary positions by {json.dumps(said)}, where a mapping was "
            "expected.",
            "Get the file again, of the same version as the weights.",
        )
    theta = said.get("rope_theta") or content.get("rope_theta") or usual
    form = said.get("rope_type") or said.get("type") or "default"
    if form == "default":
        return Rotary(size, float(theta), interleaved)
    if form == "linear":
        return Rotary(size, float(theta), interleaved, float(said["factor"]))
    if form == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        factor, low, high = (float(said[name]) for name in names)
        context = float(said["original_max_position_embeddings"])
        return Rotary(size, float(theta), interleaved, bands=(factor, low, high, context))
    raise WeightsError(
        f"{FILE} scales its rotary positions by {form}, which editspec does not compute.",
        "default, linear and llama3 are known.",
    )


def _common(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that Llama and what followed it share."""
    heads = int(content["num_attention_heads"])
    width = int(content["hidden_size"])
    head_size = int(content.get("head_dim") or width // heads)
    return {
        "kind": content["model_type"],
        "blocks": int(content["num_hidden_layers"]),
        "width": width,
        "heads": heads,
        "groups": int(content.get("num_key_value_heads") or heads),
        "head_size": head_size,
        "vocabulary": int(content["vocab_size"]),
        "context": int(content["max_position_embeddings"]),
        "bos": _bos(content),
        "attention_scale": head_size**-0.5,
    }


def _bos(content: Mapping[str, Any]) -> int | None:
    token = content.get("bos_token_id")
    return int(token) if isinstance(token, int) else None


def _llama(content: Mapping[str, Any]) -> TransformerConfig:
    """Llama, SmolLM2, Mistral, Qwen2 and Qwen3."""
    common = _common(content)
    rotary = _rotary(content, common["head_size"])
    window = content.get("sliding_window")
    if content.get("use_sliding_window") is False:
        window = None
    kinds = content.get("layer_types") or ["sliding_attention"] * common["blocks"]
    windows = [window if kind == "sliding_attention" else None for kind in kinds]
    if "layer_types" not in content and content.get("max_window_layers") is not None:
        first = int(content["max_window_layers"])
        windows = [window if number >= first else None for number in range(common["blocks"])]
    return TransformerConfig(
        **common,
        layout=LLAMA,
        activation=_activation(content.get("hidden_act", "silu")),
        epsilon=float(content.get("rms_norm_eps", 1e-6)),
        rotary=(rotary,) * common["blocks"],
        windows=tuple(windows),
    )


def _gemma(content: Mapping[str, Any]) -> TransformerConfig:
    """Gemma 1, 2 and 3, whose gains are stored less one and whose embeddings are scaled."""
    common = _common(content)
    common["head_size"] = int(content.get("head_dim", 256))
    kind, blocks = common["kind"], common["blocks"]
    kinds = content.get("layer_types") or _gemma_kinds(content, blocks)
    rotary = []
    for each in kinds:
        local = kind == "gemma3_text" and each == "sliding_attention"
        usual = float(content.get("rope_local_base_freq", 10_000.0))
        own = content
        if local and "rope_parameters" not in content:
            own = {"rope_theta": usual}
        rotary.append(_rotary(own, common["head_size"], block_kind=each, usual=usual))
    scalar = content.get("query_pre_attn_scalar") or common["head_size"]
    common["attention_scale"] = float(scalar) ** -0.5
    window = content.get("sliding_window")
    caps = kind == "gemma2"
    act = content.get("hidden_activation") or content.get("hidden_act") or "gelu_pytorch_tanh"
    if kind == "gemma":
        act = "gelu_pytorch_tanh"  # whatever the field says: the first release named another
    return TransformerConfig(
        **common,
        layout=LLAMA if kind == "gemma" else GEMMA,
        activation=_activation(act),
        epsilon=float(content.get("rms_norm_eps", 1e-6)),
        norm_shift=1.0,
        rotary=tuple(rotary),
        windows=tuple(window if each == "sliding_attention" else None for each in kinds),
        embedding_scale=math.sqrt(common["width"]),
        attention_cap=content.get("attn_logit_softcapping") if caps else None,
        logit_cap=content.get("final_logit_softcapping"),
    )


def _gemma_kinds(content: Mapping[str, Any], blocks: int) -> list[str]:
    """The kinds of blocks where the configuration does not list them."""
    if content["model_type"] == "gemma":
        return ["full_attention"] * blocks
    period = 2
    if content["model_type"] == "gemma3_text":
        period = int(content.get("sliding_window_pattern", 6))
    kinds = []
    for number in range(blocks):
        full = (number + 1) % period == 0
        kinds.append("full_attention" if full else "sliding_attention")
    return kinds


def _common_of_gpt(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that GPT-2 and GPT-J share, and name as no other does."""
    heads, width = int(content["n_head"]), int(content["n_embd"])
    blocks = int(content["n_layer"])
    return {
        "kind": content["model_type"],
        "blocks": blocks,
        "width": width,
        "heads": heads,
        "groups": heads,
        "head_size": width // heads,
        "vocabulary": int(content["vocab_size"]),
        "context": int(content.get("n_positions") or content["n_ctx"]),
        "activation": _activation(content.get("activation_function", "gelu_new")),
        "epsilon": float(content.get("layer_norm_epsilon", 1e-5)),
        "rms": False,
        "windows": (None,) * blocks,
        "attention_scale": (width // heads) ** -0.5,
        "bos": _bos(content),
    }


def _gpt2(content: Mapping[str, Any]) -> TransformerConfig:
    _refuse(content, scale_attn_by_inverse_layer_idx=False, scale_attn_weights=True)
    common = _common_of_gpt(content)
    return TransformerConfig(
        **common,
        layout=GPT2,
        rotary=(None,) * common["blocks"],
    )


def _neox(content: Mapping[str, Any]) -> TransformerConfig:
    common = _common(content)
    said = content.get("rope_parameters") or {}
    share = content.get("rotary_pct") or said.get("partial_rotary_factor") or 0.25
    base = float(content.get("rotary_emb_base", 10_000.0))
    rotary = _rotary(content, int(common["head_size"] * float(share)), usual=base)
    return TransformerConfig(
        **common,
        layout=NEOX,
        activation=_activation(content.get("hidden_act", "gelu")),
        epsilon=float(content.get("layer_norm_eps", 1e-5)),
        rms=False,
        rotary=(rotary,) * common["blocks"],
        windows=(None,) * common["blocks"],
        parallel=bool(content.get("use_parallel_residual", True)),
    )


def _gptj(content: Mapping[str, Any]) -> TransformerConfig:
    common = _common_of_gpt(content)
    size = content.get("rotary_dim") or common["head_size"]
    return TransformerConfig(
        **common,
        layout=GPTJ,
        rotary=(Rotary(int(size), 10_000.0, interleaved=True),) * common["blocks"],
        parallel=True,
    )


KINDS: dict[str, Callable[[Mapping[str, Any]], TransformerConfig]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gemma": _gemma,
    "gemma2": _gemma,
    "gemma3_text": _gemma,
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "gptj": _gptj,
}
"""The readers of configurations by their ``model_type``."""

USUAL = {LLAMA.name: "llama", GPT2.name: "gpt2", NEOX.name: "gpt_neox", GPTJ.name: "gptj"}
"""The ``model_type`` of a layout where the configuration names none."""
