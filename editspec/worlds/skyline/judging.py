"""Judges of edited images, by the perfect edit of an experiment."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from editspec.worlds.skyline.bench.experiments import EXPERIMENTS, Experiment
from editspec.worlds.skyline.efficacy import edit_measures, edit_numbers
from editspec.worlds.skyline.reader import load_reader
from editspec.worlds.skyline.world import scenes
from editspec.worlds.world import ImageJudge


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
        Gives the numbers of `edit_numbers`, and ``error``: the distance to the perfect edit where
        it changes something, plus the change outside.
    """
    reader = load_reader()
    scene = scenes(latents.float().cpu())
    wanted = experiment.counterfactual(scene)
    before = unedited.float().cpu()

    def judge(edited: Tensor) -> dict[str, float]:
        images = edited.float().cpu()
        measures = edit_measures(scene, wanted, before, images, reader, reader.features)
        numbers = edit_numbers(measures)
        return {**numbers, "error": numbers["distance"] + numbers["outside"]}

    return judge


JUDGES = {name: partial(make_judge, experiment) for name, experiment in EXPERIMENTS.items()}
