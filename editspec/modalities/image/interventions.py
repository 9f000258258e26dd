"""What the interventions of the reflection experiment leave unsaid: which units are windows, and
where to look.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from editspec_compiler import Problem, SpecError
from editspec_compiler.modalities.image.masks import mask_area
from editspec_compiler.modalities.image.records import Intervention
from editspec_runtime.core.compatibility import conventions
from editspec_runtime.families.checkpoints import read_checkpoint, weights_path
from editspec_runtime.families.open import make_generator
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

SWITCHED, OBSERVED = "layer4", "layer8"
"""The layers of the experiment: whose units are switched, and where the result is compared (paper
section 5.3).
"""

WINDOWS = 20
"""Units that the authors switched."""

SAMPLES = 64


@torch.no_grad()
def unsaid(
    weights: str, family: str, layer: str, interventions: list[Intervention], compatibility: bool
) -> tuple[list[int], str]:
    """The units of `SWITCHED` that are windows, in ascending order, and the layer at which the
    result is compared.

    Windows are the units that respond most to the masks of the interventions: their squares inside
    are compared with those everywhere, as the units of an erased value are ranked (paper section
    5.2). Raises `SpecError` where `layer` does not lie behind `SWITCHED`.
    """
    checkpoint = read_checkpoint(weights_path(weights, Path()))
    own = conventions("rewriting-2020" if compatibility else None)
    generator = make_generator(family, checkpoint.generator, conventions=own)
    names = list(generator.architecture.layers)
    if SWITCHED not in names or names.index(layer) <= names.index(SWITCHED):
        message = f"interventions switch units of {SWITCHED}, and {layer} does not lie behind it"
        raise SpecError("--layer", [Problem(message, hint="the authors edited layer6")])
    stream = LatentStream(1, generator.architecture.latent_size, "numpy-legacy")
    size = generator.layer(SWITCHED).value_size
    inside: Tensor | float = 0.0
    for one in interventions:
        mask = mask_area(
            one.switched.mask, Path(), generator.architecture.image_size, size, legacy=compatibility
        )
        area = torch.from_numpy(mask).float()
        inside = inside + (area * _squares(generator, stream, one.image)).sum((1, 2))
    everywhere = torch.stack(
        [_squares(generator, stream, n).mean((1, 2)) for n in range(SAMPLES)]
    ).mean(0)
    ranking = (inside / everywhere.clamp_min(1e-12)).argsort(descending=True, stable=True)
    later = OBSERVED in names and names.index(layer) <= names.index(OBSERVED)
    return sorted(ranking[:WINDOWS].tolist()), OBSERVED if later else layer


def _squares(generator: Generator, stream: LatentStream, number: int) -> Tensor:
    """The squared output of `SWITCHED` for one image, [channels, size, size]."""
    reached = generator.prefix(SWITCHED, stream.items([number]))
    return generator.output(SWITCHED, generator.value(SWITCHED, reached))[0].square()
