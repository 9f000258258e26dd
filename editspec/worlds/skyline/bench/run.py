"""Builds and measures every row of the paper's tables; what is measured once is kept and not
measured again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.engine.outputs import require_own_folder
from editspec.engine.session import BuiltEdit
from editspec.engine.session import solve as solve_
from editspec.modalities.image.pictures import png_bytes
from editspec.worlds.skyline import READER, WEIGHTS
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
from editspec.worlds.skyline.bench.propagation import Example, feature_maps, propagated
from editspec.worlds.skyline.bench.tables import markdown, picture
from editspec.worlds.skyline.efficacy import (
    Features,
    drawn,
    edit_measures,
    edit_numbers,
    readings,
    touched,
)
from editspec.worlds.skyline.reader import Reader, load_reader
from editspec.worlds.skyline.world import LATENT_SIZE, Scene, render, scenes
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.core.rule import Rule
from editspec_runtime.errors import FileError
from editspec_runtime.executors.processes import spread
from editspec_runtime.families.checkpoints import read_checkpoint
from editspec_runtime.families.open import pick_device
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.io.files import canonical_json, require_file, write
from editspec_runtime.maths.moments import environment
from editspec_runtime.methods.baselines import ImageLoss, absolute_difference
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.patches.patch import apply_stack

FORMAT = "editspec.bench"
STATE = "state.json"
"""What a run keeps beside its results: the features that it used, and how long each build took."""

UNSEEN = LatentStream(seed=3, size=LATENT_SIZE)
"""The images that are reported; no spec takes a latent from this stream, and no sweep looks at
it.
"""

CHUNK = 100
"""Images that are measured and kept together."""

AT_MOST = {"watermarks": 1000, COPYING: 1000, LAPLACE: 1000}
"""Experiments and rows that are measured on fewer images: the paper counts 1,000, and propagation
is slow.
"""

RETENTION = 1000
"""Images on which the retention of an edit is measured, at the most."""

SHOWN = 8
"""Images in a picture."""

FEATURE_WEIGHT = 0.01
"""Of the features' squared error in the loss of ``all-weights``: the authors' weight."""

MEASURES = 1
"""Counted up when what is measured changes, so that nothing measured before is taken for it."""

Change = Callable[[Scene], Scene]
"""Scenes -> the same with something else in them."""

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
        What the edit took, statistics left out; of propagation, what one image takes, which is
        known only later.
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
    backbone
        The file of the features by which the perceptual change is measured; None for those of the
        reader.
    features, features_digest
        The features, and what they are.
    report
        Is told what is being done.
    """

    out: Path
    images: int
    device: torch.device
    backbone: Path | None
    features: Features
    features_digest: str
    progress: ProgressCallback
    kept: dict[str, float] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which reads the features itself."""
        return _another, (self.out, self.images, self.device.type, self.backbone)

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
        built = solve_(
            spec,
            device=str(self.device),
            progress=lambda what, done, total: self.progress(f"{name}: {what}", done, total),
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
            yield Row(
                name,
                partial(_drawn, model),
                _identity(built),
                self.kept.get(_identity(built)),
                settings,
            )
            if name == "all-weights":
                example = self.example(built[0].rule)
                for way in PROPAGATED:
                    identity = [
                        way,
                        built[0].rule.provenance["edit"],
                        built[0].rule.provenance["base"],
                    ]
                    yield Row(
                        way,
                        partial(_propagated, self.unedited, example, way == LAPLACE),
                        identity,
                        None,
                    )
        yield Row(UNMODIFIED, _unmodified, UNMODIFIED, 0.0)

    @torch.no_grad()
    def example(self, rule: Rule) -> Example:
        """What edit propagation starts from: the composited image of a rule about images, and where
        it was edited.
        """
        features = feature_maps(self.unedited, rule.key.to(self.device))
        return Example(
            [maps[0] for maps in features], rule.value[0].cpu(), rule.arguments["area"][0, 0].cpu()
        )

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What every measure depends on beside its row and its images."""
        return {
            "measures": MEASURES,
            "base": tensors_digest(self.weights),
            "features": self.features_digest,
            "reader": tensors_digest(self.reader.state_dict()),
            "environment": environment(self.unedited),
        }

    def measured(
        self, name: str, row: Row, counterfactual: Change, count: int, others: Sequence[Change] = ()
    ) -> dict[str, Tensor]:
        """The measures of a row over `count` images, [n] float64 each; chunks in the cache are not
        measured again.

        `name` stands for the scenes that are compared: those with `others` done, and
        `counterfactual` of them.
        """
        spans = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        work = partial(self._chunk, name, row, others, counterfactual)
        chunks = []
        for numbers, chunk in zip(spans, spread(work, spans, self.device), strict=True):
            chunks.append(chunk)
            self.progress(f"{name}: measuring {row.name}", numbers.stop, count)
        return {measure: torch.cat([chunk[measure] for chunk in chunks]) for measure in chunks[0]}

    def _chunk(
        self, name: str, row: Row, others: Sequence[Change], counterfactual: Change, numbers: range
    ) -> dict[str, Tensor]:
        key = digest(
            {
                **self.inputs,
                "experiment": name,
                "row": [row.name, row.identity],
                "numbers": [UNSEEN.seed, numbers.start, numbers.stop],
            }
        )

        def measure() -> dict[str, Tensor]:
            latents = UNSEEN.items(numbers)
            scene = scenes(latents)
            for change in others:
                scene = change(scene)
            wanted = counterfactual(scene)
            unedited = drawn(self.unedited, latents.to(self.device)).cpu()
            begun = time.perf_counter()
            edited = row.draw(latents.to(self.device), unedited).cpu()
            spent = (time.perf_counter() - begun) / len(numbers)
            measures = edit_measures(scene, wanted, unedited, edited, self.reader, self.features)
            measures["touched"] = touched(scene, wanted).double()
            measures["seconds"] = torch.full((len(numbers),), spent, dtype=torch.float64)
            return measures | readings(scene, edited, self.reader)

        tensors, _ = self.cache.tensors("measures", key, measure)
        return tensors

    def table(self, experiment: Experiment) -> dict[str, Any]:
        """Everything that is reported of one experiment."""
        order = list(TITLES)
        rows = sorted(self.rows(experiment), key=lambda row: order.index(row.name))
        measures = {}
        for row in rows:
            count = min(
                self.images,
                *(AT_MOST.get(name, self.images) for name in (experiment.name, row.name)),
            )
            measures[row.name] = self.measured(
                experiment.name, row, experiment.counterfactual, count
            )
        ours = next(measures[name]["error"] for name in (OURS, "rank-1") if name in measures)
        entries = [self._entry(experiment, row, measures[row.name], ours) for row in rows]
        latents, before = self._examples(experiment)
        drawings = {
            row.name: row.draw(latents.to(self.device), before).cpu()
            for row in rows
            if row.name != UNMODIFIED
        }
        pictures = [(TITLES[name], images) for name, images in drawings.items()]
        perfect = render(experiment.counterfactual(scenes(latents)))
        shown = picture([("Before", before), *pictures, ("Perfect edit", perfect)])
        write(self.out / f"{experiment.name}.png", png_bytes(shown))
        return {
            "experiment": experiment.name,
            "place": experiment.place,
            "title": experiment.title,
            "rows": entries,
        }

    def _entry(
        self, experiment: Experiment, row: Row, measures: dict[str, Tensor], ours: Tensor
    ) -> dict[str, Any]:
        numbers: dict[str, Any] = edit_numbers(measures)
        changed = measures["touched"] == 1
        if row.name not in (OURS, "rank-1"):
            nearer = measures["error"] < ours[: len(measures["error"])]
            numbers["closer_than_ours"] = nearer[changed].double().mean().item()
        if experiment.name == "watermarks":
            numbers |= {
                kind: int(measures[f"{kind}_watermark"].sum()) for kind in ("middle", "bottom")
            }
        if experiment.name == "reflection":
            lights = torch.stack([measures["window_light"], measures["pond_light"]])
            numbers["correlation"] = torch.corrcoef(lights)[0, 1].item()
        seconds = row.seconds if row.name not in PROPAGATED else measures["seconds"].mean().item()
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
        """Latents of the first images that the perfect edit changes, and the unedited model's
        pictures of them.
        """
        latents = UNSEEN.items(range(40 * SHOWN))
        changes = touched(scenes(latents), experiment.counterfactual(scenes(latents)))
        latents = latents[changes][:SHOWN]
        return latents, drawn(self.unedited, latents.to(self.device)).cpu()

    def succession(self) -> dict[str, Any]:
        """Figure 1: three edits in succession, and how much of each is left after those that
        follow.
        """
        spec = specs_folder() / "succession.yaml"
        built = self.build(spec)
        names = [edit.rule.edit for edit in built]
        entries, stages = [], []
        shown = UNSEEN.items(range(SHOWN)).to(self.device)
        before = drawn(self.unedited, shown).cpu()
        for after, name in enumerate(names):
            stack = built[: after + 1]
            row = Row(name, partial(_drawn, self.model(stack)), _identity(stack), None)
            stages.append((name, row.draw(shown, before).cpu()))
            for edit in range(after + 1):
                measures = self._retention(row, edit, after)
                kept = {"edit": names[edit], "after": name, "n": len(measures["error"])}
                entries.append({**kept, **edit_numbers(measures)})
        write(self.out / "succession.png", png_bytes(picture([("Before", before), *stages])))
        return {"place": "Figure 1", "edits": names, "retention": entries}

    def _retention(self, row: Row, edit: int, after: int) -> dict[str, Tensor]:
        """The measures of one edit, judged against the same scenes with all the other edits made so
        far, too.
        """
        others = [SUCCESSION[number] for number in range(after + 1) if number != edit]
        name = f"succession: edit {edit + 1} after {after + 1}"
        return self.measured(name, row, SUCCESSION[edit], min(self.images, RETENTION), others)


