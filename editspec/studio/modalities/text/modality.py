"""Texts as a modality of the studio: facts, the tokens of their keys, completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from editspec.engine.session import BuildSession
from editspec.modalities.text.asked import title_of
from editspec.modalities.text.completions import LENGTH
from editspec.modalities.text.corpus import tokenizer_of
from editspec.studio.base import Base
from editspec.studio.draft import Draft
from editspec.studio.modalities.written import SHOWN, WrittenStudio, sides_of
from editspec.studio.modality_registry import (
    NEIGHBOUR,
    OWN,
    PARAPHRASE,
    Answering,
    Question,
    TokenLine,
)
from editspec_compiler.document import entries
from editspec_compiler.modalities.text.schema import (
    Examined,
    Fact,
    Forget,
    Paraphrase,
    PreservedFact,
    Source,
    Specificity,
    TextEdit,
    Wanted,
)
from editspec_compiler.modalities.text.tokens import TokenError, Tokenizer, open_tokenizer
from editspec_compiler.schema import AnyEdit
from editspec_compiler.validation import fit
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.model import Model
from editspec_runtime.errors import EditError
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.scores import go_on

Asked = dict[str, list[tuple[Fact, str]]]
"""Facts, and the texts that are wanted after their prompts, by the roles of their questions."""


class TextStudio(WrittenStudio):
    """Texts that a model goes on with."""

    edit_type: type[AnyEdit] = TextEdit

    def new_edit(self, architecture: Architecture) -> dict[str, Any]:
        """Write the layer of a new edit: the one before the middle, where facts lie."""
        layers = list(architecture.layers)
        return {"layer": layers[(len(layers) - 1) // 2]}

    def describe_edit(self, draft: Draft, number: int, base: Base) -> dict[str, Any]:
        """Describe the facts of an edit, with the tokens of their keys."""
        edit = draft.shown_edit(number)
        facts = _facts_of(draft.written_edit(number))
        lines = []
        tokenizer = _open(base)
        if tokenizer is not None:
            for place, fact, _ in facts[:SHOWN]:
                lines.append(_line(place, fact, tokenizer))
        return {"given": edit, "tokens": lines}

    def questions(self, draft: Draft, number: int, base: Base) -> list[Question]:
        """List the prompts of the facts, their paraphrases and their neighbours.

        Those that the checks of the spec name follow those of the edit.
        """
        tokenizer, edit = _open(base), draft.written_edit(number)
        if tokenizer is None:
            return []
        asked = _asked_by_edit(edit)
        for check in _checks_of(draft, edit.get("name")):
            _add_check(asked, edit, check)
        found = []
        for role, several in asked.items():
            # Each once, as a preserved fact may be in a check, too.
            once = {(fact.prompt, fact.subject): (fact, wanted) for fact, wanted in several}
            for fact, wanted in list(once.values())[:SHOWN]:
                if _locates(tokenizer, fact):
                    words = title_of(fact)
                    found.append(Question(role, words, wanted, (fact.model_dump(),)))
        return found

    def answering(self, session: BuildSession, keep_going: Callable[[], None]) -> Answering:
        """Return a function that completes a prompt as is likeliest."""
        tokenizer = tokenizer_of(session.loaded)

        def answer(model: Model, asked: Mapping[str, Any]) -> str:
            """Return what a model goes on with."""
            tokens = tokenizer.locate(Fact(**asked)).tokens
            return tokenizer.decode(go_on(cast(LanguageModel, model), tokens, LENGTH))

        return answer


TEXT = TextStudio()
"""The only instance."""


def _open(base: Base) -> Tokenizer | None:
    """Open the tokenizer of a model; None where it cannot be read."""
    try:
        return open_tokenizer(base.path, getattr(base.settings.model, "bos", None))
    except EditError:
        return None


def _facts_of(edit: dict[str, Any]) -> list[tuple[str, Fact, dict[str, Any]]]:
    """List the facts of an edit: where each stands, and its pair as plain values."""
    found = []
    for place, side in sides_of(edit):
        target = side.get("target")
        if "target" not in side and "prompt" in side:
            target = {key: side[key] for key in Fact.model_fields if key in side}
        fact = fit(Fact, target)
        if fact is not None:
            found.append((f"{place}target", fact, _sound_lists(side)))
    return found


def _asked_by_edit(edit: dict[str, Any]) -> Asked:
    """List the prompts that an edit itself names."""
    asked: Asked = {OWN: [], PARAPHRASE: [], NEIGHBOUR: []}
    for _, fact, side in _facts_of(edit):
        wanted = _wanted_of(side)
        asked[OWN].append((fact, wanted))
        for prompt in side.get("paraphrases", ()):
            asked[PARAPHRASE].append((Fact(prompt=prompt, subject=fact.subject), wanted))
        for subject in side.get("neighbours", ()):
            asked[NEIGHBOUR].append((Fact(prompt=fact.prompt, subject=subject), ""))
    for given in entries(edit, "preserve"):
        preserved = fit(PreservedFact, given)
        if preserved is not None:
            asked[NEIGHBOUR].append((preserved, ""))
    return asked


def _add_check(asked: Asked, edit: dict[str, Any], check: Paraphrase | Specificity) -> None:
    """Add the prompts that a check names."""
    if isinstance(check, Specificity):
        asked[NEIGHBOUR] += [(fact, "") for fact in check.facts or ()]
        return
    for prompt in check.prompts or ():
        for _, fact, side in _facts_of(edit):
            other = Fact(prompt=prompt, subject=fact.subject)
            asked[PARAPHRASE].append((other, _wanted_of(side)))


def _sound_lists(side: dict[str, Any]) -> dict[str, Any]:
    """Return a pair without the lists that do not fit the language."""
    fields = Examined.model_fields
    unfit = [key for key in fields if fit(fields[key].annotation, side.get(key)) is None]
    return {key: value for key, value in side.items() if key not in unfit}


def _wanted_of(side: dict[str, Any]) -> str:
    """Return the text that a pair asks for; empty where it cannot be told in words."""
    source = fit(Source, side.get("source"))
    if isinstance(source, Wanted):
        return source.text
    if isinstance(source, Forget):
        return ""
    text = side.get("text")
    return text if isinstance(text, str) else ""


def _line(place: str, fact: Fact, tokenizer: Tokenizer) -> TokenLine:
    """Make the tokens of a fact, with the one of its key."""
    try:
        located = tokenizer.locate(fact)
    except TokenError as error:
        return TokenLine(place, trouble=f"{error.message} {error.hint}")
    return TokenLine(place, tuple(tokenizer.pieces(located.tokens)), (located.place,))


def _locates(tokenizer: Tokenizer, fact: Fact) -> bool:
    """Tell whether a fact has a key."""
    return not _line("", fact, tokenizer).trouble


def _checks_of(draft: Draft, name: object) -> list[Paraphrase | Specificity]:
    """List the checks about other prompts that name an edit, or none."""
    found: list[Paraphrase | Specificity] = []
    for given in entries(draft.document().data, "checks"):
        check = fit(Paraphrase, given) or fit(Specificity, given)
        if check is not None and check.edit in (None, name):
            found.append(check)
    return found
