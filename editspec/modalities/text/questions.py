"""Questions about a prompt or a check: which edit changed the answer, and from which edit on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from editspec.engine.questions import (
    AT_LEAST,
    AT_MOST,
    Asked,
    Bound,
    ModelOf,
    Question,
    refuse_options,
)
from editspec.engine.session import BuildSession
from editspec.modalities.text.answer_pictures import Answer, draw_answers
from editspec.modalities.text.corpus import tokenizer_of
from editspec.modalities.text.measures import BETWEEN, TextMeasures
from editspec_compiler.modalities.text.schema import BLANK, Perplexity, Specificity, text_spec
from editspec_compiler.modalities.text.tokens import Located, Tokenizer
from editspec_compiler.problems import suggest
from editspec_compiler.schema import Check
from editspec_runtime.core.model import Model
from editspec_runtime.errors import UsageError
from editspec_runtime.maths.shapley import Attribution
from editspec_runtime.modalities.text.batches import Tokens
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.scores import next_probabilities, score_texts

PROBABILITY, DIVERGENCE = "probability", "divergence"
"""The measures of one prompt."""


@dataclass(frozen=True)
class PromptQuestion:
    """One prompt, and what follows it.

    Attributes
    ----------
    prompt, tokens
        The prompt, and its tokens.
    text, wanted
        The text whose probability is looked at, and its tokens; None and empty where all next
        tokens are looked at.
    tokenizer
        The tokenizer of the model.
    """

    prompt: str
    tokens: Tokens
    text: str | None
    wanted: Tokens
    tokenizer: Tokenizer

    first = 0

    @property
    def name(self) -> str:
        """The prompt in quotes, and the text."""
        return f'"{self.prompt}"' + (f" {self.text}" if self.text else "")

    @property
    def unit(self) -> str:
        """The meaning of `size_of` in words."""
        return "in probability" if self.wanted else "of the probability of the next token"

    def value(self, model: Model) -> Tensor:
        """Compute the probability of the text, [1], or of all next tokens, [vocabulary]."""
        reader = cast(LanguageModel, model)
        if not self.wanted:
            return next_probabilities(reader, self.tokens)
        (score,) = score_texts(reader, [(self.tokens, self.wanted)])
        log = torch.tensor([score.log_probability * len(self.wanted)], dtype=torch.float64)
        return log.exp()

    def size_of(self, change: Tensor) -> float:
        """Compute the change of the one probability, or half of the changes of all."""
        moved = float(change.abs().sum())
        return moved if self.wanted else moved / 2

    def draw(self, model_of: ModelOf, names: Sequence[str], found: Attribution) -> Image.Image:
        """Draw what follows the prompt before and after, and without each edit, with its share."""
        everyone = tuple(range(len(names)))
        rows = [self._answer("before", model_of(())), self._answer("after", model_of(everyone))]
        for number, (name, share) in enumerate(zip(names, found.shares.tolist(), strict=True)):
            left_out = tuple(each for each in everyone if each != number)
            rows.append(self._answer(f"without {name}", model_of(left_out), share))
        return draw_answers(self.name, rows)

    def _answer(self, label: str, model: Model, share: float | None = None) -> Answer:
        """Find the likeliest next token of a model, or the text that is looked at."""
        if self.wanted:
            return Answer(label, self.text or "", float(self.value(model)[0]), share)
        chances = next_probabilities(cast(LanguageModel, model), self.tokens)
        token = int(chances.argmax())
        return Answer(label, self.tokenizer.decode([token]), float(chances[token]), share)

    def measure(self, session: BuildSession, measure: str, count: int) -> float:
        """Measure the probability of the text, or how far all next tokens are from the base's.

        ``divergence`` is sum p (log p - log p0) in nats, where p0 is before all edits.
        """
        now = cast(LanguageModel, session.after(count).current_model())
        if measure == PROBABILITY:
            return float(self.value(now)[0])
        base = next_probabilities(cast(LanguageModel, session.base_model), self.tokens)
        after = next_probabilities(now, self.tokens)
        return float(torch.special.xlogy(after, after / base).sum().clamp_min(0))

    def bound_of(self, measure: str) -> Bound:
        """A probability is bounded from either side, a divergence is at most something.

        Raises `UsageError` for any other measure.
        """
        if measure == PROBABILITY and not self.wanted:
            raise UsageError(
                "The probability of what? --text is missing.",
                "Give the text that is to follow the prompt, as in --text Paris.",
            )
        if measure not in (PROBABILITY, DIVERGENCE):
            raise UsageError(
                f"There is no measure {measure} of a prompt.",
                f"Give --measure {PROBABILITY} or --measure {DIVERGENCE}; leave --prompt out for a "
                "check of the spec.",
            )
        if measure == PROBABILITY:
            return Bound(AT_LEAST, either=True)
        return Bound(AT_MOST)


@dataclass
class CheckQuestion:
    """One check of a spec, and the edit that it is about; None for all edits together."""

    check: Check
    edit: str | None
    number: int | None
    measures: list[TextMeasures] = field(default_factory=list)

    unit = ""

    @property
    def name(self) -> str:
        """The check and its edit in words."""
        name = self.check.name or self.check.measure
        return f"check {name}" if self.edit is None else f"check {name} of {self.edit}"

    @property
    def first(self) -> int:
        """What an edit brings is there after it; what it must leave alone, before it."""
        if self.number is None or isinstance(self.check, Perplexity):
            return 0
        return self.number if isinstance(self.check, Specificity) else self.number + 1

    def value(self, model: Model) -> Tensor:
        """Raise a `UsageError`: a check is not divided among edits."""
        raise UsageError("A check is not divided among edits.", "Give --prompt.")

    def size_of(self, change: Tensor) -> float:
        """Compute the change of the measure."""
        return float(change.abs().sum())

    def draw(self, model_of: ModelOf, names: Sequence[str], found: Attribution) -> None:
        """Return None: a check is not drawn."""

    def measure(self, session: BuildSession, measure: str, count: int) -> float:
        """Measure the check after the first `count` edits.

        Raises `UsageError` where there is nothing to measure.
        """
        del measure
        if not self.measures:
            self.measures.append(TextMeasures(session, ()))
        value, remark, *_ = self.measures[0].measure_between(self.check, self.number, count)
        if value is None:
            raise UsageError(f"{self.name}: {remark}.", "Give another check.")
        return value

    def bound_of(self, measure: str) -> Bound:
        """The bound that the spec sets."""
        del measure
        return Bound(*self.check.bound())


def ask_about_text(session: BuildSession, asked: Asked) -> Question:
    """Make the question about a prompt, or where none is given about a check of the spec.

    Raises `UsageError` where the options do not fit.
    """
    refuse_options(asked, ("latent", "mask"), "language models")
    prompt, text = asked.get("prompt"), asked.get("text")
    if prompt is not None:
        refuse_options(asked, ("edit",), "a prompt")
        return _ask_about_prompt(session, prompt, text)
    if asked.get("measure") is None:
        raise UsageError(
            "--prompt is missing.", 'Give a whole prompt, as in --prompt "Paris lies in".'
        )
    refuse_options(asked, ("text",), "a check")
    return _ask_about_check(session, asked)


def _ask_about_prompt(session: BuildSession, prompt: str, text: str | None) -> PromptQuestion:
    tokenizer = tokenizer_of(session.loaded)
    model = cast(LanguageModel, session.current_model())
    if BLANK in prompt:
        raise UsageError(
            f"The prompt has {BLANK}, which stands for a subject.",
            f"Write the subject in the place of {BLANK}.",
        )
    if not prompt.strip():
        raise UsageError("The prompt is blank.", "Give the words that the model goes on with.")
    if text is not None and not text.strip():
        raise UsageError("The text is blank.", "Give the text that may follow the prompt.")
    tokens = (*tokenizer.head, *tokenizer.encode(prompt).tokens)
    wanted: Tokens = ()
    if text is not None:
        wanted = tokenizer.continuation(Located(prompt, tokens, len(tokens) - 1), text)
    length = len(tokens) + len(wanted)
    if length > model.context:
        raise UsageError(
            f"The prompt has {length} tokens with what follows, and the model reads "
            f"{model.context}.",
            "Give a shorter prompt.",
        )
    return PromptQuestion(prompt, tokens, text, wanted, tokenizer)


def _ask_about_check(session: BuildSession, asked: Asked) -> CheckQuestion:
    spec, wanted = text_spec(session.loaded.spec), asked["measure"]
    checks = [each for each in spec.checks if wanted in (each.name, each.measure)]
    fit = [each for each in checks if isinstance(each, BETWEEN)]
    named = [each for each in fit if each.name == wanted]
    fit = named or fit
    if not fit:
        names = [each.name or each.measure for each in spec.checks if isinstance(each, BETWEEN)]
        known = f"Checks of the spec: {', '.join(names)}." if names else "The spec has no checks."
        hint = f"{known} Or give --prompt, with --measure {PROBABILITY} or {DIVERGENCE}."
        message = f"The spec has no check {wanted} that can be measured after every edit."
        raise UsageError(message, hint)
    if len(fit) > 1:
        names = [each.name or each.measure for each in fit]
        raise UsageError(
            f"The spec has {len(fit)} checks {wanted}: {', '.join(names)}.",
            "Give the name of one as --measure.",
        )
    (check,) = fit
    edits = [edit.name for edit in spec.edits]
    about = check.select_edits(edits)
    edit = asked.get("edit")
    if edit is None and len(about) > 1:
        raise UsageError(
            f"The check {wanted} is about {len(about)} edits: {', '.join(map(str, about))}.",
            "Give the name of one as --edit.",
        )
    if edit is not None and edit not in about:
        known_edits = [each for each in about if each is not None]
        raise UsageError(
            f"The check {wanted} is not about an edit {edit}.",
            suggest(edit, known_edits) or "Leave --edit out.",
        )
    chosen = about[0] if edit is None else edit
    number = None if chosen is None else edits.index(chosen)
    return CheckQuestion(check, chosen, number)
