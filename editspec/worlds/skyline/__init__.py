"""Skyline: a procedural world and two StyleGAN2 trained on it. Imports no torch."""

from pathlib import Path

from editspec.worlds.world import World

WEIGHTS = Path(__file__).with_name("weights.safetensors")
"""The generator, in the published rosinality layout (``g_ema.…`` and ``latent_avg``)."""

PLAIN_WEIGHTS = Path(__file__).with_name("plain.safetensors")
"""A generator of the same training but for pasted features: ``training --plain``."""

READER = Path(__file__).with_name("reader.safetensors")
"""The attribute reader of `editspec.worlds.skyline.reader`."""

_JUDGES = "editspec.worlds.skyline.judging:JUDGES"

WORLD = World("skyline", WEIGHTS, _JUDGES)
PLAIN = World("skyline-plain", PLAIN_WEIGHTS, _JUDGES)

WORLDS = {world.name: world for world in (WORLD, PLAIN)}
"""Both generators, by their names."""
