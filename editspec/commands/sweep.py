"""``editspec sweep``: the last edit of a spec at several layers, ranks and other fields."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from editspec.charts.picture import draw_scatters
from editspec.charts.scatter import Axis, Point, Scatter
from editspec.engine.choices import Choice, combine_choices, rewrite_winner
from editspec.engine.resources import Resources
from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec.engine.shared_files import SharedFiles, session_memory
from editspec.engine.sweep_points import (
    PREDICTIONS,
    SweepPoint,
    pick_winner,
    rank_correlation,
    tabulate_points,
)
from editspec.engine.sweeping import Judge, require_sweepable
from editspec.modalities.image.pictures import png_bytes
from editspec.worlds.registry import find_experiment
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_runtime.core.executor import Executor
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.families.travelling import may_run_code, require_weights
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import run_folder

FORMAT = "editspec.sweep"

WINNERS = ("winner.yaml", "winner.yml", "winner.json")
"""The names of the spec of the best point, which has the format of the swept spec."""

DEFAULT_IMAGES = 200
"""The images that are measured where no number is given."""


@dataclass(frozen=True)
class SweepResult(CommandResult):
    """The points of a sweep, and the best of them.

    Attributes
    ----------
    edit
        The name of the edit that was varied.
    experiment
        The experiment whose perfect edit was compared with; None where there was none.
    images
        The number of images that were measured; None where the modality has none.
    points
        Every layer and rank, in the order of the arguments.
    winner
        The best point.
    agreement
        The rank correlation of each kind of predicted collateral with the measured change outside;
        None for fewer than three points.
    """

    edit: str
    experiment: str | None
    images: int | None
    points: tuple[SweepPoint, ...]
    winner: SweepPoint
    agreement: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``sweep.json``."""
        return {
            "format": FORMAT,
            "version": 1,
            "edit": self.edit,
            "experiment": self.experiment,
            "images": self.images,
            "points": [point.to_dict() for point in self.points],
            "winner": dataclasses.replace(self.winner, numbers={}, intervals={}).to_dict(),
            "agreement": dict(self.agreement),
        }

    def to_text(self) -> str:
        """The points as a table of Markdown, and the agreement of the predictions."""
        lines = tabulate_points(self.points, self.winner)
        known = {kind: value for kind, value in self.agreement.items() if value is not None}
        if known:
            said = ", ".join(f"{kind} {value:.2f}" for kind, value in known.items())
            about = "Rank correlation of predicted collateral with the change outside"
            lines += ["", f"{about}: {said}."]
        return "\n".join(lines) + "\n"


