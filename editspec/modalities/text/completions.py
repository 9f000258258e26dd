"""What models say before and after the edits of a spec, as a table."""

from __future__ import annotations

from typing import cast

from editspec.engine.session import BuildSession
from editspec.engine.table import Table
from editspec.modalities.text.asked import neighbours_of, title_of
from editspec.modalities.text.corpus import tokenizer_of
from editspec_compiler.modalities.text.schema import (
    Examined,
    Fact,
    Specificity,
    TextEdit,
    TextSpec,
    Wanted,
    text_spec,
)
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.scores import go_on

LENGTH = 8
"""The number of tokens that a completion has."""

COLUMNS = ("edit", "prompt", "before", "after", "wanted")


def tabulate_completions(session: BuildSession, count: int) -> Table:
    """Complete the prompts of a spec before and after all edits, at most `count` of each edit.

    The completions are the likeliest ones, token by token. Paraphrases and neighbours of the facts
    follow the facts, and then what the checks name.
    """
    spec, tokenizer = text_spec(session.loaded.spec), tokenizer_of(session.loaded)
    before = cast(LanguageModel, session.base_model)
    for number in range(len(spec.edits)):
        session.edit(number)
    after = cast(LanguageModel, session.current_model())
    rows = []
    for name, fact, wanted in _asked(spec, count):
        tokens = tokenizer.locate(fact).tokens
        said = [tokenizer.decode(go_on(model, tokens, LENGTH)) for model in (before, after)]
        rows.append((name, title_of(fact), *said, wanted))
    return Table(COLUMNS, tuple(rows))


def _asked(spec: TextSpec, count: int) -> list[tuple[str, Fact, str]]:
    """The name of the edit, the fact and what is wanted, of each row."""
    found: list[tuple[str, Fact, str]] = []
    for edit in spec.edits:
        found += _facts_of(edit)[:count]
    for check in spec.checks:
        if isinstance(check, Specificity) and check.facts:
            name = check.edit or "all"
            found += [(name, fact, "as before") for fact in check.facts[:count]]
    return found


def _facts_of(edit: TextEdit) -> list[tuple[str, Fact, str]]:
    found = []
    for side in edit.sides:
        wanted = side.source.text if isinstance(side.source, Wanted) else "see the spec"
        found.append((edit.name, side.target, wanted))
        if isinstance(side, Examined):
            for prompt in side.paraphrases or ():
                fact = Fact(prompt=prompt, subject=side.target.subject)
                found.append((edit.name, fact, wanted))
    found += [(edit.name, fact, "as before") for fact in neighbours_of(edit)]
    return found
