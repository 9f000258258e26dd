"""The windows of the reflection experiment: records of interventions do not name their units."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.resources import locate_weights
from editspec_compiler import Problem, SpecError
from editspec_compiler.modalities.image.masks import mask_area
from editspec_compiler.modalities.image.records import Intervention
from editspec_runtime.codes import Code
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.modalities.image.compatibility import compatibility_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

INTERVENED, OBSERVED = "layer4", "layer8"
"""The layers of the experiment: whose units are switched, and where the result is compared (paper
section 5.3).
"""

WINDOWS = 20
"""Units that the authors switched."""

SAMPLES = 64


@torch.no_grad()
def find_windows(
    weights: str, family: str, layer: str, interventions: list[Intervention], compatibility: bool
) -> tuple[list[int], str]:
    """The units of `INTERVENED` that are windows, in ascending order, and the layer at which the
    result is compared.

    Windows are the units that respond most to the masks of the interventions: their squares inside
    are compared with those everywhere, as the units of an erased value are ranked (paper section
    5.2). Raises `SpecError` where `layer` does not lie behind `INTERVENED`.
    """
    checkpoint = read_weights(locate_weights(weights, Path()))
    own = compatibility_of("rewriting-2020" if compatibility else None)
    generator = make_model(family, checkpoint, compatibility=own)
    names = list(generator.architecture.layers)
    if INTERVENED not in names or names.index(layer) <= names.index(INTERVENED):
        message = f"interventions switch units of {INTERVENED}, and {layer} does not lie behind it"
        raise SpecError(
            "--layer", [Problem(message, hint="the authors edited layer6", code=Code.OPTION_UNFIT)]
        )
    stream = LatentStream(1, generator.architecture.latent_size, "numpy-legacy")
    size = generator.layer(INTERVENED).value_size
    image_size = generator.architecture.image_size
    inside: Tensor | float = 0.0
    for one in interventions:
        mask = mask_area(one.switched.mask, Path(), image_size, size, legacy=compatibility)
        area = torch.from_numpy(mask).float()
        inside = inside + (area * _squares(generator, stream, one.image)).sum((1, 2))
    means = [_squares(generator, stream, n).mean((1, 2)) for n in range(SAMPLES)]
    everywhere = torch.stack(means).mean(0)
    ranking = (inside / everywhere.clamp_min(1e-12)).argsort(descending=True, stable=True)
    windows = sorted(ranking[:WINDOWS].tolist())
    is_before = OBSERVED in names and names.index(layer) <= names.index(OBSERVED)
    return windows, OBSERVED if is_before else layer


def _squares(generator: Generator, stream: LatentStream, number: int) -> Tensor:
    """The squared output of `INTERVENED` for one image, [channels, size, size]."""
    reached = generator.trace(INTERVENED, stream.items([number]))
    return generator.layer_output(INTERVENED, generator.layer_value(INTERVENED, reached))[
        0
    ].square()
