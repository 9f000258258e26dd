"""Choosing where to edit: images that match a selection, and layers that tell selections from
everything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from editspec.engine.outputs import require_free_picture
from editspec.engine.session import BuildSession
from editspec.modalities.image.pictures import CELL, GAP, png_bytes, to_image
from editspec_compiler import LoadedSpec, Problem, SpecError, load
from editspec_compiler.document import parse
from editspec_compiler.modalities.image.resolve import selected
from editspec_compiler.references import load_document
from editspec_compiler.schema import Edit, Place, Scene, near
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import NumericalError
from editspec_runtime.io.files import write
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.maths.moments import second_moment
from editspec_runtime.maths.retrieval import Match, exceeding, search
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

COLUMNS = 6


def selection_spec(
    *, family: str, weights: str, latent: int, mask: str, layer: str, stream: dict[str, Any]
) -> LoadedSpec:
    """A spec that says no more than one selection. `mask` is a file, a data URL, or shapes as JSON
    or YAML.
    """
    given: Any = mask
    if mask.lstrip().startswith("{"):
        given = parse(mask, "--mask").data
    place = {"latent": latent, "mask": given}
    edit = {"name": "search", "layer": layer, "source": place, "target": place}
    model = {"family": family, "weights": weights}
    text = json.dumps({"version": 1, "model": model, "latents": stream, "edits": [edit]})
    return load_document(parse(text, "command line"), Path("command line"))


def search_images(
    spec: Path | str | LoadedSpec,
    out: Path | None = None,
    *,
    edit: str | None = None,
    images: int = 1000,
    count: int = 12,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """The images of a spec's latent stream that match a selection of an edit best, as plain values.

    The selection is the edit's `query`, else its context, else its target. Its key is C^-1 k of the
    mean key, as in the notebook of the paper's authors. Each match comes with the entry that makes
    it context. With `out`, a contact sheet with the places marked is written there.

    Raises
    ------
    SpecError
        The spec is wrong, or has no such edit.
    FileError
        Something that editspec did not make lies at `out`.
    """
    if out is not None:
        require_free_picture(out)
    session, number = _at_edit(spec, edit, device, progress)
    generator, wanted = session.generator(), session.loaded.spec.edits[number]
    found = similar_places(session, number, generator, images, count)
    if out is not None:
        write(out, png_bytes(_sheet(generator, _gallery(session, generator), found, wanted.layer)))
    return {"edit": wanted.name, "layer": wanted.layer, "images": images, "matches": found}


def similar_places(
    session: BuildSession, number: int, generator: Generator, images: int, count: int
) -> list[dict[str, Any]]:
    """The matches of `search_images`, on `generator`, which is the model as the edits before
    `number` left it.
    """
    wanted = session.loaded.spec.edits[number]
    keys, weights = _joined(session.loaded, number, generator, _asked(wanted))
    direction = mean_direction(session.second_moment(generator, wanted.layer).matrix, keys, weights)
    matches = search(
        generator,
        wanted.layer,
        direction,
        _gallery(session, generator),
        images,
        count,
        session.conventions,
        lambda done, total: session.progress("searching", done, total),
    )
    scale = generator.architecture.image_size / generator.layer(wanted.layer).key_size
    boxes = [
        [round(scale * edge) for edge in _edges(match, generator, wanted.layer)]
        for match in matches
    ]
    return [
        {
            "latent": match.latent,
            "score": match.score,
            "context": {"latent": match.latent, "mask": {"box": box}},
        }
        for match, box in zip(matches, boxes, strict=True)
    ]


def _gallery(session: BuildSession, generator: Generator) -> LatentStream:
    """The stream that the integer latents of a spec index."""
    latents = session.loaded.spec.latents
    return LatentStream(latents.seed, generator.architecture.latent_size, latents.sampler)


def compare_layers(
    spec: Path | str | LoadedSpec,
    *,
    edit: str | None = None,
    images: int = 100,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """How well each layer tells the selections of an edit from everything else, as plain values.

    For each selection (source, target, context) and each layer: the share of all positions of
    `images` images that have as much of the direction as the median key of the selection has. The
    direction is C^-1 k of the mean key of the context; of a context entry, that of the others. The
    smaller the share, the better a rule of that layer can be held apart.
    """
    session, number = _at_edit(spec, edit, device, progress)
    generator, loaded = session.generator(), session.loaded
    wanted = loaded.spec.edits[number]
    rows = []
    names = list(generator.architecture.layers)
    for index, layer in enumerate(names):
        progress("layers", index, len(names))
        shares = _shares(session, _with_layer(loaded, number, layer), number, generator, images)
        rows.append({"layer": layer, **shares})
    progress("layers", len(names), len(names))
    return {"edit": wanted.name, "images": images, "layers": rows}


def entries_text(found: dict[str, Any]) -> str:
    """The matches of a search as entries of a context, ready for a spec."""
    lines = [
        f"# what {found['edit']} sees most of at {found['layer']}, of {found['images']} images"
    ]
    for match in found["matches"]:
        box = match["context"]["mask"]["box"]
        lines.append(
            f"- {{latent: {match['latent']}, mask: {{box: {box}}}}}    # {match['score']:.4g}"
        )
    return "\n".join(lines)


def layers_text(found: dict[str, Any]) -> str:
    """The comparison of layers as a table."""
    columns = list(found["layers"][0])
    table = [columns, *([_cell(row[column]) for column in columns] for row in found["layers"])]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in table]
    return "\n".join("  ".join(row).rstrip() for row in padded)


def _cell(value: Any) -> str:
    return (
        "-" if value is None else f"{100 * value:.3g} %" if isinstance(value, float) else str(value)
    )


def _at_edit(
    spec: Path | str | LoadedSpec, edit: str | None, device: str, progress: ProgressCallback
) -> tuple[BuildSession, int]:
    """A workshop on the model as the edits before `edit` leave it, and the number of that edit
    (default: the first).
    """
    loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
    names = [each.name for each in loaded.spec.edits]
    if edit is not None and edit not in names:
        raise SpecError("--edit", [Problem(f"there is no edit {edit}", hint=near(edit, names))])
    number = 0 if edit is None else names.index(edit)
    session = BuildSession.of(loaded, device, progress)
    for before in range(number):
        session.edit(before)
    return session, number


def _asked(edit: Edit) -> list[tuple[Place, tuple[str | int, ...]]]:
    """The selection that a search is for, with paths below the edit."""
    if edit.query is not None:
        return [(edit.query, ("query",))]
    return list(_context(edit))


def _context(edit: Edit) -> Iterator[tuple[Place, tuple[str | int, ...]]]:
    if edit.context is not None:
        yield from ((place, ("context", index)) for index, place in enumerate(edit.context))
        return
    for index, pair in enumerate(edit.sides):
        yield pair.target, ("target",) if edit.pairs is None else ("pairs", index, "target")


def _selections(edit: Edit) -> Iterator[tuple[str, Place, tuple[str | int, ...]]]:
    """Every selection of an edit by a short name: its sources, targets and context."""
    for index, pair in enumerate(edit.sides):
        path: tuple[str | int, ...] = () if edit.pairs is None else ("pairs", index)
        mark = "" if edit.pairs is None else f" {index}"
        if isinstance(pair.source, Scene) and getattr(pair.source, "mask", None) is not None:
            place = Place.model_validate(pair.source.model_dump())
            yield f"source{mark}", place, (*path, "source")
        yield f"target{mark}", pair.target, (*path, "target")
    for index, each in enumerate(edit.context or ()):
        yield f"context {index}", each, ("context", index)


def _joined(
    loaded: LoadedSpec,
    number: int,
    generator: Generator,
    places: list[tuple[Place, tuple[str | int, ...]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    keys, weights = zip(
        *(selected(loaded, number, generator, place, *path) for place, path in places), strict=True
    )
    return torch.cat(keys).cpu(), torch.cat(weights).cpu()


def _with_layer(loaded: LoadedSpec, number: int, layer: str) -> LoadedSpec:
    """The same spec with another layer of edit `number`."""
    edits = list(loaded.spec.edits)
    edits[number] = edits[number].model_copy(update={"layer": layer})
    return replace(loaded, spec=loaded.spec.model_copy(update={"edits": edits}))


def _shares(
    session: BuildSession, loaded: LoadedSpec, number: int, generator: Generator, images: int
) -> dict[str, float | None]:
    """The share of every selection at the layer that `loaded` edits; None where the layer cannot
    say.
    """
    edit, own = loaded.spec.edits[number], session.conventions
    stream = session.stream(generator)
    moment = second_moment(generator, edit.layer, stream, images, own, session.cache).matrix
    found: dict[str, float | None] = {}
    for name, place, path in _selections(edit):
        others = (
            [entry for entry in _context(edit) if entry[1] != path] if path[0] == "context" else []
        )
        try:
            keys, _ = selected(loaded, number, generator, place, *path)
            context = _joined(loaded, number, generator, others or list(_context(edit)))
            direction = mean_direction(moment, *context)
        except (
            SpecError,
            NumericalError,
        ):  # a mask that vanishes, an intervention behind the layer, a singular C
            found[name] = None
            continue
        median = float((keys.cpu().double() @ direction[0]).median())
        found[name] = exceeding(generator, edit.layer, direction, median, stream, images, own)
    return found


def _edges(match: Match, generator: Generator, layer: str) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a match in positions; a map of one row counts as all rows."""
    place, size = match.place, generator.layer(layer).key_size
    flat = (
        place.top == 0 and place.bottom == 1 and size > 1 and generator.layer(layer).axes == "o i x"
    )
    return place.left, 0 if flat else place.top, place.right, size if flat else place.bottom


