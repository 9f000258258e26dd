"""The page of a tuning, as one HTML file that needs no other file."""

from __future__ import annotations

import json
from typing import Any

from editspec.charts.losses import FRAME, draw_losses
from editspec.charts.scatter import Axis, Drawing, Point, Scatter, lay_out
from editspec.engine.tuning import Trial, Tuning
from editspec.views.report import make_environment
from editspec_compiler.schema import AnyEdit
from editspec_runtime import __version__


def draw_tuning(
    tuning: Tuning, name: str, picked: AnyEdit, about: str, shown: Any, before: Any, rule: str
) -> bytes:
    """Draw the page of a tuning.

    Parameters
    ----------
    tuning
        All trials, and the one that is picked.
    name
        The name of the spec.
    picked
        The edit that was found.
    about, rule
        What trials were judged on, and how one is picked, in words.
    shown, before
        Pictures of the picked trial, and of the given edit; None where that cannot be solved.

    Returns
    -------
    bytes
        HTML; equal tunings give equal bytes.
    """
    given = tuning.given.judgement
    traces = [
        (each.number, each.trial.judgement.trace) for each in tuning.rounds if each.trial.judgement
    ]
    content = {
        "version": __version__,
        "name": name,
        "edit": picked.name,
        "about": about,
        "picked": tuning.picked.judgement,
        "given": given or {"efficacy": None, "trace": None},
        "layer": picked.layer,
        "rank": picked.rank,
        "preserved": len(picked.preserve or ()),
        "examples": len(picked.sides),
        "shown": shown,
        "before": before,
        "curve": draw_losses(traces),
        "rounds": tuning.rounds,
        "trials": _draw_trials(tuning),
        "rows": [_row(trial, tuning.picked) for trial in tuning.trials],
        "rule": rule,
        "chart": FRAME,
    }
    text = make_environment().get_template("tune.html").render(content)
    return (text.strip("\n") + "\n").encode()


def _draw_trials(tuning: Tuning) -> Drawing | None:
    """Draw all trials that could be judged; None where there are fewer than two."""
    points = []
    for trial in tuning.trials:
        if trial.judgement is not None:
            label = str(trial.fields.get("layer", "as given"))
            series = trial.stage.partition(" ")[0]
            judged = (trial.judgement.trace, trial.judgement.efficacy)
            points.append(Point(label, *judged, series, picked=trial is tuning.picked))
    if len(points) < 2:
        return None
    trace = Axis("trace: share of images that visibly change elsewhere", share=True)
    title = "Trials: the layer of each, by what it was tried for"
    return lay_out(Scatter(title, trace, Axis("efficacy", share=True), points))


def _row(trial: Trial, picked: Trial) -> dict[str, Any]:
    """One trial as the table shows it."""
    solver = dict(trial.fields.get("solver", {}))
    method = solver.pop("method", "as given")
    settings = ", ".join(f"{name} {json.dumps(value)}" for name, value in solver.items())
    judgement = trial.judgement
    return {
        "stage": trial.stage,
        "picked": trial is picked,
        "layer": trial.fields.get("layer", "as given"),
        "rank": trial.fields.get("rank", "as given"),
        "directions": trial.fields.get("directions") or "–",
        "solver": f"{method} ({settings})" if settings else method,
        "problem": trial.problem,
        "efficacy": judgement.efficacy if judgement else None,
        "trace": judgement.trace if judgement else None,
    }
