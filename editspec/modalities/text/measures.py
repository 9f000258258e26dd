"""The measures that the checks of a spec of texts take on a stack of patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from editspec.engine.checks import Value
from editspec.engine.measures import Measures
from editspec.engine.result import count_of
from editspec.modalities.text.asked import (
    PROBABILITY,
    Asked,
    asked_of,
    holds,
    neighbours_of,
    paraphrases_of,
    title_of,
)
from editspec.modalities.text.corpus import read_lines, tokenizer_of
from editspec_compiler.modalities.text.schema import (
    Efficacy,
    Fluency,
    Paraphrase,
    Perplexity,
    Specificity,
    TextEdit,
    text_spec,
)
from editspec_compiler.modalities.text.tokens import Tokenizer
from editspec_compiler.schema import Check, Retention
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.samples import take_tokens
from editspec_runtime.modalities.text.sampling import draw_texts
from editspec_runtime.modalities.text.scores import (
    entropy_of_words,
    likeliest_tokens,
    perplexity,
    wilson_interval,
)

NAMED = 5
"""The number of prompts that a remark names."""

MOST_LIKELY = 5
"""The number of tokens that texts for the fluency are drawn from."""

BETWEEN = (Efficacy, Paraphrase, Specificity, Fluency, Perplexity, Retention)
"""The checks that compare the models after two numbers of edits."""

NOTHING = "there is nothing to measure: "


@dataclass(frozen=True)
class TextMeasures(Measures):
    """The measures of a stack that is built; each gives a value and a remark."""

    def measure(self, number: int, edit: str | None) -> Value:
        """Return the value of check `number` for an edit; None means all edits together."""
        check = self.session.loaded.spec.checks[number]
        if edit is None:
            return self.measure_between(check, None, len(self.built))
        which = self.numbers[edit]
        if isinstance(check, Retention):
            return self.retention(which, len(self.built))
        if isinstance(check, BETWEEN):
            return self.measure_between(check, which, which + 1)
        return super().measure(number, edit)

    def measure_between(self, check: Check, number: int | None, last: int) -> Value:
        """Measure what has changed since before edit `number`, after the first `last` edits.

        `check` is one of `BETWEEN`; of all edits together `number` is None.
        """
        first = number or 0
        if isinstance(check, Perplexity):
            return self.perplexity(check, first, last)
        edit = self.edits[first]
        if isinstance(check, Efficacy):
            return self.share(first, asked_of(edit, self.tokenizer), check.by, last)
        if isinstance(check, Paraphrase):
            return self.paraphrase(first, check, last)
        if isinstance(check, Specificity):
            return self.specificity(first, check, last)
        if isinstance(check, Retention):
            return self.retention(first, last)
        assert isinstance(check, Fluency)
        return self.fluency(first, check, last)

    @property
    def edits(self) -> Sequence[TextEdit]:
        """The edits of the spec."""
        return text_spec(self.session.loaded.spec).edits

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return tokenizer_of(self.session.loaded)

    def model_after(self, count: int) -> LanguageModel:
        """The model after the first `count` edits."""
        return cast(LanguageModel, self.session.after(count).current_model())

    def share(self, number: int, asked: Sequence[Asked], by: str, last: int) -> Value:
        """Measure the share of prompts that lead on as edit `number` asks, with what fails."""
        if not asked:
            return None, NOTHING + "no fact of the edit names a text or a prompt that it copies"
        before, after = self.model_after(number), self.model_after(last)
        were = holds(asked, before, before, by)
        now = holds(asked, before, after, by)
        failing = [each.name for each, kept in zip(asked, now, strict=True) if not kept]
        return sum(now) / len(now), _remark(sum(were), sum(now), len(now), failing)

    def paraphrase(self, number: int, check: Paraphrase, last: int) -> Value:
        """Measure the share of paraphrases of which an edit holds."""
        edit = self.edits[number]
        if check.prompts is not None:
            asked = asked_of(edit, self.tokenizer, check.prompts)
        else:
            asked = paraphrases_of(edit, self.tokenizer)
        if not asked:
            return None, NOTHING + "neither the check nor a fact names paraphrases"
        return self.share(number, asked, check.by, last)

    def specificity(self, number: int, check: Specificity, last: int) -> Value:
        """Measure the share of other facts whose likeliest next token stays."""
        # Several facts may name one neighbour, which is asked once.
        facts = list(dict.fromkeys(check.facts or neighbours_of(self.edits[number])))
        if not facts:
            return None, NOTHING + "neither the check nor a fact names neighbours"
        prompts = [self.tokenizer.locate(fact).tokens for fact in facts]
        before = likeliest_tokens(self.model_after(number), prompts)
        after = likeliest_tokens(self.model_after(last), prompts)
        kept = [one == two for one, two in zip(before, after, strict=True)]
        failing = [title_of(fact) for fact, stays in zip(facts, kept, strict=True) if not stays]
        return sum(kept) / len(kept), _remark(len(kept), sum(kept), len(kept), failing)

    def fluency(self, number: int, check: Fluency, last: int) -> Value:
        """Measure the entropy of n-grams after edits, over that before edit `number`."""
        sides = self.edits[number].sides[: check.texts]
        entropies = []
        for model in (self.model_after(number), self.model_after(last)):
            words = []
            for index, side in enumerate(sides):
                start = self.tokenizer.locate(side.target).tokens
                length = min(len(start) + check.tokens, model.context)
                drawn = draw_texts(
                    model, [start], length, check.seed + index, most_likely=MOST_LIKELY
                )
                words.append(entropy_of_words(self.tokenizer.decode(drawn[0])))
            entropies.append(sum(words) / len(words))
        before, after = entropies
        if not before:
            return None, NOTHING + "the model repeats itself before the edit already"
        return after / before, f"{before:.3g} bits before, {after:.3g} after"

    def perplexity(self, check: Perplexity, first: int, last: int) -> Value:
        """Measure the perplexity on a corpus after `last` edits, over that after `first`."""
        lines = read_lines(self.session.loaded.folder / check.corpus)
        texts = self.tokenizer.encode_many(lines)
        context = self.model_after(0).context
        taken = take_tokens(texts, tokens=check.tokens, context=context).texts
        if not any(len(text) > 1 for text in taken):
            return None, NOTHING + f"{check.corpus} has no text of two tokens"
        before = perplexity(self.model_after(first), taken)
        after = perplexity(self.model_after(last), taken)
        return after / before, f"{before:.4g} before, {after:.4g} after"

    def retention(self, number: int, last: int) -> Value:
        """Measure the share of the efficacy that is left after the first `last` edits."""
        asked = asked_of(self.edits[number], self.tokenizer)
        if not asked:
            return None, NOTHING + "no fact of the edit names a text"
        before = self.model_after(number)
        built = holds(asked, before, self.model_after(number + 1), PROBABILITY)
        left = holds(asked, before, self.model_after(last), PROBABILITY)
        if not any(built):
            return None, NOTHING + "the edit had no efficacy that it could keep"
        lost = [
            each.name for each, one, two in zip(asked, built, left, strict=True) if one and not two
        ]
        kept = sum(built) - len(lost)
        return kept / sum(built), _remark(sum(built), kept, sum(built), lost)


def _remark(before: int, after: int, count: int, failing: Sequence[str]) -> str:
    """Say how many of some prompts held before and hold after, how sure that is, and which fail."""
    low, high = wilson_interval(after, count)
    said = (
        f"{after} of {count_of(count, 'prompt')} ({before} before), 95 %: {low:.2f} to {high:.2f}"
    )
    if not failing:
        return said
    more = f" and {len(failing) - NAMED} more" if len(failing) > NAMED else ""
    return f"{said}; not {'; '.join(failing[:NAMED])}{more}"
