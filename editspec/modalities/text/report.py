"""Texts of a build for its report: completions before and after, and where the key matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editspec.engine.session import BuildSession
from editspec.modalities.text.completions import Completion, Prompted, complete, list_prompts
from editspec.modalities.text.corpus import tokenizer_of
from editspec.modalities.text.heat_maps import NEGATIVE, POSITIVE, is_dark
from editspec.modalities.text.key_matches import MatchedText, find_key_matches
from editspec_compiler.modalities.text.resolve import CompileResources
from editspec_compiler.modalities.text.schema import GENERATED, text_spec
from editspec_runtime.modalities.text.language_model import LanguageModel

SHOWN = 12
"""The number of prompts of each kind of an edit that a report shows."""

MATCHED = 6
"""The number of texts of each group in which a report shows the key."""


@dataclass(frozen=True)
class ColouredToken:
    """A token of a text with the colour of its share.

    Attributes
    ----------
    text, share
        The text of the token, and its share of the edit's change.
    colour, dark
        The colour as CSS has it, and whether letters on it are to be white.
    """

    text: str
    share: float
    colour: str
    dark: bool


@dataclass(frozen=True)
class TextSection:
    """What a report shows of an edit of texts.

    Attributes
    ----------
    rows
        The completions.
    matched
        Texts by where they come from, token by token.
    layer
        The layer whose keys are matched.
    """

    rows: list[Completion]
    matched: dict[str, list[list[ColouredToken]]]
    layer: str

    @property
    def failing(self) -> int:
        """The number of completions that are not as they are wanted."""
        return sum(row.holds is False for row in self.rows)


@dataclass(frozen=True)
class ReportTexts:
    """The texts of the report of a build session."""

    session: BuildSession
    resources: CompileResources

    @property
    def facts(self) -> dict[str, str]:
        """The facts of the model and of its sample by their labels."""
        spec = text_spec(self.session.loaded.spec)
        statistics = spec.statistics
        corpus = statistics.corpus
        if corpus == GENERATED:
            corpus = "texts of the unedited model"
        layers = self.session.current_model().architecture.layers
        return {
            "Model": f"{spec.model.family}, {len(layers)} layers",
            "Completions": "the likeliest tokens, one by one",
            "Second moments": f"{statistics.tokens} tokens of {corpus}, seed {statistics.seed}",
        }

    def describe(
        self, session: BuildSession, number: int, before: LanguageModel, after: LanguageModel
    ) -> TextSection:
        """Complete the prompts of an edit, and find where its key matches.

        `session` has the edits before it on its stack.
        """
        spec = text_spec(session.loaded.spec)
        rows = self._complete(list_prompts(spec, number, SHOWN), before, after)
        matches = find_key_matches(session, number, self.resources, MATCHED)
        matched = {}
        for name, texts in matches.groups.items():
            matched[name] = [_colour(text) for text in texts]
        return TextSection(rows, matched, matches.layer)

    def compare_all(self, before: LanguageModel, after: LanguageModel) -> list[Completion]:
        """Complete the prompts of all edits before the first and after the last."""
        spec = text_spec(self.session.loaded.spec)
        asked: list[Prompted] = []
        for number in range(len(spec.edits)):
            asked += list_prompts(spec, number, SHOWN)
        return self._complete(asked, before, after)

    def _complete(
        self, asked: Sequence[Prompted], before: LanguageModel, after: LanguageModel
    ) -> list[Completion]:
        return complete(asked, before, after, tokenizer_of(self.session.loaded))


def _colour(text: MatchedText) -> list[ColouredToken]:
    found = []
    for number, (token, share) in enumerate(text.pairs):
        # On any background: what is white in pictures lets it through.
        red, green, blue = POSITIVE if share >= 0 else NEGATIVE
        colour = f"rgb({red} {green} {blue} / {min(abs(share), 1.0):.2f})"
        shown = token if number else token.lstrip()
        found.append(ColouredToken(shown, share, colour, is_dark(share)))
    return found
