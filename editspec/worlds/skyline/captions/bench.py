"""``editspec bench concepts``: ways to edit a concept, where the perfect edit is known.

Each row of a table is a spec of its own in ``specs/captions/bench``. Its pictures are of captions
that neither the training nor the spec has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from editspec.engine.built import BuiltEdit
from editspec.engine.changes import rank_of
from editspec.engine.result import CommandResult
from editspec.engine.solving import solve
from editspec.modalities.image.pictures import png_bytes
from editspec.worlds.skyline.captions import JUDGE, PIPELINE
from editspec.worlds.skyline.captions.drawing import draw_pictures
from editspec.worlds.skyline.captions.judge import load_judge
from editspec.worlds.skyline.captions.networks import load_pipeline
from editspec.worlds.skyline.captions.rewordings import REWORDINGS, Questions, Scores, ask, score
from editspec.worlds.skyline.reader import Reader
from editspec.worlds.world import find_specs
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.executors.devices import pick_device
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.files import canonical_json, read_tensors, write
from editspec_runtime.patches.patch import apply_stack

UNSEEN = 5
"""The seed of the captions and of the noise; no spec was chosen by them."""

SHOWN = 6
"""Pictures of a row in the sheet: as many with the concept as without."""

COLUMNS = ("read", "paraphrased", "kept", "recovered", "elsewhere")

STEPS = 4
"""Steps of drawing. There is no guidance: it would hide how far an edit goes."""

UNEDITED, OURS = "unedited", "ours"

PREFIX = "unet/"
"""What patches write before the names of the U-Net's parameters."""


@dataclass(frozen=True)
class Row:
    """What a spec does.

    Attributes
    ----------
    name
        The name of its file.
    scores
        See `Scores`.
    rank, kilobytes, seconds
        Of the patch, and of the build; None for the unedited model.
    """

    name: str
    scores: Scores
    rank: int | None = None
    kilobytes: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class ConceptsResult(CommandResult):
    """The tables of the bench.

    Attributes
    ----------
    captions
        How many captions with the concept a row is measured on.
    tables
        The rows of each experiment.
    """

    captions: int
    tables: Mapping[str, Sequence[Row]]

    def to_text(self) -> str:
        """The tables in Markdown."""
        return "\n".join(self._lines()).rstrip("\n")

    def _lines(self) -> list[str]:
        lines = []
        for name, rows in self.tables.items():
            lines += [f"## {name}, {self.captions} captions", ""]
            lines += [f"| edit | {' | '.join(COLUMNS)} | rank | kB | seconds |"]
            lines += ["|---" + "|---:" * (len(COLUMNS) + 3) + "|"]
            lines += [_write_row(row) for row in rows]
            lines += [""]
        return lines


def _write_row(row: Row) -> str:
    """Write a row in Markdown."""
    scores = row.scores.to_dict()
    cells = [row.name, *(f"{scores[column]:.1%}" for column in COLUMNS)]
    cells += ["" if row.rank is None else str(row.rank)]
    cells += ["" if number is None else f"{number:.1f}" for number in (row.kilobytes, row.seconds)]
    return f"| {' | '.join(cells)} |"


