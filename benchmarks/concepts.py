"""Edits of concepts on matrices of the shapes of Stable Diffusion 1.5, beside the authors' way.

The weights are random: a text encoder of 123 million numbers, and the 32 matrices that read it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.figures import CannotRun, Figure

WIDTH = 768
BLOCKS = (
    ("down_blocks.0", 320, 2),
    ("down_blocks.1", 640, 2),
    ("down_blocks.2", 1280, 2),
    ("mid_block", 1280, 1),
    ("up_blocks.1", 1280, 3),
    ("up_blocks.2", 640, 3),
    ("up_blocks.3", 320, 3),
)
"""The blocks of the U-Net with cross-attention: their names, channels and attentions."""

TOKENIZER = Path(__file__).parents[1] / "tests" / "golden" / "diffusion" / "pipeline" / "tokenizer"

SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "to", "vi", "xe", "zu")

RUN = """
import json, resource, sys, time
import torch
import editspec
from editspec_runtime.families.diffusion import encoder
torch.set_num_threads(1)
spec, out = sys.argv[1:]
begun = time.process_time()
made = encoder.make_encoder
def make_encoder(*arguments, **named):
    found = made(*arguments, **named)
    marks["loaded"] = time.process_time() - begun
    marks["peak_loaded"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found
marks = {}
from editspec_runtime.methods import least_squares
solve_shared = least_squares.solve_shared
def solve(problem):
    problem.rules[0](problem.model)  # encodes the prompts, as the authors' way has done
    before = time.process_time()
    found = solve_shared(problem)
    marks["solved"] = time.process_time() - before
    return found
least_squares.solve_shared = solve
from editspec_runtime.families.diffusion import make
make.make_encoder = make_encoder
built = editspec.build(spec, out)
marks["built"] = time.process_time() - begun
marks["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
marks["bytes"] = built.edits[0].path.stat().st_size
marks["seconds"] = built.edits[0].seconds
print(json.dumps(marks))
"""
"""A build in a process of its own: its peak memory is that of nothing else.

Its seconds are those of the processor, so that other work on the machine does not count.
"""


def make_folder(folder: Path) -> None:
    """Write a folder of diffusers with random weights of the shapes of Stable Diffusion 1.5."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 0.02) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    for part in ("unet", "text_encoder"):
        (folder / part).mkdir(parents=True)
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    encoder = {
        "model_type": "clip_text_model",
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "text_encoder" / "config.json").write_text(json.dumps(encoder))
    (folder / "unet" / "config.json").write_text(json.dumps({"cross_attention_dim": WIDTH}))
    tensors = {}
    for block, channels, count in BLOCKS:
        for number in range(count):
            module = f"{block}.attentions.{number}.transformer_blocks.0.attn2"
            tensors[f"{module}.to_q.weight"] = draw(channels, channels)
            tensors[f"{module}.to_k.weight"] = draw(channels, WIDTH)
            tensors[f"{module}.to_v.weight"] = draw(channels, WIDTH)
    save_file(tensors, folder / "unet" / "diffusion_pytorch_model.safetensors")
    tensors = {
        "embeddings.token_embedding.weight": draw(49408, WIDTH),
        "embeddings.position_embedding.weight": draw(77, WIDTH),
        "final_layer_norm.weight": torch.ones(WIDTH),
        "final_layer_norm.bias": torch.zeros(WIDTH),
    }
    for number in range(12):
        layer = f"encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors[f"{layer}.self_attn.{name}.weight"] = draw(WIDTH, WIDTH)
            tensors[f"{layer}.self_attn.{name}.bias"] = torch.zeros(WIDTH)
        for name, out, into in (("fc1", 4 * WIDTH, WIDTH), ("fc2", WIDTH, 4 * WIDTH)):
            tensors[f"{layer}.mlp.{name}.weight"] = draw(out, into)
            tensors[f"{layer}.mlp.{name}.bias"] = torch.zeros(out)
        for name in ("layer_norm1", "layer_norm2"):
            tensors[f"{layer}.{name}.weight"] = torch.ones(WIDTH)
            tensors[f"{layer}.{name}.bias"] = torch.zeros(WIDTH)
    save_file(tensors, folder / "text_encoder" / "model.safetensors")


def name_concepts(count: int) -> list[str]:
    """Names of two words, each another one."""
    drawn = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        words = ["".join(drawn.choices(SYLLABLES, k=2)) for _ in range(2)]
        found[" ".join(words)] = None
    return list(found)


def write_spec(folder: Path, count: int) -> Path:
    """Write a spec that erases as many concepts at once."""
    names = name_concepts(count)
    pairs = [{"source": {"prompt": "art"}, "target": {"prompt": each}} for each in names]
    edit: dict[str, Any] = {"name": "erase", "pairs": pairs}
    if count == 1:
        edit = {"name": "erase", **pairs[0]}
    model = {"family": "diffusion", "weights": "model"}
    spec = {"version": 1, "model": model, "compatibility": "uce-2024", "edits": [edit]}
    path = folder / f"erase-{count}.json"
    path.write_text(json.dumps(spec))
    return path


def build(folder: Path, count: int) -> dict[str, Any]:
    """Build a spec of as many concepts in a process of one thread, with an empty cache."""
    spec = write_spec(folder, count)
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "EDITSPEC_CACHE": cache, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", RUN, str(spec), str(folder / f"out-{count}")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def invert_each(weights: Sequence[Tensor], keys: Tensor, guides: Tensor) -> list[Tensor]:
    """Do as the authors' program does: sums of outer products and an inverse for each matrix."""
    edited = []
    for weight in weights:
        first = 0.5 * weight
        second = 0.5 * torch.eye(weight.shape[1])
        for key, guide in zip(keys, guides, strict=True):
            value = weight @ guide
            first = first + torch.outer(value, key)
            second = second + torch.outer(key, key)
        edited.append(first @ torch.inverse(second))
    return edited


def erasing(quick: bool) -> Iterator[Figure]:
    """One, 100 and 1,000 concepts erased from 32 matrices, and the authors' way for 100."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_folder(folder / "model")
        one = build(folder, 1)
        memory = (one["peak"] - one["peak_loaded"]) / 2**20
        yield Figure.at_most("one concept, after loading", one["built"] - one["loaded"], 10, "s")
        yield Figure.at_most("one concept, its patch", one["bytes"] / 1000, 200, "kB")
        yield Figure.at_most("one concept, beyond the loaded encoder", memory, 1.5, "GiB")
        hundred = build(folder, 100)
        ours = hundred["solved"]
        generator = torch.Generator().manual_seed(1)
        weights = []
        for _, channels, count in BLOCKS:
            weights += [torch.randn(channels, WIDTH, generator=generator) for _ in range(2 * count)]
        keys = torch.randn(100, WIDTH, generator=generator)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        begun = time.process_time()
        invert_each(weights, keys, keys.flip(0))
        theirs = time.process_time() - begun
        torch.set_num_threads(threads)
        yield Figure.at_least(
            "100 concepts: the authors' way over ours", theirs / ours, 5, theirs=theirs, ours=ours
        )
        if not quick:
            thousand = build(folder, 1000)
            seconds = thousand["built"] - thousand["loaded"]
            yield Figure.at_most("1,000 concepts, after loading", seconds, 180, "s")


BENCHMARKS = (erasing,)
