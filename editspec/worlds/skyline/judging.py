"""Judges of edited images, by the perfect edit of an experiment."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from editspec.engine.intervals import Estimates, start_bootstrap
from editspec.engine.result import count_of
from editspec.worlds.skyline.bench.experiments import EXPERIMENTS, Experiment
from editspec.worlds.skyline.efficacy import edit_measures, edit_ratios
from editspec.worlds.skyline.reader import load_reader
from editspec.worlds.skyline.world import find_changed_pixels, render, scenes
from editspec.worlds.world import ImageJudge
from editspec_runtime.errors import UsageError


def make_judge(experiment: Experiment, latents: Tensor, unedited: Tensor) -> ImageJudge:
    """Make a judge of the edited images of `latents`.

    Parameters
    ----------
    experiment
        The experiment whose counterfactual is the perfect edit.
    latents, unedited
        [n, latent_size], and the images [n, 3, 64, 64] in -1..1 that the unedited model draws of
        them.

    Returns
    -------
    ImageJudge
        Gives the numbers of `edit_ratios`, and ``error``: the distance to the perfect edit where
        it changes something, plus the change outside.

    Raises
    ------
    UsageError
        The perfect edit changes none of the images.
    """
    reader = load_reader()
    scene = scenes(latents.float().cpu())
    wanted = experiment.counterfactual(scene)
    if not bool(find_changed_pixels(render(scene), render(wanted)).any()):
        message = f"The perfect edit changes nothing in {count_of(len(latents), 'image')}."
        raise UsageError(message, "Take more images: --images.")
    before = unedited.float().cpu()

    def judge(edited: Tensor) -> Estimates:
        images = edited.float().cpu()
        measures = edit_measures(scene, wanted, before, images, reader, reader.features)
        found = Estimates.of(edit_ratios(measures), start_bootstrap())
        error = found.numbers["distance"] + found.numbers["outside"]
        return replace(found, numbers={**found.numbers, "error": error})

    return judge


JUDGES = {name: partial(make_judge, experiment) for name, experiment in EXPERIMENTS.items()}
