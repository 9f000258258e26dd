"""The comparison of layers of language models: causal traces of the facts of an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from PIL import Image
from torch import Tensor

from editspec.engine.result import CommandResult, count_of
from editspec.engine.session import BuildSession
from editspec.modalities.text.asked import title_of
from editspec.modalities.text.corpus import tokenizer_of
from editspec.modalities.text.heat_maps import Grid, draw_grids, percent
from editspec_compiler.modalities.text.schema import text_spec
from editspec_compiler.modalities.text.tokens import Located, Tokenizer
from editspec_runtime.errors import UsageError
from editspec_runtime.modalities.text.causal_trace import (
    NOISE,
    SAMPLES,
    Blockwise,
    CausalTrace,
    subject_deviation,
    trace_causes,
    window_of,
)

MOST_FACTS = 64
"""The number of facts that are traced at most."""

LEAST_LOST = 0.05
"""The least probability that the noise must take away, for a share of it to mean something."""

SEED = 1

MEMORY, STATE = "memory", "state"
KINDS = {MEMORY: "MLP", STATE: "state"}

GROUPS = (
    "first of the subject",
    "within the subject",
    "last of the subject",
    "behind the subject",
    "last of the prompt",
)
"""The groups of tokens over which the traces of several facts are averaged."""

SUBJECT_LAST, PROMPT_LAST = GROUPS[2], GROUPS[4]


@dataclass(frozen=True)
class TracedFact:
    """The causal trace of one fact.

    Attributes
    ----------
    prompt
        The prompt with its subject.
    answer
        The token that the model answers with.
    tokens, subject
        The texts of the tokens, and the places of those of the subject.
    clean, corrupted
        The probability of the answer, and its mean under noise.
    memory, state
        The share of what the noise takes away that comes back where the MLPs around a layer, or the
        stream behind its block, are as without noise at one token; by layer, then by token.
    """

    prompt: str
    answer: str
    tokens: tuple[str, ...]
    subject: tuple[int, ...]
    clean: float
    corrupted: float
    memory: tuple[tuple[float, ...], ...]
    state: tuple[tuple[float, ...], ...]

    def grouped(self, kind: str) -> list[dict[str, float]]:
        """The mean share of each group of tokens that there is, layer by layer."""
        groups: dict[str, list[int]] = {}
        for place in range(self.subject[0], len(self.tokens)):
            groups.setdefault(self._group_of(place), []).append(place)
        found = []
        for row in getattr(self, kind):
            means = {}
            for name, places in groups.items():
                means[name] = sum(row[place] for place in places) / len(places)
            found.append(means)
        return found

    def _group_of(self, place: int) -> str:
        if place == self.subject[-1]:
            return SUBJECT_LAST
        if place == len(self.tokens) - 1:
            return PROMPT_LAST
        if place > self.subject[-1]:
            return GROUPS[3]
        return GROUPS[0] if place == self.subject[0] else GROUPS[1]


@dataclass(frozen=True)
class CausalTraceResult(CommandResult):
    """The layers of a language model, compared by causal traces of the facts of an edit.

    Attributes
    ----------
    edit, layers
        The name of the edit, and the layers of the model.
    deviation
        The standard deviation of the noise on the subject's embeddings.
    samples, window
        The number of samples of noise, and of blocks whose MLPs are put back together.
    facts
        The facts whose answer the noise takes away.
    left_out
        The number of facts that are not among them: the noise changes their answer by less than
        `LEAST_LOST`, or there are more than `MOST_FACTS`.
    memory, state
        The mean shares over the facts, layer by layer, of each group of tokens.
    best
        The layer whose MLP brings most back at the subject's last token.
    picture
        The shares as a heat map.
    """

    edit: str
    layers: tuple[str, ...]
    deviation: float
    samples: int
    window: int
    facts: tuple[TracedFact, ...]
    left_out: int
    memory: tuple[dict[str, float], ...]
    state: tuple[dict[str, float], ...]
    best: str
    picture: Image.Image = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The traces as plain values."""
        plain = super().to_dict()
        del plain["picture"]
        return plain

    def to_text(self) -> str:
        """The mean shares as a table, and the best layer."""
        head = ["layer"]
        head += [f"{KINDS[kind]}, {each}" for each in (SUBJECT_LAST, PROMPT_LAST) for kind in KINDS]
        table = [head]
        for number, layer in enumerate(self.layers):
            row = [layer]
            for group in (SUBJECT_LAST, PROMPT_LAST):
                row += [_percent(self._mean(kind, number, group)) for kind in KINDS]
            table.append(row)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for row in table:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        clean = sum(fact.clean for fact in self.facts) / len(self.facts)
        noisy = sum(fact.corrupted for fact in self.facts) / len(self.facts)
        blocks = "one block" if self.window == 1 else f"{self.window} blocks around each"
        lines.append(
            f"Shares of what noise on the subject takes away from the answer: {clean:.3g} to "
            f"{noisy:.3g} in the mean of {count_of(len(self.facts), 'fact')} and {self.samples} "
            f"samples; MLPs of {blocks}."
        )
        if self.left_out:
            lines.append(f"Left out: {count_of(self.left_out, 'fact')}.")
        number = self.layers.index(self.best)
        share = _percent(self._mean(MEMORY, number, SUBJECT_LAST))
        lines.append(f"{self.best} brings most back at the last token of the subject: {share}.")
        return "\n".join(lines)

    def _mean(self, kind: str, number: int, group: str) -> float | None:
        means: tuple[dict[str, float], ...] = getattr(self, kind)
        return means[number].get(group)

    def _repr_png_(self) -> bytes | None:
        """The picture as a notebook shows it."""
        found: bytes | None = self.picture._repr_png_()
        return found


