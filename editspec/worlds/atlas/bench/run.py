"""``editspec bench facts``: methods that edit facts, built from specs and measured on Atlas.

What models answer is kept in the folder of the bench, and not asked again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from editspec.engine.built import BuiltEdit
from editspec.engine.intervals import Estimates, Ratio, start_bootstrap
from editspec.engine.solving import solve
from editspec.modalities.image.pictures import png_bytes
from editspec.worlds.atlas import WORLD
from editspec.worlds.atlas.bench.answers import (
    MEASURES,
    Prompt,
    answer_tokens,
    compare_answers,
    make_prompts,
    read_answers,
)
from editspec.worlds.atlas.bench.experiments import EXPERIMENTS, TITLES, Experiment
from editspec.worlds.atlas.bench.pictures import draw_tables
from editspec.worlds.atlas.bench.tables import FactsResult, RowResult, TableResult
from editspec.worlds.atlas.world import OF_PEOPLE, RELATIONS, KnownFact, facts
from editspec_compiler.document import parse
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.text.schema import Wanted, text_spec
from editspec_compiler.modalities.text.tokens import Tokenizer, open_tokenizer
from editspec_compiler.references import load_document
from editspec_compiler.rewrite import Put, rewrite
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.transformer.network import Transformer
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import run_folder
from editspec_runtime.maths.environment import environment
from editspec_runtime.patches.patch import apply_stack

SEED = 11
"""The number of the stream that chooses facts to edit one at a time."""

RESULT = "facts.json"


def bench_facts(
    out: Path | str,
    *,
    facts: int = 40,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> FactsResult:
    """Measure methods that edit facts on Atlas, where every answer is known.

    Writes ``facts.json``, ``facts.md`` and ``facts.png`` into `out`. Interrupted, it goes on from
    where it was.

    Parameters
    ----------
    out
        A new or empty folder, or that of an earlier bench.
    facts
        How many facts are edited one at a time.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.

    Raises
    ------
    UsageError
        The packages of the extra ``text`` are not installed.
    FileError
        Something else lies at `out`.
    """
    load_extra("text")
    out = Path(out)
    run_folder(RESULT, "bench").require_free(out)
    bench = FactsBench(out, facts, device, progress)
    result = FactsResult(facts, tensors_digest(bench.base.weights))
    write_result(out, result)
    for experiment in EXPERIMENTS:
        result = replace(result, tables=(*result.tables, bench.table(experiment)))
        write_result(out, result)
    return result


def write_result(out: Path, result: FactsResult) -> None:
    """Write what is measured so far into the folder of a bench."""
    write(out / RESULT, (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    write(out / "facts.md", result.to_text().encode())
    if result.tables:
        write(out / "facts.png", png_bytes(draw_tables(result.tables)))


@dataclass
class FactsBench:
    """A run of the bench.

    Attributes
    ----------
    out
        The folder of the results.
    facts
        How many facts are edited one at a time.
    device
        Where edits are computed.
    progress
        Called as work proceeds.
    """

    out: Path
    facts: int
    device: str = "auto"
    progress: ProgressCallback = no_progress

    @cached_property
    def base(self) -> Transformer:
        """The unedited model."""
        made = make_model("transformer", read_weights(WORLD.weights), origin=Origin(WORLD.weights))
        return cast(Transformer, made)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return open_tokenizer(WORLD.weights, None)

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """Every phrasing of every fact of the world."""
        return make_prompts(self.tokenizer)

    @cached_property
    def cache(self) -> Cache:
        """A cache of this run alone."""
        return Cache(self.out / "cache")

    def table(self, experiment: Experiment) -> TableResult:
        """Build and measure the rows of one experiment."""
        rows = []
        for name, spec in experiment.specs.items():
            if experiment.each:
                rows.append(self.each_row(name, spec))
            else:
                rows.append(self.stack_row(name, spec, stepwise=experiment.stepwise))
        return TableResult(experiment.name, experiment.title, tuple(rows))

    def each_row(self, name: str, spec: Path) -> RowResult:
        """Edit facts by a spec one at a time, and measure each."""
        measured = []
        chosen = choose_facts(self.facts)
        for number, (fact, text) in enumerate(chosen.items()):
            measured.append(self.measure_one(spec, fact, text))
            self.progress(f"one at a time: {name}", number + 1, len(chosen))
        return join_facts(name, measured)

    def measure_one(self, spec: Path, fact: KnownFact, text: str) -> dict[str, Ratio]:
        """Edit one fact by a spec, and measure it, as ratios of one item."""
        built = self.build(self._about(spec, fact, text))
        found = self.compare(built, [{fact: text}])
        return {kind: _total(ratio) for kind, ratio in found.items()}

    def stack_row(self, name: str, spec: Path, *, stepwise: bool = False) -> RowResult:
        """Build a spec, and measure it after its last edit, or after each."""
        loaded = self._load(spec, spec.read_text())
        built = self.build(loaded)
        asked = [wanted_of(loaded, number) for number in range(len(built))]
        steps = []
        counts = range(1, len(built) + 1) if stepwise else [len(built)]
        for count in counts:
            found = self.compare(built[:count], asked[:count])
            steps.append(Estimates.of(found, start_bootstrap()))
            self.progress(f"{spec.stem}: measuring", count, len(built))
        several = tuple(steps) if stepwise else ()
        return RowResult(name, TITLES[name], sum(map(len, asked)), steps[-1], several)

    def build(self, loaded: LoadedSpec) -> list[BuiltEdit]:
        """Solve the edits of a spec with the cache of the run."""
        return solve(loaded, device=self.device, progress=self.progress, cache=self.cache)

    def compare(
        self, built: Sequence[BuiltEdit], asked: Sequence[Mapping[KnownFact, str]]
    ) -> dict[str, Ratio]:
        """Ask the model after some edits, and compare its answers with what each asked for."""
        tokens = answer_tokens(self.tokenizer)
        wanted = [{fact: tokens[text] for fact, text in each.items()} for each in asked]
        return compare_answers(self.prompts, self.answers(built), wanted)

    def answers(self, built: Sequence[BuiltEdit]) -> Tensor:
        """Ask the model after some edits every prompt of the world, once."""
        inputs = {
            "patch": built[-1].patch.metadata["content"],
            "prompts": [prompt.tokens for prompt in self.prompts],
            "environment": environment(self.base),
        }

        def ask() -> dict[str, Tensor]:
            stack = [edit.patch for edit in built]
            model = self.base.with_weights(apply_stack(dict(self.base.weights), stack))
            return {"answers": read_answers(model, self.prompts)}

        tensors, _ = self.cache.tensors("answers", digest(inputs), ask)
        return tensors["answers"]

    def _about(self, spec: Path, fact: KnownFact, text: str) -> LoadedSpec:
        """Load a spec whose fact is replaced by another."""
        target = {"prompt": RELATIONS[fact.relation].phrasings[0], "subject": fact.subject}
        source = {"text": text, "was": fact.answer}
        puts = [Put(("edits", 0, "target"), target), Put(("edits", 0, "source"), source)]
        return self._load(spec, rewrite(spec.read_text(), spec.name, puts))

    def _load(self, spec: Path, text: str) -> LoadedSpec:
        return load_document(parse(text, spec.name), spec, self.cache)


def choose_facts(count: int) -> dict[KnownFact, str]:
    """Choose facts of people to edit, and what each is to become."""
    chance = random.Random(SEED)
    candidates = [fact for fact in facts() if fact.relation in OF_PEOPLE]
    chosen = {}
    for fact in chance.sample(candidates, count):
        others = [each for each in RELATIONS[fact.relation].answers if each != fact.answer]
        chosen[fact] = chance.choice(others)
    return chosen


def wanted_of(loaded: LoadedSpec, number: int) -> dict[KnownFact, str]:
    """The facts that an edit changes, and what each becomes."""
    known = {fact.prompts()[0]: fact for fact in facts()}
    found = {}
    for side in text_spec(loaded.spec).edits[number].sides:
        assert isinstance(side.source, Wanted)
        prompt = side.target.prompt.replace("{}", side.target.subject)
        found[known[prompt]] = side.source.text
    return found


def join_facts(name: str, measured: Sequence[Mapping[str, Ratio]]) -> RowResult:
    """Make the row of facts that were edited one at a time."""
    joined = {}
    for kind in MEASURES:
        parts = torch.cat([each[kind].parts for each in measured])
        whole = torch.cat([each[kind].whole for each in measured])
        joined[kind] = Ratio(parts, whole)
    return RowResult(name, TITLES[name], len(measured), Estimates.of(joined, start_bootstrap()))


def _total(ratio: Ratio) -> Ratio:
    return Ratio(ratio.parts.sum(0, keepdim=True), ratio.whole.sum(0, keepdim=True))
