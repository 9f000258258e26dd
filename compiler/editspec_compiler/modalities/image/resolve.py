"""The last stage of the compiler: a checked edit and the model as it stands -> the tensors of a
rule.

Copy and paste work as in the paper's interface (section 4): the values under the source's mask are
pasted into the target's value map, centred on the target's mask; the rectangle they cover is the
target K* -> V*. An erased value (section 5.2) is the layer's output at the target where some units
of its key are zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec_compiler.references import (
    LoadedSpec,
    intervention_problem,
    nonlinear_problem,
    observe_problem,
    unit_problem,
)
from editspec_compiler.schema import (
    METHOD_FIELDS,
    OPTIONAL,
    ClosedForm,
    Collateral,
    ContextPlace,
    Copied,
    Edit,
    Efficacy,
    Erase,
    Latent,
    LeastSquares,
    Mask,
    Pair,
    Place,
    Scene,
)
from editspec_runtime.core.compatibility import conventions
from editspec_runtime.core.rule import Rule, SolverSettings
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.moments import second_moment
from editspec_runtime.maths.ranking import energy_ranking
from editspec_runtime.modalities.image.generator import Box, Generator, LayerInput
from editspec_runtime.modalities.image.latents import LatentStream

Moment = Callable[[], Tensor]
"""Gives C of the edited layer, [in_channels, in_channels] float64; asked only where a source needs
it.
"""


@dataclass(frozen=True)
class _Pasted:
    """One K* -> V* before it is cropped.

    Attributes
    ----------
    latent
        Of the target, [1, latent_size].
    reached
        All that reaches the edited layer there.
    value
        The wanted value map of the edited or the observed layer, [1, channels, size, size].
    covered
        The part of that map that the rule is about.
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
    root: tuple[str | int, ...] | None = None

    @property
    def edit(self) -> Edit:
        return self.loaded.spec.edits[self.number]

    @property
    def path(self) -> tuple[str | int, ...]:
        """Where in the spec what is resolved stands: the edit, unless it is the place of a
        check.
        """
        return self.root or ("edits", self.number)

    @property
    def seen(self) -> str:
        """The layer at whose output values are compared."""
        return self.edit.observe or self.edit.layer

    def reached(self, scene: Scene, *path: str | int) -> LayerInput:
        """What reaches the edited layer for a scene, one image alone."""
        generator, latent, change = self.generator, self.latent(scene, *path), scene.intervene
        if change is None:
            return generator.prefix(self.edit.layer, latent)
        if problem := intervention_problem(change, generator.architecture, self.edit.layer):
            key, *words = problem
            raise self.loaded.error((*self.path, *path, "intervene", key), *words)
        reached = generator.prefix(change.layer, latent)
        output = generator.output(change.layer, generator.value(change.layer, reached))
        area = self.area(
            change.mask, generator.layer(change.layer).value_size, *path, "intervene", "mask"
        ).to(output)
        output[:, change.units] = (1 - area) * output[:, change.units] + area * change.value
        return generator.onward(change.layer, output, reached.carried, self.edit.layer)

    def value(self, reached: LayerInput, key: Tensor | None = None) -> Tensor:
        """The value map, or the output of the layer that is observed, of the edited layer's own
        key, or another.
        """
        generator, layer = self.generator, self.edit.layer
        seen = reached.key if key is None else key
        value = generator.function(layer)(seen, generator.weight(layer), reached.arguments)
        if self.edit.observe is None:
            return value
        return generator.observed(layer, value, reached.carried, self.edit.observe)

    def latent(self, scene: Scene, *path: str | int) -> Tensor:
        """The latent of a scene, [1, latent_size] in the precision of the model."""
        return self.vector(scene.latent, *path, "latent")

    def vector(self, given: Latent, *path: str | int) -> Tensor:
        """A latent of the language, [1, latent_size] in the precision of the model."""
        spec, size = self.loaded.spec, self.generator.architecture.latent_size
        if isinstance(given, int):
            latent = LatentStream(spec.latents.seed, size, spec.latents.sampler).items([given])
        else:
            vector = self.loaded.latent_vector(given, (*self.path, *path), size)
            latent = torch.from_numpy(vector)[None]
        return latent.to(self.generator.weight(self.edit.layer))

    def area(self, mask: Mask, resolution: int, *path: str | int) -> Tensor:
        """A mask at `resolution`, [resolution, resolution] float64 in 0..1, with something in
        it.
        """
        area = self._area(mask, resolution, *path)
        self._require_some(area, resolution, *path)
        return area

    def context_area(self, place: Place, resolution: int, *path: str | int) -> Tensor:
        """What a place of the context covers, [resolution, resolution] float64: its mask without
        what it excludes.
        """
        area = self.area(place.mask, resolution, *path, "mask")
        if isinstance(place, ContextPlace) and place.exclude is not None:
            area = area * (1 - self._area(place.exclude, resolution, *path, "exclude"))
            self._require_some(area, resolution, *path, "exclude")
        return area

    def _area(self, mask: Mask, resolution: int, *path: str | int) -> Tensor:
        size = self.generator.architecture.image_size
        return torch.from_numpy(self.loaded.mask_area(mask, (*self.path, *path), size, resolution))

    def _require_some(self, area: Tensor, resolution: int, *path: str | int) -> None:
        if not bool((area > 0).any()):
            what = (
                "of this mask" if path[-1] == "mask" else "of the mask outside of what it excludes"
            )
            raise self.loaded.error(
                (*self.path, *path),
                f"nothing {what} is left at the resolution of {self.edit.layer}, {resolution}x{resolution}",
                "paint a larger region, or edit a layer of higher resolution",
            )


