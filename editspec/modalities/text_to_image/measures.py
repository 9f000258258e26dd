"""The measures that the checks of a spec of prompts take on a stack of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from editspec.engine.checks import Value
from editspec.engine.measures import Measures
from editspec.engine.result import count_of
from editspec.modalities.text_to_image.adversary import find_adversary
from editspec.modalities.text_to_image.drawing import picture_changes
from editspec.modalities.text_to_image.prompts import concepts_of, read_prompts
from editspec_compiler.modalities.text_to_image.places import Place, find_keys
from editspec_compiler.modalities.text_to_image.resolve import Asked, Concepts
from editspec_compiler.modalities.text_to_image.schema import (
    ConceptEdit,
    Efficacy,
    Locality,
    Resistance,
    prompt_spec,
)
from editspec_compiler.schema import Retention
from editspec_runtime.modalities.text_to_image.model import PromptedModel

NAMED = 3
"""The number of prompts that a remark names."""

LEAST = 0.01
"""The least share of what the worst token lacks that counts as lacking something."""

NOTHING = "there is nothing to measure: "


@dataclass(frozen=True)
class PromptMeasures(Measures):
    """The measures of a stack that is built; each gives a value and a remark."""

    def measure(self, number: int, edit: str | None) -> Value:
        """Return the value of check `number` for an edit."""
        check = self.session.loaded.spec.checks[number]
        assert edit is not None
        which = self.numbers[edit]
        if isinstance(check, Efficacy):
            return self.efficacy(which, check)
        if isinstance(check, Locality):
            return self.locality(which, check)
        if isinstance(check, Resistance):
            return self.resistance(which, check)
        if isinstance(check, Retention):
            return self.retention(which)
        return super().measure(number, edit)

    @property
    def edits(self) -> Sequence[ConceptEdit]:
        """The edits of the spec."""
        return prompt_spec(self.session.loaded.spec).edits

    @cached_property
    def concepts(self) -> Concepts:
        """What the edits ask for, as tokens."""
        return concepts_of(self.session.loaded)

    def model_after(self, count: int) -> PromptedModel:
        """The model after the first `count` edits."""
        return cast(PromptedModel, self.session.after(count).current_model())

    def matrices(self, number: int, count: int) -> Tensor:
        """The matrices that edit `number` changes, below each other, after `count` edits.

        Returns [out, in] float64.
        """
        model = self.model_after(count)
        layers = self.edits[number].layer_names
        return torch.cat([model.weight(layer).double() for layer in layers])

    def keys_of(self, places: Sequence[Place]) -> Tensor:
        """The keys of tokens, [n, in] float64; no edit changes them."""
        return find_keys(self.model_after(0), places).double()

    def efficacy(self, number: int, check: Efficacy) -> Value:
        """Measure the share of the way from the old to the new answer."""
        edit = self.edits[number]
        asked = self.concepts.asked(edit)
        if check.prompts is not None:
            asked = self.concepts.phrased(edit, check.prompts)
        if not asked.targets:
            return None, NOTHING + "no prompt of the check holds a concept of the edit"
        shares = self._shares(number, asked, number + 1)
        if bool(shares.isnan().all()):
            return None, NOTHING + "no token of the edit lacks anything of its source"
        return float(shares.nanmean()), _say_shares(shares, asked)

    def _shares(self, number: int, asked: Asked, count: int) -> Tensor:
        """The share of the way that each token has gone after `count` edits, [n].

        NaN where a token lacks nothing, as those before the first word that differs.
        """
        targets, wanted = self._wanted(asked)
        before = self.matrices(number, number)
        moved = targets @ (self.matrices(number, count) - before).mT
        missing = wanted @ before.mT
        lacking = missing.square().sum(1)
        # What rounding leaves of a token that the prompts share is no way to go.
        there = lacking > LEAST**2 * lacking.max()
        return torch.where(there, (moved * missing).sum(1) / lacking, torch.nan)

    def _wanted(self, asked: Asked) -> tuple[Tensor, Tensor]:
        """The keys of the edited tokens, and what each lacks of the one it is to be like."""
        targets, sources = self.keys_of(asked.targets), self.keys_of(asked.sources)
        wanted = sources - targets
        for index, added in enumerate(asked.added):
            for place, by in added:
                wanted[index] += by * self.keys_of([place])[0]
        return targets, wanted

    def locality(self, number: int, check: Locality) -> Value:
        """Measure the relative change of what prompts that must stay are answered."""
        edit = self.edits[number]
        prompts = list(check.prompts or ())
        if check.file is not None:
            prompts += read_prompts(self.session.loaded.folder / check.file)
        if not prompts:
            prompts = [each.prompt for each in edit.preserve or ()]
        if not prompts:
            return None, NOTHING + "neither the check nor the edit names prompts that must stay"
        if check.of == "pictures":
            before, after = (self.model_after(count).weights for count in (number, number + 1))
            changes = picture_changes(self.session, before, after, prompts, check.seed)
        else:
            changes = self._value_changes(number, prompts)
        order = sorted(range(len(prompts)), key=lambda index: -changes[index])
        worst = ", ".join(f'"{prompts[index]}" {changes[index]:.2g}' for index in order[:NAMED])
        mean = sum(changes) / len(changes)
        return mean, f"{count_of(len(prompts), 'prompt')}; most: {worst}"

    def _value_changes(self, number: int, prompts: Sequence[str]) -> list[float]:
        before, after = self.matrices(number, number), self.matrices(number, number + 1)
        change = after - before
        found = []
        for text in prompts:
            prompt = self.concepts.encode(text)
            keys = self.keys_of([(prompt, place) for place in range(len(prompt.own))])
            found.append(float((keys @ change.mT).norm() / (keys @ before.mT).norm()))
        return found

    def resistance(self, number: int, check: Resistance) -> Value:
        """Measure how far an adversary's key stays from the old value, beside the edit itself."""
        asked = self.concepts.asked(self.edits[number])
        targets, wanted = self._wanted(asked)
        before, after = self.matrices(number, number), self.matrices(number, number + 1)
        keys = find_adversary(
            check.adversary, check.ridge, targets, before, after, targets + wanted
        )
        old = targets @ before.mT
        reached = (keys @ after.mT - old).norm(dim=1)
        moved = (targets @ after.mT - old).norm(dim=1)
        if not bool((moved > 0).all()):
            return None, NOTHING + "the edit moves no value"
        shares = (reached / moved).clamp_max(1)
        far = (keys - targets).norm(dim=1) / targets.norm(dim=1)
        remark = f"its key is {float(far.mean()):.2g} of the concept's own length away from it"
        return float(shares.mean()), remark

    def retention(self, number: int) -> Value:
        """Measure the share of the efficacy that is left after all edits."""
        asked = self.concepts.asked(self.edits[number])
        built = float(self._shares(number, asked, number + 1).nanmean())
        left = float(self._shares(number, asked, len(self.built)).nanmean())
        if not built > 0:
            return None, NOTHING + "the edit had no efficacy that it could keep"
        return left / built, f"{built:.3g} right after the edit, {left:.3g} after all"


def _say_shares(shares: Tensor, asked: Asked) -> str:
    """Say over how many prompts a share was taken, and which have least of it."""
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), share in zip(asked.targets, shares.tolist(), strict=True):
        if not math.isnan(share):
            by_prompt.setdefault(prompt.text, []).append(share)
    means = {text: sum(each) / len(each) for text, each in by_prompt.items()}
    least = sorted(means, key=means.__getitem__)[:NAMED]
    said = ", ".join(f'"{text}" {means[text]:.2g}' for text in least)
    return f"{count_of(len(means), 'prompt')}; least: {said}"
