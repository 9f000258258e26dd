"""The cost of edits of concepts, by measuring for about a second what a build does."""

from __future__ import annotations

from typing import cast

from editspec.engine.built import STATISTICS
from editspec.engine.estimates import (
    BESIDES,
    COPIES,
    MOST_COMPARED,
    Estimate,
    Overlap,
    Owned,
    measure_solving,
    name_overlaps,
    peak_memory,
    significant,
    time_call,
)
from editspec.engine.session import BuildSession
from editspec.modalities.text_to_image.prompts import concepts_of, find_sample
from editspec_compiler.modalities.text_to_image.places import Place, find_keys
from editspec_compiler.modalities.text_to_image.schema import prompt_spec
from editspec_runtime.maths.moments import SecondMomentEstimator
from editspec_runtime.maths.sampled_keys import forward_batch
from editspec_runtime.modalities.text_to_image.batches import join_prompts
from editspec_runtime.modalities.text_to_image.model import PromptedModel

COMPILE, SOLVE = "compile", "solve"
"""The stages besides that of C; keys of prompts are computed in the first."""


def estimate_edit(session: BuildSession, number: int) -> Estimate:
    """Estimate the cost of building edit `number`.

    All layers read the same keys, which no edit changes: C is taken once, and so are the keys.
    """
    model = cast(PromptedModel, session.current_model())
    concepts, spec = concepts_of(session.loaded), prompt_spec(session.loaded.spec)
    edit = spec.edits[number]
    asked = concepts.asked(edit)
    kept, _ = concepts.preserved(edit, number)
    layer = edit.layer_names[0]
    sample = find_sample(session)
    missing = session.find_moment(model, layer) is None
    seconds = {COMPILE: 0.0, STATISTICS: 0.0, SOLVE: 0.0}
    if missing and sample.count:
        seconds[STATISTICS] = _measure_keys(session, model, layer) * sample.count
    places = [*asked.targets, *asked.sources, *kept]
    places += [place for added in asked.added for place, _ in added]
    seconds[COMPILE] = _measure_prompts(model, places)
    rows = find_keys(model, asked.targets[:MOST_COMPARED])
    weight = model.weight(layer)
    once = time_call(lambda: rows @ weight.mT)
    features = model.architecture.layers[layer].in_features
    # A matrix is multiplied when the rule is made, when it is solved, and when its loss is taken.
    seconds[SOLVE] = measure_solving(features) + 3 * once * len(edit.layer_names)
    return Estimate(
        tokens=sample.positions if missing else 0,
        targets=0,
        kept=0,
        peak_memory=peak_memory(session.device) + BESIDES + COPIES * 8 * features**2,
        seconds=significant(seconds),
        places=len(asked.targets),
    )


def _measure_keys(session: BuildSession, model: PromptedModel, layer: str) -> float:
    """Measure the seconds that the keys of a prompt of the sample take, and their products."""
    sample = find_sample(session)
    size = forward_batch(model, layer, sample, session.compatibility)
    features = model.architecture.layers[layer].in_features
    estimator = SecondMomentEstimator(features, model.weight(layer).device)
    some = sample.prompts[:size]

    def take() -> None:
        keys = model.keys(layer, join_prompts(some))
        estimator.update(keys.values, keys.weight)

    take()  # which reads what later ones have in memory
    return time_call(take) / len(some)


def _measure_prompts(model: PromptedModel, places: list[Place]) -> float:
    """Measure the seconds that the keys of prompts take, each of which is encoded once."""
    by_prompt = {prompt.tokens: (prompt, place) for prompt, place in places}
    some = next(iter(by_prompt.values()))
    find_keys(model, [some])
    return time_call(lambda: find_keys(model, [some])) * len(by_prompt)


def find_overlaps(session: BuildSession) -> list[Overlap]:
    """Find the concepts of a spec whose keys are nearly parallel, the most parallel first.

    The key of a concept is that of the last token of its prompt; no edit changes it. Of more than
    `MOST_COMPARED` the first are compared.
    """
    model = cast(PromptedModel, session.current_model())
    concepts = concepts_of(session.loaded)
    owned: list[Owned] = []
    places: list[Place] = []
    edits = prompt_spec(session.loaded.spec).edits
    for edit in edits:
        for side in edit.sides:
            prompt = concepts.encode(side.target.prompt)
            owned.append(Owned(edit.name, prompt.text))
            places.append((prompt, prompt.last))
    layer = edits[0].layer_names[0]
    keys = find_keys(model, places[:MOST_COMPARED])
    return name_overlaps(owned, layer, keys, session.find_moment(model, layer))
