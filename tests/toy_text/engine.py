"""What texts add to a build session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editspec.engine.built import BuiltEdit
from editspec.engine.checks import Value
from editspec.engine.measures import Measures
from editspec.engine.model_session import ModelSession
from editspec.engine.opened import OpenedModel
from editspec.engine.questions import AT_MOST, Asked, Bound, ModelOf
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_compiler.digests import edit_digest
from editspec_runtime.core.compatibility import EDITSPEC, Compatibility
from editspec_runtime.core.rule import CompiledEdit, LayerRule, PreservedKeys
from editspec_runtime.errors import UsageError
from editspec_runtime.maths.shapley import Attribution
from tests.toy_text.language import Probability, TextPlace
from tests.toy_text.network import LETTERS, RandomTexts, Toy, encode


class TextMeasures(Measures):
    """The measures of every modality, and the probability of a letter."""

    def measure(self, number: int, edit: str | None) -> Value:
        """A value and a remark."""
        check = self.session.loaded.spec.checks[number]
        if not isinstance(check, Probability):
            return super().measure(number, edit)
        assert edit is not None
        model = self.session.after(self.numbers[edit] + 1).current_model()
        outputs = model.outputs(encode([check.place.text]))
        return float(outputs[0, check.place.letter, LETTERS.index(check.of)]), ""


@dataclass(frozen=True)
class TextQuestion:
    """The probabilities of all letters in one text."""

    text: str
    unit = "in the mean"

    unit = "in the mean"
    first = 0

    @property
    def name(self) -> str:
        """The text."""
        return self.text

    def value(self, model: Toy) -> torch.Tensor:
        """The probabilities, one after the other."""
        return model.outputs(encode([self.text])).double().flatten()

    def size_of(self, change: torch.Tensor) -> float:
        """The mean change of a probability."""
        return float(change.abs().mean())

    def draw(self, model_of: ModelOf, names: Sequence[str], found: Attribution) -> None:
        """Texts are not shown."""

    def bound_of(self, measure: str) -> Bound:
        """Texts have one measure."""
        if measure != "collateral":
            raise UsageError(f"A text has no {measure}.", "Give --measure collateral.")
        return Bound(AT_MOST)

    def measure(self, session: BuildSession, measure: str, count: int) -> float:
        """The mean change of a probability."""
        before, after = (self.value(session.after(n).current_model()) for n in (0, count))
        return self.size_of(after - before)


class TextEngine:
    """Texts of letters."""

    def compatibility(self, name: str | None) -> Compatibility:
        """Our way alone."""
        return EDITSPEC

    def sample(self, session: ModelSession, model: Toy) -> RandomTexts:
        """Random texts, as ``statistics`` says."""
        statistics = session.loaded.spec.statistics
        return RandomTexts(statistics.seed, statistics.texts)

    def compile(self, session: ModelSession, number: int, parent: str) -> CompiledEdit:
        """The target's key gets the source's value."""
        loaded = session.loaded
        edit = loaded.spec.edits[number]

        def resolve(model: Toy) -> LayerRule:
            precision = getattr(torch, loaded.spec.precision)
            places = edit.context or [edit.target]
            context = torch.cat([key_of(model, edit.layer, place)[0] for place in places])
            key = key_of(model, edit.layer, edit.target)
            value = key_of(model, edit.layer, edit.source) @ model.weight(edit.layer).mT
            return LayerRule(
                layer=edit.layer,
                parameter=model.architecture.layers[edit.layer].parameter,
                key=key.to(precision),
                value=value.to(precision),
                arguments={},
                context_keys=context.to(precision),
                context_weights=torch.ones(len(context), dtype=precision),
                preserved=preserved_keys(model, edit.layer, edit.preserve or (), precision),
            )

        return CompiledEdit(
            name=edit.name,
            family=loaded.spec.model.family,
            rules=[resolve],
            method=edit.solver,
            rank=edit.rank_limit,
            directions=edit.directions,
            provenance={
                "base": session.base,
                "parent": parent,
                "edit": edit_digest(loaded, number),
            },
        )

    def measures(self, session: BuildSession, built: Sequence[BuiltEdit]) -> TextMeasures:
        """What the checks of a toy's spec measure."""
        return TextMeasures(session, built)

    def preview(self, session: BuildSession, count: int) -> None:
        """Texts are not shown."""

    def tabulate(self, session: BuildSession, count: int) -> None:
        """Texts are not shown."""

    def question(self, session: BuildSession, asked: Asked) -> TextQuestion:
        """A text of the sample by its number; the places of texts have no masks."""
        if asked.get("mask") is not None:
            raise UsageError("A text has no mask.", "Leave --mask out.")
        return TextQuestion(self.sample(session, None).text(asked["latent"]))

    def open_model(self, opened: OpenedModel, loaded: LoadedSpec | None) -> OpenedModel:
        """Patches can be put on a toy; it draws nothing."""
        return opened


def key_of(model: Toy, layer: str, place: TextPlace) -> torch.Tensor:
    """The key of a layer at a letter, [1, 1, in]."""
    return model.trace(layer, encode([place.text])).key[:, place.letter, None]


def preserved_keys(
    model: Toy, layer: str, places: Sequence[TextPlace], precision: torch.dtype
) -> PreservedKeys | None:
    """The keys of the letters that must stay; None where there are none."""
    if not places:
        return None
    keys = torch.cat([key_of(model, layer, place) for place in places]).to(precision)
    shares = torch.full((len(places), 1), 1 / len(places), dtype=precision)
    return PreservedKeys(keys, {}, shares, shares)


ENGINE = TextEngine()
