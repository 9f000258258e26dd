"""The last stage of the compiler: a checked edit and the model as it stands -> the tensors of a rule.

Copy and paste work as in the paper's interface (section 4): the values under the source's mask are pasted into the
target's value map, centred on the target's mask; the rectangle they cover is the target K* -> V*. An erased value
(section 5.2) is the layer's output at the target where some units of its key are zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_compiler.references import LoadedSpec, nonlinear_problem, unit_problem
from editspec_compiler.schema import METHOD_FIELDS, OPTIONAL, ClosedForm, ContextPlace, Edit, Erase, Mask, Place
from editspec_runtime.cache import default_cache
from editspec_runtime.conventions import conventions
from editspec_runtime.digest import digest
from editspec_runtime.generator import Box, Generator, LayerInput
from editspec_runtime.latents import LatentStream
from editspec_runtime.rule import Rule, SolverSettings
from editspec_runtime.statistics import second_moment
from editspec_runtime.units import energy_ranking

Moment = Callable[[], Tensor]
"""Gives C of the edited layer, [in_channels, in_channels] float64; asked only where a source needs it."""


@dataclass(frozen=True)
class _Pasted:
    """One K* -> V* before it is cropped.

    Attributes
    ----------
    latent
        Of the target, [1, latent_size].
    reached
        All that reaches the layer there.
    value
        The wanted value map, [1, out_channels, value_size, value_size].
    covered
        The part of the value map that the rule is about.
    """

    latent: Tensor
    reached: LayerInput
    value: Tensor
    covered: Box


@dataclass(frozen=True)
class _Resolver:
    """What every part of an edit shares while it is resolved."""

    loaded: LoadedSpec
    generator: Generator
    number: int
    moment: Moment

    @property
    def edit(self) -> Edit:
        return self.loaded.spec.edits[self.number]

    @property
    def path(self) -> tuple[str | int, ...]:
        return ("edits", self.number)

    def reached(self, place: Place, *path: str | int) -> LayerInput:
        """What reaches the edited layer for the latent of a place, one image alone."""
        return self.generator.prefix(self.edit.layer, self.latent(place, *path))

    def latent(self, place: Place, *path: str | int) -> Tensor:
        """The latent of a place, [1, latent_size] in the precision of the model."""
        given, spec, size = place.latent, self.loaded.spec, self.generator.layout.latent_size
        if isinstance(given, int):
            latent = LatentStream(spec.latents.seed, size, spec.latents.sampler).items([given])
        else:
            vector = self.loaded.latent_vector(given, (*self.path, *path, "latent"), size)
            latent = torch.from_numpy(vector)[None]
        return latent.to(self.generator.weight(self.edit.layer))

    def area(self, mask: Mask, resolution: int, *path: str | int) -> Tensor:
        """A mask at `resolution`, [resolution, resolution] float64 in 0..1, with something in it."""
        area = self._area(mask, resolution, *path)
        self._require_some(area, resolution, *path)
        return area

    def context_area(self, place: Place, resolution: int, *path: str | int) -> Tensor:
        """What a place of the context covers, [resolution, resolution] float64: its mask without what it excludes."""
        area = self.area(place.mask, resolution, *path, "mask")
        if isinstance(place, ContextPlace) and place.exclude is not None:
            area = area * (1 - self._area(place.exclude, resolution, *path, "exclude"))
            self._require_some(area, resolution, *path, "exclude")
        return area

    def _area(self, mask: Mask, resolution: int, *path: str | int) -> Tensor:
        size = self.generator.layout.image_size
        return torch.from_numpy(self.loaded.mask_area(mask, (*self.path, *path), size, resolution))

    def _require_some(self, area: Tensor, resolution: int, *path: str | int) -> None:
        if not bool((area > 0).any()):
            what = "of this mask" if path[-1] == "mask" else "of the mask outside of what it excludes"
            raise self.loaded.error(
                (*self.path, *path),
                f"nothing {what} is left at the resolution of {self.edit.layer}, {resolution}x{resolution}",
                "paint a larger region, or edit a layer of higher resolution",
            )


@torch.no_grad()
def resolve(
    loaded: LoadedSpec, number: int, generator: Generator, base: str, parent: str, moment: Moment | None = None
) -> Rule:
    """The rule of edit `number` (from 0) on `generator`, which is the model as the edits before left it.

    Parameters
    ----------
    loaded
        The checked spec.
    number
        Which of its edits.
    generator
        The model with the weights whose digest is `parent`.
    base, parent
        Digests of the weights that the stack starts from, and of those of `generator`.
    moment
        Gives C of the edited layer where a source needs it; default: from the cache, or computed.

    Raises
    ------
    SpecError
        A mask vanishes at the layer's resolution, the rank is above the number of context keys, or more units are to
        be erased than there are.
    """
    spec = loaded.spec
    edit = spec.edits[number]
    resolver = _Resolver(loaded, generator, number, moment or _computed_moment(loaded, edit.layer, generator))
    if isinstance(edit.solver, ClosedForm) and (problem := nonlinear_problem(generator.layer(edit.layer))):
        raise loaded.error((*resolver.path, "solver"), *problem)
    context_keys, context_weights = _context(resolver)
    units = _units(resolver, context_keys, context_weights)
    pasted = _erased(resolver, units) if isinstance(edit.source, Erase) else _copied(resolver, edit.source)
    if edit.solver.method == "all-weights":
        region, key, value, arguments = _image(resolver, pasted)
    else:
        region, key, value, arguments = _crop(resolver, pasted)
    precision = getattr(torch, spec.precision)
    return Rule(
        edit=edit.name,
        family=generator.layout.family,
        layer=edit.layer,
        parameter=generator.layer(edit.layer).parameter,
        rank=_rank(resolver, len(context_keys), units),
        solver=SolverSettings.of(edit.solver.model_dump()),
        key=key.to(precision),
        value=value.to(precision),
        arguments={name: tensor.to(precision) for name, tensor in arguments.items()},
        context_keys=context_keys.to(precision),
        context_weights=context_weights.to(precision),
        provenance={
            "base": base,
            "parent": parent,
            "edit": edit_digest(loaded, number),
            "region": [region.top, region.left, region.bottom, region.right],
            "compatibility": spec.compatibility,
        },
        directions=edit.directions if _takes(edit, "directions") else None,
        units=units,
    )


def edit_digest(loaded: LoadedSpec, number: int) -> str:
    """The digest of an edit: its normalised text, the settings of the spec that bear on it, the files it names."""
    spec = loaded.spec
    text = {
        "edit": spec.edits[number].model_dump(mode="json", exclude={"query"}),
        "family": spec.model.family,
        "truncation": spec.model.truncation,
        "class_label": spec.model.class_label,
        "latents": spec.latents.model_dump(mode="json"),
        "statistics": spec.statistics.model_dump(mode="json"),
        "precision": spec.precision,
        "compatibility": spec.compatibility,
    }
    files = {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in loaded.files(number).items()}
    return digest({"text": text, "files": files})


def _takes(edit: Edit, field: str) -> bool:
    return METHOD_FIELDS[edit.solver.method][field] == OPTIONAL


def _computed_moment(loaded: LoadedSpec, layer: str, generator: Generator) -> Moment:
    spec = loaded.spec
    stream = LatentStream(spec.statistics.seed, generator.layout.latent_size, spec.latents.sampler)
    kept = conventions(spec.compatibility), default_cache()
    return lambda: second_moment(generator, layer, stream, spec.statistics.samples, *kept).matrix


def _rank(resolver: _Resolver, keys: int, units: tuple[int, ...]) -> int | None:
    """The rank that the change may have: of an ablation the number of units; None where there is no limit."""
    edit, shape = resolver.edit, resolver.generator.layer(resolver.edit.layer)
    if edit.solver.method == "ablate":
        return len(units)
    if not _takes(edit, "rank"):
        return None
    most, what = shape.in_channels, f"units that the key has at {edit.layer}"
    if _takes(edit, "directions") and edit.directions != "units":
        most, what = keys, f"keys that the context has at {edit.layer}"
    if edit.rank > most:
        more = ", or give more or larger context" if "context" in what else ""
        raise resolver.loaded.error(
            (*resolver.path, "rank"),
            f"rank {edit.rank} is more than the {most} {what}",
            f"lower the rank to {most} or less{more}",
        )
    return edit.rank


def _copied(resolver: _Resolver, source: Place) -> _Pasted:
    """The target's value map with the values under the source's mask pasted onto the middle of the target's mask."""
    edit, generator = resolver.edit, resolver.generator
    size = generator.layer(edit.layer).value_size
    values = generator.value(edit.layer, resolver.reached(source, "source"))
    latent = resolver.latent(edit.target, "target")
    reached = generator.prefix(edit.layer, latent)
    value, pasted = _paste(resolver, values, generator.value(edit.layer, reached), source, size)
    return _Pasted(latent, reached, value, pasted)


