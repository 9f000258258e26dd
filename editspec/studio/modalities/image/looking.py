"""Looks at images that an edit is not about: what shows there, and which of them to preserve."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from editspec.engine.built import BuiltEdit
from editspec.engine.session import BuildSession
from editspec.modalities.image.artefacts import VISIBLE
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.explore import spec_stream
from editspec.modalities.image.traces import UnseenTraces, find_match, find_unseen_traces
from editspec_compiler.schema import Solver
from editspec_compiler.validation import fit
from editspec_runtime.core.method import LEARNED, LEARNED_DIRECTIONS
from editspec_runtime.methods.registry import DEFAULT_METHOD, method_of
from editspec_runtime.modalities.image.generator import Generator

NAMED = 4
"""Unseen images that are named."""

CANDIDATES, PRESERVED = 192, 48
"""Images of the spec's stream that are looked at, and those of them that are preserved."""

LEARNED_RANK, LEARNED_WEIGHT = 16, 0.3
"""The least rank and collateral weight of an edit that preserves images."""

BATCH = 16
"""Images that are looked at between two reports of progress."""

Report = Callable[[int, int], None]
"""Is told how many images were looked at, of how many."""


def measure_unseen(
    session: BuildSession, number: int, built: BuiltEdit, report: Report
) -> UnseenTraces | None:
    """Measure the traces of edit `number` in unseen images, as the check ``trace`` does.

    `session` is that of the model before the edit. The answer is None where the edit has no key, or
    one that matches everywhere.
    """
    before = generator_of(session)
    session.stack.append(built.patch)
    return find_unseen_traces(session, number, before, generator_of(session), report)


def worst_of(found: UnseenTraces) -> list[int]:
    """Number the unseen images that show most of an edit, of those that show some."""
    visible = found.traces.are_visible(VISIBLE).tolist()
    return [each for each in found.traces.rank() if visible[each]][:NAMED]


def choose_preserved(
    session: BuildSession, number: int, before: Generator, own: Container[int], report: Report
) -> list[int]:
    """Choose images of the spec's stream that an edit should leave alone.

    They are the first in which its key matches nowhere, without its `own` images.
    """
    match = find_match(session, number, before)
    stream, chosen = spec_stream(session, before), list[int]()
    for start in range(0, CANDIDATES, BATCH):
        numbers = range(start, start + BATCH)
        allowed = match.find_allowed(before, stream.items(list(numbers))).flatten(1).any(1)
        for latent, matches in zip(numbers, allowed.tolist(), strict=True):
            if not matches and latent not in own:
                chosen.append(latent)
        report(start + BATCH, CANDIDATES)
        if len(chosen) >= PRESERVED:
            break
    return chosen[:PRESERVED]


def fields_that_preserve(edit: dict[str, Any], latents: list[int]) -> dict[str, Any]:
    """Return the fields with which an edit leaves images alone.

    Where its solver finds directions by itself, they avoid what is preserved, which takes more of
    them.
    """
    fields: dict[str, Any] = {"preserve": [{"latents": latents}]}
    solver = fit(Solver, edit.get("solver", DEFAULT_METHOD.name))
    if solver is None or LEARNED_DIRECTIONS not in method_of(solver).takes:
        return fields
    settings = solver.model_dump(exclude_none=True, exclude_defaults=True)
    weight = max(LEARNED_WEIGHT, settings.get("collateral_weight", 0.0))
    fields["solver"] = {**settings, "method": solver.method, "collateral_weight": weight}
    fields["directions"] = LEARNED
    rank = edit.get("rank")
    fields["rank"] = max(LEARNED_RANK, rank) if type(rank) is int else LEARNED_RANK
    return fields


def find_own_latents(edit: dict[str, Any]) -> set[int]:
    """Collect the images that an edit itself names by number."""
    context = edit.get("context")
    places = [edit.get("source"), edit.get("target")]
    if isinstance(context, list):
        places += context
    latents: list[Any] = []
    for place in places:
        if isinstance(place, dict):
            several = place.get("latents")
            latents += several if isinstance(several, list) else [place.get("latent")]
    return {latent for latent in latents if type(latent) is int}
