"""The same edit at several layers and ranks: efficacy against collateral, and the best of them as a
spec.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from editspec.engine.outputs import require_own_folder
from editspec.engine.session import BuildSession, BuiltEdit
from editspec.engine.session import solve as solve_
from editspec.modalities.image.pictures import png_bytes
from editspec.worlds.skyline import WEIGHTS
from editspec.worlds.skyline.bench.experiments import EXPERIMENTS
from editspec.worlds.skyline.efficacy import drawn, edit_measures, edit_numbers
from editspec.worlds.skyline.reader import load_reader
from editspec.worlds.skyline.world import scenes
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_compiler.document import parse
from editspec_compiler.rewrite import node_at, replaced
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.executors.processes import processes, spread
from editspec_runtime.io.cache import Cache, default_cache
from editspec_runtime.io.files import write
from editspec_runtime.methods.solve import loss_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

FORMAT = "editspec.sweep"
SEED = 4
"""The latent stream on which a sweep judges: neither that of the specs (1), nor of C (2), nor of
reports (3).
"""

PREDICTIONS = ("independent", "correlated")
"""The kinds of predicted collateral that a patch states; of an edit of several layers, their
sum.
"""

NAMING = ("weights", "mask", "exclude", "union", "file")
"""The keys under which a spec names files."""

Judge = Callable[[Generator, BuiltEdit], dict[str, float]]
"""The edited model and its last edit -> ``efficacy``, ``outside`` and more."""


def sweep(
    spec: Path | str,
    out: Path | str,
    *,
    layers: Sequence[str] = (),
    ranks: Sequence[int] = (),
    experiment: str | None = None,
    images: int = 200,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Build the last edit of a spec at every layer and rank, and judge each on images that no spec
    has seen.

    With an `experiment` of the bench (whose model is Skyline) the perfect edit is known: efficacy
    is the share of the pixels that it changes which end closer to it than to the original, outside
    the change of all others, error the sum of that and of the distance to the perfect edit over the
    pixels that it changes, and the least error wins. Without, efficacy is the share of the target's
    loss that is gone, outside the change of all pixels, and what lies farthest above the line from
    nothing to the largest of both wins.

    Each point states its predicted collateral, too, and the result how well that ranks the change
    outside.

    Writes sweep.json, sweep.md, sweep.png and winner.yaml into `out`.

    Parameters
    ----------
    spec
        Whose last edit is varied; those before it are built as they are.
    out
        A new or empty folder, or that of an earlier sweep.
    layers, ranks
        What is tried; those of the spec where nothing is given.
    experiment
        Its name, such as ``dome-to-spire``.
    images
        How many are judged.

    Raises
    ------
    SpecError
        The spec is wrong.
    UsageError
        There is no such experiment or layer, or no layer and rank can be built.
    FileError
        `out` is in the way.
    """
    loaded, out = load(spec), Path(out)
    edit = loaded.spec.edits[-1]
    layers, ranks = list(layers) or [edit.layer], list(ranks) or [edit.rank]
    points_of = _Points(loaded, experiment, images, device, default_cache(), progress)
    known = points_of.session.generator().architecture.layers
    unknown = [layer for layer in layers if layer not in known]
    if unknown:
        raise UsageError(
            f"There is no {' and no '.join(unknown)} in these weights.",
            f"Known here: {', '.join(known)}.",
        )
    _ = points_of.judge  # where there is nothing to judge by, say so before anything is written
    require_own_folder(out, "sweep.json", "sweep")
    write(out / "sweep.json", b"{}\n")
    points_of.prepare(layers)
    places = [(layer, rank) for layer in layers for rank in ranks]
    points = []
    for point in spread(points_of, places, points_of.session.device):
        points.append(point)
        progress("points", len(points), len(places))
    found = [point for point in points if "efficacy" in point]
    if not found:
        raise UsageError(
            "No layer and rank of the sweep can be built.\n"
            + "\n".join(p["problem"] for p in points)
        )
    winner = _winner(found)
    result = {
        "format": FORMAT,
        "version": 1,
        "edit": edit.name,
        "experiment": experiment,
        "images": images,
        "points": points,
        "winner": {name: winner[name] for name in ("layer", "rank")},
        "agreement": {kind: _agreement(found, kind) for kind in PREDICTIONS},
    }
    write(out / "sweep.json", (json.dumps(result, indent=2) + "\n").encode())
    write(out / "sweep.md", markdown(result).encode())
    write(out / "sweep.png", png_bytes(picture(found, winner)))
    write(out / "winner.yaml", rewritten(loaded, out, winner["layer"], winner["rank"]).encode())
    return result


