"""Skyline by prompt: captions of Skyline, and a diffusion model that draws them. No torch."""

from pathlib import Path

from editspec.worlds.world import World

PIPELINE = Path(__file__).with_name("pipeline")
"""The model, in the layout of diffusers: U-Net, text encoder, tokenizer, scheduler."""

JUDGE = Path(__file__).with_name("judge.safetensors")
"""The reader of the facts of pictures, which judges what is drawn."""

WORLD = World("skyline-captions", PIPELINE)
