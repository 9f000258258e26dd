"""Search for places that match a selection, and for layers that hold places apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from editspec.engine.named_model import PLACE
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of, statistics_stream
from editspec.modalities.image.pictures import CELL, GAP, to_image
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.document import parse
from editspec_compiler.modalities.image.context import select_keys
from editspec_compiler.modalities.image.schema import (
    ImageEdit,
    Place,
    Scene,
    image_spec,
    list_copies,
)
from editspec_compiler.problems import SpecPath
from editspec_compiler.references import load_document
from editspec_runtime.core.method import KeyStatistics
from editspec_runtime.core.method import Problem as Task
from editspec_runtime.errors import EditError, NumericalError
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.maths.metric import energy
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.maths.retrieval import Match, search, share_above
from editspec_runtime.maths.sampled_keys import key_sample
from editspec_runtime.maths.tapped_moments import tapped_moment
from editspec_runtime.methods.layer_problem import with_change
from editspec_runtime.methods.losses import rule_loss
from editspec_runtime.methods.registry import method_of, suggest_method
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.retrieval import find_place

COLUMNS = 6
LINE = 16
"""Pixels of a line of text below an image."""

_Selection = tuple[Place, SpecPath]
"""A place, and where it stands below its edit."""


def add_selection(loaded: LoadedSpec, *, latent: int, mask: str, layer: str) -> LoadedSpec:
    """Make a spec that holds one selection on the model of `loaded`, in place of its edits.

    `mask` is a file, a data URL, or shapes as JSON or YAML.

    Raises
    ------
    SpecError
        The mask or the layer is wrong, which is shown of the options.
    """
    given: Any = mask
    if mask.lstrip().startswith("{"):
        given = parse(mask, "--mask").data
    place = {"latent": latent, "mask": given}
    edit = {"name": "search", "layer": layer, "source": place, "target": place}
    # Checks may name the edits that are gone.
    text = json.dumps({**loaded.document.data, "edits": [edit], "checks": []})
    try:
        return load_document(parse(text, PLACE), loaded.path)
    except SpecError as error:
        raise _blame_options(error) from error


def _blame_options(error: SpecError) -> SpecError:
    """Turn problems of the spec of a selection into those of the options that it was made of."""
    problems = set()
    for problem in error.problems:
        inside = problem.path[2:]
        if inside[:1] in (("source",), ("target",)):  # one place twice
            inside = inside[1:]
        options = (f"--{inside[0]}", *inside[1:]) if inside else ()
        problems.add(replace(problem, path=options, line=0, column=0))
    return SpecError(error.file, problems)


@dataclass(frozen=True)
class SimilarPlace:
    """A place of an image that matches a selection.

    Attributes
    ----------
    latent
        The number of the image in the stream of the spec.
    score
        The most that a position of the image has of the selection's direction.
    box
        Left, top, right and bottom of the place, in pixels.
    """

    latent: int
    score: float
    box: tuple[int, int, int, int]

    @property
    def context(self) -> dict[str, Any]:
        """The entry of a spec's ``context`` that selects this place."""
        return {"latent": self.latent, "mask": {"box": list(self.box)}}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: ``latent``, ``score`` and ``context``."""
        return {"latent": self.latent, "score": self.score, "context": self.context}

    def to_text(self) -> str:
        """The entry as it stands in a spec, with its score as a comment."""
        entry = f"{{latent: {self.latent}, mask: {{box: {list(self.box)}}}}}"
        return f"- {entry}    # {self.score:.4g}"


def find_similar_places(
    session: BuildSession, number: int, generator: Generator, images: int, count: int
) -> list[SimilarPlace]:
    """Find the `count` places that match the selection of an edit best.

    Parameters
    ----------
    number
        The number of the edit in the spec, from 0.
    generator
        The model as the edits before `number` left it.
    images
        How many images of the spec's latent stream are searched.

    Returns
    -------
    list[SimilarPlace]
        The best place first.
    """
    wanted = session.loaded.spec.edits[number]
    keys, weights = _select_keys(session.loaded, number, generator, _query_of(wanted))
    moment = session.second_moment(generator, wanted.layer).matrix
    direction = mean_direction(moment, keys, weights)
    matches = search(
        generator,
        wanted.layer,
        direction,
        LatentSample(spec_stream(session, generator), images),
        count,
        session.compatibility,
        lambda done, total: session.progress("searching", done, total),
    )
    return [_similar_place(match, generator, wanted.layer) for match in matches]


def _similar_place(match: Match, generator: Generator, layer: str) -> SimilarPlace:
    """Return the place of a match in pixels: every pixel that it covers in part."""
    shape = generator.layer(layer)
    place = find_place(match.responses, shape)
    pixels, positions = generator.architecture.image_size, shape.key_size
    # Outwards, since a position may be smaller than a pixel, and a box without area is no mask.
    left, top = (edge * pixels // positions for edge in (place.left, place.top))
    right, bottom = (-(-edge * pixels // positions) for edge in (place.right, place.bottom))
    return SimilarPlace(match.item, match.score, (left, top, right, bottom))


def spec_stream(session: BuildSession, generator: Generator) -> LatentStream:
    """Return the stream that the integer latents of a spec index."""
    latents = image_spec(session.loaded.spec).latents
    return LatentStream(latents.seed, generator.architecture.latent_size, latents.sampler)


@dataclass(frozen=True)
class LayerMeasures:
    """How well one layer suits an edit.

    Attributes
    ----------
    shares
        For each selection (source, target, context): the share of all positions that have as much
        of the direction as the median key of the selection has. The direction is C^-1 k of the mean
        key of the context; of a context entry, that of the others. The smaller the share, the
        better a rule of that layer can be held apart. None where a layer cannot say.
    left
        The loss of the rule at this layer after least squares, as a share of the loss before; None
        where least squares does not solve it.
    collateral
        The predicted collateral of that change, tr(dW C dW^T) / tr(W C W^T); None likewise.
    """

    shares: dict[str, float | None]
    left: float | None = None
    collateral: float | None = None


def measure_layers(session: BuildSession, number: int, images: int) -> dict[str, LayerMeasures]:
    """Measure on `images` images how well each layer suits an edit."""
    measures = {}
    with session.kernels():
        generator = generator_of(session)
        names = list(generator.architecture.layers)
        for done, layer in enumerate(names):
            session.progress("layers", done, len(names))
            loaded = _with_layer(session.loaded, number, layer)
            measures[layer] = _measure_layer(session, loaded, number, generator, images)
    session.progress("layers", len(names), len(names))
    return measures


def _query_of(edit: ImageEdit) -> list[_Selection]:
    """Return the selection that a search is for, with paths below the edit."""
    if edit.query is not None:
        return [(edit.query, ("query",))]
    return list(_context_of(edit))


def _context_of(edit: ImageEdit) -> Iterator[_Selection]:
    """Yield the context of an edit; without one, its targets serve as context."""
    if edit.context is not None:
        for index, place in enumerate(edit.context):
            yield place, ("context", index)
        return
    for index, pair in enumerate(edit.sides):
        path: SpecPath = ("target",) if edit.pairs is None else ("pairs", index, "target")
        yield pair.target, path


def _selections(edit: ImageEdit) -> Iterator[tuple[str, Place, SpecPath]]:
    """Yield every selection of an edit by a short name: sources, targets, context."""
    for index, pair in enumerate(edit.sides):
        path: SpecPath = () if edit.pairs is None else ("pairs", index)
        mark = "" if edit.pairs is None else f" {index}"
        for copy, below in list_copies(pair.source):
            if isinstance(copy, Scene) and copy.mask is not None:
                place = Place(latent=copy.latent, intervene=copy.intervene, mask=copy.mask)
                order = f" copy {below[1]}" if len(below) > 1 else ""
                yield f"source{mark}{order}", place, (*path, *below)
        yield f"target{mark}", pair.target, (*path, "target")
    for index, each in enumerate(edit.context or ()):
        yield f"context {index}", each, ("context", index)


def _select_keys(
    loaded: LoadedSpec,
    number: int,
    generator: Generator,
    places: list[_Selection],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Collect keys of places, [m, in_channels], and their weights, [m], on the CPU."""
    found = [select_keys(loaded, number, generator, place, *path) for place, path in places]
    keys, weights = zip(*found, strict=True)
    return torch.cat(keys).cpu(), torch.cat(weights).cpu()


