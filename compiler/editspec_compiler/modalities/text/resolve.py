"""Last stage of the compiler of texts: a checked edit and the model -> rules of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from editspec_compiler.digests import edit_digest
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.text.places import Placed, Templates, place_facts
from editspec_compiler.modalities.text.schema import (
    Context,
    Fact,
    Forget,
    Mean,
    Prefixes,
    TextEdit,
    TextSpec,
    Wanted,
    text_spec,
)
from editspec_compiler.modalities.text.targets import TargetSearch
from editspec_compiler.modalities.text.tokens import Located, Tokenizer, open_tokenizer
from editspec_compiler.problems import SpecError, SpecPath
from editspec_runtime.codes import Code
from editspec_runtime.core.executor import IN_PROCESS, Executor
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.core.rule import CompiledEdit, LayerRule, PreservedKeys
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.environment import environment
from editspec_runtime.modalities.text.batches import Tokens
from editspec_runtime.modalities.text.compatibility import (
    COMPATIBILITIES,
    Optimiser,
    TextCompatibility,
)
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.sampling import draw_texts
from editspec_runtime.modalities.text.targets import Request, log_probability

LEAST_OVERLAP = 0.1
"""The least share of the answer to the mean key that the bare key may have."""

RIDGE = 1e-10
"""What is added to C where answers are compared, as a share of its mean diagonal."""

DIRECTIONS = "span"
"""The way from the keys of the facts to the directions of the change: all that they span."""


@dataclass(frozen=True)
class CompileResources:
    """What the compiler of texts needs besides the model that an edit is solved on.

    Attributes
    ----------
    base_model, model_after, moment
        Make the model of the unedited weights, that of the first edits of the stack, given their
        number, and C of a layer of a model.
    cache, progress, executor
        The cache of results, the callback for progress, and the executor of the search for values.
    time_targets
        A context in which the seconds of the search for values are counted.
    """

    base_model: Callable[[], Any]
    model_after: Callable[[int], Any]
    moment: Callable[[Any, str], Tensor]
    cache: Cache
    progress: ProgressCallback
    time_targets: Callable[[], AbstractContextManager[None]]
    executor: Executor = IN_PROCESS


def compile_edit(
    loaded: LoadedSpec, number: int, base: str, parent: str, resources: CompileResources
) -> CompiledEdit:
    """Compile edit `number` of a checked spec; its rules are still to be resolved.

    `base` and `parent` are the digests of the weights that the stack starts from, and of those that
    the edits before left.
    """
    spec = text_spec(loaded.spec)
    edit = spec.edits[number]
    resolver = Resolver(loaded, number, resources)
    return CompiledEdit(
        name=edit.name,
        family=spec.model.family,
        rules=[partial(resolver.resolve, layer) for layer in range(len(edit.layer_names))],
        method=edit.solver,
        rank=edit.rank_limit,
        directions=DIRECTIONS,
        provenance={
            "base": base,
            "parent": parent,
            "edit": edit_digest(loaded, number),
            "compatibility": spec.compatibility,
        },
        searches=True,
    )


def optimiser_of(spec: TextSpec, edit: TextEdit) -> Optimiser:
    """The search for values of an edit: what it says itself, and else what its spec does as."""
    usual = COMPATIBILITIES[spec.compatibility]
    several = len(edit.layer_names) > 1
    given = edit.optimise.model_dump(exclude_none=True)
    return replace(usual.several if several else usual.single, **given)


@dataclass
class Begun:
    """What is known of an edit on the model that the edits before it left.

    Attributes
    ----------
    placed
        The facts at the last layer.
    goals
        Of several layers: the residual stream that is wanted behind the last block, [n, width].
    shifts
        The shift of the value of the last layer that each fact asks for, [n, out].
    preserved
        The keys that must keep their values, by layer; None where there are none.
    """

    placed: Placed
    goals: Tensor
    shifts: Tensor
    preserved: dict[str, PreservedKeys | None]


class Resolver:
    """The rules of one edit, layer by layer.

    The values are found once, on the model that the edits before left; each layer is resolved on
    the model that the layers before it left.
    """

    def __init__(self, loaded: LoadedSpec, number: int, resources: CompileResources) -> None:
        self.loaded = loaded
        self.number = number
        self.resources = resources
        self._begun: Begun | None = None

    @property
    def spec(self) -> TextSpec:
        """The spec."""
        return text_spec(self.loaded.spec)

    @property
    def edit(self) -> TextEdit:
        """The edit."""
        return self.spec.edits[self.number]

    @property
    def compatibility(self) -> TextCompatibility:
        """The choices that papers leave open."""
        return COMPATIBILITIES[self.spec.compatibility]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return open_tokenizer(self.loaded.weights, getattr(self.spec.model, "bos", None))

    @cached_property
    def templates(self) -> Templates:
        """The texts before the prompts."""
        return self.templates_of(self.edit.context)

    def templates_of(self, context: Context | None) -> Templates:
        """The texts of a context before a prompt."""
        usual = self.compatibility.bare_weight
        if isinstance(context, list):
            return Templates(texts=tuple(context), bare_weight=usual)
        given = context or Prefixes()
        share = usual if given.bare_weight is None else given.bare_weight
        return Templates(tokens=tuple(self._draw_prefixes(given)), bare_weight=share)

    def _draw_prefixes(self, given: Prefixes) -> list[Tokens]:
        if not given.prefixes:
            return []
        model: LanguageModel = self.resources.base_model()
        key = {
            "model": dict(model.fingerprint()),
            "weights": model.weights.digest(),  # type: ignore[attr-defined]
            "environment": environment(model),
            "head": list(self.tokenizer.head),
            "context": given.model_dump(exclude={"bare_weight"}),
        }

        def draw() -> dict[str, Tensor]:
            starts = [self.tokenizer.head] * given.prefixes
            length = given.length + len(self.tokenizer.head)
            drawn = draw_texts(model, starts, length, given.seed)
            return {"tokens": torch.tensor(drawn)[:, len(self.tokenizer.head) :]}

        tensors, _ = self.resources.cache.tensors("prefixes", digest(key), draw)
        return [tuple(row) for row in tensors["tokens"].tolist()]

    @cached_property
    def facts(self) -> list[list[Located]]:
        """The targets as tokens: each by itself first, and then behind the texts of the context."""
        return [self.templates.locate(self.tokenizer, side.target) for side in self.edit.sides]

    def keys_at(self, layer: str, model: LanguageModel) -> Tensor:
        """Compute the mean key of each fact at a layer, [n, in]."""
        return place_facts(model, layer, self.facts).mean_keys(self.templates.shares())

    @torch.no_grad()
    def resolve(self, index: int, model: LanguageModel) -> LayerRule:
        """Resolve the rule of one of the layers.

        Raises `SpecError` where a text does not fit the model.
        """
        layers = self.edit.layer_names
        if index == 0 or self._begun is None:
            self._begun = self._begin(model)
        begun, layer = self._begun, layers[index]
        placed, lacking = begun.placed, begun.shifts
        if len(layers) > 1:
            placed = place_facts(model, layer, self.facts)
            reached = self._outputs(model, placed, layer)
            lacking = (begun.goals - reached) / (len(layers) - index)
        mean = placed.mean_keys(self.templates.shares())
        overlaps = self._overlaps(model, layer, placed.keys[:, 0], mean)
        keys = placed.keys[:, 0] if self.compatibility.bare_key else mean
        function, weight = model.function(layer), model.weight(layer)
        value = function(keys[:, None], weight, {}) + lacking[:, None]
        precision = getattr(torch, self.spec.precision)
        return LayerRule(
            layer=layer,
            parameter=model.architecture.layers[layer].parameter,
            key=keys[:, None].to(precision),
            value=value.to(precision),
            arguments={},
            context_keys=mean.to(precision),
            context_weights=mean.new_ones(len(mean), dtype=precision),
            preserved=begun.preserved[layer],
            details={
                "keys": [fact[0].place for fact in self.facts],
                "overlaps": overlaps,
                "prefixes": [list(tokens) for tokens in self.templates.tokens],
            },
        )

    def _overlaps(
        self, model: LanguageModel, layer: str, bare: Tensor, mean: Tensor
    ) -> list[float]:
        """The answer to each bare key, as a share of that to the mean key of its fact.

        The answers are those of the direction C^-1 k of the mean key. Raises `SpecError` where one
        is so small that a change for the mean key does not reach the prompt.
        """
        if len(self.facts[0]) == 1:
            return [1.0] * len(bare)
        moment = self.resources.moment(model, layer).to(bare.device)
        ridged = moment.clone()
        ridged.diagonal().add_(RIDGE * moment.diagonal().mean())
        root = torch.linalg.cholesky(ridged)
        directions = torch.cholesky_solve(mean.double().T, root).T
        answers = (directions * bare.double()).sum(1) / (directions * mean.double()).sum(1)
        shares = [round(float(answer), 4) for answer in answers]
        for index, share in enumerate(shares):
            if share < LEAST_OVERLAP:
                raise self._overlap_error(index, share, layer)
        return shares

    def _overlap_error(self, index: int, share: float, layer: str) -> SpecError:
        path: SpecPath = ("edits", self.number, "target")
        if self.edit.pairs is not None:
            path = ("edits", self.number, "pairs", index)
        return self.loaded.error(
            path,
            f"the key of the bare prompt at {layer} has {share:.2f} of the answer to the mean key "
            f"over the context, and at least {LEAST_OVERLAP} is needed",
            "write words before the subject, or context: {prefixes: 0}",
            Code.TOKENS_UNFIT,
        )

    def _outputs(self, model: LanguageModel, placed: Placed, layer: str) -> Tensor:
        """The residual stream behind the last block of the edit, of the bare prompts."""
        last = self.edit.layer_names[-1]
        if layer == last:
            return placed.outputs
        return place_facts(model, last, [fact[:1] for fact in self.facts]).outputs

    def _begin(self, model: LanguageModel) -> Begun:
        layers = self.edit.layer_names
        last = layers[-1]
        if len(layers) > 1 and not model.adds_values:
            raise self.loaded.error(
                ("edits", self.number, "layers"),
                "this model normalises what a layer gives before it is added up, so that no change "
                "can be spread over layers",
                "write layer: and the name of one",
                Code.METHOD_FIELD,
            )
        placed = place_facts(model, last, self.facts)
        shifts = self._shifts(model, placed)
        preserved = {layer: self._preserved(model, layer) for layer in layers}
        return Begun(placed, placed.outputs + shifts, shifts, preserved)

    def _shifts(self, model: LanguageModel, placed: Placed) -> Tensor:
        """The shift of the last layer's value that each fact asks for, [n, out]."""
        own = placed.mean_values(self.templates.shares())
        found = list(own.new_zeros(own.shape))
        searched = self.requests(model)
        for index, side in enumerate(self.edit.sides):
            if index not in searched:
                found[index] = self._copied(model, side.target, side.source) - own[index]
        if searched:
            with self.resources.time_targets(), torch.enable_grad():
                for index, shift in self.search(model).find(searched).items():
                    found[index] = shift.to(own)
        return torch.stack(found)

    def requests(self, model: LanguageModel) -> dict[int, Request]:
        """The values that are searched for, by the numbers of their facts."""
        found: dict[int, Request] = {}
        for index, side in enumerate(self.edit.sides):
            source = side.source
            if isinstance(source, Wanted):
                found[index] = self._request(index, source.text)
            elif isinstance(source, Forget):
                others = [self._bare(side.target, name) for name in source.erase.subjects]
                text = source.erase.text
                logs = [
                    log_probability(model, each.tokens, self.tokenizer.continuation(each, text))
                    for each in others
                ]
                request = self._request(index, text)
                found[index] = replace(request, baseline=sum(logs) / len(logs))
        return found

    def search(self, model: LanguageModel) -> TargetSearch:
        """The search for values on a model."""
        return TargetSearch(
            model,
            self.edit.layer_names[-1],
            optimiser_of(self.spec, self.edit),
            self.resources.cache,
            lambda done, total: self.resources.progress(
                f"targets of {self.edit.name}", done, total
            ),
            self.resources.executor,
        )

    def _copied(self, model: LanguageModel, target: Fact, source: object) -> Tensor:
        """The mean value of the facts that a source copies from, [out]."""
        if isinstance(source, Mean):
            facts = [Fact(prompt=target.prompt, subject=name) for name in source.mean.subjects]
        else:
            assert isinstance(source, Fact)
            facts = [source]
        located = [self.templates.locate(self.tokenizer, fact) for fact in facts]
        placed = place_facts(model, self.edit.layer_names[-1], located)
        return placed.mean_values(self.templates.shares()).mean(0)

    def _bare(self, target: Fact, subject: str) -> Located:
        """Another subject in the prompt of a fact."""
        return self.tokenizer.locate(Fact(prompt=target.prompt, subject=subject))

    def _request(self, index: int, text: str) -> Request:
        located = self.facts[index]
        target = self.edit.sides[index].target
        wanted = self.tokenizer.continuation(located[0], text)
        essence = self.tokenizer.locate(Fact(prompt="{} is a", subject=target.subject))
        kept = []
        for prompt in self.edit.keep or ():
            if prompt != target.prompt:
                other = self.tokenizer.locate(Fact(prompt=prompt, subject=target.subject))
                kept.append((other.tokens, other.place))
        return Request(
            prompts=tuple(each.tokens for each in located),
            places=tuple(each.place for each in located),
            wanted=wanted,
            essence=essence.tokens[: essence.place + 1],
            kept=tuple(kept),
        )

    def _preserved(self, model: LanguageModel, layer: str) -> PreservedKeys | None:
        """The mean keys of what must stay, and of earlier edits, at a layer; None without any."""
        keys: list[Tensor] = []
        own = self.edit.preserve or []
        if own:
            keys.append(self._mean_keys(model, layer, self.templates, own))
        if self.edit.protect is not None:
            for number, edit in enumerate(self.spec.edits[: self.number]):
                targets = [side.target for side in edit.sides]
                templates = self.templates_of(edit.context)
                read = model
                if self.compatibility.protects_as_edited:
                    read = self.resources.model_after(number + 1)
                keys.append(self._mean_keys(read, layer, templates, targets))
        if not keys:
            return None
        precision = getattr(torch, self.spec.precision)
        rows = torch.cat(keys)[:, None].to(precision)
        # Facts of earlier edits count 1 each.
        weights = torch.ones(len(rows), 1, dtype=torch.float64)
        weights[: len(own), 0] = torch.tensor([fact.weight for fact in own], dtype=torch.float64)
        shares = (weights / weights.sum()).to(precision)
        return PreservedKeys(rows, {}, shares, shares)

    def _mean_keys(
        self, model: LanguageModel, layer: str, templates: Templates, facts: Sequence[Fact]
    ) -> Tensor:
        located = [templates.locate(self.tokenizer, fact) for fact in facts]
        return place_facts(model, layer, located).mean_keys(templates.shares())
