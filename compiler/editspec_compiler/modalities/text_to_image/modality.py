"""Prompts as a modality of the language. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from editspec_compiler.document import Document
from editspec_compiler.matrix_edits import (
    find_foreign_fields,
    find_unfit_method,
    say_layers_are_double,
)
from editspec_compiler.modalities.text_to_image.alignment import match_tokens
from editspec_compiler.modalities.text_to_image.schema import (
    CHECKS,
    FOUND,
    PLACE,
    SOURCE,
    TARGET,
    ConceptEdit,
    Source,
    Target,
    prompt_spec,
)
from editspec_compiler.modalities.text_to_image.tokens import (
    EncodedPrompt,
    PromptError,
    PromptTokenizer,
    open_tokenizer,
)
from editspec_compiler.problems import Problem, SpecPath, visible
from editspec_compiler.registry import EditFacts, Surroundings
from editspec_compiler.schema import AnySpec, Check
from editspec_compiler.validation import fit
from editspec_compiler.visit import Item
from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.modalities.text_to_image.compatibility import COMPATIBILITIES

if TYPE_CHECKING:
    from editspec_compiler.loaded_spec import LoadedSpec

FOREIGN = ("observe", "refine", "query")
"""The fields of edits that prompts do not have."""

SHOWN = 10
"""The number of prompts that are shown to people."""


class TextToImageModality:
    """Prompts that a model draws; places in them are tokens."""

    name = "text_to_image"
    checks: Mapping[str, type[Check]] = CHECKS
    expected: Mapping[str, str] = {SOURCE: "{prompt: …}, with add: [{prompt: …, by: …}]"}
    plurals: Mapping[str, str] = {}

    def problems(self, document: Document, spec: AnySpec) -> Iterator[Problem]:
        """Find fields that prompts do not have, empty concepts, and prompts at odds."""
        prompts = prompt_spec(spec)
        for number, edit in enumerate(prompts.edits):
            yield from _field_problems(document, number, edit)
            yield from _prompt_problems(document, number, edit)
        yield from _repeated_concepts(document, prompts.edits)
        yield from _check_problems(document, prompts.checks)

    def references(self, item: Item, surroundings: Surroundings) -> Iterator[Problem]:
        """Encode a prompt, and say what is wrong with it."""
        if item.role not in (PLACE, TARGET, SOURCE, FOUND) or surroundings.architecture is None:
            return
        document = surroundings.document
        tokenizer = open_tokenizer(surroundings.weights)
        for path, text in _texts(item):
            try:
                tokenizer.encode(text)
            except PromptError as error:
                yield document.problem(path, error.message, error.hint, code=error.code)
                return
        if item.role == TARGET:
            yield from _alignment_problems(item, surroundings, tokenizer)

    def edit_problems(
        self, path: SpecPath, items: list[Item], layer: Layer, surroundings: Surroundings
    ) -> Iterator[Problem]:
        """Find nothing: layers are ordered as the model has them."""
        yield from ()

    def first_edit(self, architecture: Architecture) -> dict[str, Any]:
        """Write an edit that gives one word the meaning of another."""
        return {
            "name": "first-edit",
            "source": {"prompt": "art"},
            "target": {"prompt": "van gogh"},
            "preserve": [{"prompt": "monet"}, {"prompt": "a photo of a dog"}],
        }

    def edit_facts(self, loaded: LoadedSpec, number: int) -> EditFacts:
        """Find the edited tokens of each prompt of an edit."""
        spec = prompt_spec(loaded.spec)
        if not loaded.weights.exists():
            return EditFacts()
        tokenizer = open_tokenizer(loaded.weights)
        compatibility = COMPATIBILITIES[spec.compatibility]
        edit = spec.edits[number]
        keys, lines = [], []
        for side in edit.sides:
            source = tokenizer.encode(side.source.prompt)
            for phrasing in (side.target, *(edit.context or ())):
                target = tokenizer.encode(phrasing.prompt)
                tokens = phrasing.tokens or compatibility.tokens
                places = match_tokens(target, source, tokens, compatibility)
                edited = [place for place, _ in places]
                keys.append(_facts(target, edited))
                lines.append(f"the edited tokens are in brackets: {_show(target, edited)}")
        more = len(lines) - SHOWN
        if more > 0:
            lines = [*lines[:SHOWN], f"and {more} more"]
        return EditFacts({"keys": keys, "layers": len(edit.layer_names)}, tuple(lines))


TEXT_TO_IMAGE = TextToImageModality()
"""The only instance."""


def _facts(prompt: EncodedPrompt, places: list[int]) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "tokens": list(prompt.shown),
        "positions": [place for place in places if place < len(prompt.pieces)],
        "padding": sum(place >= len(prompt.pieces) for place in places),
    }


def _show(prompt: EncodedPrompt, places: list[int]) -> str:
    shown = []
    for place, piece in enumerate(map(visible, prompt.shown)):
        shown.append(f"[{piece}]" if place in places else piece)
    padding = sum(place >= len(prompt.pieces) for place in places)
    if padding:
        shown.append(f"[{padding} of padding]")
    return " ".join(shown)


def _texts(item: Item) -> Iterator[tuple[SpecPath, str]]:
    """The prompts of a value, and where they stand."""
    if isinstance(item.value, str):
        yield item.path, item.value
    if not isinstance(item.value, dict):
        return
    prompt = item.value.get("prompt")
    if isinstance(prompt, str):
        yield (*item.path, "prompt"), prompt
    added = item.value.get("add")
    for index, each in enumerate(added if isinstance(added, list) else ()):
        if isinstance(each, dict) and isinstance(each.get("prompt"), str):
            yield (*item.path, "add", index, "prompt"), each["prompt"]


def _alignment_problems(
    item: Item, surroundings: Surroundings, tokenizer: PromptTokenizer
) -> Iterator[Problem]:
    """Find a target that does not align with its source, and phrasings of it that do not."""
    document = surroundings.document
    edit: Any = document.data
    for step in item.path[:-1]:
        edit = edit[step]
    source = fit(Source, edit.get("source") if isinstance(edit, dict) else None)
    word = document.data.get("compatibility")
    if source is None or not (word is None or word in COMPATIBILITIES):
        return
    compatibility = COMPATIBILITIES[word]
    phrasings: list[tuple[SpecPath, Any]] = [(item.path, item.value)]
    whole = document.data["edits"][item.path[1]]
    context = whole.get("context") if isinstance(whole, dict) else None
    for index, each in enumerate(context if isinstance(context, list) else ()):
        phrasings.append((("edits", item.path[1], "context", index), each))
    for path, given in phrasings:
        target = fit(Target, given)
        if target is None:
            continue
        try:
            match_tokens(
                tokenizer.encode(target.prompt),
                tokenizer.encode(source.prompt),
                target.tokens or compatibility.tokens,
                compatibility,
            )
        except PromptError as error:
            yield document.problem(path, error.message, error.hint, code=Code.PROMPTS_UNALIGNED)


def _field_problems(document: Document, number: int, edit: ConceptEdit) -> Iterator[Problem]:
    """Find fields and methods that prompts do not have."""
    where: SpecPath = ("edits", number)
    yield from find_foreign_fields(document, where, edit, FOREIGN, "prompts")
    if edit.layer and "layers" in edit.model_fields_set:
        yield say_layers_are_double(document, where)
    yield from find_unfit_method(document, where, edit, "prompts")


def _prompt_problems(document: Document, number: int, edit: ConceptEdit) -> Iterator[Problem]:
    """Find empty concepts, prompts that are edited twice, and edited ones that are to stay."""
    edited: dict[str, tuple[SpecPath, str]] = {}
    for index, side in enumerate(edit.sides):
        where: SpecPath = ("edits", number)
        if edit.pairs is not None:
            where = (*where, "pairs", index)
        path: SpecPath = (*where, "target", "prompt")
        text = _plain(side.target.prompt)
        if not text:
            message = "an empty prompt, and the target is the concept that is edited"
            hint = 'write the concept; in a source "" is the model\'s begin-of-text token'
            yield document.problem(path, message, hint, code=Code.PROMPT_UNFIT)
        elif text in edited and side.target.tokens == edit.sides[0].target.tokens:
            message = f'"{side.target.prompt}" is edited twice in one edit'
            yield document.problem(path, message, "leave one of them out", code=Code.FACT_TWICE)
        else:
            edited[text] = path, side.target.prompt
        if text and text == _plain(side.source.prompt) and not side.source.add:
            message = "source and target are the same prompt, so that nothing changes"
            hint = "write another source"
            yield document.problem(
                (*where, "source"), message, hint, code=Code.PROMPT_UNFIT, warning=True
            )
    for index, phrasing in enumerate(edit.context or ()):
        path = ("edits", number, "context", index, "prompt")
        if not _plain(phrasing.prompt):
            message, hint = "an empty prompt, and a context is a phrasing", "write a phrasing"
            yield document.problem(path, message, hint, code=Code.PROMPT_UNFIT)
        edited.setdefault(_plain(phrasing.prompt), (path, phrasing.prompt))
    for index, kept in enumerate(edit.preserve or ()):
        text = _plain(kept.prompt)
        if text and text in edited:
            path = ("edits", number, "preserve", index)
            message = f'"{kept.prompt}" is edited, and is to stay as it is'
            hint = "leave it out of preserve"
            yield document.problem(path, message, hint, code=Code.PROMPT_PRESERVED)


def _repeated_concepts(document: Document, edits: list[ConceptEdit]) -> Iterator[Problem]:
    """Find concepts that an earlier edit of the same layers has edited, alike or otherwise."""
    first: dict[tuple[object, ...], tuple[int, Source]] = {}
    for number, edit in enumerate(edits):
        own: dict[tuple[object, ...], tuple[int, Source]] = {}
        for index, side in enumerate(edit.sides):
            concept = (_plain(side.target.prompt), side.target.tokens, *edit.layer_names)
            own.setdefault(concept, (number, side.source))
            if concept not in first:
                continue
            path: SpecPath = ("edits", number)
            if edit.pairs is not None:
                path = (*path, "pairs", index)
            earlier, source = first[concept]
            message = f'"{side.target.prompt}" is edited by edits[{earlier}] already'
            code = Code.FACT_TWICE
            if source != side.source:
                message = f"{message}, with another source"
                code = Code.FACT_CONTRADICTED
            hint = "leave one of them out"
            yield document.problem(path, message, hint, code=code, warning=True)
        first |= own


def _plain(text: str) -> str:
    """A prompt as its tokenizer sees it: without case and further blanks."""
    return " ".join(text.lower().split())


def _check_problems(document: Document, checks: list[Any]) -> Iterator[Problem]:
    """Find checks about empty prompts."""
    for number, check in enumerate(checks):
        for index, text in enumerate(getattr(check, "prompts", None) or ()):
            if not _plain(text) and check.measure != "locality":
                path: SpecPath = ("checks", number, "prompts", index)
                message, hint = "an empty prompt has no concept to ask for", "leave it out"
                yield document.problem(path, message, hint, code=Code.PROMPT_UNFIT)