@torch.no_grad()
def resolve(
    loaded: LoadedSpec,
    number: int,
    generator: Generator,
    base: str,
    parent: str,
    moment: Moment | None = None,
) -> Rule:
    """The rule of edit `number` (from 0) on `generator`, which is the model as the edits before
    left it.

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
        A mask vanishes at the layer's resolution, the rank is above the number of context keys,
        more units are to be erased than there are, or the layer is not of a kind that the solver
        takes.
    """
    spec = loaded.spec
    edit = spec.edits[number]
    resolver = _Resolver(
        loaded, generator, number, moment or _computed_moment(loaded, edit.layer, generator)
    )
    if isinstance(edit.solver, ClosedForm) and (
        problem := nonlinear_problem(generator.layer(edit.layer))
    ):
        raise loaded.error((*resolver.path, "solver"), *problem)
    if isinstance(edit.solver, LeastSquares) and not generator.function(edit.layer).is_channelwise:
        raise loaded.error(
            (*resolver.path, "solver"),
            f"{edit.layer} is not known to act on each output channel alone, which least squares takes apart",
            "write method: projected-gradient",
        )
    if edit.observe is not None and (
        problem := observe_problem(edit.observe, generator.architecture, edit.layer)
    ):
        raise loaded.error((*resolver.path, "observe"), *problem)
    context_keys, context_weights = _context(resolver)
    units = _units(resolver, context_keys, context_weights)
    regions, key, value, arguments = _joined(
        resolver, [_side(resolver, *side, units) for side in _sides(edit)]
    )
    precision = getattr(torch, spec.precision)
    return Rule(
        edit=edit.name,
        family=generator.architecture.family,
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
            "region": regions[0] if edit.pairs is None else regions,
            "compatibility": spec.compatibility,
        },
        directions=edit.directions if _takes(edit, "directions") else None,
        units=units,
        observe=edit.observe,
    )


@dataclass(frozen=True)
class ValueAlone:
    """What a rule writes into its layer, by itself.

    Attributes
    ----------
    latent
        Of the image that it was taken from, [1, latent_size].
    reached
        All that reaches the edited layer there.
    value
        The value map of the edited layer with zeros outside of the mask, [1, out_channels,
        value_size, value_size].
    """

    latent: Tensor
    reached: LayerInput
    value: Tensor


@torch.no_grad()
def values_alone(
    loaded: LoadedSpec, number: int, generator: Generator, moment: Moment | None = None
) -> list[ValueAlone]:
    """The value of every pair of edit `number`, in the place that it was taken from. Takes and
    raises as `resolve`.
    """
    layer, found = loaded.spec.edits[number].layer, []
    resolver = _Resolver(
        loaded, generator, number, moment or _computed_moment(loaded, layer, generator)
    )
    size = generator.layer(layer).value_size
    units = _units(resolver, *_context(resolver))
    for pair, path in _sides(resolver.edit):
        erases = isinstance(pair.source, Erase)
        scene, side = (
            (pair.target, "target") if isinstance(pair.source, Erase) else (pair.source, "source")
        )
        reached = resolver.reached(scene, *path, side)
        key = reached.key.clone()
        key[:, list(units) if erases else []] = 0
        value = generator.function(layer)(key, generator.weight(layer), reached.arguments)
        mask, side = (pair.target.mask, "target") if scene.mask is None else (scene.mask, side)
        area = resolver.area(mask, size, *path, side, "mask").to(value)
        found.append(ValueAlone(resolver.latent(scene, *path, side), reached, area * value))
    return found