def _paste(resolver: _Resolver, source: Tensor, target: Tensor, place: Place, size: int) -> tuple[Tensor, Box]:
    """A map [1, c, size, size] with what lies under the source's mask pasted into it, and where that is."""
    source_area = resolver.area(place.mask, size, "source", "mask")
    copied = _bounds(source_area)
    alpha = source_area[copied.rows(), copied.columns()].to(target)
    clip = source[:, :, copied.rows(), copied.columns()]
    pasted = _centred(copied, _bounds(resolver.area(resolver.edit.target.mask, size, "target", "mask")), size)
    value = target.clone()
    under = value[:, :, pasted.rows(), pasted.columns()]
    value[:, :, pasted.rows(), pasted.columns()] = (1 - alpha) * under + alpha * clip
    return value, pasted


def _erased(resolver: _Resolver, units: tuple[int, ...]) -> _Pasted:
    """The target's value map where, inside of its mask, the layer saw a key without `units`."""
    edit, generator = resolver.edit, resolver.generator
    size = generator.layer(edit.layer).value_size
    latent = resolver.latent(edit.target, "target")
    reached = generator.prefix(edit.layer, latent)
    key = reached.key.clone()
    key[:, list(units)] = 0
    erased = generator.function(edit.layer)(key, generator.weight(edit.layer), reached.arguments)
    area = resolver.area(edit.target.mask, size, "target", "mask")
    if conventions(resolver.loaded.spec.compatibility).erase_everywhere:
        return _Pasted(latent, reached, erased, Box(0, 0, size, size))
    value = generator.value(edit.layer, reached)
    return _Pasted(latent, reached, torch.lerp(value, erased, area.to(value)), _bounds(area))


