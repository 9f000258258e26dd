"""Last stage of the compiler: a checked edit and the model -> a rule's tensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from editspec_compiler.digests import edit_digest
from editspec_compiler.layer_fit import nonlinear_problem, observe_problem, rank_problem
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.image.context import needed_context_keys, rank_units
from editspec_compiler.modalities.image.paste import Side, make_sides
from editspec_compiler.modalities.image.places import LayerMoment, Resolver, join_arguments
from editspec_compiler.modalities.image.preserved import find_preserved
from editspec_compiler.modalities.image.refinement import find_refinement
from editspec_compiler.modalities.image.schema import ImageEdit, image_spec
from editspec_compiler.modalities.image.sources import ChosenSources, choose_sources
from editspec_runtime.codes import Code
from editspec_runtime.core.method import CHANNELWISE, DIRECTIONS, FULL, LEARNED, LINEAR, RANK
from editspec_runtime.core.rule import CompiledEdit, LayerRule
from editspec_runtime.maths.channelwise import is_channelwise
from editspec_runtime.methods.registry import PROJECTED_GRADIENT, method_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.maps import Box


def compile_edit(
    loaded: LoadedSpec, number: int, base: str, parent: str, moment: LayerMoment
) -> CompiledEdit:
    """Compile edit `number` of a checked spec; its rule is still to be resolved.

    Parameters
    ----------
    loaded
        The checked spec.
    number
        The edit's number, from 0.
    base, parent
        Digests of the weights that the stack starts from, and of those that the edits before left.
    moment
        Gives C of a layer of a model; only sources that erase units ask for it.
    """
    spec = image_spec(loaded.spec)
    edit = spec.edits[number]
    directed = DIRECTIONS in method_of(edit.solver).takes
    return CompiledEdit(
        name=edit.name,
        family=spec.model.family,
        rules=[partial(resolve_rule, loaded, number, moment=moment)],
        method=edit.solver,
        rank=edit.rank_limit,
        directions=edit.directions if directed else None,
        provenance={
            "base": base,
            "parent": parent,
            "edit": edit_digest(loaded, number),
            "compatibility": spec.compatibility,
        },
    )


@torch.no_grad()
def resolve_rule(
    loaded: LoadedSpec, number: int, generator: Generator, moment: LayerMoment
) -> LayerRule:
    """Resolve the rule of edit `number` on the model as the edits before left it.

    Parameters
    ----------
    loaded
        The checked spec.
    number
        The edit's number, from 0.
    generator
        The model.
    moment
        Gives C of a layer of a model; only sources that erase units ask for it.

    Raises
    ------
    SpecError
        A mask vanishes at the layer's resolution, the rank is above the number of context keys,
        more units are to be erased than there are, or the layer is not of a kind that the solver
        takes.
    """
    resolver = Resolver(loaded, generator, number, moment)
    edit = resolver.edit
    _require_fitting_layer(resolver)
    context_keys, context_weights = needed_context_keys(resolver)
    units = rank_units(resolver, context_keys, context_weights)
    chosen = choose_sources(resolver, resolver.sides())
    sides = make_sides(resolver, chosen.sides, units)
    _require_rank(resolver, len(context_keys))
    precision = getattr(torch, loaded.spec.precision)
    keys = [side.key for side in sides]
    values = [side.value for side in sides]
    return LayerRule(
        layer=edit.layer,
        parameter=generator.layer(edit.layer).parameter,
        key=torch.cat(keys).to(precision),
        value=torch.cat(values).to(precision),
        arguments=join_arguments([side.arguments for side in sides], precision),
        context_keys=context_keys.to(precision),
        context_weights=context_weights.to(precision),
        preserved=find_preserved(resolver, sides),
        refinement=find_refinement(resolver, chosen.sides, units),
        observe=edit.observe,
        units=units,
        details=_describe(edit, sides, chosen),
    )


def _describe(edit: ImageEdit, sides: list[Side], chosen: ChosenSources) -> dict[str, Any]:
    """Describe the sides of a rule: regions, how much they ask for, chosen sources, idle ones."""
    regions = [_plain_box(side.region) for side in sides]
    details: dict[str, Any] = {
        "region": regions[0] if edit.pairs is None else regions,
        "asked": round(sum(side.asked for side in sides) / len(sides), 4),
    }
    if chosen.nearest:
        details["nearest"] = list(chosen.nearest)
    if idle := [number for number, side in enumerate(sides) if side.idle]:
        details["idle"], details["pairs"] = idle, len(sides)
    return details


def _plain_box(box: Box) -> list[int]:
    return [box.top, box.left, box.bottom, box.right]


def _require_fitting_layer(resolver: Resolver) -> None:
    """Raise a `SpecError` where the method or `observe` needs another layer."""
    loaded, generator, edit = resolver.loaded, resolver.generator, resolver.edit
    method, layer = method_of(edit.solver), generator.layer(edit.layer)
    if LINEAR in method.needs and (problem := nonlinear_problem(layer, method)):
        raise loaded.misfit(resolver.path, problem)
    if CHANNELWISE in method.needs and not is_channelwise(generator.function(edit.layer)):
        raise loaded.error(
            (*resolver.path, "solver"),
            f"{edit.layer} is not known to act on each output channel alone, which "
            f"{edit.solver.method} needs",
            f"write method: {PROJECTED_GRADIENT.name}{_suggest_layer(generator, edit.layer)}",
            Code.LAYER_NOT_CHANNELWISE,
        )
    if edit.observe is None:
        return
    if problem := observe_problem(edit.observe, generator.architecture, edit.layer):
        raise loaded.misfit(resolver.path, problem)


def _suggest_layer(generator: Generator, edited: str) -> str:
    """Suggest another layer of the same weight that acts on each output channel alone."""
    parameter = generator.layer(edited).parameter
    for name, layer in generator.architecture.layers.items():
        if layer.parameter == parameter and is_channelwise(generator.function(name)):
            return f", or layer: {name}, whose value is {layer.steps[-1]}'s"
    return ""


def _require_rank(resolver: Resolver, keys: int) -> None:
    """Raise a `SpecError` where the rank is above what the layer and the context have."""
    edit = resolver.edit
    if not resolver.takes(RANK) or edit.rank == FULL:
        return
    layer = resolver.generator.layer(edit.layer)
    if problem := rank_problem(edit.rank, layer):
        raise resolver.loaded.misfit(resolver.path, problem)
    # Of directions other than units there are no more than keys of the context (section 3.4).
    of_context = resolver.takes(DIRECTIONS) and edit.directions not in ("units", LEARNED)
    if of_context and edit.rank > keys:
        raise resolver.loaded.error(
            (*resolver.path, "rank"),
            f"rank {edit.rank} is more than the {keys} keys that the context has at {edit.layer}",
            f"lower the rank to {keys} or less, or give more or larger context",
            Code.RANK_UNFIT,
        )
