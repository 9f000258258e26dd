"""Draws the latents of the reflection experiment: ``python
specs/skyline/paper/reflection/make_scenes.py``.

Fifteen pairs of scenes that are the same but for their windows, lit in one and dark in the other.
"""

from __future__ import annotations

from pathlib import Path

from editspec.worlds.skyline.world import LATENT_SIZE, scenes
from editspec_runtime.io.files import safetensors_bytes, write
from editspec_runtime.modalities.image.latents import LatentStream

PAIRS = 15
WINDOWS = 6
"""The coordinate of a latent that lights the windows: lit where it is positive."""


def main() -> None:
    """Write scenes.safetensors beside this file."""
    latents = LatentStream(1, LATENT_SIZE).items(range(100))
    scene = scenes(latents)
    plain = (scene.people == 0) & (scene.middle_watermark == 0) & (scene.bottom_watermark == 0)
    tensors = {}
    for index, latent in enumerate(latents[plain][:PAIRS]):
        for name, sign in (("lit", 1), ("dark", -1)):
            switched = latent.clone()
            switched[WINDOWS] = sign * latent[WINDOWS].abs()
            tensors[f"{name}-{index}"] = switched

    write(Path(__file__).with_name("scenes.safetensors"), safetensors_bytes(tensors, {}))


if __name__ == "__main__":
    main()
