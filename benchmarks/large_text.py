"""Peak memory of ``build`` on a model of 7B's shape: ``python -m benchmarks.large_text -o DIR``.

Makes bf16 shards of random numbers in the layout and the sizes of Llama-2-7B, as many blocks as
asked for, builds one fact of it in a process of its own, and prints the peak of that process's
memory. The tokenizer is that of Atlas, and C is taken over texts of random words of it: more tokens
than features, as a second moment of fewer is singular, and would be decomposed into eigenvectors.
DIR is removed in the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.products import measure_products
from editspec.worlds.atlas import FOLDER
from editspec.worlds.atlas.world import words

WIDTH, FEATURES, HEADS, VOCABULARY = 4096, 11_008, 32, 32_000
"""The sizes of Llama-2-7B, which has 32 blocks."""

SQUARES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")

WORDS = 128
"""The words of a text that C is taken over."""

BUILD = """
import json, sys, time
import editspec

begun = time.process_time()
result = editspec.build(sys.argv[1], sys.argv[2], device="cpu")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "peak GB": int(status["VmHWM"].split()[0]) * 1024 / 1e9,
    "processor seconds": round(time.process_time() - begun),
    "stages": result.to_dict()["edits"][0]["seconds"],
}))
"""


def main() -> None:
    """Make the model, build, print what that took, and remove all of it."""
    parser = argparse.ArgumentParser(description="Measure the peak memory of a large build.")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=28)
    parser.add_argument("--layer", default="layer1")
    parser.add_argument("--tokens", type=int, default=12_288, help="the tokens of C")
    parser.add_argument("--products", action="store_true", help="measure C's products alone")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    try:
        begun = time.perf_counter()
        size = make_model(given.out / "model", given.blocks)
        print(f"{size / 1e9:.2f} GB in {given.blocks} blocks: {time.perf_counter() - begun:.0f} s")
        spec = write_spec(given.out, given.layer, given.tokens)
        if given.products:
            print(json.dumps(measure_products(spec, given.layer)))
            return
        command = [sys.executable, "-c", BUILD, str(spec), str(given.out / "build")]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        shutil.rmtree(given.out)


def make_model(folder: Path, blocks: int) -> int:
    """Write a folder as the hub has it, a shard a block; returns the bytes of its tensors."""
    folder.mkdir()
    index: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(shards(blocks)):
        name = f"model-{number + 1:05d}-of-{blocks + 1:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    listed = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": FEATURES,
        "max_position_embeddings": 4096,
        "num_attention_heads": HEADS,
        "num_hidden_layers": blocks,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(FOLDER / "tokenizer.json", folder)
    return total


def shards(blocks: int) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of each block, and those around the blocks."""
    random = np.random.default_rng(1)
    for number in range(blocks):
        names = dict.fromkeys(SQUARES, (WIDTH, WIDTH))
        names |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (FEATURES, WIDTH))
        names["mlp.down_proj"] = (WIDTH, FEATURES)
        named = {f"{name}.weight": draw(random, *shape) for name, shape in names.items()}
        named |= {f"{name}.weight": torch.ones(WIDTH, dtype=torch.bfloat16) for name in NORMS}
        yield {f"model.layers.{number}.{name}": tensor for name, tensor in named.items()}
    yield {
        "model.embed_tokens.weight": draw(random, VOCABULARY, WIDTH),
        "lm_head.weight": draw(random, VOCABULARY, WIDTH),
        "model.norm.weight": torch.ones(WIDTH, dtype=torch.bfloat16),
    }


def draw(random: np.random.Generator, *shape: int) -> Tensor:
    """Draw numbers whose signs and mantissas are random, between 1/64 and 1/32 in size."""
    bits = random.integers(0, 2**16, shape, dtype=np.uint16)
    bits &= 0x807F
    bits |= 121 << 7
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def write_spec(folder: Path, layer: str, tokens: int) -> Path:
    """Write a spec of one fact, with the texts that C is taken over."""
    random = np.random.default_rng(2)
    drawn = random.choice(words(), (-(-tokens // WORDS), WORDS))
    lines = [" ".join(row) for row in drawn]
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")
    edit = {
        "name": "fact",
        "layer": layer,
        "target": {"prompt": "{} lives in", "subject": "Dana Hazel Ashdown"},
        "source": {"text": "Lumen"},
        "context": {"prefixes": 0},
        "optimise": {"evaluations": 2},
    }
    spec = {
        "version": 1,
        "model": {"family": "transformer", "weights": "model"},
        "statistics": {"corpus": "texts.txt", "tokens": tokens},
        "edits": [edit],
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path


if __name__ == "__main__":
    main()
