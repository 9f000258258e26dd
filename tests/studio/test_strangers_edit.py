"""The first edit of a stranger: a warning where it shows elsewhere, and a remedy that works."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from editspec.studio.modalities.image.images import generator_in
from editspec.worlds.skyline import world
from editspec.worlds.skyline.efficacy import edit_measures, edit_numbers
from editspec.worlds.skyline.reader import load_reader
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.streams import CHECKS
from editspec_runtime.patches.patch import apply_stack

BOX = {"box": [8, 4, 23, 27]}


@pytest.mark.slow
def test_a_first_edit_is_warned_of_and_mended(studio: Any) -> None:
    """A box on the left spire of image 1, pasted on image 0, the first three hits, defaults."""
    studio.call("PUT", "edits/0/places/source", {"latent": 1, "mask": BOX})
    studio.call("PUT", "edits/0/places/target", {"latent": 0, "mask": BOX})
    found = studio.run("edits/0/search")["edits"][0]["found"]
    for match in found[:3]:
        place = {"latent": match["latent"], "mask": {"box": match["box"]}}
        studio.call("PUT", "edits/0/places/context", place)
    assert studio.run("execute")["results"]["edits"][0]["traces"] is None
    before = trace_of(studio)
    assert before["images"] == 64
    assert before["share"] > 0.5
    assert len(before["worst"]) > 0

    state = studio.run("edits/0/preserve")
    assert state["failure"] is None
    edit = studio.draft.edits()[0]
    own = {0, 1, *(place["latent"] for place in edit["context"])}
    preserved = edit["preserve"][0]["latents"]
    assert state["edits"][0]["preserved"] == len(preserved) == 48
    assert not own & set(preserved)
    wrecked = trace_of_the_world(studio)
    studio.run("execute")
    # Of what the page counts, real changes of places that match a little less are a part.
    assert trace_of(studio)["share"] < 0.7 * before["share"]
    # 0.77 were wrecked when a new edit began at layer7 with a rank of 4.
    assert trace_of_the_world(studio) <= min(0.3, wrecked / 2)
    state = studio.call("DELETE", "edits/0/preserve", None, revision=studio.draft.revision)
    assert state["edits"][0]["preserved"] == 0


def trace_of(studio: Any) -> Any:
    """What the executed edit shows elsewhere."""
    state = studio.run("results/0/traces")
    assert state["failure"] is None
    return state["results"]["edits"][0]["traces"]


@torch.no_grad()
def trace_of_the_world(studio: Any) -> float:
    """The share of unseen pictures with change that the perfect edit would not have made."""
    base, outcome = studio.engine.base(), studio.engine.outcomes.find(studio.draft.executed)
    generator = generator_in(base)
    latents = LatentStream(CHECKS, generator.architecture.latent_size).items(range(100))
    scenes, reader = world.scenes(latents), load_reader()
    edited = generator.with_weights(
        apply_stack(base.checkpoint, [edit.patch for edit in outcome.built])
    )
    before, after = (render_clamped(each, latents) for each in (generator, edited))
    perfect = scenes.with_tops("dome", "spire")
    measures = edit_measures(scenes, perfect, before, after, reader, reader.features)
    return edit_numbers(measures)["trace"]
