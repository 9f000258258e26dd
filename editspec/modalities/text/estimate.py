"""The cost of edits of texts, by measuring for about a second what a build does for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from editspec.engine.built import STATISTICS, TARGETS
from editspec.engine.estimates import PARALLEL, Estimate, Overlap, peak_memory
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

MOST_COMPARED = 4096
"""The number of facts whose keys are compared at most."""

MOST_NAMED = 20
"""The number of overlaps that are named at most."""

COPIES = 3
"""The number of matrices of the size of C that a build holds at once: C, its factor, a sum."""

BESIDES = 80 * 2**20
"""The bytes of what a build loads and a plan does not, as measured: code, and room to solve in."""

RIDGE = 1e-10
"""What is added to C before it is inverted, as a share of its mean diagonal."""


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
    seconds["solve"] = _measure_solving(features) * len(edit.layer_names)
    seconds = {stage: round(took, 3) for stage, took in seconds.items()}
    held = peak_memory(session.device) + BESIDES + COPIES * 8 * features**2 + extra
    return Estimate(counted * len(missing), targets, kept, held, seconds)


def _count_tokens(session: BuildSession) -> int:
    """The number of tokens that C is taken over."""
    sample = find_known_sample(session)
    if sample is not None:
        return sample.positions
    return text_spec(session.loaded.spec).statistics.tokens


def _time(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
    took, count = _time(lambda: take(1)), 1
    if took < SHORT:
        count = batch
        took = _time(lambda: take(count))
    # Inputs and outputs of the parts of a block, of the texts that were not measured.
    each = length * 4 * (3 * features + 4 * model.weight(layer).shape[0])
    return took / (count * length), (batch - count) * each


def _measure_drawing(session: BuildSession, model: LanguageModel) -> float:
    """Measure the seconds that drawing a token of a text takes, of many drawn at once."""
    head = tokenizer_of(session.loaded).head
    texts = max(1, min(DRAWN, -(-text_spec(session.loaded.spec).statistics.tokens // LENGTH)))
    length = len(head) + STEPS
    return _time(lambda: draw_texts(model, [head] * texts, length, 0)) / (texts * STEPS)


def _measure_solving(features: int) -> float:
    """Measure the seconds that a factor of C takes, and what is solved with it."""
    size = min(features, 512)
    matrix = torch.eye(size, dtype=torch.float64) + 1e-3
    took = _time(lambda: torch.linalg.cholesky(matrix))
    # Two factors, and a collateral of about as many operations.
    return 4 * took * (features / size) ** 3


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
        begun, twice = _time(lambda: run(1)), _time(lambda: run(2))
        return begun + (optimiser.evaluations - 1) * max(0.0, twice - begun)


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
        owned = [(edit.name, side.target) for edit in edits for side in edit.sides]
        owned = owned[:MOST_COMPARED]
        located = [[tokenizer.locate(fact)] for _, fact in owned]
        keys = place_facts(model, layer, located).keys[:, 0].double().cpu()
        moment = session.find_moment(model, layer)
        whitened = _whiten(keys, moment)
        cosines = (whitened @ whitened.T).triu(1)
        for first, second in (cosines > PARALLEL).nonzero().tolist():
            one, two = owned[first], owned[second]
            # The same fact twice is told by the spec, and two prompts of one subject share a key.
            if title_of(one[1]) == title_of(two[1]):
                continue
            found.append(
                Overlap(
                    (title_of(one[1]), title_of(two[1])),
                    (one[0], two[0]),
                    layer,
                    round(float(cosines[first, second]), 4),
                    moment is not None,
                )
            )
    found.sort(key=lambda each: -each.cosine)
    return found[:MOST_NAMED]


def _whiten(keys: Tensor, moment: Tensor | None) -> Tensor:
    """Give keys [n, in] the length 1 in the metric of C^-1; in that of the identity without C."""
    if moment is not None:
        own = moment.double().cpu()
        ridge = RIDGE * own.diagonal().mean() * torch.eye(len(own), dtype=torch.float64)
        root = torch.linalg.cholesky(own + ridge)
        keys = torch.linalg.solve_triangular(root, keys.T, upper=False).T
    unit: Tensor = keys / keys.norm(dim=1, keepdim=True)
    return unit
