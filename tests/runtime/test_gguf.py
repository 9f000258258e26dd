"""GGUF files as folders: weights, configuration and tokenizer are those of the hub again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

import editspec
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.transformer.config import parse_config
from editspec_runtime.families.transformer.gguf_config import Gguf, make_config
from editspec_runtime.families.transformer.gguf_tokenizer import make_tokenizer
from editspec_runtime.modalities.text.batches import pad_texts
from tests.commands import run
from tests.runtime.test_transformer import CONFIGS, TEXTS

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

WORDS = ["<s>", "</s>", "a", "b", "c", "ab", "abc", "Ġ", "Ġa", "1", "2", "12"]
FIELDS = {
    "max_position_embeddings": "context_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "head_count",
    "num_key_value_heads": "head_count_kv",
    "n_positions": "context_length",
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_head": "head_count",
}
NAMES = {
    "llama": "llama",
    "llama-tied": "llama",
    "qwen3": "qwen3",
    "gpt2": "gpt2",
    "neox": "gptneox",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
}


def turn(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of queries or keys as llama.cpp's converter of Llama does."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def take_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """Put all queries before all keys and values, as its converter of GPT-NeoX does."""
    split = weight.reshape(heads, 3, weight.shape[0] // heads // 3, *weight.shape[1:])
    return split.swapaxes(0, 1).reshape(weight.shape)


def write_gguf(path: Path, folder: Path, kind: str, **more: Any) -> None:
    """Write a folder of the hub as llama.cpp's converter does."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, kind)
    for name, value in config.items():
        own = FIELDS.get(name)
        if own is not None and value is not None:
            getattr(writer, f"add_{own}")(value)
    add_numbers(writer, kind, config)
    add_tokenizer(writer, **more)
    arch = {name: each for each, name in gguf.MODEL_ARCH_NAMES.items()}[kind]
    blocks = config.get("num_hidden_layers") or config["n_layer"]
    known = gguf.get_tensor_name_map(arch, blocks)
    heads = config.get("num_attention_heads") or config["n_head"]
    for name, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.numpy()
        if kind == "llama" and "q_proj" in name:
            values = turn(values, heads)
        if kind == "llama" and "k_proj" in name:
            values = turn(values, config["num_key_value_heads"])
        if kind == "gptneox" and "query_key_value" in name:
            values = take_apart(values, heads)
        if kind == "gpt2" and ".h." in name and values.ndim == 2:
            values = values.T
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        own = known.get_name(name, try_suffixes=(".weight", ".bias"))
        assert own is not None, name
        writer.add_tensor(own, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_numbers(writer: Any, kind: str, config: Mapping[str, Any]) -> None:
    rope = config.get("rope_parameters") or {}
    # Gemma 3 has two kinds of rotary positions, and the file says that of blocks that see all.
    rope = rope.get("full_attention", rope)
    theta = rope.get("rope_theta") or config.get("rope_theta")
    if theta:
        writer.add_rope_freq_base(theta)
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for name in ("layer_norm_eps", "layer_norm_epsilon"):
        if name in config:
            writer.add_layer_norm_eps(config[name])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
    if kind == "gptneox":
        writer.add_rope_dimension_count(2)
        writer.add_parallel_residual(True)
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def add_tokenizer(writer: Any, pre: str = "gpt-2", begins: bool = False) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3] + [1] * (len(WORDS) - 2))
    writer.add_token_merges(["a b", "ab c", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(begins)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a folder of the hub with random weights."""

    def make_folder(name: str, **more: Any) -> Path:
        kind, settings = CONFIGS[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = getattr(transformers, kind)(**settings | more)
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(0.4 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / "hub")
        return tmp_path / "hub"

    return make_folder


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_what_the_file_was_made_of(
    name: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    hub = make(name)
    write_gguf(tmp_path / "model.gguf", hub, NAMES[name])
    made = editspec.convert(tmp_path / "model.gguf", tmp_path / "made")
    assert (made.family, made.quantised) == ("transformer", ())
    wanted, found = load_file(hub / "model.safetensors"), load_file(made.out / "model.safetensors")
    assert set(found) == set(wanted)
    for each, tensor in wanted.items():
        torch.testing.assert_close(found[each], tensor, rtol=0, atol=1e-6)
    ours = make_model("transformer", read_weights(made.out), origin=Origin(made.out))
    theirs = make_model("transformer", read_weights(hub), origin=Origin(hub))
    batch = pad_texts(TEXTS)
    torch.testing.assert_close(ours.outputs(batch), theirs.outputs(batch), rtol=1e-3, atol=1e-3)
    # Once more onto the same place, which is our own.
    assert editspec.convert(tmp_path / "model.gguf", tmp_path / "made").digest == made.digest


def write_quantised(folder: Path, out: Path) -> dict[str, np.ndarray]:
    """Write the tensors of a Llama with its matrices in eight bits; what they stand for."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"):
        getattr(writer, f"add_{FIELDS[name]}")(config[name])
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-6)
    add_tokenizer(writer)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    kind, meant = gguf.GGMLQuantizationType.Q8_0, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        own = known.get_name(name, try_suffixes=(".weight",))
        if tensor.dim() == 1 or "q_proj" in name or "k_proj" in name:
            # Nothing in this test needs the order of their rows.
            writer.add_tensor(own, tensor.numpy())
            continue
        packed = gguf.quants.quantize(tensor.numpy(), kind)
        meant[name] = gguf.quants.dequantize(packed, kind)
        writer.add_tensor(own, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def test_quantised_numbers_are_said_to_have_been_quantised(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub = make("llama", hidden_size=32, intermediate_size=32)
    meant = write_quantised(hub, Path("small.gguf"))
    said = run("convert", "small.gguf", "made").stdout
    assert "its numbers were quantised (Q8_0)" in said
    assert json.loads(run("convert", "small.gguf", "made", "--json").stdout)["quantised"] == [
        "Q8_0"
    ]
    found = load_file("made/model.safetensors")
    for name, values in meant.items():
        np.testing.assert_array_equal(found[name].numpy(), values)


def test_the_scaling_of_llama_3_is_known_by_its_factors(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    said = {"llama.block_count": 2, "llama.embedding_length": 8, "llama.attention.head_count": 1}
    said |= {"llama.context_length": 64, "llama.rope.freq_base": 500_000.0}
    shapes = {"token_embd.weight": (60, 8), "output.weight": (60, 8)}
    rope = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"]
    scaling = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=1, head_dim=128, rope_parameters=scaling
    )
    scaled, _ = rope(config, torch.device("cpu"))
    plain = 500_000.0 ** -(torch.arange(0, 128, 2) / 128)
    factors = (plain / scaled).tolist()
    found = parse_config(make_config(Gguf("llama", said, shapes, factors)))
    assert found.rotary[0] is not None
    assert found.rotary[0].bands == pytest.approx((8.0, 1.0, 4.0, 8192.0), rel=1e-3)
    with pytest.raises(WeightsError, match="not those of Llama 3"):
        make_config(Gguf("llama", said, shapes, [1.0, 2.0, 3.0, 5.0]))


def encode(content: bytes, text: str, special: bool = True) -> list[str]:
    tokenizer = Tokenizer.from_str(content.decode())
    tokens: list[str] = tokenizer.encode(text, add_special_tokens=special).tokens
    return tokens


def fields_of(model: str, **more: Any) -> dict[str, Any]:
    said = {"model": model, "tokens": WORDS, "token_type": [3, 3] + [1] * (len(WORDS) - 2)}
    said |= {"merges": ["a b", "ab c", "Ġ a", "1 2"], "bos_token_id": 0, **more}
    return {f"tokenizer.ggml.{name}": value for name, value in said.items()}


def test_texts_are_split_as_the_model_was_taught() -> None:
    for way, wanted in {
        "gpt-2": ["abc", "Ġa", "12"],
        "smollm": ["abc", "Ġa", "1", "2"],
        "llama-bpe": ["<s>", "abc", "Ġa", "12"],
        "qwen2": ["abc", "Ġa", "1", "2"],
    }.items():
        assert encode(make_tokenizer(fields_of("gpt2", pre=way)), "abc a12") == wanted
    kept = make_tokenizer(fields_of("gpt2", pre="gpt-2"))
    assert encode(kept, "abc</s>a") == ["abc", "</s>", "a"]
    begun = make_tokenizer(fields_of("gpt2", pre="gpt-2", add_bos_token=True))
    assert encode(begun, "abc") == ["<s>", "abc"]
    assert encode(begun, "abc", special=False) == ["abc"]
    with pytest.raises(WeightsError, match="in the way tekken"):
        make_tokenizer(fields_of("gpt2", pre="tekken"))
    with pytest.raises(WeightsError, match="of the kind bert"):
        make_tokenizer(fields_of("bert"))


def test_pieces_of_sentencepiece_are_joined_by_their_scores() -> None:
    text = "the cat sat on the mat, and the hat of that cat was there " * 3
    trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trained.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    special = ["<unk>", "<s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    trained.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    vocabulary = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    types = [2, 3] + [6] * 256 + [1] * (len(tokens) - 258)
    said = fields_of("llama", tokens=tokens, token_type=types)
    said |= {"tokenizer.ggml.scores": [-float(number) for number in range(len(tokens))]}
    said |= {"tokenizer.ggml.bos_token_id": 1}
    made = make_tokenizer(said)
    for each in ("the cat sat", "that hat, and ö", "cat"):
        assert encode(made, each, special=False) == trained.encode(each).tokens[:]
        assert encode(made, each)[0] == "<s>"
        back = Tokenizer.from_str(made.decode())
        assert back.decode(back.encode(each).ids) == each


def test_what_is_no_model_of_ours_is_refused_in_words(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(Path("good.gguf"), make("llama"), "llama", pre="tekken")
    said = run("convert", "good.gguf", "made")
    assert (said.exit_code, "in the way tekken" in said.stderr) == (1, True)
    writer = gguf.GGUFWriter("mamba.gguf", "mamba")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    said = run("convert", "mamba.gguf", "made")
    assert "architecture mamba, which is not converted" in said.stderr
    Path("cut.gguf").write_bytes(Path("good.gguf").read_bytes()[:400])
    said = run("convert", "cut.gguf", "made")
    assert (said.exit_code, "Traceback" in said.stderr, "cut.gguf" in said.stderr) == (
        1,
        False,
        True,
    )
    assert run("convert", "none.gguf", "made").exit_code == 2
    assert run("convert", "good.gguf", "made.safetensors").exit_code == 2
    assert not Path("made").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    # A spec names a folder, and says how one comes about.
    said = run("inspect", "good.gguf")
    assert "editspec convert MODEL.gguf FOLDER" in said.stderr
