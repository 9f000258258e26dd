"""Judges of edited models by their images, for a sweep."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from editspec.engine.built import BuiltEdit
from editspec.engine.model_session import ModelSession
from editspec.modalities.image.drawing import generator_of
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.methods.solve_edit import loss_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.streams import SWEEPS

ImageJudge = Callable[[Tensor], dict[str, float]]
"""Takes images [n, 3, size, size] of an edited model, and gives measures by name."""

Judge = Callable[[ModelSession, BuiltEdit], dict[str, float]]
"""Takes a session with edits on its stack and the last of them, and gives measures by name.

Among them are ``efficacy`` and ``outside``.
"""


def make_judge(
    session: ModelSession,
    images: int,
    experiment: Callable[[Tensor, Tensor], ImageJudge] | None = None,
) -> Judge:
    """Make a judge of the last edit of a spec, on images that no edit has seen.

    Parameters
    ----------
    session
        The spec, with nothing on the stack.
    images
        The number of images.
    experiment
        Takes latents and the images that the unedited model draws of them, and makes the judge of
        an experiment whose perfect edit is known. Default: the rule and all pixels are measured.
    """
    base = generator_of(session)
    spec = image_spec(session.loaded.spec)
    stream = LatentStream(SWEEPS, base.architecture.latent_size, spec.latents.sampler)
    latents = stream.items(range(images)).to(base.weight(spec.edits[-1].layer))
    unedited = render_clamped(base, latents)
    if experiment is None:
        return lambda edited, edit: _measure_rule(
            generator_of(edited), edit, base, latents, unedited
        )
    judge_images = experiment(latents, unedited)
    return lambda edited, edit: judge_images(render_clamped(generator_of(edited), latents))


@torch.no_grad()
def _measure_rule(
    model: Generator, edit: BuiltEdit, base: Generator, latents: Tensor, unedited: Tensor
) -> dict[str, float]:
    """The efficacy on the rule itself, and the change of the images of the model."""
    unchanged = loss_of(edit.rule, base, base.weights)
    # A rule that holds before the edit has nothing to win.
    efficacy = 1 - edit.loss / unchanged if unchanged else 1.0
    change = render_clamped(model, latents).sub_(unedited).abs_().mean().item()
    return {"efficacy": efficacy, "outside": change}
