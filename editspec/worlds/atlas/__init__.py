"""Atlas: a procedural world of facts and a language model trained on it. Imports no torch."""

from pathlib import Path

from editspec.worlds.world import World

FOLDER = Path(__file__).with_name("model")
"""The model, as the hub has models: config.json, model.safetensors and tokenizer.json."""

WORLD = World("atlas", FOLDER)
