"""The cost of edits of texts, by measuring for about a second what a build does for long."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from editspec.engine.built import STATISTICS, TARGETS
from editspec.engine.estimates import (
    BESIDES,
    COPIES,
    MOST_COMPARED,
    Estimate,
    Overlap,
    Owned,
    first_overlaps,
    measure_solving,
    name_overlaps,
    peak_memory,
    significant,
    time_call,
)
from editspec.engine.session import BuildSession
from editspec.modalities.text.asked import title_of
from editspec.modalities.text.corpus import LENGTH, find_known_sample, tokenizer_of
from editspec_compiler.modalities.text.places import place_facts
from editspec_compiler.modalities.text.resolve import CompileResources, Resolver, optimiser_of
from editspec_compiler.modalities.text.schema import TextEdit, text_spec
from editspec_runtime.maths.moments import SecondMomentEstimator
from editspec_runtime.modalities.text.batches import pad_texts
from editspec_runtime.modalities.text.compatibility import text_compatibility
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.sampling import BATCH as DRAWN
from editspec_runtime.modalities.text.sampling import draw_texts
from editspec_runtime.modalities.text.targets import find_shift

SHORT = 0.1
"""The seconds below which a measurement is taken of more texts."""

STEPS = 4
"""The number of tokens of each text that are drawn to measure how long drawing takes."""


def estimate_edit(
    session: BuildSession, number: int, resources: CompileResources, *, follows: bool
) -> Estimate:
    """Estimate the cost of building edit `number`.

    `follows` says whether an edit before it is still to be built, so that its model is not known:
    then each value counts as one to find.
    """
    model = cast(LanguageModel, session.current_model())
    edit = text_spec(session.loaded.spec).edits[number]
    missing = [name for name in edit.layer_names if session.find_moment(model, name) is None]
    counted = _count_tokens(session)
    seconds = {STATISTICS: 0.0, TARGETS: 0.0, "solve": 0.0}
    extra = 0
    if missing:
        each, extra = _measure_keys(session, model, missing[-1])
        seconds[STATISTICS] = each * counted * len(missing)
        if find_known_sample(session) is None:
            seconds[STATISTICS] += _measure_drawing(session, model) * counted
    search = _Search(Resolver(session.loaded, number, resources), model)
    targets, kept = search.count(follows=follows)
    if targets:
        seconds[TARGETS] = search.measure() * targets
    features = model.architecture.layers[edit.layer_names[-1]].in_features
    seconds["solve"] = measure_solving(features) * len(edit.layer_names)
    held = peak_memory(session.device) + BESIDES + COPIES * 8 * features**2 + extra
    return Estimate(counted * len(missing), targets, kept, held, significant(seconds))


def _count_tokens(session: BuildSession) -> int:
    """The number of tokens that C is taken over."""
    sample = find_known_sample(session)
    if sample is not None:
        return sample.positions
    return text_spec(session.loaded.spec).statistics.tokens


def _measure_keys(session: BuildSession, model: LanguageModel, layer: str) -> tuple[float, int]:
    """Measure the seconds that the keys of a token and their products take.

    Returns them, and the bytes that a whole batch takes besides those that were measured.
    """
    length = min(LENGTH, model.context)
    sample = find_known_sample(session)
    if sample is not None:
        length = sample.longest
    batch = text_compatibility(session.compatibility).chunk
    features = model.architecture.layers[layer].in_features
    estimator = SecondMomentEstimator(features, model.weight(layer).device)

    def take(count: int) -> None:
        keys = model.keys(layer, pad_texts([range(1, length + 1)] * count))
        estimator.update(keys.values, keys.weight)

    take(1)  # which reads what later ones have in memory
    took, count = time_call(lambda: take(1)), 1
    if took < SHORT:
        count = batch
        took = time_call(lambda: take(count))
    # Inputs and outputs of the parts of a block, of the texts that were not measured.
    each = length * 4 * (3 * features + 4 * model.weight(layer).shape[0])
    return took / (count * length), (batch - count) * each


def _measure_drawing(session: BuildSession, model: LanguageModel) -> float:
    """Measure the seconds that drawing a token of a text takes, of many drawn at once."""
    head = tokenizer_of(session.loaded).head
    texts = max(1, min(DRAWN, -(-text_spec(session.loaded.spec).statistics.tokens // LENGTH)))
    length = len(head) + STEPS
    return time_call(lambda: draw_texts(model, [head] * texts, length, 0)) / (texts * STEPS)


@dataclass(frozen=True)
class _Search:
    """The search for the values of an edit, before it is done."""

    resolver: Resolver
    model: LanguageModel

    def count(self, *, follows: bool) -> tuple[int, int]:
        """Count the values that are to be found, and those that the cache has."""
        requests = self.resolver.requests(self.model)
        if not requests:
            return 0, 0
        whole, missing = self.resolver.search(self.model).count_missing(requests)
        return (whole, 0) if follows else (missing, whole - missing)

    def measure(self) -> float:
        """Measure the seconds that a search takes where it goes through all evaluations."""
        request = next(iter(self.resolver.requests(self.model).values()))
        optimiser = optimiser_of(self.resolver.spec, self.resolver.edit)
        layer = self.resolver.edit.layer_names[-1]

        def run(evaluations: int) -> None:
            find_shift(self.model, layer, request, replace(optimiser, evaluations=evaluations))

        run(1)  # which reads what later ones have in memory
        once, thrice = time_call(lambda: run(1)), time_call(lambda: run(3))
        # Both have what a search does once. Their difference may be noise where they are short, but
        # a further evaluation takes no less than half of what one of three takes with that.
        further = max((thrice - once) / 2, thrice / 6)
        return thrice + (optimiser.evaluations - 3) * further


def find_overlaps(session: BuildSession) -> list[Overlap]:
    """Find the facts of a spec whose keys are nearly parallel, the most parallel first.

    Keys are those of the bare prompts on the model as the session has it, at the last layer of each
    edit. Of more facts than `MOST_COMPARED` the first are compared.
    """
    model = cast(LanguageModel, session.current_model())
    tokenizer = tokenizer_of(session.loaded)
    by_layer: dict[str, list[TextEdit]] = {}
    for edit in text_spec(session.loaded.spec).edits:
        by_layer.setdefault(edit.layer_names[-1], []).append(edit)
    found: list[Overlap] = []
    for layer, edits in by_layer.items():
        targets = [(edit.name, side.target) for edit in edits for side in edit.sides]
        targets = targets[:MOST_COMPARED]
        located = [[tokenizer.locate(fact)] for _, fact in targets]
        keys = place_facts(model, layer, located).keys[:, 0]
        owned = [Owned(name, title_of(fact)) for name, fact in targets]
        found += name_overlaps(owned, layer, keys, session.find_moment(model, layer))
    return first_overlaps(found)