def _with_layer(loaded: LoadedSpec, number: int, layer: str) -> LoadedSpec:
    """Return the spec with another layer for edit `number`."""
    edit = loaded.spec.edits[number].model_copy(update={"layer": layer})
    return _with_edit(loaded, number, edit)


def _with_edit(loaded: LoadedSpec, number: int, edit: ImageEdit) -> LoadedSpec:
    """Return the spec with another edit `number`."""
    edits = list(loaded.spec.edits)
    edits[number] = edit
    return replace(loaded, spec=loaded.spec.model_copy(update={"edits": edits}))


def _measure_layer(
    session: BuildSession, loaded: LoadedSpec, number: int, generator: Generator, images: int
) -> LayerMeasures:
    """Measure every selection, and the edit, at the layer that `loaded` edits."""
    edit, own = loaded.spec.edits[number], session.compatibility
    sample = LatentSample(statistics_stream(session.loaded, generator), images)
    moment = second_moment(generator, edit.layer, sample, own, session.cache).matrix
    whole = list(_context_of(edit))
    shares: dict[str, float | None] = {}
    for name, place, path in _selections(edit):
        others = [entry for entry in whole if entry[1] != path]
        # An entry of the context is judged by the others, or else it would find itself.
        context = others if path[0] == "context" and others else whole
        try:
            keys, _ = select_keys(loaded, number, generator, place, *path)
            direction = mean_direction(moment, *_select_keys(loaded, number, generator, context))
        except (SpecError, NumericalError):
            # A mask that vanishes, an intervention behind the layer, or a singular C.
            shares[name] = None
            continue
        median = float((keys.cpu().double() @ direction[0]).median())
        shares[name] = share_above(generator, edit.layer, direction, median, sample, own)
    try:
        left, collateral = _try_edit(session, loaded, number, generator, moment, sample)
    except (SpecError, EditError):
        # The rule does not fit the layer, the layer not the method, or the numbers give no answer.
        return LayerMeasures(shares)
    return LayerMeasures(shares, left, collateral)