@dataclass(frozen=True)
class ExpectedOutput:
    """What a rule asks of one image.

    Attributes
    ----------
    scene
        The image, and the place in it.
    before
        The picture as it is, [1, 3, image_size, image_size].
    wanted
        The picture with V* in its place: what the rest of the model makes of the value map into
        which the rule's value was put. Of ``all-weights``, whose rule is about pixels, the
        composited picture.
    area
        How much of each pixel lies in the place, [image_size, image_size] float64.
    """

    scene: Place
    before: Tensor
    wanted: Tensor
    area: Tensor

    def drawn(self, loaded: LoadedSpec, number: int, generator: Generator) -> Tensor:
        """The same image as another generator draws it, [1, 3, image_size, image_size]."""
        return _drawn(_Resolver(loaded, generator, number, _no_moment), self.scene)


def asked(
    loaded: LoadedSpec,
    number: int,
    generator: Generator,
    check: int | None = None,
    moment: Moment | None = None,
) -> Iterator[ExpectedOutput]:
    """What edit `number` asks of its own targets, or of the places that an efficacy check names;
    one after the other.

    Places of a check get the value of the edit's first source. `generator` is the model as the
    edits before left it. Raises `SpecError` as `resolve` does.
    """
    layer = loaded.spec.edits[number].layer
    resolver = _Resolver(
        loaded, generator, number, moment or _computed_moment(loaded, layer, generator)
    )
    sides = _sides(resolver.edit) if check is None else list(_places(resolver, check))
    units = _units(resolver, *_context(resolver)) if resolver.edit.erases else ()
    yield from (_asked(resolver, pair, path, units) for pair, path in sides)


def _places(resolver: _Resolver, number: int) -> Iterator[tuple[Pair, tuple[str | int, ...]]]:
    """The first source of an edit with each place of a check as its target."""
    generator, check = resolver.generator, resolver.loaded.spec.checks[number]
    assert isinstance(check, Efficacy)
    source, path = _sides(resolver.edit)[0]
    for index, places in enumerate(check.images or ()):
        where = replace(resolver, root=("checks", number, "images", index))
        where.area(places.mask, generator.layer(resolver.seen).value_size, "mask")
        for latent in range(len(places.latents)):
            where.vector(places.latents[latent], "latents", latent)
            yield (
                Pair(
                    source=source.source,
                    target=Place(latent=places.latents[latent], mask=places.mask),
                ),
                path,
            )


@torch.no_grad()
def images_of(loaded: LoadedSpec, check: int, generator: Generator) -> list[tuple[Tensor, Tensor]]:
    """The images of a collateral check: each latent, [1, latent_size], and how much of each pixel
    counts.

    What counts is all that the mask leaves out, [image_size, image_size] float64. Raises
    `SpecError` for a latent of another length.
    """
    found, given = [], loaded.spec.checks[check]
    assert isinstance(given, Collateral)
    size = generator.architecture.image_size
    for index, images in enumerate(given.images):
        resolver = _Resolver(loaded, generator, 0, _no_moment, ("checks", check, "images", index))
        counts = torch.ones(size, size, dtype=torch.float64)
        if images.mask is not None:
            counts = 1 - resolver.area(images.mask, size, "mask")
        found += [
            (resolver.vector(latent, "latents", n), counts)
            for n, latent in enumerate(images.latents)
        ]
    return found


@torch.no_grad()
def _asked(
    resolver: _Resolver, pair: Pair, path: tuple[str | int, ...], units: tuple[int, ...]
) -> ExpectedOutput:
    generator, layer, seen = resolver.generator, resolver.edit.layer, resolver.seen
    size = generator.architecture.image_size
    area = resolver.loaded.mask_area(
        pair.target.mask, (*resolver.path, *path, "target", "mask"), size, size
    )
    pasted = _pasted(resolver, pair, path, units)
    reached = pasted.reached
    if resolver.edit.solver.method == "all-weights":
        wanted = _image(resolver, pair, path, pasted)[2]
    elif resolver.edit.observe is None:
        wanted = generator.rest(layer, pasted.value, reached.carried)
    else:
        if seen != layer:
            output = generator.output(layer, generator.value(layer, reached))
            reached = generator.onward(layer, output, reached.carried, seen)
        wanted = generator.finished(seen, pasted.value, reached.carried)
    return ExpectedOutput(
        pair.target, _drawn(resolver, pair.target), wanted, torch.from_numpy(area)
    )


