"""Texts as a modality of the language. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from editspec_compiler.document import Document, find_path_problem
from editspec_compiler.matrix_edits import (
    find_foreign_fields,
    find_unfit_method,
    say_layers_are_double,
)
from editspec_compiler.modalities.text.doubts import (
    corpus_problem,
    edited_neighbours,
    find_text_problem,
    first_position,
    kept_length_problems,
    length_problems,
    other_length_problems,
    prompt_problems,
    sample_problems,
    source_problems,
    token_problems,
)
from editspec_compiler.modalities.text.schema import (
    BLANK,
    CHECKS,
    CONTEXT,
    CORPUS,
    GENERATED,
    PAIR,
    PLACE,
    SOURCE,
    Fact,
    FactRow,
    Forget,
    Place,
    Statistics,
    TextEdit,
    Wanted,
    text_spec,
)
from editspec_compiler.modalities.text.tokens import (
    Located,
    TokenError,
    Tokenizer,
    open_tokenizer,
    split_prompt,
)
from editspec_compiler.problems import Problem, SpecPath, visible
from editspec_compiler.registry import EditFacts, Surroundings
from editspec_compiler.schema import AnySpec, Check
from editspec_compiler.validation import fit
from editspec_compiler.visit import Item
from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture, Layer

if TYPE_CHECKING:
    from editspec_compiler.loaded_spec import LoadedSpec

FOREIGN = ("rank", "directions", "observe", "refine", "query")
"""The fields of edits that texts do not have."""

BUILTIN = "builtin:"
"""What names begin with that are no files."""

SHOWN_KEYS = 10
"""The number of keys that are shown to people."""

ONE_BY_ONE = "rome-2022"
"""The compatibility that takes one fact and one layer."""


class TextModality:
    """Texts that a model goes on with; places in them are subjects of prompts."""

    name = "text"
    checks: Mapping[str, type[Check]] = CHECKS
    expected: Mapping[str, str] = {
        SOURCE: "{text: …}, {prompt: …, subject: …}, {mean: …} or {erase: …}",
        PAIR: "{source: …, target: …}, or {prompt: …, subject: …, text: …}",
        CONTEXT: "a list of texts, or {prefixes: …, seed: …}",
    }

    plurals: Mapping[str, str] = {}

    def problems(self, document: Document, spec: AnySpec) -> Iterator[Problem]:
        """Find fields that texts do not have, layers that are missing, and facts given twice."""
        texts = text_spec(spec)
        for number, edit in enumerate(texts.edits):
            yield from _field_problems(document, number, edit)
            yield from _text_problems(document, number, edit)
            if texts.compatibility == ONE_BY_ONE:
                yield from _one_by_one_problems(document, number, edit)
        yield from _repeated_facts(document, texts.edits)
        yield from prompt_problems(document, texts)
        yield from edited_neighbours(document, texts)

    def references(self, item: Item, surroundings: Surroundings) -> Iterator[Problem]:
        """Find the token of a subject, and say what is wrong with it."""
        document = surroundings.document
        if item.role == CORPUS and isinstance(item.value, str) and item.value != GENERATED:
            if item.value.startswith(BUILTIN):
                message = f"there is no {item.value}"
                hint = f"write {GENERATED}, or the name of a file of texts"
                yield document.problem(item.path, message, hint, code=Code.CORPUS_UNFIT)
                return
            problem = find_path_problem(item.value, surroundings.folder)
            if problem is not None:
                yield document.problem(item.path, *problem, code=Code.CORPUS_UNFIT)
                return
            yield from _corpus_problems(item, surroundings)
        if item.role != PLACE:
            return
        given = item.value
        if isinstance(given, dict):
            # A row of a file says more of its fact.
            given = {name: given[name] for name in Fact.model_fields if name in given}
        fact = fit(Fact, given)
        if fact is None:
            return
        yield from _place_problems(item.path, fact, surroundings)

    def edit_problems(
        self, path: SpecPath, items: list[Item], layer: Layer, surroundings: Surroundings
    ) -> Iterator[Problem]:
        """Find layers in another order than that of computation, and texts that do not fit."""
        document, architecture = surroundings.document, surroundings.architecture
        edit: Any = document.data
        for step in path:
            edit = edit[step]
        if architecture is None:
            return
        names = edit.get("layers")
        if isinstance(names, list):
            order = [name for name in architecture.layers if name in names]
            if names != order and set(names) <= set(architecture.layers):
                message = "layers are not in the order of computation, each once"
                hint = f"write [{', '.join(order)}]"
                yield document.problem((*path, "layers"), message, hint, code=Code.LAYER_UNKNOWN)
        yield from _doubts(path, fit(TextEdit, edit), layer, surroundings)

    def edit_facts(self, loaded: LoadedSpec, number: int) -> EditFacts:
        """Find the token of the key of each fact of an edit."""
        spec = text_spec(loaded.spec)
        if not loaded.weights.exists():
            return EditFacts()
        tokenizer = open_tokenizer(loaded.weights, getattr(spec.model, "bos", None))
        keys, lines = [], []
        for side in spec.edits[number].sides:
            located = tokenizer.locate(side.target)
            pieces = tokenizer.pieces(located.tokens)
            keys.append(_key_facts(side.target, located, pieces))
            pieces[located.place] = f"[{pieces[located.place]}]"
            shown = "|".join(map(visible, pieces))
            lines.append(f"the key is the token in brackets: {shown}")
        more = len(lines) - SHOWN_KEYS
        if more > 0:
            lines = [*lines[:SHOWN_KEYS], f"and {more} more"]
        return EditFacts({"keys": keys}, tuple(lines))

    def first_edit(self, architecture: Architecture) -> dict[str, Any]:
        """Write an edit that gives a model another fact."""
        layers = list(architecture.layers)
        return {
            "name": "first-edit",
            "layer": layers[len(layers) // 2],
            "target": {"prompt": "{} is in the city of", "subject": "The Eiffel Tower"},
            "source": {"text": "Rome"},
        }


TEXT = TextModality()
"""The only instance."""


def find_tokenizer(surroundings: Surroundings) -> Tokenizer | None:
    """Open the tokenizer of a document's model; None where the weights cannot be read.

    Raises `FileError` where it cannot be read, and `UsageError` where its package is missing.
    """
    model = surroundings.document.data.get("model")
    bos = model.get("bos") if isinstance(model, dict) else None
    if surroundings.architecture is None or not isinstance(bos, bool | None):
        return None
    return open_tokenizer(surroundings.weights, bos)


def _corpus_problems(item: Item, surroundings: Surroundings) -> Iterator[Problem]:
    """Find what is wrong with the texts of a corpus."""
    document, architecture = surroundings.document, surroundings.architecture
    statistics = _statistics_of(document)
    tokenizer = find_tokenizer(surroundings)
    if statistics is None or tokenizer is None or architecture is None:
        return
    file = surroundings.folder / statistics.corpus
    context = architecture.details["context"]
    problem = corpus_problem(document, item.path, file, statistics, tokenizer, context)
    if problem is not None:
        yield problem


def _statistics_of(document: Document) -> Statistics | None:
    """The ``statistics`` of a document; None where they do not fit."""
    found: Statistics | None = fit(Statistics, document.data.get("statistics", {}))
    return found


def _doubts(
    path: SpecPath, edit: TextEdit | None, layer: Layer, surroundings: Surroundings
) -> Iterator[Problem]:
    """Find what an edit asks of the tokenizer, the context and the sample."""
    document, architecture = surroundings.document, surroundings.architecture
    tokenizer = find_tokenizer(surroundings)
    statistics = _statistics_of(document)
    if edit is None or architecture is None or tokenizer is None or statistics is None:
        return
    if edit.pairs is None and (edit.source is None or edit.target is None):
        return  # which is an error of its own
    context = architecture.details["context"]
    yield from token_problems(document, path, edit, tokenizer)
    yield from source_problems(document, path, edit, tokenizer)
    yield from length_problems(document, path, edit, tokenizer, context)
    yield from kept_length_problems(document, path, edit, tokenizer, context)
    yield from other_length_problems(document, path, edit, tokenizer, context)
    yield from sample_problems(document, statistics, layer, edit)


def _key_facts(fact: Place, located: Located, pieces: list[str]) -> dict[str, Any]:
    return {
        "subject": fact.subject,
        "token": pieces[located.place],
        "position": located.place,
        "tokens": list(pieces),
    }


def _place_problems(path: SpecPath, fact: Fact, surroundings: Surroundings) -> Iterator[Problem]:
    """Find what is wrong with the prompt or the tokens of a fact."""
    document = surroundings.document
    try:
        split_prompt(fact)
    except TokenError as error:
        yield document.problem(path, error.message, error.hint, code=Code.PROMPT_UNFIT)
        return
    tokenizer = find_tokenizer(surroundings)
    if tokenizer is None:
        return
    try:
        located = tokenizer.locate(fact)
    except TokenError as error:
        yield document.problem(path, error.message, error.hint, code=Code.TOKENS_UNFIT)
        return
    if fact.prompt.count(fact.subject):
        message = (
            f"the prompt names {fact.subject} besides {BLANK}, and the key is that of {BLANK} alone"
        )
        hint = f"leave it out of the prompt, or write {BLANK} in its place"
        yield document.problem(path, message, hint, code=Code.PROMPT_UNFIT, warning=True)
    if located.place == 0:
        message, hint = first_position(fact.subject)
        yield document.problem(path, message, hint, code=Code.POSITION_FIRST)
    details = {} if surroundings.architecture is None else surroundings.architecture.details
    rows = details.get("embeddings")
    if rows is not None and max(located.tokens) >= rows:
        message = (
            f"the tokenizer has a token {max(located.tokens)}, and the weights have embeddings of "
            f"{rows} tokens"
        )
        hint = "give weights and tokenizer.json of one model"
        yield document.problem(path, message, hint, code=Code.TOKENS_UNFIT)
    context = details.get("context")
    if context is not None and len(located.tokens) >= context:
        message = f"the prompt has {len(located.tokens)} tokens, and the model reads {context}"
        hint = "write a shorter prompt"
        yield document.problem(path, message, hint, code=Code.PROMPT_UNFIT)


def _field_problems(document: Document, number: int, edit: TextEdit) -> Iterator[Problem]:
    """Find fields and methods that texts do not have."""
    where: SpecPath = ("edits", number)
    yield from find_foreign_fields(document, where, edit, FOREIGN, "texts")
    if not edit.layer and edit.layers is None:
        hint = "write layer: and its name, or layers: and a list"
        yield document.problem(where, "layer is missing", hint, code=Code.KEY_MISSING)
    if edit.layer and edit.layers is not None:
        yield say_layers_are_double(document, where)
    yield from find_unfit_method(document, where, edit, "texts")


def _text_problems(document: Document, number: int, edit: TextEdit) -> Iterator[Problem]:
    """Find texts that a model cannot go on with."""
    for index, side in enumerate(edit.sides):
        where: SpecPath = ("edits", number, "source")
        if edit.pairs is not None:
            where = ("edits", number, "pairs", index)
            where = where if isinstance(side, FactRow) else (*where, "source")
        source = side.source
        texts: list[tuple[SpecPath, str]] = []
        if isinstance(source, Wanted):
            texts.append(((*where, "text"), source.text))
            if source.was is not None:
                texts.append(((*where, "was"), source.was))
                yield from _same_text_problems(document, (*where, "was"), source)
        if isinstance(source, Forget):
            texts.append(((*where, "erase", "text"), source.erase.text))
        for path, text in texts:
            found = find_text_problem(text)
            if found is not None:
                yield document.problem(path, *found, code=Code.TEXT_UNFIT)


def _same_text_problems(document: Document, path: SpecPath, source: Wanted) -> Iterator[Problem]:
    """Find a text that is to follow and follows already."""
    if source.was is not None and source.was.strip() == source.text.strip():
        message = "the text that is to follow is the one that follows now"
        hint = "write another text, or leave was out"
        yield document.problem(path, message, hint, code=Code.TEXT_UNFIT)


def _one_by_one_problems(document: Document, number: int, edit: TextEdit) -> Iterator[Problem]:
    """Find several facts or layers where a compatibility takes one of each."""
    if len(edit.sides) > 1:
        message = f"{ONE_BY_ONE} takes one fact, and this edit has {len(edit.sides)}"
        hint = "write an edit for each"
        path: SpecPath = ("edits", number, "pairs")
        yield document.problem(path, message, hint, code=Code.PAIRS_UNFIT, at_key=True)
    if len(edit.layer_names) > 1:
        message = f"{ONE_BY_ONE} takes one layer, and this edit has {len(edit.layer_names)}"
        hint = "write layer: and its name"
        path = ("edits", number, "layers")
        yield document.problem(path, message, hint, code=Code.METHOD_FIELD, at_key=True)


def _repeated_facts(document: Document, edits: list[TextEdit]) -> Iterator[Problem]:
    """Find facts that are given twice, and facts that contradict each other."""
    first: dict[tuple[str, str], tuple[str, int, object]] = {}
    for number, edit in enumerate(edits):
        for index, side in enumerate(edit.sides):
            where: SpecPath = ("edits", number)
            place = f"edits[{number}]"
            if edit.pairs is not None:
                where, place = (*where, "pairs", index), f"{place}.pairs[{index}]"
            fact = (side.target.prompt, side.target.subject)
            said = side.source.model_dump(exclude={"was"})
            if fact not in first:
                first[fact] = place, number, said
                continue
            other, other_number, other_said = first[fact]
            same = said == other_said
            if same:
                message = f"this fact is that of {other}, and counts twice"
                yield document.problem(
                    where, message, "leave one of them out", code=Code.FACT_TWICE, warning=True
                )
                continue
            message = f"this fact contradicts {other}: the same prompt and subject, another source"
            yield document.problem(
                where,
                message,
                "leave one of them out",
                code=Code.FACT_CONTRADICTED,
                # A later edit may change what an earlier one wrote.
                warning=number != other_number,
            )
