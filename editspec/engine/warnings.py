"""Warnings about edits whose numbers are right, and mislead all the same. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from editspec.engine.collateral import predicted_collateral
from editspec.engine.result import count_of
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.method import Settings
from editspec_runtime.core.sample import Regularised
from editspec_runtime.methods.registry import METHODS, settings_of

if TYPE_CHECKING:
    from editspec_runtime.core.rule import ResolvedEdit
    from editspec_runtime.core.sample import Sample
    from editspec_runtime.patches.patch import Patch

HIGH_COLLATERAL = 0.12
"""The predicted collateral above which a build warns. docs/language.md says how it was chosen."""

LEAST_ASKED = 0.5
"""The share of V* that a rule asks for, below which a build warns."""

FEWEST_KEYS = 8
"""The number of keys for each unit of a layer below which a build warns of a small sample."""


def collateral_warning(collateral: float, settings: Settings) -> str | None:
    """Warn that an edit changes much besides what its rule asks for; None where it does not."""
    if collateral <= HIGH_COLLATERAL:
        return None
    return (
        f"The predicted collateral is {collateral:.2g}, and above {HIGH_COLLATERAL:g} pictures "
        f"change where the rule does not ask for it. {settings.less_collateral()}"
    )


def sample_warning(layer: Layer, items: int, positions: int | None = None) -> str | None:
    """Warn that a sample is too small to predict collateral; None where it is large enough.

    `items` is the number of items of the sample, and `positions` that of their positions where the
    layer has no number of its own.
    """
    units, keys = layer.in_features, items * (layer.positions or 1)
    if layer.positions is None and positions is not None:
        keys = positions
    if keys >= FEWEST_KEYS * units:
        return None
    enough = f"Give statistics {FEWEST_KEYS * units} positions or more."
    if layer.positions is not None:
        samples = -(-FEWEST_KEYS * units // layer.positions)
        enough = f"Raise statistics.samples to {samples} or more."
    return (
        f"{count_of(items, 'sample')} of {layer.name} {'has' if items == 1 else 'have'} "
        f"{count_of(keys, 'key')} for {count_of(units, 'unit')}, so that the predicted collateral "
        f"may be many times too low. {enough}"
    )


def asked_for(rule: ResolvedEdit) -> float:
    """How much of V* a rule asks for, 0 to 1; 1 where its modality says nothing of it."""
    shares = [each.details.get("asked", 1.0) for each in rule.rules]
    return float(min(shares))


def asked_warning(asked: float) -> str | None:
    """Warn that a rule asks for little of V*; None where it asks for half or more."""
    if asked >= LEAST_ASKED:
        return None
    return (
        f"The masks ask for {asked:.1%} of V* on average, so that a perfect edit shows no more. "
        "Paint larger or brighter, or edit a layer of higher resolution."
    )


def idle_warning(rule: ResolvedEdit) -> str | None:
    """Warn of pairs whose targets show already what they are to show; None where there is none."""
    details = rule.rules[0].details
    idle, pairs = details.get("idle", []), details.get("pairs", 0)
    if not idle:
        return None
    advice = "Copy from another image; a list of nearest must not hold the target itself."
    if len(idle) == pairs:
        return f"Nothing is asked for: what is copied is there already. {advice}"
    return (
        f"What pairs[{idle[0]}] copies is there already, so that it asks for nothing "
        f"({len(idle)} of {count_of(pairs, 'pair')}). {advice}"
    )


def warnings_of(
    rule: ResolvedEdit, patch: Patch, architecture: Architecture, sample: Sample
) -> tuple[str, ...]:
    """The warnings about a patch of a rule, with the notes of its solver.

    `sample` is what its statistics were taken over.
    """
    found: list[str | None] = [as_sentence(note) for note in patch.metadata.get("notes", ())]
    settings = patch.metadata["solver"]
    # A ridge stands for what a sample does not show, so that shares of it say nothing of pictures.
    regularised = isinstance(sample, Regularised)
    if settings["method"] in METHODS and not regularised:
        collateral = predicted_collateral(patch)
        found.append(collateral_warning(collateral, settings_of(settings)))
    layers = () if regularised else patch.layers
    for name in layers:
        layer = architecture.layers[name]
        found.append(sample_warning(layer, sample.count, sample.positions))
    found.append(asked_warning(asked_for(rule)))
    found.append(idle_warning(rule))
    return tuple(text for text in found if text is not None)


def as_sentence(clause: str) -> str:
    """Make a sentence of a clause."""
    return f"{clause[:1].upper()}{clause[1:]}."


def warning_lines(name: str, warnings: Iterable[str]) -> list[str]:
    """The warnings about the edit of a name, as lines for people."""
    return [f"warning: {name}: {text}" for text in warnings]