def trace_layers(session: BuildSession, number: int) -> CausalTraceResult:
    """Trace the facts of edit `number` on the model that the edits before it left.

    Raises `UsageError` where the noise changes the answer to none of them.
    """
    edit = text_spec(session.loaded.spec).edits[number]
    tokenizer = tokenizer_of(session.loaded)
    located: dict[str, tuple[Located, tuple[int, ...]]] = {}
    for side in edit.sides:
        place = tokenizer.locate(side.target)
        first = tokenizer.first_place(side.target)
        located[title_of(side.target)] = place, tuple(range(first, place.place + 1))
    chosen = dict(list(located.items())[:MOST_FACTS])
    model = cast(Blockwise, session.current_model())
    texts = [(place.tokens, places) for place, places in chosen.values()]
    deviation = NOISE * subject_deviation(model, texts)
    facts: list[TracedFact] = []
    with session.kernels():
        for done, (title, (place, places)) in enumerate(chosen.items()):
            session.progress("causal traces", done, len(chosen))
            found = trace_causes(model, place.tokens, places, deviation, SEED)
            if found.lost >= LEAST_LOST:
                facts.append(_describe(title, place.tokens, places, found, tokenizer))
    session.progress("causal traces", len(chosen), len(chosen))
    if not facts:
        raise UsageError(
            "Noise on the subject changes no answer of the edit: the model answers without it.",
            "Give prompts that the model answers by what it knows of the subject.",
        )
    layers = tuple(session.current_model().architecture.layers)
    memory, state = _mean_groups(facts, MEMORY), _mean_groups(facts, STATE)
    best = max(range(len(layers)), key=lambda each: memory[each][SUBJECT_LAST])
    return CausalTraceResult(
        edit.name,
        layers,
        deviation,
        SAMPLES,
        window_of(model.block_count),
        tuple(facts),
        len(located) - len(facts),
        memory,
        state,
        layers[best],
        _draw(facts, layers, memory, state),
    )


def _describe(
    title: str, tokens: Sequence[int], places: tuple[int, ...], found: CausalTrace, own: Tokenizer
) -> TracedFact:
    return TracedFact(
        title,
        own.decode([found.answer]).strip(),
        tuple(own.pieces(tokens)),
        places,
        found.clean,
        found.corrupted,
        _rows(found.shares(MEMORY)),
        _rows(found.shares(STATE)),
    )


def _rows(shares: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(share, 6) for share in row) for row in shares.tolist())


def _mean_groups(facts: Sequence[TracedFact], kind: str) -> tuple[dict[str, float], ...]:
    """The mean share of each group over the facts that have it, layer by layer."""
    grouped = [fact.grouped(kind) for fact in facts]
    found = []
    for number in range(len(grouped[0])):
        means = {}
        for group in GROUPS:
            having = [fact[number][group] for fact in grouped if group in fact[number]]
            if having:
                means[group] = sum(having) / len(having)
        found.append(means)
    return tuple(found)


def _draw(
    facts: Sequence[TracedFact],
    layers: Sequence[str],
    memory: Sequence[dict[str, float]],
    state: Sequence[dict[str, float]],
) -> Image.Image:
    """Draw the shares of one fact by token, or the means of several by group."""
    if len(facts) > 1:
        rows = [group for group in GROUPS if group in memory[0]]
        title = f"mean of {len(facts)} facts"
        tables = [[[layer[group] for layer in each] for group in rows] for each in (memory, state)]
        marked = {index for index, group in enumerate(rows) if group == SUBJECT_LAST}
    else:
        (fact,) = facts
        rows = [piece.strip() or repr(piece) for piece in fact.tokens]
        title = f"{fact.prompt} {fact.answer}"
        tables = [list(map(list, zip(*each, strict=True))) for each in (fact.memory, fact.state)]
        marked = set(fact.subject)
    captions = ("MLP put back", "state behind the block put back")
    grids = [Grid(*each) for each in zip(captions, tables, strict=True)]
    return draw_grids(title, rows, layers, grids, marked)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{percent(share)} %"
