"""``editspec tune``: the fields of an edit, found by trials."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.at_edit import open_at_edit
from editspec.engine.attempts import (
    BARGAIN,
    MARGIN,
    Trial,
    Tuning,
    describe_fields,
    require_tunable,
)
from editspec.engine.relocation import relocate_name, relocate_names
from editspec.engine.result import CommandResult, count_of
from editspec.engine.trials import STATISTICS, Fields, Judgement, with_fields
from editspec.views.tune_page import Heading, draw_tuning
from editspec_compiler import LoadedSpec, load
from editspec_compiler.document import parse
from editspec_compiler.problems import SpecPath
from editspec_compiler.references import load_document
from editspec_compiler.rewrite import Cut, Put, RewriteError, rewrite
from editspec_compiler.visit import find_files
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import require_folder_name, run_folder

FORMAT = "editspec.tune"
RECORD, PAGE = "tune.json", "tune.html"

TUNED = ("tuned.yaml", "tuned.yml", "tuned.json")
"""The names of the spec with the edit that was found, in the format of the given one."""

PLACES = {
    "layer": "name",
    "layers": "name",
    "rank": "layer",
    "directions": "rank",
    "pairs": "directions",
    "context": "pairs",
    "preserve": "context",
    "optimise": "preserve",
    "solver": "preserve",
    "refine": "solver",
}
"""The fields that a tuned edit has, and the field behind which each is written where it is new."""

RULE = (
    "Of the edit as it was given and the trials whose efficacy is at most "
    f"{100 * MARGIN:.0f} points, and {100 * BARGAIN:.0f} hundredths of the trace that they leave "
    "less, below that of the given edit, the one is picked whose efficacy, as a share of the best "
    "one's, minus its trace is largest."
)


@dataclass(frozen=True)
class TuneResult(CommandResult):
    """What was tried for an edit, and what was found.

    Attributes
    ----------
    edit
        The name of the edit.
    about
        What trials were judged on, in words.
    given
        What the edit does as it was given; None where it cannot be solved.
    picked
        The trial that was picked.
    trials
        All trials in the order in which they were made.
    preserved, examples
        The numbers of places that the found edit preserves, and of its pairs.
    spec, page
        The spec with the edit that was found, and the page of the rounds.
    held_out
        What the edit as it was given and the picked one do to inputs that no trial was judged on;
        empty where none are held out.
    """

    edit: str
    about: str
    given: Judgement | None
    picked: Trial
    trials: tuple[Trial, ...]
    preserved: int
    examples: int
    spec: Path
    page: Path
    held_out: tuple[Judgement, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The content of ``tune.json``."""
        held_out = [dataclasses.asdict(each) for each in self.held_out]
        return {
            "format": FORMAT,
            "version": 1,
            "edit": self.edit,
            "about": self.about,
            "given": dataclasses.asdict(self.given) if self.given else None,
            "picked": self.picked.to_dict(),
            **(
                {"held_out": dict(zip(("given", "picked"), held_out, strict=True))}
                if held_out
                else {}
            ),
            "preserved": self.preserved,
            "examples": self.examples,
            "trials": [trial.to_dict() for trial in self.trials],
            "spec": self.spec.name,
            "page": self.page.name,
        }

    def to_text(self) -> str:
        """The trials as a table, and where the result lies."""
        lines = [f"{self.edit}, judged on {self.about}:", ""]
        said = [describe_fields(trial.fields) for trial in self.trials]
        names = list(dict.fromkeys(name for each in said for name in each))
        table = [["for", *names, "efficacy", "trace", ""]]
        table += [self._row(trial, names) for trial in self.trials]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        if self.held_out:
            given, picked = (_shares(each) for each in self.held_out)
            lines += ["", f"On what is held out: {picked}; before: {given}."]
        found = f"{count_of(self.examples, 'pair')}, {count_of(self.preserved, 'place')} preserved"
        return "\n".join([*lines, "", f"{self.spec}: {found}", f"{self.page}: every round"])

    def _row(self, trial: Trial, names: Sequence[str]) -> list[str]:
        said, judged = describe_fields(trial.fields), trial.judgement
        place = [said.get(name, "") for name in names]
        numbers = ["–", "–"]
        if judged is not None:
            numbers = [f"{100 * judged.efficacy:.1f} %", f"{100 * judged.trace:.1f} %"]
        remark = "picked" if trial is self.picked else trial.problem
        return [trial.stage, *place, *numbers, remark]


