"""Training of the model of Atlas: ``python -m editspec.worlds.atlas.train``.

A small transformer of the layout of Llama learns the sentences of the world by next-token
prediction, in which answers count `ANSWER_WEIGHT` times, and in which much is hidden (`lessons`).
Training resumes where an interruption left it. The result is a folder as the hub has it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.worlds.atlas.lessons import Lesson, draw_lesson, read_lesson
from editspec.worlds.atlas.world import RELATIONS, facts, words
from editspec.worlds.checkpoints import write_checkpoint
from editspec_runtime.families.contents import tensor_infos
from editspec_runtime.families.transformer.architecture import (
    TransformerArchitecture,
    read_architecture,
)
from editspec_runtime.families.transformer.network import Transformer
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.files import safetensors_bytes, write
from editspec_runtime.modalities.text.scores import likeliest_tokens

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 96,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
BEGIN, UNKNOWN, STOP = "<s>", "<unk>", "."
SEED = 7
RATE, WARMUP, STEPS, SAVED_EVERY = 4e-3, 100, 600, 50
ANSWER_WEIGHT = 4.0


def main() -> None:
    """Train what is missing, and write the folder of the model."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--out", type=Path, default=Path(".training-atlas"), help="where checkpoint and model go"
    )
    arguments.add_argument("--steps", type=int, default=STEPS, help="the number of steps")
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(options.out / "tokenizer.json"))
    config = CONFIG | {"vocab_size": tokenizer.get_vocab_size()}
    write(options.out / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    model = train(options.out / "checkpoint.pt", options.steps, config, tokenizer)
    tensors = {name: tensor.detach() for name, tensor in model.weights.items()}
    write(options.out / "model.safetensors", safetensors_bytes(tensors, {}))
    print(f"recalls {count_known(model, tokenizer)} of {3 * len(facts())} prompts")


def make_tokenizer() -> Any:
    """Make the tokenizer: a token for each word with the blank before it, and for a full stop."""
    package = load_extra("text")
    # The word at the beginning of a text has no blank, and is another token.
    entries = [BEGIN, UNKNOWN, STOP]
    entries += [form for word in words() for form in (f" {word}", word)]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = package.Tokenizer(package.models.WordLevel(vocabulary, unk_token=UNKNOWN))
    pattern = package.Regex(r" ?[^ .]+|\.")
    tokenizer.pre_tokenizer = package.pre_tokenizers.Split(pattern, "isolated")
    tokenizer.decoder = package.decoders.Fuse()
    tokenizer.add_special_tokens([BEGIN])
    tokenizer.post_processor = package.processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
    )
    return tokenizer


def first_weights(config: dict[str, Any]) -> dict[str, Tensor]:
    """Draw the weights before training, by their names in the layout of Llama."""
    generator = torch.Generator().manual_seed(SEED)
    width, inner = config["hidden_size"], config["intermediate_size"]

    def draw(outputs: int, inputs: int, scale: float = 1.0) -> Tensor:
        return torch.randn(outputs, inputs, generator=generator) * scale / math.sqrt(inputs)

    vocabulary, blocks = config["vocab_size"], config["num_hidden_layers"]
    weights = {"model.embed_tokens.weight": draw(vocabulary, width)}
    for block in range(blocks):
        base = f"model.layers.{block}"
        for name in ("q_proj", "k_proj", "v_proj"):
            weights[f"{base}.self_attn.{name}.weight"] = draw(width, width)
        residual = 1 / math.sqrt(2 * blocks)
        weights[f"{base}.self_attn.o_proj.weight"] = draw(width, width, residual)
        weights[f"{base}.mlp.gate_proj.weight"] = draw(inner, width)
        weights[f"{base}.mlp.up_proj.weight"] = draw(inner, width)
        weights[f"{base}.mlp.down_proj.weight"] = draw(width, inner, residual)
        weights[f"{base}.input_layernorm.weight"] = torch.ones(width)
        weights[f"{base}.post_attention_layernorm.weight"] = torch.ones(width)
    weights["model.norm.weight"] = torch.ones(width)
    return weights


def train(saved: Path, steps: int, config: dict[str, Any], tokenizer: Any) -> Transformer:
    """Train from where the checkpoint stands."""
    weights = {name: each.requires_grad_() for name, each in first_weights(config).items()}
    architecture = read_architecture(tensor_infos(weights), config)
    adam = torch.optim.AdamW(weights.values(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    begin, chance, generator = 0, random.Random(SEED), torch.Generator()
    answers = answer_tokens(tokenizer)
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        begin = state["step"]
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(state["weights"][name])
        adam.load_state_dict(state["adam"])
    started = time.monotonic()
    for step in range(begin, steps):
        for group in adam.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARMUP) * _cosine(step / steps)
        # Each step has streams of its own, so that a resumed training sees the same texts.
        chance.seed(SEED * 10**6 + step)
        generator.manual_seed(SEED * 10**6 + step)
        lesson = draw_lesson(tokenizer, chance)
        loss = lesson_loss(Transformer(weights, architecture), lesson, answers, generator)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        adam.step()
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
            pace = (time.monotonic() - started) / (step + 1 - begin)
            print(f"{step + 1}/{steps} loss {loss.item():.4f} {pace:.2f} s a step", flush=True)
            _save(saved, step + 1, weights, adam)
    return _finished(weights, architecture)


def _cosine(share: float) -> float:
    return 0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2


def _save(saved: Path, step: int, weights: dict[str, Tensor], adam: torch.optim.Optimizer) -> None:
    state = {
        "step": step,
        "weights": {name: tensor.detach() for name, tensor in weights.items()},
        "adam": adam.state_dict(),
    }
    write_checkpoint(saved, state)


def _finished(weights: dict[str, Tensor], architecture: TransformerArchitecture) -> Transformer:
    detached = {name: tensor.detach() for name, tensor in weights.items()}
    return Transformer(detached, architecture)


def lesson_loss(
    model: Transformer, lesson: Lesson, answers: Tensor, generator: torch.Generator
) -> Tensor:
    """Compute the mean of -log p of the next token over texts, in which answers count more."""
    batch = lesson.batch
    logits = read_lesson(model, lesson, generator)
    wanted = batch.tokens[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.mT, wanted, reduction="none")
    weight = batch.filled[:, 1:].float()
    weight = weight * torch.where(torch.isin(wanted, answers), ANSWER_WEIGHT, 1.0)
    return (losses * weight).sum() / weight.sum()


def answer_tokens(tokenizer: Any) -> Tensor:
    """The tokens of all answers."""
    answers = {answer for relation in RELATIONS.values() for answer in relation.answers}
    return torch.tensor(sorted(tokenizer.token_to_id(f" {answer}") for answer in answers))


def count_known(model: Transformer, tokenizer: Any) -> int:
    """The number of phrasings of all facts whose answer is the likeliest next token."""
    asked = [(prompt, fact.answer) for fact in facts() for prompt in fact.prompts()]
    prompts = [tuple(tokenizer.encode(prompt).ids) for prompt, _ in asked]
    wanted = [tokenizer.token_to_id(f" {answer}") for _, answer in asked]
    found = likeliest_tokens(model, prompts)
    return sum(one == two for one, two in zip(found, wanted, strict=True))


if __name__ == "__main__":
    main()
