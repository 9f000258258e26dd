"""Pictures that the steps of ``refine`` aim at, and the images that must stay."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from editspec_compiler.layer_fit import refine_problem
from editspec_compiler.modalities.image.paste import composite_image, make_wanted_map
from editspec_compiler.modalities.image.places import Resolver
from editspec_compiler.modalities.image.preserved import bytes_of, preserved_scenes
from editspec_compiler.modalities.image.sources import Sides
from editspec_compiler.schema import OUTPUT, Refine
from editspec_runtime.core.rule import Refinement


def find_refinement(resolver: Resolver, sides: Sides, units: tuple[int, ...]) -> Refinement | None:
    """Find what an edit is refined by; None where it says nothing of it.

    Parameters
    ----------
    resolver
        The edit and the model.
    sides
        Its pairs, whose sources are chosen.
    units
        The units that an erased value does without.

    Raises
    ------
    SpecError
        ``at`` names no later layer.
    """
    given = resolver.edit.refine
    if given is None:
        return None
    pasting = _pasting_resolver(resolver, given)
    items, wanted = [], []
    for pair, path in sides:
        map_ = make_wanted_map(pasting, pair, path, units)
        if given.at == OUTPUT:
            picture = composite_image(pasting, pair, path, map_).value
        else:
            picture = pasting.draw_value(map_.value, map_.trace)
        items.append(map_.latent)
        wanted.append(picture)
    precision = getattr(torch, resolver.loaded.spec.precision)
    kept, areas = _kept_items(resolver, items)
    weighed = [area.to(wanted[0]) for area in areas]
    latents = _one_form(resolver, [*items, *kept])
    return Refinement(
        items=torch.cat(latents[: len(items)]).to(precision),
        wanted=torch.cat(wanted).to(precision),
        kept=torch.cat([latents[0][:0], *latents[len(items) :]]).to(precision),
        kept_area=torch.cat([wanted[0][:0, :1], *weighed]).to(precision),
        steps=given.steps,
        learning_rate=given.learning_rate,
        weight=given.weight,
        whiten=given.whiten,
    )


def _pasting_resolver(resolver: Resolver, given: Refine) -> Resolver:
    """The resolver of the edit at the layer where values are pasted.

    Without `at` that is where V* is: at the edited layer, or at the observed one.
    """
    edit = resolver.edit
    if given.at is None or given.at == OUTPUT:
        return resolver
    architecture = resolver.generator.architecture
    if problem := refine_problem(given.at, architecture, edit.layer, edit.erases):
        raise resolver.loaded.misfit(resolver.path, problem)
    moved = edit.model_copy(update={"layer": given.at, "observe": None})
    edits = list(resolver.loaded.spec.edits)
    edits[resolver.number] = moved
    spec = resolver.loaded.spec.model_copy(update={"edits": edits})
    return replace(resolver, loaded=replace(resolver.loaded, spec=spec))


def _kept_items(resolver: Resolver, items: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The latents of preserved places, each once, and the areas of their pictures that count.

    Those of the rule have pictures of their own.
    """
    kept: dict[bytes, Tensor] = {}
    areas: dict[bytes, Tensor] = {}
    targets = {bytes_of(item) for item in items}
    for preserved in preserved_scenes(resolver):
        latent, area = preserved.latent, preserved.output_area()
        name = bytes_of(latent)
        if name not in targets:
            kept.setdefault(name, latent)
            areas[name] = torch.maximum(area, areas.get(name, area))
    return list(kept.values()), list(areas.values())


def _one_form(resolver: Resolver, latents: list[Tensor]) -> list[Tensor]:
    """Bring z to w where one of several latents is w: a batch holds one of both.

    An edit that is protected may name w where the edit that protects it names z.
    """
    if all(latent.ndim == 2 for latent in latents):
        return latents
    return [resolver.generator.styles(latent) if latent.ndim == 2 else latent for latent in latents]
