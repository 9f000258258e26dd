"""``editspec bench paper``: every row of the paper's tables, built and measured.

Measures are kept in the folder of the bench, and not taken again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.charts.picture import draw_scatters
from editspec.charts.scatter import Axis, Point, Scatter
from editspec.engine.built import BuiltEdit
from editspec.engine.intervals import Estimates, Ratio, start_bootstrap
from editspec.engine.resources import Resources
from editspec.engine.solving import solve as solve_
from editspec.modalities.image.artefacts import THRESHOLDS
from editspec.modalities.image.pictures import png_bytes
from editspec.worlds.skyline import WORLD, WORLDS
from editspec.worlds.skyline.bench.experiments import (
    COPYING,
    EXPERIMENTS,
    LAPLACE,
    OURS,
    PROPAGATED,
    SUCCESSION,
    TITLES,
    UNMODIFIED,
    Experiment,
)
from editspec.worlds.skyline.bench.experiments import folder as specs_folder
from editspec.worlds.skyline.bench.features import NamedFeatures, load_features, make_image_loss
from editspec.worlds.skyline.bench.pictures import draw_rows
from editspec.worlds.skyline.bench.propagation import Example, feature_maps
from editspec.worlds.skyline.bench.rows import (
    Row,
    build_identity,
    make_edited_row,
    make_propagation_row,
    make_unmodified_row,
)
from editspec.worlds.skyline.bench.state import open_folder, write_state
from editspec.worlds.skyline.bench.tables import (
    BenchResult,
    Retention,
    RowResult,
    SuccessionResult,
    TableResult,
)
from editspec.worlds.skyline.efficacy import (
    edit_measures,
    edit_ratios,
    find_changed_scenes,
    readings,
)
from editspec.worlds.skyline.reader import Reader, load_reader
from editspec.worlds.skyline.world import LATENT_SIZE, Scene, render, scenes
from editspec.worlds.world import World
from editspec_compiler.document import parse
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.references import load_document
from editspec_compiler.rewrite import Put, rewrite
from editspec_runtime.core.compatibility import EDITSPEC
from editspec_runtime.core.executor import IN_PROCESS, Executor, map_cached
from editspec_runtime.core.method import OUTPUTS
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.errors import UsageError
from editspec_runtime.executors.devices import pick_device, reproducible_kernels
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import find_family
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.families.travelling import travelling_executor
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.files import write
from editspec_runtime.io.weights import Weights
from editspec_runtime.maths.environment import environment
from editspec_runtime.methods.registry import method_of
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.streams import REPORTS
from editspec_runtime.patches.patch import apply_stack

UNSEEN = LatentStream(seed=REPORTS, size=LATENT_SIZE)
"""The images that are reported; no spec and no sweep takes a latent from this stream."""

CHUNK = 100
"""Images that are measured and kept together."""

AT_MOST = {"watermarks": 1000, COPYING: 1000, LAPLACE: 1000}
"""The most images of some experiments and rows: the paper's 1,000, and few where it is slow."""

RETENTION = 1000
"""Images on which the retention of an edit is measured, at the most."""

SHOWN = 8
"""Images in a picture."""

MEASURES = 2
"""The version of the measures; it rises when they change, so that kept ones are not used."""

Change = Callable[[Scene], Scene]
"""Scenes -> the scenes after a perfect edit."""