def bench_concepts(
    out: Path | str,
    *,
    captions: int = 200,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> ConceptsResult:
    """Measure ways to edit concepts on Skyline by prompt.

    Writes ``concepts.json``, ``concepts.md`` and a picture per table into `out`.

    Parameters
    ----------
    out
        A folder; what lies there by these names is replaced.
    captions
        How many captions with the concept a row is measured on; half as many without it.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.

    Raises
    ------
    UsageError
        The packages of the extra ``diffusion`` are not installed.
    """
    bench = Bench(Path(out), captions, pick_device(device), progress)
    tables = {name: bench.measure_table(name) for name in REWORDINGS}
    result = ConceptsResult(captions, tables)
    write(bench.out / "concepts.json", canonical_json(result.to_dict()).encode())
    write(bench.out / "concepts.md", (result.to_text() + "\n").encode())
    return result


@dataclass
class Bench:
    """A run of the bench.

    Attributes
    ----------
    out
        The folder of the results.
    captions
        How many captions with the concept a row is measured on.
    device
        Where pictures are drawn.
    progress
        Called as work proceeds.
    """

    out: Path
    captions: int
    device: torch.device
    progress: ProgressCallback

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline that draws."""
        return load_pipeline(PIPELINE).to(self.device)

    @cached_property
    def judge(self) -> Reader:
        """The reader of what was drawn."""
        return load_judge(read_tensors(JUDGE))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the unedited U-Net, by their names in patches."""
        parameters = self.pipeline.unet.named_parameters()
        return {PREFIX + name: tensor.detach().cpu().clone() for name, tensor in parameters}

    def measure_table(self, name: str) -> list[Row]:
        """Build and measure every spec of an experiment."""
        questions = ask(REWORDINGS[name], self.captions, UNSEEN)
        before = self.draw(name, questions, [])
        found = score(questions, before, before, self.judge)
        rows, sheets = [Row(UNEDITED, found)], [before]
        for row, spec in list_specs(name).items():
            built = self.build(spec)
            after = self.draw(f"{name}, {row}", questions, built)
            rows.append(self._make_row(row, questions, before, after, built))
            sheets.append(after)
        write(self.out / f"{name}.png", png_bytes(arrange(sheets, len(questions.concerned))))
        return rows

    def build(self, spec: Path) -> list[BuiltEdit]:
        """Solve the edits of a spec with a cache of the run, so that builds are timed."""
        cache = Cache(self.out / "cache")
        return solve(spec, device=str(self.device), progress=self.progress, cache=cache)

    def _make_row(
        self,
        name: str,
        questions: Questions,
        before: Tensor,
        after: Tensor,
        built: Sequence[BuiltEdit],
    ) -> Row:
        seconds = sum(edit.seconds["compile"] + edit.seconds["solve"] for edit in built)
        size = sum(len(edit.patch.to_bytes()) for edit in built)
        ranks = [rank_of(edit.patch, edit.rule.rank) for edit in built]
        return Row(
            name,
            score(questions, before, after, self.judge),
            max((rank for rank in ranks if rank is not None), default=None),
            size / 1000,
            seconds,
        )

    def draw(
        self, label: str, questions: Questions, built: Sequence[BuiltEdit], steps: int = STEPS
    ) -> Tensor:
        """Draw the captions with the weights after a stack of edits, [n, 3, 64, 64]."""
        weights = apply_stack(self.weights, [edit.patch for edit in built])
        with torch.no_grad():
            for name, parameter in self.pipeline.unet.named_parameters():
                parameter.copy_(weights[PREFIX + name])
        return draw_pictures(
            self.pipeline,
            questions.texts,
            UNSEEN,
            steps=steps,
            guidance=1.0,
            progress=lambda done, total: self.progress(f"{label}: drawing", done, total),
        )


def arrange(rows: Sequence[Tensor], concerned: int) -> Image.Image:
    """Arrange the first pictures of rows with the concept, and without it, below each other."""
    last = min(concerned + SHOWN, len(rows[0]))
    chosen = [*range(min(SHOWN, concerned)), *range(concerned, last)]
    strips = [pictures[chosen].permute(2, 0, 3, 1).flatten(1, 2) for pictures in rows]
    pixels = ((torch.cat(strips) + 1) * 127.5).round().byte()
    image = Image.fromarray(pixels.numpy())
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)


def list_specs(name: str) -> dict[str, Path]:
    """List the specs of an experiment by the names of their rows; the recipe that ships is ours."""
    folder = find_specs("captions")
    # A number before the name puts the rows in order.
    found = {
        spec.stem.partition("-")[2]: spec
        for spec in sorted((folder / "bench" / name).glob("*.yaml"))
    }
    return {**found, OURS: folder / f"{name.replace('-', '_')}.yaml"}
