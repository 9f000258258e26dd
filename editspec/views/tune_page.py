"""The page of a tuning, as one HTML file that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from editspec.charts.losses import FRAME, draw_losses
from editspec.charts.scatter import Axis, Drawing, Point, Scatter, lay_out
from editspec.engine.attempts import Trial, Tuning, Wording, describe_fields, place_of
from editspec.engine.table import Table
from editspec.views.report import make_environment
from editspec_compiler.schema import AnyEdit
from editspec_runtime import __version__


@dataclass(frozen=True)
class Heading:
    """What a page says of all trials.

    Attributes
    ----------
    name
        The name of the spec.
    about, rule
        What trials were judged on, and how one is picked, in words.
    wording
        How the modality speaks of its inputs.
    """

    name: str
    about: str
    rule: str
    wording: Wording


def draw_tuning(
    tuning: Tuning, picked: AnyEdit, heading: Heading, shown: Any, before: Any
) -> bytes:
    """Draw the page of a tuning.

    Parameters
    ----------
    tuning
        All trials, and the one that is picked.
    picked
        The edit that was found.
    heading
        What is said of all trials.
    shown, before
        Pictures or a table of the picked trial, and of the given edit; None where that cannot be
        solved.

    Returns
    -------
    bytes
        HTML; equal tunings give equal bytes.
    """
    given = tuning.given.judgement
    traces = [
        (each.number, each.trial.judgement.trace) for each in tuning.rounds if each.trial.judgement
    ]
    said = [describe_fields(trial.fields) for trial in tuning.trials]
    columns = tuple(dict.fromkeys(name for each in said for name in each))
    held_out = tuning.held_out or (None, None)
    content = {
        "version": __version__,
        "name": heading.name,
        "edit": picked.name,
        "about": heading.about,
        "picked": tuning.picked.judgement,
        "given": given or {"efficacy": None, "trace": None},
        "held_out": {"given": held_out[0], "picked": held_out[1]},
        "layer": ", ".join(picked.layer_names),
        "rank": picked.rank,
        "fields": describe_fields(tuning.picked.fields),
        "preserved": len(picked.preserve or ()),
        "examples": len(picked.sides),
        "shown": shown,
        "before": before,
        "are_tables": isinstance(shown, Table),
        "wording": heading.wording,
        "curve": draw_losses(traces),
        "rounds": tuning.rounds,
        "trials": _draw_trials(tuning, heading.wording),
        "columns": columns,
        "rows": [_row(trial, tuning.picked, columns) for trial in tuning.trials],
        "rule": heading.rule,
        "chart": FRAME,
    }
    text = make_environment().get_template("tune.html").render(content)
    return (text.strip("\n") + "\n").encode()


def _draw_trials(tuning: Tuning, wording: Wording) -> Drawing | None:
    """Draw all trials that could be judged; None where there are fewer than two."""
    points = []
    for trial in tuning.trials:
        if trial.judgement is not None:
            label = place_of(trial.fields) or "as given"
            series = trial.stage.partition(" ")[0]
            judged = (trial.judgement.trace, trial.judgement.efficacy)
            points.append(Point(label, *judged, series, picked=trial is tuning.picked))
    if len(points) < 2:
        return None
    trace = Axis(f"trace: {wording.trace}", share=True)
    title = "Trials: the layer of each, by what it was tried for"
    return lay_out(Scatter(title, trace, Axis("efficacy", share=True), points))


def _row(trial: Trial, picked: Trial, columns: Sequence[str]) -> dict[str, Any]:
    """One trial as the table shows it."""
    said = describe_fields(trial.fields)
    solver = dict(trial.fields.get("solver", {}))
    method = solver.pop("method", "as given")
    settings = ", ".join(f"{name} {json.dumps(value)}" for name, value in solver.items())
    judgement = trial.judgement
    return {
        "stage": trial.stage,
        "picked": trial is picked,
        "cells": [said.get(name, "as given") for name in columns],
        "directions": trial.fields.get("directions") or "–",
        "solver": f"{method} ({settings})" if settings else method,
        "problem": trial.problem,
        "efficacy": judgement.efficacy if judgement else None,
        "trace": judgement.trace if judgement else None,
    }
