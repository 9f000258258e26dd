"""What of a spec of texts would fail, or mislead, only when it is built. Imports no torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from editspec_compiler.document import Document
from editspec_compiler.modalities.text.schema import (
    Examined,
    Fact,
    Forget,
    Mean,
    Paraphrase,
    Prefixes,
    Specificity,
    Statistics,
    TextEdit,
    TextSpec,
    Wanted,
)
from editspec_compiler.modalities.text.tokens import (
    UNSEEN,
    TokenError,
    Tokenizer,
    find_broken,
    split_prompt,
)
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.validation import fit
from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Layer

ENOUGH = 4
"""How many tokens C is to be taken over for each feature of a key."""

UNSEEN_ALONE = (*UNSEEN, "Mn")
"""The categories of characters that show nothing by themselves."""

PLAIN = " \n\t"
"""The blanks that a text may begin with."""

LINES = 256
"""The texts of a corpus that are made tokens of at once."""


def side_path(edit: TextEdit, number: int, index: int) -> SpecPath:
    """The place of a fact of an edit."""
    return ("edits", number) if edit.pairs is None else ("edits", number, "pairs", index)


def other_prompts(edit: TextEdit, where: SpecPath) -> Iterator[tuple[SpecPath, Fact]]:
    """Yield the prompts of an edit besides those of its facts, and the neighbours, as facts."""
    subject = edit.sides[0].target.subject
    for place, prompt in enumerate(edit.keep or ()):
        yield (*where, "keep", place), Fact(prompt=prompt, subject=subject)
    for index, side in enumerate(edit.sides):
        if not isinstance(side, Examined):
            continue
        target, path = side.target, (*where, "pairs", index)
        for place, prompt in enumerate(side.paraphrases or ()):
            fact = Fact(prompt=prompt, subject=target.subject)
            yield (*path, "paraphrases", place), fact
        for place, name in enumerate(side.neighbours or ()):
            fact = Fact(prompt=target.prompt, subject=name)
            yield (*path, "neighbours", place), fact


def prompt_problems(document: Document, spec: TextSpec) -> Iterator[Problem]:
    """Find prompts of edits and checks that have no single place for the subject."""
    prompts = []
    for number, edit in enumerate(spec.edits):
        prompts += list(other_prompts(edit, ("edits", number)))
    subject = spec.edits[0].sides[0].target.subject if spec.edits else "the subject"
    for number, check in enumerate(spec.checks):
        if isinstance(check, Paraphrase):
            for place, prompt in enumerate(check.prompts or ()):
                fact = Fact(prompt=prompt, subject=subject)
                prompts.append((("checks", number, "prompts", place), fact))
    for path, fact in prompts:
        if path[-2] == "neighbours" and not _fits(Fact(prompt=fact.prompt, subject="x")):
            continue  # which is told of the fact itself
        try:
            split_prompt(fact)
        except TokenError as error:
            yield document.problem(path, error.message, error.hint, code=Code.PROMPT_UNFIT)


def _fits(fact: Fact) -> bool:
    """Whether a prompt has a single place for its subject."""
    try:
        split_prompt(fact)
    except TokenError:
        return False
    return True


def edited_neighbours(document: Document, spec: TextSpec) -> Iterator[Problem]:
    """Find facts that are to stay, and that the spec itself edits."""
    edited: dict[tuple[str, str], str] = {}
    for number, edit in enumerate(spec.edits):
        for index, side in enumerate(edit.sides):
            place = f"edits[{number}]"
            if edit.pairs is not None:
                place = f"{place}.pairs[{index}]"
            edited[side.target.prompt, side.target.subject] = place
    for path, fact in _facts_that_stay(spec):
        place = edited.get((fact.prompt, fact.subject), "")
        if place:
            message = f"{fact.subject} is to stay as it is, and {place} edits this fact of it"
            hint = "leave it out here: its change would count as damage"
            yield document.problem(path, message, hint, code=Code.NEIGHBOUR_EDITED, warning=True)


def _facts_that_stay(spec: TextSpec) -> Iterator[tuple[SpecPath, Fact]]:
    for number, edit in enumerate(spec.edits):
        for path, fact in other_prompts(edit, ("edits", number)):
            if path[-2] == "neighbours":
                yield path, fact
        for place, fact in enumerate(edit.preserve or ()):
            yield ("edits", number, "preserve", place), fact
    for number, check in enumerate(spec.checks):
        if isinstance(check, Specificity):
            for place, fact in enumerate(check.facts or ()):
                yield ("checks", number, "facts", place), fact


def length_problems(
    document: Document, path: SpecPath, edit: TextEdit, tokenizer: Tokenizer, context: int
) -> Iterator[Problem]:
    """Find facts that do not fit into the context behind the texts before them."""
    before = _longest_before(edit, tokenizer)
    number = path[1]
    assert isinstance(number, int)
    for index, side in enumerate(edit.sides):
        try:
            located = tokenizer.locate(side.target)
        except TokenError:  # which is told at its place
            continue
        text = _text_of(side.source)
        wanted = tokenizer.continuation(located, text) if text else ()
        own = len(located.tokens) + len(wanted)
        if len(located.tokens) < context < own + before:
            message = (
                f"the text before the prompt ({before} tokens), the prompt and what is to follow "
                f"({own}) are more than the {context} tokens that the model reads"
            )
            hint = f"write a context of at most {context - own} tokens, or a shorter prompt"
            if own >= context:
                hint = "write a shorter prompt, or a shorter text"
            where = side_path(edit, number, index)
            yield document.problem(where, message, hint, code=Code.PROMPT_UNFIT)


def kept_length_problems(
    document: Document, path: SpecPath, edit: TextEdit, tokenizer: Tokenizer, context: int
) -> Iterator[Problem]:
    """Find facts that are preserved or copied from and do not fit behind the texts before them."""
    before = _longest_before(edit, tokenizer)
    number = path[1]
    assert isinstance(number, int)
    facts: list[tuple[SpecPath, Fact]] = []
    for place, kept in enumerate(edit.preserve or ()):
        facts.append(((*path, "preserve", place), kept))
    for index, side in enumerate(edit.sides):
        where = (*side_path(edit, number, index), "source")
        if isinstance(side.source, Fact):
            facts.append((where, side.source))
        for more, name in _others_of(side.source):
            facts.append(((*where, *more), Fact(prompt=side.target.prompt, subject=name)))
    for where, fact in facts:
        try:
            own = len(tokenizer.locate(fact).tokens)
        except TokenError:  # which is told at its place
            continue
        told = isinstance(where[-1], str) or where[-2] == "preserve"
        if own + before > context and not (told and own >= context):
            message = (
                f"the text before the prompt ({before} tokens) and the prompt ({own}) are more "
                f"than the {context} tokens that the model reads"
            )
            hint = "write a shorter context, or leave this one out"
            yield document.problem(where, message, hint, code=Code.PROMPT_UNFIT)


def other_length_problems(
    document: Document, path: SpecPath, edit: TextEdit, tokenizer: Tokenizer, context: int
) -> Iterator[Problem]:
    """Find other prompts of an edit that are longer than the context."""
    for where, fact in [*other_prompts(edit, path), *_checked_prompts(document, path, edit)]:
        try:
            length = len(tokenizer.locate(fact).tokens)
        except TokenError:  # which is told at its place
            continue
        if length >= context:
            message = f"the prompt has {length} tokens, and the model reads {context}"
            yield document.problem(where, message, "write a shorter prompt", code=Code.PROMPT_UNFIT)


def _checked_prompts(
    document: Document, path: SpecPath, edit: TextEdit
) -> Iterator[tuple[SpecPath, Fact]]:
    """Yield the paraphrases of checks, about the first subject; those of the first edit alone."""
    checks = document.data.get("checks")
    if path[1] != 0 or not isinstance(checks, list):
        return
    subject = edit.sides[0].target.subject
    for number, check in enumerate(checks):
        given = fit(Paraphrase, check)
        prompts = given.prompts if given is not None else None
        for place, prompt in enumerate(prompts or ()):
            yield ("checks", number, "prompts", place), Fact(prompt=prompt, subject=subject)


def find_text_problem(text: str) -> tuple[str, str] | None:
    """Find what is wrong with a text that a model is to go on with: a message and a hint."""
    shown = [each for each in text if unicodedata.category(each) not in UNSEEN_ALONE]
    if not "".join(shown).strip():
        return "the text is blank", "write what the model is to go on with"
    hint = "write it without blanks before it: one is put there"
    if text[:2].isspace() and len(text) > 1:
        return "the text begins with two blanks", hint
    if text[0].isspace() and text[0] not in PLAIN:
        return "the text begins with a blank of another kind than that between words", hint
    # A line break is a token that models go on with; a blank is a part of the next word's.
    if text[-1].isspace() and text[-1] != "\n":
        return "the text ends in a blank", "write it without blanks behind it"
    broken = find_broken(text)
    if broken is not None:
        return f"the text holds {broken}", "leave it out"
    for place, character in (("begins", text.lstrip()[0]), ("ends", text.rstrip()[-1])):
        if unicodedata.category(character) in UNSEEN:
            message = (
                f"the text {place} with a character that shows nothing (U+{ord(character):04X})"
            )
            return message, "leave it out"
    return None


def _longest_before(edit: TextEdit, tokenizer: Tokenizer) -> int:
    if isinstance(edit.context, list):
        lengths = [len(tokenizer.encode(text).tokens) for text in edit.context]
        return max(lengths, default=0)
    given = edit.context or Prefixes()
    # A full stop follows what the model makes.
    return given.length + 1 if given.prefixes else 0


def _text_of(source: object) -> str:
    if isinstance(source, Wanted):
        return source.text
    return source.erase.text if isinstance(source, Forget) else ""


def source_problems(
    document: Document, path: SpecPath, edit: TextEdit, tokenizer: Tokenizer
) -> Iterator[Problem]:
    """Find other subjects of a source that have no key in the prompt of their fact."""
    number = path[1]
    assert isinstance(number, int)
    for index, side in enumerate(edit.sides):
        for where, name in _others_of(side.source):
            fact = Fact(prompt=side.target.prompt, subject=name)
            place = (*side_path(edit, number, index), "source", *where)
            try:
                located = tokenizer.locate(fact)
            except TokenError as error:
                yield document.problem(place, error.message, error.hint, code=Code.TOKENS_UNFIT)
                continue
            # What is to be forgotten is compared by what follows, and not by a key.
            if located.place == 0 and isinstance(side.source, Mean):
                yield document.problem(place, *first_position(name), code=Code.POSITION_FIRST)


def _others_of(source: object) -> list[tuple[SpecPath, str]]:
    """The other subjects that a source names, and their places in it."""
    if isinstance(source, Mean):
        return [(("mean", "subjects", n), name) for n, name in enumerate(source.mean.subjects)]
    if isinstance(source, Forget):
        return [(("erase", "subjects", n), name) for n, name in enumerate(source.erase.subjects)]
    return []


def first_position(subject: str) -> tuple[str, str]:
    """Say that a subject ends in the first token of a text: a message and a hint."""
    message = (
        f"the subject {subject} ends in the first token of the text, whose key is nearly the same "
        "for every text: the edit would change all of them"
    )
    return message, "write bos: true under model, or a prompt with words before the subject"


def token_problems(
    document: Document, path: SpecPath, edit: TextEdit, tokenizer: Tokenizer
) -> Iterator[Problem]:
    """Find other prompts of an edit in which the subject ends within a token."""
    for where, fact in other_prompts(edit, path):
        try:
            split_prompt(fact)
        except TokenError:  # which is told without the tokenizer
            continue
        try:
            tokenizer.locate(fact)
        except TokenError as error:
            yield document.problem(where, error.message, error.hint, code=Code.TOKENS_UNFIT)


def sample_problems(
    document: Document, statistics: Statistics, layer: Layer, edit: TextEdit
) -> Iterator[Problem]:
    """Find a sample that is too small for the second moment of a layer."""
    features, tokens = layer.in_features, statistics.tokens
    if statistics.documents is not None or tokens >= ENOUGH * features:
        return
    message = (
        f"C of {layer.name} has {features} features, and {tokens} tokens are fewer than "
        f"{ENOUGH} for each: answers of {edit.name} to what is rare are left to chance"
    )
    hint = f"write tokens: {ENOUGH * features} or more under statistics"
    path: SpecPath = ("statistics", "tokens")
    yield document.problem(path, message, hint, code=Code.CORPUS_SMALL, warning=True)


def corpus_problem(
    document: Document,
    path: SpecPath,
    file: Path,
    statistics: Statistics,
    tokenizer: Tokenizer,
    context: int,
) -> Problem | None:
    """Find a corpus that has fewer tokens than are asked for, or cannot be read; or None."""
    raw = file.read_bytes()
    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        start = raw.rfind(b"\n", 0, error.start) + 1
        line = raw.count(b"\n", 0, error.start) + 1
        column = len(raw[start : error.start].decode("utf-8", "replace")) + 1
        message = f"{statistics.corpus} is not UTF-8: line {line}, column {column}"
        return document.problem(path, message, "save the file as UTF-8", code=Code.TEXT_NOT_UTF8)
    found = _count_tokens(lines, tokenizer, context, statistics.tokens)
    if found >= statistics.tokens or (found and statistics.documents is not None):
        return None
    message = f"{statistics.corpus} has {found} tokens, and {statistics.tokens} are asked for"
    hint = f"write tokens: {found} under statistics, or give more text"
    if found <= len(lines):  # of empty lines, too
        hint = "give a text"
    return document.problem(path, message, hint, code=Code.CORPUS_UNFIT)


def _count_tokens(lines: Sequence[str], tokenizer: Tokenizer, context: int, enough: int) -> int:
    """Count the tokens of texts, each cut to the context, up to enough of them."""
    found = 0
    for start in range(0, len(lines), LINES):
        for text in tokenizer.encode_many(lines[start : start + LINES]):
            found += min(len(text), context)
        if found >= enough:
            break
    return found
