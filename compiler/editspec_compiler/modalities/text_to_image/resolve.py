"""Last stage of the compiler of prompts: a checked edit and the model -> rules of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from editspec_compiler.digests import edit_digest
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.text_to_image.alignment import (
    ALIGNED,
    find_end,
    match_tokens,
    places_of,
)
from editspec_compiler.modalities.text_to_image.places import Place, find_keys
from editspec_compiler.modalities.text_to_image.schema import (
    ConceptEdit,
    Preserved,
    Prompted,
    PromptSpec,
    Source,
    prompt_spec,
)
from editspec_compiler.modalities.text_to_image.tokens import (
    EncodedPrompt,
    PromptTokenizer,
    open_tokenizer,
)
from editspec_runtime.core.method import FULL
from editspec_runtime.core.rule import CompiledEdit, LayerRule, PreservedKeys
from editspec_runtime.modalities.text_to_image.compatibility import (
    COMPATIBILITIES,
    PromptCompatibility,
)
from editspec_runtime.modalities.text_to_image.model import PromptedModel

SPAN = "span"
"""The way from the edited keys to the directions of the change: all that they span."""


@dataclass(frozen=True)
class Asked:
    """The edited tokens of an edit, and what each of them is to be answered like.

    Attributes
    ----------
    targets
        The tokens whose values change.
    sources
        The token of the source for each.
    added
        For each, the tokens whose values are added, with their factors.
    weights
        How much each of them counts.
    """

    targets: list[Place] = field(default_factory=list)
    sources: list[Place] = field(default_factory=list)
    added: list[list[tuple[Place, float]]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Concepts:
    """What the edits of a spec ask for, as tokens of prompts."""

    spec: PromptSpec
    tokenizer: PromptTokenizer

    @property
    def compatibility(self) -> PromptCompatibility:
        """The choices that papers leave open."""
        return COMPATIBILITIES[self.spec.compatibility]

    def asked(self, edit: ConceptEdit) -> Asked:
        """The edited tokens of an edit. Raises `PromptError` where prompts do not align."""
        found = Asked()
        for side, weight in zip(edit.sides, edit.pair_weights, strict=True):
            phrasings: list[Prompted] = [side.target, *(edit.context or ())]
            for phrasing in phrasings:
                self._ask(found, phrasing, side.source, weight)
        return found

    def _ask(self, found: Asked, phrasing: Prompted, source: Source, weight: float) -> None:
        target, origin = self.encode(phrasing.prompt), self.encode(source.prompt)
        tokens = phrasing.tokens or self.compatibility.tokens
        added = [(self.encode(each.prompt), each.by) for each in source.add or ()]
        for place, other in match_tokens(target, origin, tokens, self.compatibility):
            found.targets.append((target, place))
            found.sources.append((origin, other))
            found.added.append([((each, each.last), by) for each, by in added])
            found.weights.append(weight)

    def phrased(self, edit: ConceptEdit, prompts: Sequence[str]) -> Asked:
        """The tokens at which a concept of an edit ends in other prompts.

        A prompt that holds no concept of an edit of one concept is asked at its last token; of an
        edit of several, it is left out.
        """
        found = Asked()
        for text in prompts:
            prompt = self.encode(text)
            for side in edit.sides:
                place = find_end(prompt, self.encode(side.target.prompt))
                if place is None and len(edit.sides) == 1:
                    place = prompt.last
                if place is None:
                    continue
                source = self.encode(side.source.prompt)
                added = [(self.encode(each.prompt), each.by) for each in side.source.add or ()]
                found.targets.append((prompt, place))
                found.sources.append((source, source.last))
                found.added.append([((each, each.last), by) for each, by in added])
                found.weights.append(1.0)
                break
        return found

    def preserved(self, edit: ConceptEdit, number: int) -> tuple[list[Place], list[float]]:
        """The tokens whose values must stay, and how much each counts."""
        given = list(edit.preserve or ())
        usual = self.compatibility.preserved_weight(max(1, len(given)))
        places: list[Place] = []
        weights: list[float] = []
        for each in given:
            self._preserve(places, weights, each, each.weight or usual)
        empty = any(not each.prompt.strip() for each in given)
        if self.compatibility.empty_preserved and not empty:
            named = {each.weight for each in given if each.weight is not None}
            # Where all prompts count alike, the empty one counts as they do.
            weight = named.pop() if len(named) == 1 else usual
            self._preserve(places, weights, Preserved(prompt=""), weight)
        if edit.protect is not None:
            for earlier in self.spec.edits[:number]:
                targets = self.asked(earlier).targets
                places += targets
                weights += [1.0] * len(targets)
        return places, weights

    def _preserve(
        self, places: list[Place], weights: list[float], given: Preserved, weight: float
    ) -> None:
        prompt = self.encode(given.prompt)
        whole = "all" if self.compatibility.whole_preserved else "last"
        tokens = given.tokens or whole
        if tokens == ALIGNED:
            tokens = "all"
        found = places_of(prompt, tokens, self.compatibility)
        places += [(prompt, place) for place in found]
        weights += [weight] * len(found)

    def encode(self, text: str) -> EncodedPrompt:
        """Encode a prompt."""
        return self.tokenizer.encode(text)


def compile_edit(loaded: LoadedSpec, number: int, base: str, parent: str) -> CompiledEdit:
    """Compile edit `number` of a checked spec; its rules are still to be resolved.

    `base` and `parent` are the digests of the weights that the stack starts from, and of those that
    the edits before left. Raises `PromptError` where prompts do not align.
    """
    spec = prompt_spec(loaded.spec)
    edit = spec.edits[number]
    resolver = Resolver(Concepts(spec, open_tokenizer(loaded.weights)), edit, number)
    spans = edit.rank is None and "directions" not in edit.model_fields_set
    rank: int | None = len(resolver.asked.targets)
    if edit.rank == FULL:
        rank = None
    elif edit.rank is not None:
        rank = edit.rank
    return CompiledEdit(
        name=edit.name,
        family=spec.model.family,
        rules=[partial(resolver.resolve, layer) for layer in edit.layer_names],
        method=edit.solver,
        rank=rank,
        directions=SPAN if spans else edit.directions,
        provenance={
            "base": base,
            "parent": parent,
            "edit": edit_digest(loaded, number),
            "compatibility": spec.compatibility,
        },
    )


class Resolver:
    """The rules of one edit, layer by layer; all of them have the same keys."""

    def __init__(self, concepts: Concepts, edit: ConceptEdit, number: int) -> None:
        self.concepts = concepts
        self.edit = edit
        self.number = number
        self._found: tuple[Tensor, Tensor] | None = None
        self._kept: PreservedKeys | None = None

    @cached_property
    def asked(self) -> Asked:
        """The edited tokens."""
        return self.concepts.asked(self.edit)

    @torch.no_grad()
    def resolve(self, layer: str, model: PromptedModel) -> LayerRule:
        """Resolve the rule of one of the layers."""
        key, shift = self._keys(model)
        function, weight = model.function(layer), model.weight(layer)
        # What is missing is W (g - k): a bias is no part of it, and of a concept that is to be
        # answered like itself nothing is missing, to the last bit.
        value = function(key, weight, {}) + shift @ weight.mT
        return LayerRule(
            layer=layer,
            parameter=model.architecture.layers[layer].parameter,
            key=key,
            value=value,
            arguments={},
            context_keys=self._rows,
            context_weights=self._ones,
            preserved=self._kept,
            details={"tokens": len(key)},
        )

    def _keys(self, model: PromptedModel) -> tuple[Tensor, Tensor]:
        """The keys [n, 1, width], and what is to be added to each, [n, 1, width]."""
        if self._found is not None:
            return self._found
        asked = self.asked
        kept, kept_weights = self.concepts.preserved(self.edit, self.number)
        places = [*asked.targets, *asked.sources, *kept]
        for added in asked.added:
            places += [place for place, _ in added]
        rows = find_keys(model, places)
        count = len(asked.targets)
        targets, sources = rows[:count], rows[count : 2 * count]
        shift = sources - targets
        at = 2 * count + len(kept)
        for index, added in enumerate(asked.added):
            for _, by in added:
                shift[index] += by * rows[at]
                at += 1
        scale = torch.tensor(asked.weights, dtype=rows.dtype, device=rows.device).sqrt()[:, None]
        if bool((scale != 1).any()):
            targets, shift = scale * targets, scale * shift
        if kept:
            shares = torch.tensor(kept_weights, dtype=rows.dtype, device=rows.device)[:, None]
            own = rows[2 * count : 2 * count + len(kept)][:, None].clone()
            self._kept = PreservedKeys(own, {}, shares, shares, added=True)
        self._rows = targets.clone()
        self._ones = torch.ones(count, dtype=rows.dtype, device=rows.device)
        self._found = targets[:, None].clone(), shift[:, None].clone()
        return self._found
