"""Latents of the reflection experiment: ``python make_scenes.py``.

The latents are fifteen pairs of scenes. The windows are lit in one scene of a pair and dark in the
other; all else is equal.
"""

from __future__ import annotations

from pathlib import Path

from editspec.worlds.skyline.world import LATENT_SIZE, scenes
from editspec_runtime.io.files import safetensors_bytes, write
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import SPECS

PAIRS = 15
WINDOWS = 6
"""The coordinate of a latent that lights the windows: lit where it is positive."""


def main() -> None:
    """Write scenes.safetensors beside this file."""
    latents = LatentStream(SPECS, LATENT_SIZE).items(range(100))
    scene = scenes(latents)
    plain = (scene.people == 0) & (scene.middle_watermark == 0) & (scene.bottom_watermark == 0)
    tensors = {}
    for index, latent in enumerate(latents[plain][:PAIRS]):
        for name, sign in (("lit", 1), ("dark", -1)):
            scene_latent = latent.clone()
            scene_latent[WINDOWS] = sign * latent[WINDOWS].abs()
            tensors[f"{name}-{index}"] = scene_latent

    write(Path(__file__).with_name("scenes.safetensors"), safetensors_bytes(tensors, {}))


if __name__ == "__main__":
    main()
