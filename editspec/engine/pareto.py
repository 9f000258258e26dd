"""The curve of least squares: loss against predicted collateral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec.engine.built import STAGES, BuiltEdit
from editspec.engine.lock import edit_files, edit_settings, shared_settings
from editspec.engine.model_session import on_device
from editspec.engine.session import BuildSession
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import LayerRule, ResolvedEdit
from editspec_runtime.io.digests import digest
from editspec_runtime.methods.layer_problem import LayerProblem, rule_function
from editspec_runtime.methods.registry import method_of


@dataclass(frozen=True)
class ParetoPoint:
    """One collateral_weight, with the loss and the collateral that it gives.

    Attributes
    ----------
    number
        The number of the point from 1, as the picture shows it.
    collateral_weight
        The setting of the solver.
    loss
        The loss as a share of the loss before the edit.
    collateral
        The predicted collateral, tr(dW C dW^T) / tr(W C W^T).
    """

    number: int
    collateral_weight: float
    loss: float
    collateral: float


@dataclass(frozen=True)
class ParetoCurve:
    """The curve of an edit.

    As collateral_weight falls, loss falls and collateral rises.

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


@torch.no_grad()
@on_device
def pareto_curves(session: BuildSession, built: Sequence[BuiltEdit]) -> tuple[ParetoCurve, ...]:
    """The curve of every edit of a build whose method has one.

    Each curve is computed on the model that the edits before leave.

    Raises
    ------
    NumericalError
        The numbers are bad, as the solver says.
    """
    found = []
    for number, edit in enumerate(built):
        rule, method = edit.rule, method_of(edit.rule.method)
        if not method.has_curve:
            continue
        model = session.after(number).current_model()
        curve = method.find_curve(problem_of(session, rule, model))
        points = tuple(
            ParetoPoint(count, point.collateral_weight, point.loss, point.collateral)
            for count, point in enumerate(curve, start=1)
        )
        picked = _find_point(points, getattr(rule.method, "collateral_weight", None))
        inputs = inputs_of(session, number)
        found.append(ParetoCurve(rule.name, method.name, rule.layer, inputs, picked, points))
    return tuple(found)


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
    rule = _place_as_file(rule, weight.device)
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


def _place_as_file(rule: LayerRule, device: torch.device) -> LayerRule:
    """The rule on a device, with its tensors contiguous as in its file.

    Another order of memory would give other bits.
    """

    def place(tensor: Tensor) -> Tensor:
        """Move a tensor to the device."""
        return tensor.to(device).contiguous()

    return replace(
        rule,
        key=place(rule.key),
        value=place(rule.value),
        arguments={name: place(tensor) for name, tensor in rule.arguments.items()},
        context_keys=place(rule.context_keys),
        context_weights=place(rule.context_weights),
    )


def curves_text(curves: Sequence[ParetoCurve]) -> str:
    """The curves as tables for people.

    Each point has the line of the spec that gives it. A star marks the point that the spec has.
    """
    lines = []
    for each in curves:
        lines += [
            f"{each.edit}: the loss and collateral of each collateral_weight",
            "  number  loss  collateral  in the spec",
        ]
        for point in each.points:
            mark = "*" if point.number == each.picked else " "
            numbers = f"{point.number:6d}  {point.loss:4.2f}  {point.collateral:10.2e}"
            settings = f"method: {each.method}, collateral_weight: {point.collateral_weight!r}"
            lines.append(f"{mark} {numbers}  solver: {{{settings}}}")
    return "\n".join(lines)
