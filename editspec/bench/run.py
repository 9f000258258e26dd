"""Builds and measures every row of the paper's tables; what is measured once is kept and not measured again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec import workflow
from editspec.bench.experiments import (
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
from editspec.bench.experiments import folder as specs_folder
from editspec.bench.propagation import Example, feature_maps, propagated
from editspec.bench.tables import markdown, picture
from editspec.pictures import png_bytes
from editspec.workflow import BuiltEdit, Report, quiet
from editspec_runtime.baselines import ImageLoss, absolute_difference
from editspec_runtime.cache import Cache
from editspec_runtime.checkpoint import read_checkpoint
from editspec_runtime.digest import digest, tensors_digest
from editspec_runtime.errors import FileError
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.files import canonical_json, require_file, write
from editspec_runtime.latents import LatentStream
from editspec_runtime.models import pick_device
from editspec_runtime.patch import apply_stack
from editspec_runtime.rule import Rule
from editspec_runtime.skyline import READER, WEIGHTS
from editspec_runtime.skyline.efficacy import (
    Features,
    drawn,
    edit_measures,
    edit_numbers,
    readings,
    touched,
)
from editspec_runtime.skyline.reader import Reader, load_reader
from editspec_runtime.skyline.world import LATENT_SIZE, Scene, render, scenes
from editspec_runtime.statistics import environment

FORMAT = "editspec.bench"
STATE = "state.json"
"""What a run keeps beside its results: the features that it used, and how long each build took."""

UNSEEN = LatentStream(seed=3, size=LATENT_SIZE)
"""The images that are reported; no spec takes a latent from this stream, and no sweep looks at it."""

CHUNK = 100
"""Images that are measured and kept together."""

AT_MOST = {"watermarks": 1000, COPYING: 1000, LAPLACE: 1000}
"""Experiments and rows that are measured on fewer images: the paper counts 1,000, and propagation is slow."""

SHOWN = 8
"""Images in a picture."""

FEATURE_WEIGHT = 0.01
"""Of the features' squared error in the loss of ``all-weights``: the authors' weight."""

MEASURES = 1
"""Counted up when what is measured changes, so that nothing measured before is taken for it."""

Draw = Callable[[Tensor, Tensor], Tensor]
"""Latents [n, d] and the unedited pictures of them [n, 3, 64, 64] -> the pictures of a row."""


@dataclass(frozen=True)
class Row:
    """One way to make an edit.

    Attributes
    ----------
    name
        As in `TITLES`.
    draw
        Its pictures.
    identity
        What they depend on, as plain values.
    seconds
        What the edit took, statistics left out; of propagation, what one image takes, which is known only later.
    settings
        Layer, rank and settings of the solver, for the report.
    """

    name: str
    draw: Draw
    identity: Any
    seconds: float | None
    settings: dict[str, Any] = field(default_factory=dict)


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
    features, features_digest
        By which the perceptual change is measured, and what they are.
    report
        Is told what is being done.
    """

    out: Path
    images: int
    device: torch.device
    features: Features
    features_digest: str
    report: Report
    kept: dict[str, float] = field(default_factory=dict)

    @cached_property
    def reader(self) -> Reader:
        """The reader of attributes that ships."""
        return load_reader()

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Those of the unedited model."""
        return read_checkpoint(WEIGHTS).generator

    @cached_property
    def unedited(self) -> StyleGAN2:
        """The unedited model."""
        return self.model([])

    @cached_property
    def cache(self) -> Cache:
        """Of this run alone, so that what an edit takes is measured and not found."""
        return Cache(self.out / "cache")

    def model(self, built: Sequence[BuiltEdit]) -> StyleGAN2:
        """The model after a stack of edits."""
        weights = apply_stack(self.weights, [edit.patch for edit in built])
        return StyleGAN2({name: tensor.to(self.device) for name, tensor in weights.items()})

    def build(self, spec: Path) -> list[BuiltEdit]:
        """The edits of a spec, solved with the cache of the run."""
        name = f"{spec.parent.name}/{spec.stem}"
        built = workflow.solve(
            spec,
            device=str(self.device),
            report=lambda what, done, total: self.report(f"{name}: {what}", done, total),
            cache=self.cache,
            image_loss=_image_loss(self.features),
        )
        spent = sum(edit.seconds["compile"] + edit.seconds["solve"] for edit in built)
        if any(edit.seconds["solve"] for edit in built):
            self.kept[_identity(built)] = round(spent, 4)
            _write_state(self.out, self.features_digest, self.kept)
        return built

    def rows(self, experiment: Experiment) -> Iterator[Row]:
        """The rows of an experiment, each built when its turn comes."""
        for name, spec in experiment.specs().items():
            built = self.build(spec)
            model = self.model(built)
            rule = built[0].rule
            rank = {} if rule.rank is None else {"rank": rule.rank}
            settings = {"layer": rule.layer, **rank, **rule.solver.as_json()}
            yield Row(name, _drawing(model), _identity(built), self.kept.get(_identity(built)), settings)
            if name == "all-weights":
                example = self.example(built[0].rule)
                for way in PROPAGATED:
                    identity = [way, built[0].rule.provenance["edit"], built[0].rule.provenance["base"]]
                    yield Row(way, _propagating(self.unedited, example, laplace=way == LAPLACE), identity, None)
        yield Row(UNMODIFIED, lambda latents, unedited: unedited, UNMODIFIED, 0.0)

    @torch.no_grad()
    def example(self, rule: Rule) -> Example:
        """What edit propagation starts from: the composited image of a rule about images, and where it was edited."""
        features = feature_maps(self.unedited, rule.key.to(self.device))
        return Example([maps[0] for maps in features], rule.value[0].cpu(), rule.arguments["area"][0, 0].cpu())

    def measured(self, experiment: Experiment, row: Row) -> dict[str, Tensor]:
        """The measures of a row, [n] float64 each; chunks that are in the cache are not measured again."""
        count = min(self.images, AT_MOST.get(experiment.name, self.images), AT_MOST.get(row.name, self.images))
        chunks = []
        for start in range(0, count, CHUNK):
            numbers = range(start, min(start + CHUNK, count))
            chunks.append(self._chunk(experiment.name, experiment.counterfactual, row, numbers))
            self.report(f"{experiment.name}: measuring {row.name}", numbers.stop, count)
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _chunk(
        self, name: str, counterfactual: Callable[[Scene], Scene], row: Row, numbers: range
    ) -> dict[str, Tensor]:
        key = digest(
            {
                "measures": MEASURES,
                "experiment": name,
                "row": [row.name, row.identity],
                "base": tensors_digest(self.weights),
                "numbers": [UNSEEN.seed, numbers.start, numbers.stop],
                "features": self.features_digest,
                "reader": tensors_digest(self.reader.state_dict()),
                "environment": environment(self.unedited),
            }
        )

        def measure() -> dict[str, Tensor]:
            latents = UNSEEN.items(numbers)
            scene = scenes(latents)
            unedited = drawn(self.unedited, latents.to(self.device)).cpu()
            begun = time.perf_counter()
            edited = row.draw(latents.to(self.device), unedited).cpu()
            spent = (time.perf_counter() - begun) / len(numbers)
            measures = edit_measures(scene, counterfactual(scene), unedited, edited, self.reader, self.features)
            measures["touched"] = touched(scene, counterfactual(scene)).double()
            measures["seconds"] = torch.full((len(numbers),), spent, dtype=torch.float64)
            return measures | readings(scene, edited, self.reader)

        tensors, _ = self.cache.tensors("measures", key, measure)
        return tensors

    def table(self, experiment: Experiment) -> dict[str, Any]:
        """Everything that is reported of one experiment."""
        order = list(TITLES)
        rows = sorted(self.rows(experiment), key=lambda row: order.index(row.name))
        measures = {row.name: self.measured(experiment, row) for row in rows}
        ours = next(measures[name]["error"] for name in (OURS, "rank-1") if name in measures)
        entries = [self._entry(experiment, row, measures[row.name], ours) for row in rows]
        pictures = [(TITLES[row.name], self._shown(experiment, row)) for row in rows if row.name != UNMODIFIED]
        latents, before = self._examples(experiment)
        perfect = self._perfect(experiment, latents)
        shown = picture([("Before", before), *pictures, ("Perfect edit", perfect)])
        write(self.out / f"{experiment.name}.png", png_bytes(shown))
        return {"experiment": experiment.name, "place": experiment.place, "title": experiment.title, "rows": entries}

    def _entry(self, experiment: Experiment, row: Row, measures: dict[str, Tensor], ours: Tensor) -> dict[str, Any]:
        numbers: dict[str, Any] = edit_numbers(measures)
        changed = measures["touched"] == 1
        if row.name not in (OURS, "rank-1"):
            nearer = measures["error"] < ours[: len(measures["error"])]
            numbers["closer_than_ours"] = nearer[changed].double().mean().item()
        if experiment.name == "watermarks":
            numbers |= {kind: int(measures[f"{kind}_watermark"].sum()) for kind in ("middle", "bottom")}
        if experiment.name == "reflection":
            lights = torch.stack([measures["window_light"], measures["pond_light"]])
            numbers["correlation"] = torch.corrcoef(lights)[0, 1].item()
        seconds = row.seconds if row.name not in (COPYING, LAPLACE) else measures["seconds"].mean().item()
        published = dict(experiment.published.get(row.name, {}))
        return {
            "row": row.name,
            "title": TITLES[row.name],
            "n": len(measures["error"]),
            **numbers,
            "seconds": seconds,
            "settings": row.settings,
            "published": published,
        }

    def _examples(self, experiment: Experiment) -> tuple[Tensor, Tensor]:
        """Latents of the first images that the perfect edit changes, and the unedited model's pictures of them."""
        latents = UNSEEN.items(range(40 * SHOWN))
        changes = touched(scenes(latents), experiment.counterfactual(scenes(latents)))
        latents = latents[changes][:SHOWN]
        return latents, drawn(self.unedited, latents.to(self.device)).cpu()

    def _shown(self, experiment: Experiment, row: Row) -> Tensor:
        latents, before = self._examples(experiment)
        return row.draw(latents.to(self.device), before).cpu()

    def _perfect(self, experiment: Experiment, latents: Tensor) -> Tensor:
        return render(experiment.counterfactual(scenes(latents)))

    def succession(self) -> dict[str, Any]:
        """Figure 1: three edits in succession, and how much of each is left after those that follow."""
        spec = specs_folder() / "succession.yaml"
        built = self.build(spec)
        names = [edit.rule.edit for edit in built]
        entries = []
        for after in range(len(built)):
            model = self.model(built[: after + 1])
            for edit in range(after + 1):
                measures = self._retention(model, edit, after)
                kept = {"edit": names[edit], "after": names[after], "n": len(measures["error"])}
                entries.append({**kept, **edit_numbers(measures)})
        latents = UNSEEN.items(range(SHOWN))
        stages = [("Before", drawn(self.unedited, latents.to(self.device)).cpu())]
        for after, name in enumerate(names):
            stages.append((name, drawn(self.model(built[: after + 1]), latents.to(self.device)).cpu()))
        write(self.out / "succession.png", png_bytes(picture(stages)))
        return {"place": "Figure 1", "edits": names, "retention": entries}

    def _retention(self, model: StyleGAN2, edit: int, after: int) -> dict[str, Tensor]:
        """The measures of one edit, judged against the same scenes with all the other edits made so far, too."""
        others = [SUCCESSION[number] for number in range(after + 1) if number != edit]

        def without(scene: Scene) -> Scene:
            for change in others:
                scene = change(scene)
            return scene

        count = min(self.images, 1000)
        chunks = []
        for start in range(0, count, CHUNK):
            numbers = range(start, min(start + CHUNK, count))
            latents = UNSEEN.items(numbers)
            original = without(scenes(latents))
            counterfactual = SUCCESSION[edit](original)
            unedited = drawn(self.unedited, latents.to(self.device)).cpu()
            edited = drawn(model, latents.to(self.device)).cpu()
            chunks.append(edit_measures(original, counterfactual, unedited, edited, self.reader, self.features))
            self.report(f"succession: edit {edit + 1} after {after + 1}", numbers.stop, count)
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def paper(
    out: Path | str,
    *,
    images: int = 10_000,
    backbone: Path | None = None,
    device: str = "auto",
    report: Report = quiet,
) -> dict[str, Any]:
    """Measure the paper's tables on Skyline; writes bench.json, bench.md and a picture per table into `out`.

    Interrupted, it goes on from where it was.

    Parameters
    ----------
    out
        A new or empty folder, or that of an earlier bench.
    images
        How many images a row is measured on.
    backbone
        A ``torch.export`` file of a program that takes pictures [n, 3, 64, 64] to a list of feature maps, by which
        the perceptual change is measured instead of the reader's.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.

    Raises
    ------
    FileError
        Something else lies at `out`, or the backbone cannot be read.
    """
    out = Path(out)
    features, name, features_digest = _features(backbone)
    kept = _prepared(out, features_digest)
    bench = Bench(out, images, pick_device(device), features, features_digest, report, kept)
    result: dict[str, Any] = {
        "format": FORMAT,
        "version": 1,
        "images": images,
        "base": tensors_digest(bench.weights),
        "features": {"name": name, "digest": features_digest},
        "ours": OURS,
        "tables": [],
    }
    for experiment in EXPERIMENTS.values():
        result["tables"].append(bench.table(experiment))
        _write(out, result)
    result["succession"] = bench.succession()
    _write(out, result)
    return result


