"""The family of transformers: its numbers are those of the library of the hub, layout by layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import read_architecture
from editspec_runtime.families.transformer.network import Transformer
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.modalities.text.batches import pad_texts
from tests.cases import tensor_infos

transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 60, "bos_token_id": 0, "eos_token_id": 0}
LLAMA = SMALL | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT = SMALL | {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA = LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
NEOX |= {"rotary_pct": 0.5}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "llama-tied": ("LlamaConfig", LLAMA | {"tie_word_embeddings": True}),
    "llama-biases": ("LlamaConfig", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama-3": ("LlamaConfig", LLAMA | {"rope_parameters": SCALED}),
    "mistral-window": ("MistralConfig", LLAMA | {"sliding_window": 4}),
    "qwen2": ("Qwen2Config", LLAMA),
    "qwen3": ("Qwen3Config", LLAMA | {"head_dim": 8}),
    "gpt2": ("GPT2Config", GPT),
    "gptj": ("GPTJConfig", GPT | {"rotary_dim": 2}),
    "neox": ("GPTNeoXConfig", NEOX),
    "neox-serial": ("GPTNeoXConfig", NEOX | {"use_parallel_residual": False}),
    "gemma": ("GemmaConfig", LLAMA | {"head_dim": 8}),
    "gemma2": ("Gemma2Config", GEMMA),
    "gemma3": ("Gemma3TextConfig", GEMMA | {"num_hidden_layers": 7}),
}
TEXTS = [[5, 9, 3, 22, 41, 7, 13, 2, 59, 11], [4, 4, 8], [30]]


@pytest.fixture(params=CONFIGS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Transformer]:
    """A model with random weights as the library has it, and as we read its folder."""
    kind, settings = CONFIGS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, kind)(**settings)
        theirs = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        ).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.copy_(0.4 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours = make_model("transformer", read_weights(tmp_path), origin=Origin(tmp_path))
    assert isinstance(ours, Transformer)
    return theirs, ours


@torch.no_grad()
def test_logits_are_those_of_the_library(both: tuple[Any, Transformer]) -> None:
    theirs, ours = both
    for text in TEXTS:
        wanted = theirs(torch.tensor([text])).logits
        found = ours.outputs(pad_texts([text]))
        torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-4)
    assert float(wanted.std()) > 0.1


@torch.no_grad()
def test_a_padded_batch_equals_single_texts(both: tuple[Any, Transformer]) -> None:
    _, ours = both
    ours = ours.with_weights({name: each.double() for name, each in ours.weights.items()})
    layer = list(ours.architecture.layers)[1]
    together, keys = ours.outputs(pad_texts(TEXTS)), ours.keys(layer, pad_texts(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = ours.outputs(pad_texts([text]))[0]
        torch.testing.assert_close(together[row, : len(text)], alone, rtol=1e-11, atol=1e-11)
        own = ours.keys(layer, pad_texts([text])).values[0]
        torch.testing.assert_close(keys.values[row, : len(text)], own, rtol=1e-11, atol=1e-11)
    assert keys.weight is not None
    # The first position of a text and padding do not count.
    assert keys.weight.sum(1).tolist() == [len(text) - 1 for text in TEXTS]


@torch.no_grad()
def test_a_value_leads_on_as_the_whole_pass_does(both: tuple[Any, Transformer]) -> None:
    """From key and value at a layer, and from a suffix alone, the logits are those of the pass."""
    _, ours = both
    ours = ours.with_weights({name: each.double() for name, each in ours.weights.items()})
    layer, texts = list(ours.architecture.layers)[1], TEXTS[:2]
    batch, starts = pad_texts(texts), torch.tensor([4, 1])
    trace = ours.trace(layer, batch)
    value = ours.layer_value(layer, trace)
    torch.testing.assert_close(ours.forward_from(layer, value, trace), ours.outputs(batch))
    shift = torch.linspace(-1, 1, value.shape[-1], dtype=torch.float64)
    shifted = value.clone()
    suffix = ours.suffix(layer, batch, starts)
    for row, start in enumerate(starts):
        shifted[row, start] += shift
        torch.testing.assert_close(suffix.key[row], trace.key[row, start])
    wanted = ours.forward_from(layer, shifted, trace)
    found = suffix.continuation.logits(suffix.continuation(shift))
    for row, (text, start) in enumerate(zip(texts, starts.tolist(), strict=True)):
        rest = wanted[row, start : len(text)]
        torch.testing.assert_close(found[row, : len(rest)], rest, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(rest, ours.outputs(batch)[row, start : len(text)], atol=1e-3)


def test_only_what_comes_before_is_upstream(both: tuple[Any, Transformer]) -> None:
    _, ours = both
    layers = list(ours.architecture.layers)
    up = ours.upstream(layers[1])
    for name in ours.weights:
        changed = {**ours.weights, name: ours.weights[name] + 0.1}
        before = ours.trace(layers[1], pad_texts(TEXTS[:1])).key
        after = ours.with_weights(changed).trace(layers[1], pad_texts(TEXTS[:1])).key
        assert torch.equal(before, after) or name in up
        assert ours.architecture.layers[layers[1]].parameter not in up


def test_the_hub_s_gpt2_lacks_the_prefix(tmp_path: Path) -> None:
    """Names without ``transformer.`` and buffers that are no weights are read all the same."""
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT))
    (tmp_path / "whole").mkdir()
    (tmp_path / "bare").mkdir()
    theirs.save_pretrained(tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    assert bare.keys().isdisjoint(tensors)
    bare["h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    save_file(bare, tmp_path / "bare" / "model.safetensors")
    config = (tmp_path / "whole" / "config.json").read_text()
    (tmp_path / "bare" / "config.json").write_text(config)
    both = []
    for folder in (tmp_path / "whole", tmp_path / "bare"):
        model = make_model("transformer", read_weights(folder), origin=Origin(folder))
        both.append(model.outputs(pad_texts([[5, 9, 3]])))
    assert torch.equal(*both)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "mamba"}, "does not know how this architecture computes"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised (gptq)"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "by yarn"),
        ({"hidden_act": "mish"}, "the activation mish"),
        ({"num_hidden_layers": 4}, "3 blocks, expected 4"),
        ({"hidden_size": 20}, "expected"),
        ({"hidden_size": None}, "does not describe"),
        ({"quantization_config": "awq"}, "quantised (awq)"),
        ({"compression_config": {"format": "int4"}}, "quantised (a method of its own)"),
        ({"model_type": ["llama"]}, 'model_type: ["llama"]'),
        ({"rope_scaling": "linear"}, 'by "linear", where a mapping'),
        ({"rope_theta": -1}, "a number above 0"),
        ({"hidden_act": None}, "the activation null"),
        ({"num_hidden_layers": 10**9}, "a whole number from 1 to 10000"),
        ({"num_attention_heads": 0}, "num_attention_heads: 0"),
        ({"layer_types": ["full_attention"]}, "a list of 3 kinds"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    tensors = dict(theirs.state_dict())
    config = LLAMA | {"model_type": "llama"} | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError) as found:
        read_architecture("transformer", tensor_infos(tensors), tmp_path)
    assert words in found.value.message
    assert found.value.hint


@pytest.mark.parametrize("said", [None, {}, []])
def test_a_configuration_may_name_no_quantisation(said: object, tmp_path: Path) -> None:
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    config = LLAMA | {"model_type": "llama", "quantization_config": said}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_architecture("transformer", tensor_infos(dict(theirs.state_dict())), tmp_path)
    assert len(found.layers) == 3


@pytest.mark.parametrize("part", ["gate_proj", "post_attention_layernorm", "lm_head"])
def test_a_part_that_is_missing_is_named(part: str, tmp_path: Path) -> None:
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    tensors = {name: each for name, each in theirs.state_dict().items() if part not in name}
    config = LLAMA | {"model_type": "llama", "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=f"{part}.weight is missing"):
        read_architecture("transformer", tensor_infos(tensors), tmp_path)


def test_quantised_tensors_are_refused_by_their_names() -> None:
    tensors = {"model.layers.0.mlp.down_proj.qweight": TensorInfo("I32", (4, 4))}
    with pytest.raises(WeightsError, match="quantised"):
        read_architecture("transformer", tensors)


def test_a_square_matrix_is_oriented_by_its_layout() -> None:
    """Of GPT-2 the inputs come first, of Llama the outputs, whatever the shape says."""
    gpt = GPT | {"n_inner": 16}
    for kind, settings, axes in (
        ("GPT2LMHeadModel", transformers.GPT2Config(**gpt), "i o"),
        ("LlamaForCausalLM", transformers.LlamaConfig(**LLAMA | {"intermediate_size": 16}), "o i"),
    ):
        state = dict(getattr(transformers, kind)(settings).state_dict())
        layer = read_architecture("transformer", tensor_infos(state)).layers["layer1"]
        assert (layer.in_features, layer.out_features, layer.axes) == (16, 16, axes)