def sweep(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    layers: Sequence[str] = (),
    ranks: Sequence[int] = (),
    experiment: str | None = None,
    images: int | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    device: str = "auto",
    cache: Cache | None = None,
    executor: Executor | None = None,
    progress: ProgressCallback = no_progress,
) -> SweepResult:
    """Build the last edit of a spec with every choice of its fields, and find the best.

    Each point is measured on images that no edit has seen. With an `experiment` the perfect edit is
    known: efficacy is the share of the pixels changed by the perfect edit that end closer to it
    than to the original; outside is the change of all other pixels; trace is the share of the
    images with a visible artefact; error is the sum of outside and of the distance to the perfect
    edit over the pixels that it changes. The least error, times one plus trace, wins.

    Without an experiment, efficacy is the share of the target's loss that is gone, outside is the
    change of all pixels, and trace is that of the check of that name. The point wins that is
    farthest above the line from zero to the largest efficacy and the largest outside, less trace.

    **Facts.** Efficacy is the share of prompts and paraphrases that lead on as the edit asks,
    outside the share of other facts whose likeliest next token changes, of the facts of the edit
    and of the checks of the spec.

    Writes ``sweep.json``, ``sweep.md``, ``sweep.png`` and ``winner.yaml`` into `out`; for a JSON
    spec, ``winner.json``.

    Parameters
    ----------
    spec
        The path of a spec, or a spec that is loaded. The edits before the last are built as they
        are.
    layers, ranks
        The layers and the ranks to try. Default: those of the spec.
    experiment
        An experiment of the world whose weights the spec edits, such as ``dome-to-spire``.
    images
        The number of images to measure. Default: 200.
    vary
        Values of other fields of the last edit, by their paths such as
        ``solver.collateral_weight``, or of ``statistics.tokens``. All are combined.
    cache, executor
        The cache of results, and the executor of independent items of work. Default: those of
        `Resources`.

    Raises
    ------
    SpecError
        The spec is wrong.
    UsageError
        There is no such experiment or layer, no layer and rank can be built, or the text of the
        spec cannot be changed.
    FileError
        Foreign files lie at `out`.
    """
    loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
    loaded.require_edits()
    loaded.require_own(len(loaded.spec.edits) - 1)
    modality = require_sweepable(loaded.spec.model.family)
    out, edit = Path(out), loaded.spec.edits[-1]
    if not layers and not edit.layer and not vary:
        raise UsageError(
            f"A sweep is of an edit of one layer, and {edit.name} has {len(edit.layer_names)}.",
            "Give --layers, or write layer: and a name.",
        )
    if ranks and not modality.has_ranks:
        raise UsageError(
            f"Edits of the family {loaded.spec.model.family} have no rank.", "Leave out --ranks."
        )
    known_ranks: list[int | None] = [None]
    if modality.has_ranks:
        known_ranks = list(ranks) or [edit.rank]
    choices = combine_choices(list(layers) or [edit.layer or None], known_ranks, vary or {})
    resources = Resources()
    executor = executor or resources.executor
    points_of = _Points(
        loaded,
        experiment,
        images,
        device,
        cache or resources.cache,
        progress,
        executor,
        resources.allow_code,
    )
    _require_layers(points_of.session, layers)
    # Errors in the experiment, the text of the spec and the folder are found here, before the work.
    _ = points_of.judge
    for choice in choices:
        choice.apply(loaded)
        rewrite_winner(loaded, out, choice)
    run_folder("sweep.json", "sweep").require_free(out)
    write(out / "sweep.json", b"{}\n")
    points_of.prepare(list(layers or edit.layer_names))
    points: list[SweepPoint] = []
    memory = session_memory(loaded.weights)
    found = executor.map(points_of, choices, points_of.session.device, memory=memory)
    for point in found:
        points.append(point)
        progress("points", len(points), len(choices))
    built = [point for point in points if not point.problem]
    if not built:
        problems = "\n".join(point.problem for point in points)
        raise UsageError(
            f"No layer and rank of the sweep can be built.\n{problems}",
            "Try other layers or ranks.",
        )
    agreement = {kind: rank_correlation(built, kind, "outside") for kind in PREDICTIONS}
    winner = pick_winner(built)
    judged = images if images is not None or not modality.has_ranks else DEFAULT_IMAGES
    result = SweepResult(edit.name, experiment, judged, tuple(points), winner, agreement)
    text = rewrite_winner(loaded, out, choices[points.index(winner)])
    _write_folder(out, result, text, loaded.path.suffix, modality.outside)
    return result


def _require_layers(session: BuildSession, layers: Sequence[str]) -> None:
    known = session.current_model().architecture.layers
    unknown = [layer for layer in layers if layer not in known]
    if unknown:
        raise UsageError(
            f"There is no {' and no '.join(unknown)} in these weights.",
            f"Known here: {', '.join(known)}.",
        )


def _charts_of(result: SweepResult, outside: str) -> list[Scatter]:
    """Efficacy against the change elsewhere, and against traces where all points have them."""
    solved = [point for point in result.points if not point.problem]
    measures = {"outside": Axis(outside)}
    if all("trace" in point.numbers for point in solved):
        measures["trace"] = Axis("trace: share of images that visibly change elsewhere", share=True)
    charts = []
    for name, axis in measures.items():
        points = [
            Point(
                point.label(),
                point.numbers[name],
                point.numbers["efficacy"],
                point.layer,
                picked=point is result.winner,
            )
            for point in solved
        ]
        title = "Layers and ranks" if result.winner.rank is not None else "What was tried"
        charts.append(Scatter(title, axis, Axis("efficacy", share=True), points))
    return charts