def bench_paper(
    out: Path | str,
    *,
    images: int = 10_000,
    world: str = WORLD.name,
    backbone: Path | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> BenchResult:
    """Measure the paper's tables on Skyline.

    Writes ``bench.json``, ``bench.md`` and a picture per table into `out`. Interrupted, it goes on
    from where it was.

    Parameters
    ----------
    images
        How many images a row is measured on.
    world
        The generator that is edited: ``skyline``, or ``skyline-plain``, which was trained without
        pasted features. The specs are the same, but for recipes that a generator has of its own.
    backbone
        A ``torch.export`` file of a program that takes images [n, 3, 64, 64] to a list of feature
        maps. The perceptual change is measured by them instead of by the reader's.

    Raises
    ------
    UsageError
        The packages of the extra ``bench`` are not installed, or there is no such world.
    FileError
        Something else lies at `out`, or the backbone cannot be read.
    """
    # Asked for before the work, of which only a late part needs it.
    load_extra("bench")
    if world not in WORLDS:
        raise UsageError(f"There is no world {world}.", f"Known here: {', '.join(WORLDS)}.")
    out = Path(out)
    where = pick_device(device)
    features = load_features(backbone, where)
    seconds = open_folder(out, features.digest)
    bench = Bench(
        out,
        images,
        where,
        backbone,
        features,
        progress,
        WORLDS[world],
        seconds,
        Resources().executor,
    )
    base = tensors_digest(bench.weights)
    result = BenchResult(images, base, features.name, features.digest)
    for experiment in EXPERIMENTS.values():
        result = replace(result, tables=(*result.tables, bench.table(experiment)))
        _write_result(out, result)
    result = replace(result, succession=bench.succession())
    _write_result(out, result)
    return result


@dataclass
class Bench:
    """A run of the bench.

    Attributes
    ----------
    out
        The folder of the results.
    images
        How many images a row is measured on, at the most.
    device
        Where the models compute.
    backbone
        The file of the features by which the perceptual change is measured; None for those of the
        reader.
    features
        The features.
    progress
        Called as work proceeds.
    world
        The generator that is edited.
    seconds
        How long each build took, by the identity of its patches.
    executor
        Computes chunks of images, here or in other processes.
    """

    out: Path
    images: int
    device: torch.device
    backbone: Path | None
    features: NamedFeatures
    progress: ProgressCallback
    world: World = WORLD
    seconds: dict[str, float] = field(default_factory=dict)
    executor: Executor = IN_PROCESS

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the arguments for another process, which reads the features itself."""
        return _open_elsewhere, (
            self.out,
            self.images,
            self.device.type,
            self.backbone,
            self.world.name,
        )

    @cached_property
    def reader(self) -> Reader:
        """The reader of attributes that ships."""
        return load_reader().to(self.device)

    @cached_property
    def checkpoint(self) -> Weights:
        """The weights of the unedited model."""
        return read_weights(self.world.weights)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Tensors of the unedited model, by name."""
        return dict(self.checkpoint.tensors)

    @cached_property
    def travelling(self) -> Executor:
        """The executor of functions of this world's models."""
        fields = {"family": self.unedited.architecture.family, "weights": self.world.builtin}
        return travelling_executor(
            self.executor,
            find_family(fields["family"]).load_fields()(**fields),
            Origin(self.world.weights),
            self.checkpoint,
            precision="float32",
            device=self.device,
            compatibility=EDITSPEC,
        )

    @cached_property
    def unedited(self) -> StyleGAN2:
        """The unedited model."""
        return self.model([])

    @cached_property
    def cache(self) -> Cache:
        """A cache of this run alone, so that builds are timed and not found in a cache."""
        return Cache(self.out / "cache")

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The inputs of every measure besides its row and its images."""
        return {
            "measures": MEASURES,
            "base": tensors_digest(self.weights),
            "features": self.features.digest,
            "reader": tensors_digest(self.reader.state_dict()),
            "environment": environment(self.unedited),
        }

    def model(self, built: Sequence[BuiltEdit]) -> StyleGAN2:
        """Make the model after a stack of edits."""
        weights = apply_stack(self.weights, [edit.patch for edit in built])
        return StyleGAN2({name: tensor.to(self.device) for name, tensor in weights.items()})

    def build(self, spec: Path) -> list[BuiltEdit]:
        """Solve the edits of a spec with the cache of the run."""
        name = f"{spec.parent.name}/{spec.stem}"
        built = solve_(
            self._load(spec),
            device=str(self.device),
            progress=lambda what, done, total: self.progress(f"{name}: {what}", done, total),
            cache=self.cache,
            output_loss=make_image_loss(self.features.maps),
        )
        spent = sum(edit.seconds["compile"] + edit.seconds["solve"] for edit in built)
        if any(edit.seconds["solve"] for edit in built):
            self.seconds[build_identity(built)] = round(spent, 4)
            write_state(self.out, self.features.digest, self.seconds)
        return built

    def _load(self, spec: Path) -> LoadedSpec:
        """Load a spec with the weights of this bench's world."""
        put = Put(("model", "weights"), self.world.builtin)
        text = rewrite(spec.read_text(), spec.name, [put])
        return load_document(parse(text, spec.name), spec, self.cache)

    def rows(self, experiment: Experiment) -> Iterator[Row]:
        """Yield the rows of an experiment, each built when its turn comes."""
        for name, spec in experiment.specs(self.world.name).items():
            built = self.build(spec)
            seconds = self.seconds.get(build_identity(built))
            yield make_edited_row(name, self.model(built), built, seconds)
            if OUTPUTS in method_of(built[0].rule.method).needs:
                # Its rule is about images: propagation starts from what it composited.
                example = self.example(built[0].rule.rules[0])
                for way in PROPAGATED:
                    yield make_propagation_row(way, self.unedited, example, built[0])
        yield make_unmodified_row()

    @torch.no_grad()
    def example(self, rule: LayerRule) -> Example:
        """Return the composited image of a rule about images, and where it was edited."""
        features = feature_maps(self.unedited, rule.key.to(self.device))
        area = rule.arguments["area"][0, 0].cpu()
        return Example([maps[0] for maps in features], rule.value[0].cpu(), area)

    def measure(
        self, name: str, row: Row, counterfactual: Change, count: int, others: Sequence[Change] = ()
    ) -> dict[str, Tensor]:
        """Measure a row over `count` images, [n] float64 each.

        Chunks in the cache are not measured again. `name` stands for the scenes that are compared:
        those with `others` done, and `counterfactual` of them.
        """
        chunks = {}
        for start in range(0, count, CHUNK):
            numbers = range(start, min(start + CHUNK, count))
            chunks[self._chunk_key(name, row, numbers)] = numbers
        work = partial(self._measure_chunk, row, others, counterfactual)
        measured = []
        with reproducible_kernels(self.device):
            results = map_cached(
                self.travelling, self.cache, "measures", work, chunks, self.device, threaded=True
            )
            for numbers, found in zip(chunks.values(), results, strict=True):
                measured.append(found)
                self.progress(f"{name}: measuring {row.name}", numbers.stop, count)
        return {kind: torch.cat([found[kind] for found in measured]) for kind in measured[0]}

    def _chunk_key(self, name: str, row: Row, numbers: range) -> str:
        """The key of the measures of a chunk of images in the cache."""
        inputs = {
            **self.inputs,
            "experiment": name,
            "row": [row.name, row.identity],
            "numbers": [UNSEEN.seed, numbers.start, numbers.stop],
            "traces": list(THRESHOLDS),
        }
        return digest(inputs)

    def _measure_chunk(
        self, row: Row, others: Sequence[Change], counterfactual: Change, numbers: range
    ) -> dict[str, Tensor]:
        latents = UNSEEN.items(numbers)
        scene = scenes(latents)
        for change in others:
            scene = change(scene)
        wanted = counterfactual(scene)
        scene, wanted = scene.to(self.device), wanted.to(self.device)
        unedited = render_clamped(self.unedited, latents)
        begun = time.perf_counter()
        edited = row.draw(latents.to(self.device), unedited).to(self.device)
        spent = (time.perf_counter() - begun) / len(numbers)
        maps = self.features.maps
        measures = edit_measures(scene, wanted, unedited, edited, self.reader, maps)
        measures["seconds"] = torch.full((len(numbers),), spent, dtype=torch.float64)
        measures |= readings(scene, edited, self.reader)
        return {kind: values.cpu() for kind, values in measures.items()}

    def table(self, experiment: Experiment) -> TableResult:
        """Measure the rows of one experiment, and draw its picture."""
        with reproducible_kernels(self.device):
            return self._table(experiment)

    def _table(self, experiment: Experiment) -> TableResult:
        order = list(TITLES)
        rows = sorted(self.rows(experiment), key=lambda row: order.index(row.name))
        measures = {}
        for row in rows:
            limits = [AT_MOST.get(name, self.images) for name in (experiment.name, row.name)]
            count = min(self.images, *limits)
            wanted = experiment.counterfactual
            measures[row.name] = self.measure(experiment.name, row, wanted, count)
        ours = next(measures[name]["error"] for name in (OURS, "rank-1") if name in measures)
        results = [_row_result(experiment, row, measures[row.name], ours) for row in rows]
        self._draw(experiment, rows)
        self._draw_chart(experiment, results)
        return TableResult(experiment.name, experiment.place, experiment.title, tuple(results))

    def _draw_chart(self, experiment: Experiment, results: Sequence[RowResult]) -> None:
        """Draw the efficacy of every row against what it changes elsewhere."""
        edits = [row for row in results if row.row != UNMODIFIED]
        points = [
            Point(row.title, row.numbers["outside"], row.numbers["efficacy"]) for row in edits
        ]
        outside = Axis("change elsewhere: mean absolute, on a scale of -1 to 1")
        # The letters that charts are drawn with have no arrow.
        title = experiment.title.replace("→", "to")
        chart = Scatter(title, outside, Axis("efficacy", share=True), points)
        write(self.out / f"{experiment.name}-chart.png", png_bytes(draw_scatters([chart])))

    def _draw(self, experiment: Experiment, rows: Sequence[Row]) -> None:
        """Draw the first images that the perfect edit changes, in every row."""
        latents = UNSEEN.items(range(40 * SHOWN))
        changes = find_changed_scenes(scenes(latents), experiment.counterfactual(scenes(latents)))
        latents = latents[changes][:SHOWN]
        before = render_clamped(self.unedited, latents).cpu()
        images = [("Before", before)]
        for row in rows:
            if row.name != UNMODIFIED:
                drawn = row.draw(latents.to(self.device), before).cpu()
                images.append((TITLES[row.name], drawn))
        images.append(("Perfect edit", render(experiment.counterfactual(scenes(latents)))))
        write(self.out / f"{experiment.name}.png", png_bytes(draw_rows(images)))

    def succession(self) -> SuccessionResult:
        """Measure how much of an edit is left after those that follow it (Figure 1)."""
        with reproducible_kernels(self.device):
            return self._succession()

    def _succession(self) -> SuccessionResult:
        built = self.build(specs_folder() / "succession.yaml")
        names = tuple(edit.rule.name for edit in built)
        entries = []
        shown = UNSEEN.items(range(SHOWN)).to(self.device)
        before = render_clamped(self.unedited, shown).cpu()
        images = [("Before", before)]
        for after, name in enumerate(names):
            stack = built[: after + 1]
            row = make_edited_row(name, self.model(stack), stack, None)
            images.append((name, row.draw(shown, before).cpu()))
            for edit in range(after + 1):
                measures = self._measure_retention(row, edit, after)
                count, ratios = len(measures["error"]), edit_ratios(measures)
                found = Estimates.of(ratios, start_bootstrap())
                entry = Retention(names[edit], name, count, found.numbers, found.intervals)
                entries.append(entry)
        write(self.out / "succession.png", png_bytes(draw_rows(images)))
        return SuccessionResult("Figure 1", names, tuple(entries))

    def _measure_retention(self, row: Row, edit: int, after: int) -> dict[str, Tensor]:
        """Measure one edit against scenes in which all other edits so far are made, too."""
        others = [SUCCESSION[number] for number in range(after + 1) if number != edit]
        name = f"succession: edit {edit + 1} after {after + 1}"
        return self.measure(name, row, SUCCESSION[edit], min(self.images, RETENTION), others)


def _row_result(
    experiment: Experiment, row: Row, measures: dict[str, Tensor], ours: Tensor
) -> RowResult:
    ratios = edit_ratios(measures)
    if row.name not in (OURS, "rank-1"):
        nearer = measures["error"] < ours[: len(measures["error"])]
        ratios["closer_than_ours"] = Ratio.mean(nearer, measures["touched"])
    found = Estimates.of(ratios, start_bootstrap())
    numbers = dict(found.numbers)
    if experiment.name == "watermarks":
        for kind in ("middle", "bottom"):
            numbers[kind] = int(measures[f"{kind}_watermark"].sum())
    if experiment.name == "reflection":
        lights = torch.stack([measures["window_light"], measures["pond_light"]])
        numbers["correlation"] = torch.corrcoef(lights)[0, 1].item()
    seconds = row.seconds
    if row.name in PROPAGATED:
        seconds = measures["seconds"].mean().item()
    return RowResult(
        row.name,
        TITLES[row.name],
        len(measures["error"]),
        numbers,
        found.intervals,
        seconds,
        row.settings,
        experiment.published.get(row.name, {}),
    )


def _open_elsewhere(
    out: Path, images: int, device: str, backbone: Path | None, world: str
) -> Bench:
    """Open the bench in another process, without progress."""
    where = pick_device(device)
    features = load_features(backbone, where)
    return Bench(out, images, where, backbone, features, no_progress, WORLDS[world])


def _write_result(out: Path, result: BenchResult) -> None:
    write(out / "bench.json", (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    write(out / "bench.md", result.to_text().encode())