def _image_loss(features: Features) -> ImageLoss:
    """L1 of pixels and, as the authors weigh it, the squared error of features, where pixels count (Eqn. 3)."""

    def loss(images: Tensor, wanted: Tensor, area: Tensor) -> Tensor:
        total = absolute_difference(images, wanted, area)
        for one, other in zip(features(images * area), features(wanted * area), strict=True):
            total = total + FEATURE_WEIGHT * F.mse_loss(one, other)
        return total

    return loss


def _drawing(model: StyleGAN2) -> Draw:
    return lambda latents, unedited: drawn(model, latents)


def _propagating(model: StyleGAN2, example: Example, *, laplace: bool) -> Draw:
    @torch.no_grad()
    def draw(latents: Tensor, unedited: Tensor) -> Tensor:
        maps = feature_maps(model, latents)
        return torch.stack(
            [
                propagated(example, [each[item] for each in maps], image, laplace=laplace)
                for item, image in enumerate(unedited)
            ]
        )

    return draw


def _identity(built: Sequence[BuiltEdit]) -> str:
    return str(built[-1].patch.metadata["content"])


def _features(backbone: Path | None) -> tuple[Features, str, str]:
    """The feature maps of the reader, or of an exported program; their name and digest."""
    if backbone is None:
        reader = load_reader()
        return reader.features, READER.name, tensors_digest(reader.state_dict())
    require_file(backbone)
    try:
        program = torch.export.load(backbone).module()
    except Exception as error:  # torch's reader meets damage with errors of many kinds
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileError(
            f"{backbone} is no program that torch.export saved: {why}.",
            "Save one by torch.export.save; it takes pictures [n, 3, 64, 64] to a list of feature maps.",
        ) from error
    with backbone.open("rb") as file:
        return program, backbone.name, hashlib.file_digest(file, "sha256").hexdigest()


def _prepared(out: Path, features_digest: str) -> dict[str, float]:
    """Take the folder for a bench; the seconds that an earlier run of it measured. Raises `FileError`."""
    state = out / STATE
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not state.is_file())):
        raise FileError(f"{out} is in the way: no bench of editspec made it.", "Give a new or empty folder.")
    kept: dict[str, float] = {}
    if state.is_file():
        try:
            found = json.loads(state.read_text())
            before, kept = found["features"], found["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(f"{state} is damaged.", "Remove the folder, or give another.") from error
        if before != features_digest:
            raise FileError(
                f"The bench in {out} used features {before}, and these are {features_digest}.",
                "Give a folder of its own for each backbone.",
            )
    _write_state(out, features_digest, kept)
    return kept


def _write_state(out: Path, features_digest: str, seconds: dict[str, float]) -> None:
    write(out / STATE, (canonical_json({"features": features_digest, "seconds": seconds}) + "\n").encode())


def _write(out: Path, result: dict[str, Any]) -> None:
    write(out / "bench.json", (json.dumps(result, indent=2) + "\n").encode())
    write(out / "bench.md", markdown(result).encode())
