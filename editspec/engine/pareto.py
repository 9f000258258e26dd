"""The choice that least squares has: loss against predicted collateral, a numbered point for every
collateral_weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageDraw, ImageFont
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
    """One collateral_weight, and all that it gives.

    Attributes
    ----------
    number
        From 1, as the picture shows it.
    collateral_weight
        The setting of the solver.
    loss
        As a share of the loss before the edit.
    collateral
        tr(dW C dW^T) / tr(W C W^T).
    """

    number: int
    collateral_weight: float
    loss: float
    collateral: float


@dataclass(frozen=True)
class ParetoCurve:
    """The choice that an edit has: as collateral_weight falls, loss falls and collateral rises.

    Attributes
    ----------
    edit, method, layer
        The edit's name, its method and its layer.
    inputs
        The digest of all that the curve is made from, as `inputs_of` has it.
    picked
        The number of the point that the spec has; None where it has another.
    points
        None where the rule holds already.
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

    Each is on the model as the edits before left it.

    Raises
    ------
    NumericalError
        As the solver does.
    """
    found = []
    for number, edit in enumerate(built):
        rule, method = edit.rule, method_of(edit.rule.method)
        if not method.has_curve:
            continue
        problem = problem_of(session, rule, session.after(number).current_model())
        points = tuple(
            ParetoPoint(count, point.collateral_weight, point.loss, point.collateral)
            for count, point in enumerate(method.find_curve(problem), start=1)
        )
        picked = _picked(points, getattr(rule.method, "collateral_weight", None))
        inputs = inputs_of(session, number)
        found.append(ParetoCurve(rule.name, method.name, rule.layer, inputs, picked, points))
    return tuple(found)


def _picked(points: Sequence[ParetoPoint], collateral_weight: float | None) -> int | None:
    """The number of the first point that has this collateral_weight."""
    same = (point.number for point in points if point.collateral_weight == collateral_weight)
    return next(same, None)


def inputs_of(session: BuildSession, number: int) -> str:
    """The digest of all that the curve of edit `number` is made from: what that edit has as its
    solver is not.
    """
    loaded = session.loaded
    edits = [
        {"settings": edit_settings(loaded, n), "files": edit_files(loaded, n)}
        for n in range(number + 1)
    ]
    del edits[-1]["settings"]["solver"]
    return digest({"weights": session.base, "settings": shared_settings(loaded), "edits": edits})


def problem_of(session: BuildSession, edit: ResolvedEdit, model: Model) -> LayerProblem:
    """The rule of an edit of one layer on the model as the edits before left it."""
    (rule,) = edit.rules
    weight = model.weight(rule.layer)
    rule = _as_filed(rule, weight.device)
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


def _as_filed(rule: LayerRule, device: torch.device) -> LayerRule:
    """A rule on a device, its tensors in the order of memory in which its file has them: another
    gives other bits.
    """

    def placed(tensor: Tensor) -> Tensor:
        return tensor.to(device).contiguous()

    return replace(
        rule,
        key=placed(rule.key),
        value=placed(rule.value),
        arguments={name: placed(tensor) for name, tensor in rule.arguments.items()},
        context_keys=placed(rule.context_keys),
        context_weights=placed(rule.context_weights),
    )


def curves_text(curves: Sequence[ParetoCurve]) -> str:
    """The curves as tables: each point with what the spec has for it, and a star at its own."""
    lines = []
    for each in curves:
        lines += [
            f"{each.edit}: what each collateral_weight gives",
            "  number  loss  collateral  in the spec",
        ]
        for point in each.points:
            mark = "*" if point.number == each.picked else " "
            numbers = f"{point.number:6d}  {point.loss:4.2f}  {point.collateral:10.2e}"
            settings = f"method: {each.method}, collateral_weight: {point.collateral_weight!r}"
            lines.append(f"{mark} {numbers}  solver: {{{settings}}}")
    return "\n".join(lines)


def pareto_picture(curves: Sequence[ParetoCurve], size: int = 480) -> Image.Image:
    """Each curve below the other: loss (upwards) against collateral (to the right), a numbered dot
    for every point.
    """
    margin, font = 56, ImageFont.load_default(13)
    page = Image.new("RGB", (size, size * len(curves)), "white")
    draw = ImageDraw.Draw(page)
    for row, each in enumerate(curves):
        top, bottom = row * size + margin, (row + 1) * size - margin
        most = max((p.collateral for p in each.points), default=0.0) or 1.0
        draw.line((margin, top, margin, bottom, size - margin, bottom), fill="black")
        draw.text(
            (margin, top - margin // 2),
            f"{each.edit}: loss, 0 to 100%",
            fill="black",
            font=font,
            anchor="lm",
        )
        label = f"predicted collateral, 0 to {most:.2e}"
        draw.text((size // 2, bottom + margin // 2), label, fill="black", font=font, anchor="mm")
        for p in each.points:
            x = margin + p.collateral / most * (size - 2 * margin)
            y = bottom - min(p.loss, 1.0) * (bottom - top)
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="black")
            draw.text((x + 5, y - 5), str(p.number), fill="black", font=font, anchor="ls")
    return page