def tune(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    edit: str | None = None,
    layers: Sequence[str] = (),
    rounds: int = 4,
    images: int | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> TuneResult:
    """Find the fields of one edit of a spec by trials: its layer, its weight, and more.

    **Images.** Source, target and context say what is meant. Among images of the spec's latent
    stream those are found that show at the same places what the context and what the source shows:
    pairs of them are further examples of the rule. Layers and weights are compared by changes of
    full rank. Then, in rounds, the images that the edit visibly changes where its context does not
    match join ``preserve``, and the edit is solved again, until nothing new shows. All is judged on
    images of another stream, which no spec names. An edit that has many pairs and preserved images
    keeps them: steps on pictures, their weight and what else to preserve are found, and one of four
    examples judges.

    **Texts.** Layers, the weight of the collateral, the clamp of the search for values, the context
    and the tokens of C are tried one after the other, in rounds, until a round finds nothing
    better. Paraphrases and neighbours of the facts judge, and those of the checks. Every second one
    is held out, and judges what is found at last.

    Writes ``tuned.yaml`` (for a JSON spec, ``tuned.json``), ``tune.html`` and ``tune.json`` into
    `out`.

    Parameters
    ----------
    spec, edit
        A spec, and the name of the edit. Default: the first edit. The edits before it are built as
        they are, and those behind it stay in the spec as they are.
    layers
        The layers to try. Default: of images, all whose maps have 8 to 64 positions a side, and
        whose change is not too large to be found at once; of texts, some that are spread over the
        first three quarters.
    rounds
        The most rounds: of images, in which what changes by mistake is added to what is preserved;
        of texts, in which all fields are tried.
    images
        The number of images that are looked through; a quarter as many judge. Default: 256, and
        up to 2,048 where fewer than 48 match; 1,024 for an edit that has many examples.

    Raises
    ------
    SpecError
        The spec is wrong, has no such edit, or the edit has nothing that it could be judged by.
    UsageError
        The modality tunes nothing, no trial can be solved, or the text of the spec cannot be
        changed.
    FileError
        Foreign files lie at `out`, or it cannot be written.
    """
    out = Path(out)
    loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
    engine = require_tunable(loaded.spec.model.family)
    require_folder_name(out)
    run_folder(RECORD, "tuning").require_free(out)
    session, number = open_at_edit(loaded, edit, device, progress)
    loaded.require_own(number)
    with session.kernels():
        run = engine.start_tuning(session, number, images, layers, progress)
        # That the text cannot be changed is found here, before the work.
        _rewrite(loaded, number, run.example_fields(), out)
        tuning = run.tune(rounds)
        shown = run.draw(tuning.picked)
        before = run.draw(tuning.given) if tuning.given.judgement else None
    name, fields = loaded.spec.edits[number].name, tuning.picked.fields
    picked = with_fields(loaded, number, fields).spec.edits[number]
    text = _rewrite(loaded, number, run.abbreviate(fields), out)
    if loaded.path.suffix != ".json":
        text = _numbers_comment(tuning, run.about) + text
    target = out / f"tuned{loaded.path.suffix}"
    result = TuneResult(
        edit=name,
        about=run.about,
        given=tuning.given.judgement,
        picked=tuning.picked,
        trials=tuning.trials,
        preserved=len(picked.preserve or ()),
        examples=len(picked.sides),
        spec=target,
        page=out / PAGE,
        held_out=tuning.held_out,
    )
    heading = Heading(loaded.path.name, run.about, RULE, run.wording)
    page = draw_tuning(tuning, picked, heading, shown, before)
    _write_folder(out, result, text, page)
    return result


def _write_folder(out: Path, result: TuneResult, text: str, page: bytes) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # What is written is a spec that can be built, whatever was changed in its text.
    load_document(parse(text, str(result.spec)), result.spec)
    for name in TUNED:
        (out / name).unlink(missing_ok=True)
    write(out / RECORD, (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    write(out / PAGE, page)
    write(result.spec, text.encode())


def _numbers_comment(tuning: Tuning, about: str) -> str:
    """The lines at the top of a tuned spec that say what was measured."""
    judged, given = tuning.picked.judgement, tuning.given.judgement
    assert judged is not None
    before = ""
    if given is not None:
        before = f" (before: {100 * given.efficacy:.1f} % and {100 * given.trace:.1f} %)"
    lines = [f"# Tuned on {about}:", f"# {_shares(judged)}{before}."]
    if tuning.held_out:
        lines.append(f"# On what is held out: {_shares(tuning.held_out[1])}.")
    return "\n".join(lines) + "\n"


def _shares(judged: Judgement) -> str:
    return f"efficacy {100 * judged.efficacy:.1f} %, trace {100 * judged.trace:.1f} %"


def _rewrite(loaded: LoadedSpec, number: int, fields: Fields, folder: Path) -> str:
    """The text of a spec with other fields of edit `number`, for `folder`.

    A field of None goes. Raises `RewriteError` where the text does not let that be changed.
    """
    text, file = loaded.document.text, loaded.document.file
    where: SpecPath = ("edits", number)
    given = parse(text, file).data["edits"][number]
    if not isinstance(given, dict):
        raise RewriteError(f"{file} does not let edit {number + 1} be changed.", "Write it out.")
    new = {name: fields[name] for name in PLACES if fields.get(name) is not None}
    if STATISTICS in fields:
        text = _rewrite_statistics(text, file, fields[STATISTICS])
    replaced = {(*where, name) for name in (*fields, *new)}
    puts: list[Put | Cut] = list(relocate_names(loaded, folder, replaced))
    # `pairs` stand where the source stood.
    place = ("source",) if "pairs" in new and "pairs" not in given else ()
    for name, value in _relocate(loaded, number, new, folder).items():
        lines = isinstance(value, list) and name not in given
        instead = place if name == "pairs" else ()
        puts.append(Put((*where, name), value, instead, after=PLACES[name], entries=lines))
    for name in fields:
        if fields[name] is None and name in given and name not in place:
            text = rewrite(text, file, [Cut((*where, name))])
    for put in puts:
        text = rewrite(text, file, [put])
    return text


def _rewrite_statistics(text: str, file: str, statistics: Fields) -> str:
    """The text of a spec with other fields of its statistics."""
    if not isinstance(parse(text, file).data.get(STATISTICS), dict):
        return rewrite(text, file, [Put((STATISTICS,), statistics, after="model")])
    puts = [Put((STATISTICS, name), value) for name, value in statistics.items()]
    return rewrite(text, file, puts)


def _relocate(loaded: LoadedSpec, number: int, fields: Fields, folder: Path) -> Fields:
    """Fields as plain values whose names of files lead from `folder`; whole numbers are short."""
    plain = json.loads(json.dumps(fields), parse_float=_parse_number)
    edit = type(with_fields(loaded, number, {}).spec.edits[number])
    for path, name in list(find_files(edit, plain)):
        holder = plain
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = relocate_name(loaded, name, folder)
    return dict(plain)


def _parse_number(written: str) -> float | int:
    number = float(written)
    return int(number) if number.is_integer() else number
