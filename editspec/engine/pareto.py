"""The curve of a method: loss and residual against predicted collateral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editspec.engine.built import STAGES, BuiltEdit
from editspec.engine.collateral import largest_collateral
from editspec.engine.lock import edit_files, edit_settings, shared_settings
from editspec.engine.model_session import on_device
from editspec.engine.session import BuildSession
from editspec_compiler.schema import AnyEdit
from editspec_runtime.core.method import FULL, LEARNED
from editspec_runtime.core.model import Model
from editspec_runtime.core.progress import StepCallback, ignore_steps
from editspec_runtime.core.rule import ResolvedEdit
from editspec_runtime.io.digests import digest
from editspec_runtime.methods.layer_problem import LayerProblem, rule_function
from editspec_runtime.methods.registry import method_of
from editspec_runtime.methods.rule_file import place_as_file
from editspec_runtime.methods.solve_edit import loss_of, residual_of
from editspec_runtime.patches.patch import Patch


@dataclass(frozen=True)
class ParetoPoint:
    """One collateral_weight, with the loss and the collateral that it gives.

    Attributes
    ----------
    number
        The number of the point from 1, as the picture shows it.
    collateral_weight
        The setting of the solver.
    loss, residual, collateral
        The numbers that a build with this collateral_weight has: mean |V* - f(K*; W)|, its distance
        as a share of that before the edit, and the predicted collateral.
    """

    number: int
    collateral_weight: float
    loss: float
    residual: float
    collateral: float


@dataclass(frozen=True)
class ParetoCurve:
    """The curve of an edit.

    As collateral_weight falls, the loss falls and the collateral rises, but for what the search
    for a minimum leaves open.

    Attributes
    ----------
    edit, method, layer
        The edit's name, its method and its layer.
    inputs
        The digest of all that the curve is made from, as `inputs_of` has it.
    picked
        The number of the point that the spec has; None where the spec has another weight.
    points
        The points in the order of their numbers; empty where the rule holds already.
    """

    edit: str
    method: str
    layer: str
    inputs: str
    picked: int | None
    points: tuple[ParetoPoint, ...]


VARY = "Vary the weight by editspec sweep SPEC -o DIR --vary solver.collateral_weight=0.1,0.3."


def has_curve(edit: AnyEdit) -> bool:
    """Whether an edit has a curve whose points are what a build of each weight gives.

    Learned directions and steps of `refine` are others for each weight, so that each is a build.
    """
    found = edit.directions == LEARNED or edit.rank == FULL or edit.refine is not None
    return method_of(edit.solver).has_curve and not found


@torch.no_grad()
@on_device
def pareto_curves(session: BuildSession, built: Sequence[BuiltEdit]) -> tuple[ParetoCurve, ...]:
    """The curve of every edit of one layer of a build whose method has one.

    Each curve is computed on the model that the edits before leave.

    Raises
    ------
    NumericalError
        The numbers are bad, as the solver says.
    """
    found = []
    for number, edit in enumerate(built):
        rule, method = edit.rule, method_of(edit.rule.method)
        if not has_curve(session.loaded.spec.edits[number]) or len(rule.rules) > 1:
            continue
        before = session.after(number)
        model = before.current_model()
        points = measure_curve(before, rule, model)
        picked = _find_point(points, getattr(rule.method, "collateral_weight", None))
        inputs = inputs_of(session, number)
        found.append(ParetoCurve(rule.name, method.name, rule.layer, inputs, picked, points))
    return tuple(found)


def measure_curve(
    session: BuildSession,
    edit: ResolvedEdit,
    model: Model,
    progress: StepCallback = ignore_steps,
) -> tuple[ParetoPoint, ...]:
    """Find the curve of an edit of one layer, and measure its points as a build does.

    `session` and `model` are as the edits before leave them.
    """
    (rule,) = edit.rules
    curve = method_of(edit.method).find_curve(problem_of(session, edit, model), progress)
    points = []
    for number, point in enumerate(curve, start=1):
        change = Patch.of_changes({rule.parameter: point.change})
        weights = session.stacked.apply([*session.stack, change])
        collateral = session.collateral(change, model, [rule.layer], dict.fromkeys(STAGES, 0.0))
        points.append(
            ParetoPoint(
                number,
                point.collateral_weight,
                loss_of(edit, model, weights),
                residual_of(edit, model, weights),
                largest_collateral(collateral),
            )
        )
    return tuple(points)


def _find_point(points: Sequence[ParetoPoint], collateral_weight: float | None) -> int | None:
    """The number of the first point that has this collateral_weight."""
    same = (point.number for point in points if point.collateral_weight == collateral_weight)
    return next(same, None)


def inputs_of(session: BuildSession, number: int) -> str:
    """The digest of all that the curve of edit `number` is made from.

    The solver of that edit is left out, since a pick changes it.
    """
    loaded = session.loaded
    edits = [
        {"settings": edit_settings(loaded, n), "files": edit_files(loaded, n)}
        for n in range(number + 1)
    ]
    del edits[-1]["settings"]["solver"]
    return digest({"weights": session.base, "settings": shared_settings(loaded), "edits": edits})


def problem_of(session: BuildSession, edit: ResolvedEdit, model: Model) -> LayerProblem:
    """The problem of an edit of one layer, on the model that the edits before leave."""
    (rule,) = edit.rules
    weight = model.weight(rule.layer)
    rule = place_as_file(rule, weight.device)
    return LayerProblem(
        rule,
        rule_function(rule, model),
        weight,
        edit.method,
        edit.rank,
        edit.directions,
        session.keys(model, rule.layer, dict.fromkeys(STAGES, 0.0)),
        edit.family,
        session.compatibility,
    )


def curves_text(curves: Sequence[ParetoCurve]) -> str:
    """The curves as tables for people.

    Each point has the line of the spec that gives it. A star marks the point that the spec has.
    """
    lines = []
    for each in curves:
        lines += [
            f"{each.edit}: loss, residual and collateral of each collateral_weight",
            "  number    loss  residual  collateral  in the spec",
        ]
        for point in each.points:
            mark = "*" if point.number == each.picked else " "
            numbers = (
                f"{point.number:6d}  {point.loss:.4f}  {point.residual:8.2g}  "
                f"{point.collateral:10.2g}"
            )
            settings = f"method: {each.method}, collateral_weight: {point.collateral_weight!r}"
            lines.append(f"{mark} {numbers}  solver: {{{settings}}}")
    return "\n".join(lines)
