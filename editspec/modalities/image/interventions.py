"""The units of windows in the reflection experiment, which no record names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.opening import open_weights
from editspec.engine.resources import locate_weights
from editspec.modalities.image.record_files import INTERVENED, OBSERVED
from editspec_compiler import Problem, SpecError
from editspec_compiler.modalities.image.mask_areas import mask_area
from editspec_compiler.modalities.image.records import Intervention
from editspec_runtime.codes import Code
from editspec_runtime.families.open import read_weights
from editspec_runtime.modalities.image.compatibility import compatibility_of
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.latents import LatentStream

WINDOWS = 20
"""The number of units that the authors switched."""

SAMPLES = 64
"""Images over which the mean square of a unit everywhere is taken."""


@torch.no_grad()
def find_windows(
    weights: str, family: str, layer: str, interventions: list[Intervention], compatibility: bool
) -> tuple[list[int], str]:
    """Find the units of `INTERVENED` that are windows, and the layer to compare at.

    Windows are the units that respond most to the masks of the interventions. Their squares inside
    the masks are divided by their squares everywhere, as the units of an erased value are ranked
    (paper section 5.2).

    Returns
    -------
    tuple[list[int], str]
        The units in ascending order, and the layer at which results are compared.

    Raises
    ------
    SpecError
        `layer` does not lie behind `INTERVENED`.
    """
    path = locate_weights(weights, Path())
    own = compatibility_of("rewriting-2020" if compatibility else None)
    opened = open_weights(read_weights(path), path, family, compatibility=own)
    generator = require_generator(opened)
    names = list(generator.architecture.layers)
    if INTERVENED not in names or names.index(layer) <= names.index(INTERVENED):
        message = f"interventions switch units of {INTERVENED}, and {layer} does not lie behind it"
        hint = "the authors edited layer6"
        raise SpecError("--layer", [Problem(message, hint=hint, code=Code.OPTION_UNFIT)])
    # The image numbers of a record are those of the authors' stream.
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
    # A unit that never responds would divide by zero.
    ranking = (inside / everywhere.clamp_min(1e-12)).argsort(descending=True, stable=True)
    windows = sorted(ranking[:WINDOWS].tolist())
    is_before = OBSERVED in names and names.index(layer) <= names.index(OBSERVED)
    return windows, OBSERVED if is_before else layer


def _squares(generator: Generator, stream: LatentStream, number: int) -> Tensor:
    """Compute the squared output of `INTERVENED` for an image, [channels, size, size]."""
    reached = generator.trace(INTERVENED, stream.items([number]))
    value = generator.layer_value(INTERVENED, reached)
    return generator.layer_output(INTERVENED, value)[0].square()