@torch.no_grad()
def _drawn(resolver: _Resolver, scene: Scene) -> Tensor:
    """The picture of a scene, under its intervention where it has one."""
    generator, layer = resolver.generator, resolver.edit.layer
    reached = resolver.reached(scene)
    return generator.rest(layer, generator.value(layer, reached), reached.carried)


def _no_moment() -> Tensor:
    raise AssertionError("a picture needs no second moment")


@torch.no_grad()
def context_of(loaded: LoadedSpec, number: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The keys of an edit's context, [m, in_channels], and how much each counts, [m]; whatever its
    method needs.

    Raises `SpecError` as `resolve` does.
    """
    layer = loaded.spec.edits[number].layer
    return _context_keys(
        _Resolver(loaded, generator, number, _computed_moment(loaded, layer, generator))
    )


def edit_digest(loaded: LoadedSpec, number: int) -> str:
    """The digest of an edit: its normalised text, the settings of the spec that bear on it, the
    files it names.
    """
    spec = loaded.spec
    text = {
        "edit": spec.edits[number].model_dump(mode="json", exclude={"query"}),
        "family": spec.model.family,
        "truncation": spec.model.truncation,
        "class_label": spec.model.class_label,
        "network": spec.model.model_dump(mode="json", include={"module", "layers", "latent_shape"}),
        "latents": spec.latents.model_dump(mode="json"),
        "statistics": spec.statistics.model_dump(mode="json"),
        "precision": spec.precision,
        "compatibility": spec.compatibility,
    }
    files = {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in loaded.files(number).items()
    }
    return digest({"text": text, "files": files})


def _takes(edit: Edit, field: str) -> bool:
    return METHOD_FIELDS[edit.solver.method][field] == OPTIONAL


def _computed_moment(loaded: LoadedSpec, layer: str, generator: Generator) -> Moment:
    spec = loaded.spec
    stream = LatentStream(
        spec.statistics.seed, generator.architecture.latent_size, spec.latents.sampler
    )
    kept = conventions(spec.compatibility), default_cache()
    return lambda: second_moment(generator, layer, stream, spec.statistics.samples, *kept).matrix


def _rank(resolver: _Resolver, keys: int, units: tuple[int, ...]) -> int | None:
    """The rank that the change may have: of an ablation the number of units; None where there is no
    limit.
    """
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


_Side = tuple[Box, Tensor, Tensor, dict[str, Tensor]]
"""Of one K* -> V*: its region, its key, its value, and the arguments of the layer's function."""


def _sides(edit: Edit) -> list[tuple[Pair, tuple[str | int, ...]]]:
    """Every pair of source and target, and its path below the edit."""
    return [
        (pair, () if edit.pairs is None else ("pairs", index))
        for index, pair in enumerate(edit.sides)
    ]


def _side(
    resolver: _Resolver, pair: Pair, path: tuple[str | int, ...], units: tuple[int, ...]
) -> _Side:
    pasted = _pasted(resolver, pair, path, units)
    if resolver.edit.solver.method == "all-weights":
        return _image(resolver, pair, path, pasted)
    return _crop(resolver, pasted)


def _pasted(
    resolver: _Resolver, pair: Pair, path: tuple[str | int, ...], units: tuple[int, ...]
) -> _Pasted:
    if isinstance(pair.source, Erase):
        return _erased(resolver, pair, path, units)
    return _copied(resolver, pair.source, pair.target, path)


def _joined(
    resolver: _Resolver, sides: list[_Side]
) -> tuple[list[list[int]], Tensor, Tensor, dict[str, Tensor]]:
    """The sides of a rule as one batch. Raises `SpecError` where they differ in shape."""
    regions, keys, values, arguments = zip(*sides, strict=True)
    for index, key in enumerate(keys):
        if key.shape != keys[0].shape:
            first, other = (
                f"{r.bottom - r.top}x{r.right - r.left}" for r in (regions[0], regions[index])
            )
            raise resolver.loaded.error(
                (*resolver.path, "pairs", index),
                f"this pair covers {other} positions of {resolver.edit.layer}, and pairs[0] covers {first}",
                "give all pairs masks of one size, an edit to each pair, or observe, which compares whole maps",
            )
    batched = {name: torch.cat([side[name] for side in arguments]) for name in arguments[0]}
    boxes = [[region.top, region.left, region.bottom, region.right] for region in regions]
    return boxes, torch.cat(keys), torch.cat(values), batched


def _copied(
    resolver: _Resolver, source: Copied, target: Place, path: tuple[str | int, ...]
) -> _Pasted:
    """The target's value map with the source's values pasted into it."""
    size = resolver.generator.layer(resolver.seen).value_size
    values = resolver.value(resolver.reached(source, *path, "source"))
    latent, reached = (
        resolver.latent(target, *path, "target"),
        resolver.reached(target, *path, "target"),
    )
    value, pasted = _paste(resolver, values, resolver.value(reached), source, target, size, path)
    return _Pasted(latent, reached, value, pasted)


def _paste(
    resolver: _Resolver,
    source: Tensor,
    target: Tensor,
    copied_from: Copied,
    pasted_to: Place,
    size: int,
    path: tuple[str | int, ...],
) -> tuple[Tensor, Box]:
    """A map [1, c, size, size] with values of another pasted into it, and where that is.

    What lies under the source's mask goes to the middle of the target's mask; without a mask of the
    source, what lies under the target's mask comes from the same place.
    """
    target_area = _on(target, resolver.area(pasted_to.mask, size, *path, "target", "mask"))
    if copied_from.mask is None:
        return torch.lerp(target, source, target_area.to(target)), _bounds(target_area)
    source_area = _on(target, resolver.area(copied_from.mask, size, *path, "source", "mask"))
    copied = _bounds(source_area)
    alpha = source_area[copied.rows(), copied.columns()].to(target)
    clip = source[:, :, copied.rows(), copied.columns()]
    pasted = _centred(copied, _bounds(target_area), size)
    value = target.clone()
    under = value[:, :, pasted.rows(), pasted.columns()]
    value[:, :, pasted.rows(), pasted.columns()] = (1 - alpha) * under + alpha * clip
    return value, pasted


def _erased(
    resolver: _Resolver, pair: Pair, path: tuple[str | int, ...], units: tuple[int, ...]
) -> _Pasted:
    """The target's value map where, inside of its mask, the layer saw a key without `units`."""
    size = resolver.generator.layer(resolver.seen).value_size
    latent, reached = (
        resolver.latent(pair.target, *path, "target"),
        resolver.reached(pair.target, *path, "target"),
    )
    key = reached.key.clone()
    key[:, list(units)] = 0
    erased = resolver.value(reached, key)
    area = _on(erased, resolver.area(pair.target.mask, size, *path, "target", "mask"))
    if conventions(resolver.loaded.spec.compatibility).erase_everywhere:
        return _Pasted(latent, reached, erased, Box(0, 0, size, size))
    value = resolver.value(reached)
    return _Pasted(latent, reached, torch.lerp(value, erased, area.to(value)), _bounds(area))


def _crop(resolver: _Resolver, pasted: _Pasted) -> _Side:
    """The region of the key map that a paste covers, K* (haloed), V*, and the function's arguments
    there.

    Where a later layer is observed, what is pasted there has its causes all over the map: the
    region is all of it.
    """
    edit, generator = resolver.edit, resolver.generator
    shape = generator.layer(edit.layer)
    if edit.observe is not None:
        whole = Box(0, 0, shape.key_size, shape.key_size)
        key, arguments = generator.crop(edit.layer, pasted.reached, whole)
        return whole, key, pasted.value, arguments | generator.pack(pasted.reached.carried)
    region = pasted.covered.aligned(shape.scale)
    covered = region.scaled(shape.scale)
    key, arguments = generator.crop(edit.layer, pasted.reached, region)
    return region, key, pasted.value[:, :, covered.rows(), covered.columns()], arguments


def _image(resolver: _Resolver, pair: Pair, path: tuple[str | int, ...], pasted: _Pasted) -> _Side:
    """The composited image x* of Eqn. 3 in place of a value, and where in it the loss counts.

    What is copied is composited from the pixels of the two images; what is erased has pixels only
    behind the layer. Gives the region in pixels, the latent [1, latent_size], x* [1, 3, size, size]
    and ``area`` [1, 1, size, size].
    """
    edit, generator = resolver.edit, resolver.generator
    size = generator.architecture.image_size
    if isinstance(pair.source, Erase):
        image = generator.rest(edit.layer, pasted.value, pasted.reached.carried)
        covered = pasted.covered.scaled(size // generator.layer(edit.layer).value_size)
    else:
        source, target = (
            generator.images(resolver.latent(scene, *path, name))
            for scene, name in ((pair.source, "source"), (pair.target, "target"))
        )
        image, covered = _paste(resolver, source, target, pair.source, pair.target, size, path)
    area = torch.zeros_like(image[:, :1])
    area[:, :, covered.rows(), covered.columns()] = 1
    return covered, pasted.latent, image, {"area": area}


def _context(resolver: _Resolver) -> tuple[Tensor, Tensor]:
    """The keys under the context's masks, [m, in_channels], and how much each counts, [m].

    Of a method that takes neither directions nor a source that ranks units there are none.
    """
    edit, generator = resolver.edit, resolver.generator
    shape = generator.layer(edit.layer)
    if not _takes(edit, "directions") and not edit.erases:
        nothing = generator.weight(edit.layer).new_empty(0)
        return nothing.reshape(0, shape.in_channels), nothing
    return _context_keys(resolver)


def _context_keys(resolver: _Resolver) -> tuple[Tensor, Tensor]:
    edit = resolver.edit
    named: list[tuple[Place, tuple[str | int, ...]]] = [
        (p.target, (*path, "target")) for p, path in _sides(edit)
    ]
    if edit.context is not None:
        named = [(place, ("context", index)) for index, place in enumerate(edit.context)]
    keys, weights = zip(*(_selected(resolver, place, *path) for place, path in named), strict=True)
    return torch.cat(keys), torch.cat(weights)


def _selected(resolver: _Resolver, place: Place, *path: str | int) -> tuple[Tensor, Tensor]:
    """The keys under the mask of a place, [m, in_channels], and how much each counts, [m]."""
    key = resolver.reached(place, *path).key[0]
    size = resolver.generator.layer(resolver.edit.layer).key_size
    area = _on(key, resolver.context_area(place, size, *path))
    weight = place.weight if isinstance(place, ContextPlace) else 1.0
    return key[:, area > 0].T, weight * area[area > 0].to(key)


@torch.no_grad()
def selected(
    loaded: LoadedSpec, number: int, generator: Generator, place: Place, *path: str | int
) -> tuple[Tensor, Tensor]:
    """The keys that a place of edit `number` selects, [m, in_channels], and how much each counts,
    [m].

    `path` is where the place stands below the edit. Raises `SpecError` where its mask vanishes at
    the edited layer.
    """
    moment = _computed_moment(loaded, loaded.spec.edits[number].layer, generator)
    return _selected(_Resolver(loaded, generator, number, moment), place, *path)


def _units(resolver: _Resolver, keys: Tensor, weights: Tensor) -> tuple[int, ...]:
    """The units that an erased value does without, those first that respond most to the context."""
    count = 0
    for pair, path in _sides(resolver.edit):
        if isinstance(pair.source, Erase):
            where = (*resolver.path, *path, "source", "erase", "units")
            if problem := unit_problem(
                pair.source.erase, resolver.generator.layer(resolver.edit.layer)
            ):
                raise resolver.loaded.error(where, *problem)
            if count not in (0, pair.source.erase.units):
                message = (
                    f"this pair erases {pair.source.erase.units} units, and another one {count}"
                )
                raise resolver.loaded.error(
                    where, message, "give every pair of an edit the same number"
                )
            count = pair.source.erase.units
    return (
        tuple(energy_ranking(resolver.moment(), keys.cpu(), weights.cpu())[:count])
        if resolver.edit.erases
        else ()
    )


def _on(map_: Tensor, area: Tensor) -> Tensor:
    """An area [size, size] as it lies on a map [..., h, size]: of a map that is one row, the mean
    of each column.
    """
    return area if map_.shape[-2] == len(area) else area.mean(0, keepdim=True)


def _bounds(area: Tensor) -> Box:
    """The smallest box that holds every position with some area."""
    rows, columns = torch.nonzero(area > 0, as_tuple=True)
    return Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)


def _centred(copied: Box, target: Box, size: int) -> Box:
    """A box of the size of `copied` with the centre of `target`, moved inside a map of `size`
    positions.
    """
    height, width = copied.bottom - copied.top, copied.right - copied.left
    top = min(max((target.top + target.bottom) // 2 - height // 2, 0), size - height)
    left = min(max((target.left + target.right) // 2 - width // 2, 0), size - width)
    return Box(top, left, top + height, left + width)
