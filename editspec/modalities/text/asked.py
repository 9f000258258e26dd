"""What the edits of a spec ask for, as prompts and texts that a model is scored by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editspec_compiler.modalities.text.schema import (
    Examined,
    Fact,
    Forget,
    TextEdit,
    Wanted,
)
from editspec_compiler.modalities.text.tokens import Tokenizer
from editspec_runtime.modalities.text.batches import Tokens
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.scores import go_on, likeliest_tokens, score_texts

PROBABILITY, ARGMAX, GREEDY = "probability", "argmax", "greedy"


@dataclass(frozen=True)
class Asked:
    """One prompt, and what a model is to make of it.

    Attributes
    ----------
    name
        What reports call it.
    prompt
        The tokens of the prompt.
    wanted
        The tokens of the text that is to follow; empty where none is named.
    was
        The tokens of the text that followed before; empty where it is not known.
    copied
        The tokens of the prompt that it is to be like; empty where it is to be like none.
    forgotten
        Whether `was` is to be the likeliest no longer, and nothing else is asked for.
    """

    name: str
    prompt: Tokens
    wanted: Tokens = ()
    was: Tokens = ()
    copied: Tokens = ()
    forgotten: bool = False


def asked_of(
    edit: TextEdit, tokenizer: Tokenizer, prompts: Sequence[str] | None = None
) -> list[Asked]:
    """What the facts of an edit ask for, by their own prompts or by other `prompts`.

    Sources whose text is not known, such as means, are left out.
    """
    found = []
    for side in edit.sides:
        own = (side.target.prompt,) if prompts is None else tuple(prompts)
        for prompt in own:
            each = _asked(side.source, Fact(prompt=prompt, subject=side.target.subject), tokenizer)
            if each is not None:
                found.append(each)
    return found


def paraphrases_of(edit: TextEdit, tokenizer: Tokenizer) -> list[Asked]:
    """What the facts of an edit ask for by their own paraphrases."""
    found: list[Asked] = []
    for side in edit.sides:
        if not isinstance(side, Examined):
            continue
        for prompt in side.paraphrases or ():
            fact = Fact(prompt=prompt, subject=side.target.subject)
            each = _asked(side.source, fact, tokenizer)
            if each is not None:
                found.append(each)
    return found


def neighbours_of(edit: TextEdit) -> list[Fact]:
    """The facts beside those of an edit that must stay: its prompts of other subjects."""
    found: list[Fact] = []
    for side in edit.sides:
        if isinstance(side, Examined):
            for subject in side.neighbours or ():
                found.append(Fact(prompt=side.target.prompt, subject=subject))
    return found


def _asked(source: object, fact: Fact, tokenizer: Tokenizer) -> Asked | None:
    located = tokenizer.locate(fact)
    name = title_of(fact)
    if isinstance(source, Wanted):
        was = () if source.was is None else tokenizer.continuation(located, source.was)
        return Asked(name, located.tokens, tokenizer.continuation(located, source.text), was)
    if isinstance(source, Forget):
        was = tokenizer.continuation(located, source.erase.text)
        return Asked(name, located.tokens, was=was, forgotten=True)
    if isinstance(source, Fact):
        return Asked(name, located.tokens, copied=tokenizer.locate(source).tokens)
    return None


def title_of(fact: Fact) -> str:
    """The prompt with the subject in it."""
    return fact.prompt.replace("{}", fact.subject, 1)


def holds(
    asked: Sequence[Asked], before: LanguageModel, after: LanguageModel, by: str
) -> list[bool]:
    """Whether each of some prompts leads on as it is asked to, with the model after an edit.

    A copy holds where the likeliest token is that of the prompt that it copies, before the edit. A
    text is forgotten where its tokens are the likeliest no longer.
    """
    scored = [each for each in asked if each.wanted or each.forgotten]
    pairs = [(each.prompt, each.wanted or each.was) for each in scored]
    scores = dict(zip(map(id, scored), score_texts(after, pairs), strict=True))
    rivals = [each for each in scored if each.was and each.wanted and by == PROBABILITY]
    old = score_texts(after, [(each.prompt, each.was) for each in rivals])
    olds = dict(zip(map(id, rivals), old, strict=True))
    copies = [each for each in asked if each.copied]
    now = likeliest_tokens(after, [each.prompt for each in copies])
    wished = likeliest_tokens(before, [each.copied for each in copies])
    same = {id(each): one == two for each, one, two in zip(copies, now, wished, strict=True)}
    found = []
    for each in asked:
        if each.copied:
            found.append(same[id(each)])
        elif each.forgotten:
            found.append(not scores[id(each)].likeliest)
        elif id(each) in olds:
            found.append(scores[id(each)].log_probability > olds[id(each)].log_probability)
        elif by == GREEDY:
            found.append(go_on(after, each.prompt, len(each.wanted)) == each.wanted)
        else:
            found.append(scores[id(each)].likeliest)
    return found
