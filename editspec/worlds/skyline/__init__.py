"""Skyline: a procedural world and a StyleGAN2 trained on it. Imports no torch."""

from pathlib import Path

from editspec.worlds.world import World

WEIGHTS = Path(__file__).with_name("weights.safetensors")
"""The generator, in the published rosinality layout (``g_ema.…`` and ``latent_avg``)."""

READER = Path(__file__).with_name("reader.safetensors")
"""The attribute reader of `editspec.worlds.skyline.reader`."""

WORLD = World("skyline", WEIGHTS, "editspec.worlds.skyline.judging:JUDGES")