def _sheet(
    generator: Generator, stream: LatentStream, matches: list[dict[str, Any]], layer: str
) -> Image.Image:
    """The images of a search with their places framed and their numbers below."""
    size = generator.architecture.image_size * max(1, CELL // generator.architecture.image_size)
    columns, line = min(COLUMNS, len(matches)), 16
    rows = -(-len(matches) // columns)
    sheet = Image.new(
        "RGB", (GAP + columns * (size + GAP), GAP + rows * (size + line + GAP)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    scale = size / generator.architecture.image_size
    for index, match in enumerate(matches):
        left, top = (
            GAP + index % columns * (size + GAP),
            GAP + index // columns * (size + line + GAP),
        )
        with torch.no_grad():
            drawn = generator.images(generator.fitted(stream.items([match["latent"]])))[0]
        sheet.paste(
            to_image(drawn.float().cpu()).resize((size, size), Image.Resampling.NEAREST),
            (left, top),
        )
        corners = [round(scale * edge) for edge in match["context"]["mask"]["box"]]
        frame = (left + corners[0], top + corners[1], left + corners[2] - 1, top + corners[3] - 1)
        draw.rectangle(frame, outline="red", width=2)
        draw.text((left, top + size), f"{match['latent']}: {match['score']:.3g}", fill="black")
    return sheet