def paper(
    out: Path | str,
    *,
    images: int = 10_000,
    backbone: Path | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Measure the paper's tables on Skyline; writes bench.json, bench.md and a picture per table
    into `out`.

    Interrupted, it goes on from where it was.

    Parameters
    ----------
    out
        A new or empty folder, or that of an earlier bench.
    images
        How many images a row is measured on.
    backbone
        A ``torch.export`` file of a program that takes pictures [n, 3, 64, 64] to a list of feature
        maps, by which the perceptual change is measured instead of the reader's.
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
    bench = Bench(
        out, images, pick_device(device), backbone, features, features_digest, progress, kept
    )
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
    """L1 of pixels and, as the authors weigh it, the squared error of features, where pixels count
    (Eqn. 3).
    """

    def loss(images: Tensor, wanted: Tensor, area: Tensor) -> Tensor:
        total = absolute_difference(images, wanted, area)
        for one, other in zip(features(images * area), features(wanted * area), strict=True):
            total = total + FEATURE_WEIGHT * F.mse_loss(one, other)
        return total

    return loss


def _another(out: Path, images: int, device: str, backbone: Path | None) -> Bench:
    """The same bench in another process."""
    features, _, features_digest = _features(backbone)
    return Bench(out, images, pick_device(device), backbone, features, features_digest, no_progress)


def _drawn(model: StyleGAN2, latents: Tensor, unedited: Tensor) -> Tensor:
    return drawn(model, latents)


def _unmodified(latents: Tensor, unedited: Tensor) -> Tensor:
    return unedited


@torch.no_grad()
def _propagated(
    model: StyleGAN2, example: Example, laplace: bool, latents: Tensor, unedited: Tensor
) -> Tensor:
    maps = feature_maps(model, latents)
    images = [
        propagated(example, [each[item] for each in maps], image, laplace=laplace)
        for item, image in enumerate(unedited)
    ]
    return torch.stack(images)


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
    """Take the folder for a bench; the seconds that an earlier run of it measured. Raises
    `FileError`.
    """
    require_own_folder(out, STATE, "bench")
    state = out / STATE
    kept: dict[str, float] = {}
    if state.is_file():
        try:
            found = json.loads(state.read_text())
            before, kept = found["features"], found["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"{state} is damaged.", "Remove the folder, or give another."
            ) from error
        if before != features_digest:
            raise FileError(
                f"The bench in {out} used features {before}, and these are {features_digest}.",
                "Give a folder of its own for each backbone.",
            )
    _write_state(out, features_digest, kept)
    return kept


def _write_state(out: Path, features_digest: str, seconds: dict[str, float]) -> None:
    write(
        out / STATE,
        (canonical_json({"features": features_digest, "seconds": seconds}) + "\n").encode(),
    )


def _write(out: Path, result: dict[str, Any]) -> None:
    write(out / "bench.json", (json.dumps(result, indent=2) + "\n").encode())
    write(out / "bench.md", markdown(result).encode())