def _crop(resolver: _Resolver, pasted: _Pasted) -> tuple[Box, Tensor, Tensor, dict[str, Tensor]]:
    """The region of the key map that a paste covers, K* (haloed), V*, and the function's arguments there."""
    edit, generator = resolver.edit, resolver.generator
    shape = generator.layer(edit.layer)
    region = pasted.covered.aligned(shape.scale)
    covered = region.scaled(shape.scale)
    key, arguments = generator.crop(edit.layer, pasted.reached, region)
    return region, key, pasted.value[:, :, covered.rows(), covered.columns()], arguments


def _image(resolver: _Resolver, pasted: _Pasted) -> tuple[Box, Tensor, Tensor, dict[str, Tensor]]:
    """The composited image x* of Eqn. 3 in place of a value, and where in it the loss counts.

    What is copied is composited from the pixels of the two images; what is erased has pixels only behind the layer.
    Gives the region in pixels, the latent [1, latent_size], x* [1, 3, size, size] and ``area`` [1, 1, size, size].
    """
    edit, generator = resolver.edit, resolver.generator
    size = generator.layout.image_size
    if isinstance(edit.source, Erase):
        image = generator.rest(edit.layer, pasted.value, pasted.reached.carried)
        covered = pasted.covered.scaled(size // generator.layer(edit.layer).value_size)
    else:
        source, target = (
            generator.images(resolver.latent(place, name))
            for place, name in ((edit.source, "source"), (edit.target, "target"))
        )
        image, covered = _paste(resolver, source, target, edit.source, size)
    area = torch.zeros_like(image[:, :1])
    area[:, :, covered.rows(), covered.columns()] = 1
    return covered, pasted.latent, image, {"area": area}


def _context(resolver: _Resolver) -> tuple[Tensor, Tensor]:
    """The keys under the context's masks, [m, in_channels], and how much each counts, [m].

    Of a method that takes neither directions nor a source that ranks units there are none.
    """
    edit, generator = resolver.edit, resolver.generator
    shape = generator.layer(edit.layer)
    if not _takes(edit, "directions") and not isinstance(edit.source, Erase):
        nothing = generator.weight(edit.layer).new_empty(0)
        return nothing.reshape(0, shape.in_channels), nothing
    named: list[tuple[Place, tuple[str | int, ...]]] = [(edit.target, ("target",))]
    if edit.context is not None:
        named = [(place, ("context", index)) for index, place in enumerate(edit.context)]
    keys, weights = [], []
    for place, path in named:
        key = resolver.reached(place, *path).key[0]
        area = resolver.context_area(place, shape.key_size, *path)
        weight = place.weight if isinstance(place, ContextPlace) else 1.0
        keys.append(key[:, area > 0].T)
        weights.append(weight * area[area > 0].to(key))
    return torch.cat(keys), torch.cat(weights)


def _units(resolver: _Resolver, keys: Tensor, weights: Tensor) -> tuple[int, ...]:
    """The units that an erased value does without, those first that respond most to the context."""
    source, layer = resolver.edit.source, resolver.edit.layer
    if not isinstance(source, Erase):
        return ()
    if problem := unit_problem(source.erase, resolver.generator.layer(layer)):
        raise resolver.loaded.error((*resolver.path, "source", "erase", "units"), *problem)
    ranking = energy_ranking(resolver.moment(), keys.cpu(), weights.cpu())
    return tuple(ranking[: source.erase.units])


def _bounds(area: Tensor) -> Box:
    """The smallest box that holds every position with some area."""
    rows, columns = torch.nonzero(area > 0, as_tuple=True)
    return Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)


def _centred(copied: Box, target: Box, size: int) -> Box:
    """A box of the size of `copied` with the centre of `target`, moved inside a map of `size` positions."""
    height, width = copied.bottom - copied.top, copied.right - copied.left
    top = min(max((target.top + target.bottom) // 2 - height // 2, 0), size - height)
    left = min(max((target.left + target.right) // 2 - width // 2, 0), size - width)
    return Box(top, left, top + height, left + width)
