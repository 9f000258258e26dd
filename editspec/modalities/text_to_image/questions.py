"""Questions about a prompt: which edit changed what the layers give for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from editspec.engine.questions import AT_MOST, Asked, Bound, ModelOf, refuse_options
from editspec.engine.session import BuildSession
from editspec.modalities.text_to_image.prompts import concepts_of
from editspec_compiler.modalities.text_to_image.places import find_keys
from editspec_compiler.modalities.text_to_image.schema import prompt_spec
from editspec_runtime.core.model import Model
from editspec_runtime.errors import UsageError
from editspec_runtime.maths.shapley import Attribution
from editspec_runtime.modalities.text_to_image.model import PromptedModel

CHANGE = "change"
"""The measure of one prompt."""


@dataclass(frozen=True)
class ValueQuestion:
    """The values that edited layers give for the tokens of one prompt.

    Attributes
    ----------
    prompt
        The prompt.
    keys
        The keys of its tokens, [tokens, in] float64; no edit changes them.
    layers
        The layers that an edit changes.
    length
        The length of all values before the edits.
    """

    prompt: str
    keys: Tensor
    layers: tuple[str, ...]
    length: float

    unit = "of the length of its values"
    first = 0

    @property
    def name(self) -> str:
        """The prompt in quotes."""
        return f'"{self.prompt}"'

    def value(self, model: Model) -> Tensor:
        """Compute the values of all tokens and layers, [tokens * all outputs] float64."""
        return values_of(model, self.keys, self.layers)

    def size_of(self, change: Tensor) -> float:
        """Compute the length of a change, as a share of that of the values."""
        return float(change.norm()) / self.length

    def draw(self, model_of: ModelOf, names: Sequence[str], found: Attribution) -> None:
        """Return None: values are no pictures."""

    def measure(self, session: BuildSession, measure: str, count: int) -> float:
        """Measure the length of the change by the first `count` edits, as `size_of` does."""
        del measure
        before = self.value(session.after(0).current_model())
        return self.size_of(self.value(session.after(count).current_model()) - before)

    def bound_of(self, measure: str) -> Bound:
        """A change is at most something; raises `UsageError` for any other measure."""
        if measure != CHANGE:
            raise UsageError(
                f"There is no measure {measure} of a prompt.", f"Give --measure {CHANGE}."
            )
        return Bound(AT_MOST)


def values_of(model: Model, keys: Tensor, layers: Sequence[str]) -> Tensor:
    """Compute W k of layers for keys [n, in], one behind the other."""
    values = [keys @ model.weight(layer).double().cpu().mT for layer in layers]
    return torch.cat(values, -1).flatten()


def ask_about_values(session: BuildSession, asked: Asked) -> ValueQuestion:
    """Make the question about a prompt. Raises `UsageError` where the options do not fit."""
    refuse_options(asked, ("latent", "mask", "text", "edit"), "prompts")
    prompt = asked.get("prompt")
    if prompt is None or not prompt.strip():
        raise UsageError("--prompt is missing.", 'Give a prompt, as in --prompt "a red tower".')
    model = cast(PromptedModel, session.current_model())
    encoded = concepts_of(session.loaded).encode(prompt)
    places = [(encoded, place) for place in range(len(encoded.own))]
    keys = find_keys(model, places).double().cpu()
    names = {name for edit in prompt_spec(session.loaded.spec).edits for name in edit.layer_names}
    layers = tuple(name for name in model.architecture.layers if name in names)
    length = float(values_of(model, keys, layers).norm())
    return ValueQuestion(prompt, keys, layers, length)