def _write_folder(out: Path, result: SweepResult, winner: str, suffix: str, outside: str) -> None:
    write(out / "sweep.json", (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    write(out / "sweep.md", result.to_text().encode())
    write(out / "sweep.png", png_bytes(draw_scatters(_charts_of(result, outside))))
    # An earlier sweep may have been of a spec in another format.
    for name in WINNERS:
        (out / name).unlink(missing_ok=True)
    write(out / f"winner{suffix}", winner.encode())


@dataclass(frozen=True)
class _Points:
    """A function that builds and judges the last edit of a spec at a layer and a rank.

    It can be sent to any process of a run.
    """

    loaded: LoadedSpec
    experiment: str | None
    images: int | None
    device: str
    cache: Cache
    progress: ProgressCallback
    executor: Executor
    allow_code: bool

    @cached_property
    def session(self) -> BuildSession:
        """The spec with its unedited model."""
        return BuildSession.of(
            self.loaded,
            self.device,
            self.progress,
            cache=self.cache,
            executor=self.executor,
            allow_code=self.allow_code,
        )

    @cached_property
    def judge(self) -> Judge:
        """The judge of the points.

        Raises `UsageError` where there is no such experiment, or where its perfect edit is known
        for other weights.
        """
        with self.session.kernels():
            modality = require_sweepable(self.loaded.spec.model.family)
            maker = None
            if self.experiment is not None:
                maker = find_experiment(self.experiment, self.loaded.weights)
            return modality.make_judge(self.session, self.images, maker)

    def prepare(self, layers: Sequence[str]) -> None:
        """Compute C of every layer by all processes together.

        Afterwards each process builds points of its own. Errors are ignored here, since each point
        reports its own.
        """
        if self.executor.workers == 1:
            return
        with suppress(SpecError, EditError), self.session.kernels():
            before = dataclasses.replace(self.session, stack=[], resolved=[])
            for number in range(len(self.loaded.spec.edits) - 1):
                before.solve(number)
            for layer in dict.fromkeys(layers):
                before.second_moment(before.current_model(), layer)

    def __call__(self, choice: Choice) -> SweepPoint:
        """Build and judge one choice; an error becomes the problem of the point."""
        loaded = choice.apply(self.loaded)
        layer = choice.layer or ", ".join(loaded.spec.edits[-1].layer_names)
        point = SweepPoint(layer, choice.rank, dict(choice.varied))
        try:
            session = BuildSession.of(
                loaded,
                self.device,
                lambda what, done, total: self.progress(f"{choice}: {what}", done, total),
                cache=self.cache,
                executor=self.executor,
                allow_code=self.allow_code,
            )
            built = [session.solve(number) for number in range(len(session.loaded.spec.edits))]
        except SpecError as error:
            return dataclasses.replace(point, problem=error.problems[0].message)
        except EditError as error:
            return dataclasses.replace(point, problem=error.message)
        patches, rules = [each.patch for each in built], [each.rule for each in built]
        edited = dataclasses.replace(
            self.session,
            loaded=loaded,
            stack=patches,
            resolved=rules,
        )
        last = built[-1]
        predicted = dict.fromkeys(PREDICTIONS, 0.0)
        for layer_collateral in last.patch.metadata["collateral"].values():
            for kind in PREDICTIONS:
                predicted[kind] += layer_collateral[kind]
        with self.session.kernels():
            measured = self.judge(edited, last)
        numbers = {
            "loss": last.loss,
            **measured.numbers,
            **predicted,
            "seconds": last.seconds["solve"],
        }
        return dataclasses.replace(point, numbers=numbers, intervals=measured.intervals)

    def __getstate__(self) -> dict[str, Any]:
        """The fields for another process, which reports no progress."""
        # Cached properties are left out: each process opens the model itself.
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # That process works in another folder.
        loaded = dataclasses.replace(
            self.loaded, path=self.loaded.path.absolute(), weights=self.loaded.weights.absolute()
        )
        files = SharedFiles.of(self.loaded)
        sent = {
            "loaded": loaded,
            "progress": no_progress,
            "files": files,
            "base": self.session.base,
        }
        return state | sent

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the fields in another process.

        Raises `WorkerError` where a file is missing or another one, and `CodeError` where code may
        not run.
        """
        state["files"].require()
        family = state["loaded"].spec.model.family
        allowed = may_run_code(state["allow_code"], family)
        self.__dict__.update(state | {"allow_code": allowed})
        require_weights(self.session.checkpoint, state["base"], self.loaded.weights)