def markdown(result: dict[str, Any]) -> str:
    """The points as a table."""
    names = list(
        dict.fromkeys(name for point in result["points"] for name in point if name != "problem")
    )
    lines = ["| " + " | ".join(names) + " | |", "|" + "---|" * (len(names) + 1)]
    for point in result["points"]:
        cells = [_cell(point.get(name)) for name in names]
        best = all(point[name] == result["winner"][name] for name in ("layer", "rank"))
        lines.append(
            "| " + " | ".join(cells) + f" | {point.get('problem', 'winner' if best else '')} |"
        )
    told = [
        f"{kind} {value:.2f}" for kind, value in result["agreement"].items() if value is not None
    ]
    if told:
        lines += [
            "",
            f"Rank correlation of predicted collateral with the change outside: {', '.join(told)}.",
        ]
    return "\n".join(lines) + "\n"


def picture(points: list[dict[str, Any]], winner: dict[str, Any], size: int = 640) -> Image.Image:
    """Efficacy (upwards) against outside change (to the right), a dot a point, the winner in
    red.
    """
    margin = 60
    page = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    most = max(point["outside"] for point in points) or 1.0
    low = min(0.0, *(point["efficacy"] for point in points))
    draw.line((margin, margin, margin, size - margin, size - margin, size - margin), fill="black")
    draw.text(
        (size // 2, size - margin // 3),
        f"outside change, 0 to {most:.4f}",
        fill="black",
        font=font,
        anchor="mm",
    )
    draw.text(
        (margin, margin // 2), f"efficacy, {low:.0%} to 100%", fill="black", font=font, anchor="lm"
    )
    for point in points:
        x = margin + point["outside"] / most * (size - 2 * margin)
        y = size - margin - (point["efficacy"] - low) / (1 - low) * (size - 2 * margin)
        colour = "red" if point is winner else "black"
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        anchor = "rs" if x > size - 2.5 * margin else "ls"
        label = f"{point['layer']} rank {point['rank']}"
        draw.text(
            (x + (-6 if anchor == "rs" else 6), y - 4), label, fill=colour, font=font, anchor=anchor
        )
    return page


def rewritten(loaded: LoadedSpec, folder: Path, layer: str, rank: int) -> str:
    """The text of a spec with another layer and rank in its last edit, for `folder`; all else stays
    as it was written.

    What names a file is changed where the way to it from `folder` is another.
    """
    text, last = loaded.document.text, len(loaded.spec.edits) - 1
    values: dict[tuple[str | int, ...], str] = {
        ("edits", last, "layer"): layer,
        ("edits", last, "rank"): str(rank),
    }
    for path in _files(loaded):
        name = _at(loaded.document.data, path)
        values[path] = os.path.relpath(
            loaded.path.parent / Path(name).expanduser(), folder.resolve()
        )
    root = yaml.compose(text)
    changes = []
    for path, value in values.items():
        node = node_at(root, path)
        if node is not None and node.value != value:
            changes.append(
                (
                    node.start_mark.index,
                    node.end_mark.index,
                    json.dumps(value) if path[-1] != "rank" else value,
                )
            )
        elif node is None:  # the rank, which may be left out
            beside = node_at(root, ("edits", last, "layer"))
            assert beside is not None
            flow = node_at(root, ("edits", last)).flow_style  # type: ignore[union-attr]
            indent = " " * loaded.document.keys[("edits", last, "layer")][1]
            glue = ", " if flow else "\n" + indent[:-1]
            changes.append(
                (
                    beside.end_mark.index,
                    beside.end_mark.index,
                    f"{glue}{_key('rank', loaded)}: {value}",
                )
            )
    text = replaced(text, changes)
    parse(text, loaded.document.file)
    return text


def _key(name: str, loaded: LoadedSpec) -> str:
    return f'"{name}"' if loaded.document.file.endswith(".json") else name


def _files(loaded: LoadedSpec) -> list[tuple[str | int, ...]]:
    """The paths in a spec of everything that names a file, relative to it."""
    names = {name for number in range(len(loaded.spec.edits)) for name in loaded.files(number)}
    names.update(loaded.check_files())
    if not loaded.spec.model.weights.startswith("builtin:"):
        names.add(loaded.spec.model.weights)

    def names_a_file(path: tuple[str | int, ...]) -> bool:
        keys = [part for part in path if isinstance(part, str)]
        found = _at(loaded.document.data, path)
        return bool(keys) and keys[-1] in NAMING and isinstance(found, str) and found in names

    return [path for path in loaded.document.positions if names_a_file(path)]


def _at(data: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        data = data[part]
    return data


@dataclasses.dataclass(frozen=True)
class _Points:
    """Builds and judges the last edit of a spec at a layer and a rank, in any process of a run."""

    loaded: LoadedSpec
    experiment: str | None
    images: int
    device: str
    cache: Cache
    progress: ProgressCallback

    @cached_property
    def session(self) -> BuildSession:
        """The spec with its unedited model."""
        return BuildSession.of(self.loaded, self.device, self.progress, cache=self.cache)

    @cached_property
    def judge(self) -> Judge:
        """What a point is judged by."""
        return _judge(self.experiment, self.session.generator(), self.loaded, self.images)

    def prepare(self, layers: Sequence[str]) -> None:
        """Where points are spread, divide C, which the points of a layer share; what is wrong
        there, they say.
        """
        if processes() == 1:
            return
        with suppress(SpecError, EditError):
            before = dataclasses.replace(self.session, stack=[])
            for number in range(len(self.loaded.spec.edits) - 1):
                before.solved(number)
            for layer in dict.fromkeys(layers):
                before.second_moment(before.generator(), layer)

    def __call__(self, place: tuple[str, int]) -> dict[str, Any]:
        """One layer and rank: built, judged; or why it cannot be."""
        layer, rank = place
        *before, edit = self.loaded.spec.edits
        variant = edit.model_copy(update={"layer": layer, "rank": rank})
        spec = self.loaded.spec.model_copy(update={"edits": [*before, variant]})
        point: dict[str, Any] = {"layer": layer, "rank": rank}
        name = f"{layer}-rank{rank}"
        try:
            built = solve_(
                dataclasses.replace(self.loaded, spec=spec),
                device=self.device,
                cache=self.cache,
                progress=lambda what, done, total: self.progress(f"{name}: {what}", done, total),
            )
        except (SpecError, EditError) as error:
            problem = error.problems[0].message if isinstance(error, SpecError) else error.message
            return {**point, "problem": problem}
        edited = dataclasses.replace(self.session, stack=[each.patch for each in built])
        numbers = self.judge(edited.generator(), built[-1])
        collateral = built[-1].patch.metadata["collateral"].values()
        predicted = {kind: sum(layer[kind] for layer in collateral) for kind in PREDICTIONS}
        return {
            **point,
            "loss": built[-1].loss,
            **numbers,
            **predicted,
            "seconds": built[-1].seconds["solve"],
        }

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: what to do, and nobody to tell."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "progress": no_progress
        }


def _agreement(points: list[dict[str, Any]], kind: str) -> float | None:
    """The rank correlation (Spearman) of predicted collateral with the change outside that was
    measured.
    """
    if len(points) < 3:
        return None
    ranks = [
        torch.tensor([point[name] for point in points]).argsort().argsort().double()
        for name in (kind, "outside")
    ]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def _judge(experiment: str | None, base: Generator, loaded: LoadedSpec, images: int) -> Judge:
    stream = LatentStream(SEED, base.architecture.latent_size, loaded.spec.latents.sampler)
    latents = stream.items(range(images)).to(base.weight(loaded.spec.edits[-1].layer))
    unedited = drawn(base, latents)
    if experiment is None:
        return lambda model, edit: _generic(model, edit, base, latents, unedited)
    if experiment not in EXPERIMENTS:
        raise UsageError(
            f"There is no experiment {experiment}.", f"Known here: {', '.join(EXPERIMENTS)}."
        )
    if loaded.weights != WEIGHTS:
        raise UsageError(
            f"The perfect edit of {experiment} is known for builtin:skyline only, and the spec edits {loaded.weights}.",
            "Leave --experiment out.",
        )
    counterfactual, reader = EXPERIMENTS[experiment].counterfactual, load_reader()
    scene = scenes(latents.float().cpu())
    before = unedited.float().cpu()

    def judge(model: Generator, edit: BuiltEdit) -> dict[str, float]:
        edited = drawn(model, latents).float().cpu()
        measures = edit_measures(
            scene, counterfactual(scene), before, edited, reader, reader.features
        )
        numbers = edit_numbers(measures)
        return {**numbers, "error": numbers["distance"] + numbers["outside"]}

    return judge


@torch.no_grad()
def _generic(
    model: Generator, edit: BuiltEdit, base: Generator, latents: Tensor, unedited: Tensor
) -> dict[str, float]:
    """Efficacy on the rule itself, and how much the pictures of the model change."""
    unchanged = loss_of(edit.rule, base, base.weights)
    change = drawn(model, latents).sub_(unedited).abs_().mean().item()
    return {"efficacy": 1 - edit.loss / unchanged if unchanged else 1.0, "outside": change}


def _winner(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The point of least error, where that is known; else the one farthest above the line to the
    largest of both.
    """
    if "error" in points[0]:
        return min(points, key=lambda point: point["error"])
    best = max(point["efficacy"] for point in points) or 1.0
    most = max(point["outside"] for point in points) or 1.0
    return max(points, key=lambda point: point["efficacy"] / best - point["outside"] / most)


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
