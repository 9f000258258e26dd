"""Prompts as a modality of the studio: concepts, their tokens, and what is drawn for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from editspec.engine.session import BuildSession
from editspec.modalities.image.pictures import png_bytes, to_image
from editspec.modalities.text_to_image.drawing import pictures_of
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
from editspec_compiler.modalities.text_to_image.alignment import match_tokens, places_of
from editspec_compiler.modalities.text_to_image.schema import (
    ConceptEdit,
    Drawn,
    Preserved,
    Source,
    Target,
)
from editspec_compiler.modalities.text_to_image.tokens import (
    EncodedPrompt,
    PromptError,
    PromptTokenizer,
    open_tokenizer,
)
from editspec_compiler.schema import AnyEdit
from editspec_compiler.validation import fit
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.model import Model
from editspec_runtime.errors import EditError
from editspec_runtime.modalities.text_to_image.compatibility import (
    COMPATIBILITIES,
    PromptCompatibility,
)

DRAWN = 3
"""The prompts of each role that are drawn, at most."""

SEEDS = range(3)
"""The seeds of the pictures of a prompt."""

STEPS = 8
"""The steps of a picture, at most: a look at what an edit does, and no print."""


class TextToImageStudio(WrittenStudio):
    """Prompts that a model draws."""

    edit_type: type[AnyEdit] = ConceptEdit

    def new_edit(self, architecture: Architecture) -> dict[str, Any]:
        """Write nothing: an edit is of all layers, where it names none."""
        return {}

    def describe_edit(self, draft: Draft, number: int, base: Base) -> dict[str, Any]:
        """Describe the prompts of an edit, with the tokens that are edited."""
        edit, tokenizer = draft.shown_edit(number), _open(base)
        if tokenizer is None:
            return {"given": edit}
        lines = _lines_of(draft.written_edit(number), tokenizer, _compatibility_of(base))
        return {"given": edit, "tokens": lines}

    def questions(self, draft: Draft, number: int, base: Base) -> list[Question]:
        """List the prompts that are drawn: those of the edit, of the spec, and what must stay."""
        tokenizer, edit = _open(base), draft.written_edit(number)
        if tokenizer is None:
            return []
        how = fit(Drawn, draft.document().data.get("pictures", {})) or Drawn()
        own = [target.prompt for _, target, _ in _sides_of(edit)]
        wanted: dict[str, list[str]] = {OWN: own, PARAPHRASE: [], NEIGHBOUR: []}
        for each in entries(edit, "context"):
            phrasing = fit(Target, each)
            if phrasing is not None:
                wanted[PARAPHRASE].append(phrasing.prompt)
        wanted[PARAPHRASE] += how.prompts or ()
        for each in entries(edit, "preserve"):
            preserved = fit(Preserved, each)
            if preserved is not None and preserved.prompt:
                wanted[NEIGHBOUR].append(preserved.prompt)
        found: dict[str, Question] = {}
        for role, prompts in wanted.items():
            sound = [each for each in dict.fromkeys(prompts) if _fits(tokenizer, each)]
            for prompt in sound[:DRAWN]:
                asked = []
                for seed in SEEDS:
                    steps = min(how.steps, STEPS)
                    asked.append(
                        {"prompt": prompt, "seed": seed, "steps": steps, "guidance": how.guidance}
                    )
                found.setdefault(prompt, Question(role, prompt, "", tuple(asked)))
        return list(found.values())

    def answering(self, session: BuildSession, keep_going: Callable[[], None]) -> Answering:
        """Return a function that draws a picture, step by step."""
        pictures = replace(pictures_of(session), on_step=keep_going)

        def answer(model: Model, asked: Mapping[str, Any]) -> bytes:
            """Draw a picture as a PNG."""
            how = Drawn(prompts=None, steps=asked["steps"], guidance=asked["guidance"])
            drawn = pictures.draw(model.weights, [asked["prompt"]], [asked["seed"]], how=how)
            return png_bytes(to_image(drawn[0]))

        return answer


TEXT_TO_IMAGE = TextToImageStudio()
"""The only instance."""


def _open(base: Base) -> PromptTokenizer | None:
    """Open the tokenizers of a model; None where they cannot be read."""
    try:
        return open_tokenizer(base.path)
    except EditError:
        return None


def _compatibility_of(base: Base) -> PromptCompatibility:
    return COMPATIBILITIES[base.settings.compatibility]


def _sides_of(edit: dict[str, Any]) -> list[tuple[str, Target, Source | None]]:
    """List the targets of an edit with their sources, and where each pair stands."""
    found = []
    for place, side in sides_of(edit):
        target = fit(Target, side.get("target"))
        if target is not None and target.prompt.strip():
            found.append((place, target, fit(Source, side.get("source"))))
    return found


def _lines_of(
    edit: dict[str, Any], tokenizer: PromptTokenizer, compatibility: PromptCompatibility
) -> list[TokenLine]:
    """Make the tokens of the sources, targets and further phrasings of an edit."""
    lines = []
    phrasings: list[tuple[str, Target, Source | None]] = []
    for place, target, source in _sides_of(edit)[:SHOWN]:
        if source is not None:
            lines.append(_line(f"{place}source", source.prompt, tokenizer, None))
        phrasings.append((f"{place}target", target, source))
    shared = phrasings[0][2] if phrasings else None
    for index, given in enumerate(entries(edit, "context")[:SHOWN]):
        phrasing = fit(Target, given)
        if phrasing is not None and phrasing.prompt.strip():
            phrasings.append((f"context[{index}]", phrasing, shared))
    for place, target, source in phrasings:
        tokens = target.tokens or compatibility.tokens

        def match(
            prompt: EncodedPrompt, source: Source | None = source, tokens: str = tokens
        ) -> list[int]:
            """Find the edited tokens, which depend on the source where there is one."""
            if source is None:
                return places_of(prompt, tokens, compatibility)
            other = tokenizer.encode(source.prompt)
            return [place for place, _ in match_tokens(prompt, other, tokens, compatibility)]

        lines.append(_line(place, target.prompt, tokenizer, match))
    return lines


def _line(
    place: str,
    text: str,
    tokenizer: PromptTokenizer,
    match: Callable[[EncodedPrompt], list[int]] | None,
) -> TokenLine:
    """Make the tokens of a prompt; those of a source end in the one whose value is taken."""
    try:
        prompt = tokenizer.encode(text)
        marked = [prompt.last] if match is None else match(prompt)
    except PromptError as error:
        return TokenLine(place, trouble=f"{error.message} {error.hint}")
    within = tuple(each for each in marked if each < len(prompt.pieces))
    return TokenLine(place, prompt.shown, within, len(marked) - len(within))


def _fits(tokenizer: PromptTokenizer, text: str) -> bool:
    """Tell whether the text encoder reads a prompt."""
    return not _line("", text, tokenizer, None).trouble