def _try_edit(
    session: BuildSession,
    loaded: LoadedSpec,
    number: int,
    generator: Generator,
    moment: Tensor,
    sample: LatentSample,
) -> tuple[float, float]:
    """Solve an edit by least squares at the layer that `loaded` edits.

    Returns the loss that is left, as a share, and the predicted collateral.
    """
    edit = loaded.spec.edits[number]
    settings = suggest_method(linear=False).make_settings()
    # The steps of `refine` would take minutes at each layer, and may aim at one before it.
    tried = edit.model_copy(update={"solver": settings, "observe": None, "refine": None})
    loaded = _with_edit(loaded, number, tried)
    compiled = replace(session, loaded=loaded).compile(number)
    (resolve,) = compiled.rules
    rule = resolve(generator)
    task = Task(
        generator,
        [lambda _: rule],
        settings,
        compiled.rank,
        compiled.directions,
        lambda model, layer: KeyStatistics(
            lambda: moment,
            lambda: key_sample(model, layer, sample, session.compatibility, session.cache),
            lambda: tapped_moment(model, layer, sample, session.compatibility, session.cache),
        ),
        session.compatibility,
    )
    change = method_of(settings).solve(task)[rule.parameter]
    weight, function = generator.weight(edit.layer), generator.function(edit.layer)
    changed = with_change(generator, rule, change).weight(edit.layer)
    before, after = (rule_loss(function, rule, each) for each in (weight, changed))
    left = float(after / before) if before else 0.0
    return left, energy(changed - weight, moment) / energy(weight, moment)


def draw_places(
    generator: Generator, stream: LatentStream, places: Sequence[SimilarPlace]
) -> Image.Image:
    """Draw the images of places, each place framed, its number and score below."""
    image_size = generator.architecture.image_size
    zoom = max(1, CELL // image_size)
    size, columns = zoom * image_size, min(COLUMNS, len(places))
    rows = math.ceil(len(places) / columns)
    extent = (GAP + columns * (size + GAP), GAP + rows * (size + LINE + GAP))
    sheet = Image.new("RGB", extent, "white")
    draw = ImageDraw.Draw(sheet)
    with torch.no_grad():
        images = render_images(generator, stream.items([place.latent for place in places]))
    for index, (place, image) in enumerate(zip(places, images.float().cpu(), strict=True)):
        row, column = divmod(index, columns)
        left, top = GAP + column * (size + GAP), GAP + row * (size + LINE + GAP)
        sheet.paste(to_image(image).resize((size, size), Image.Resampling.NEAREST), (left, top))
        x0, y0, x1, y1 = (zoom * edge for edge in place.box)
        frame = (left + x0, top + y0, left + x1 - 1, top + y1 - 1)
        draw.rectangle(frame, outline="red", width=2)
        draw.text((left, top + size), f"{place.latent}: {place.score:.3g}", fill="black")
    return sheet
