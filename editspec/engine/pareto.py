"""The choice that least squares has: loss against predicted collateral, a numbered point for every
collateral_weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from editspec.engine.lock import edit_files, edit_settings, shared_settings
from editspec.engine.session import STAGES, BuildSession, BuiltEdit
from editspec_runtime.core.rule import Rule
from editspec_runtime.io.digests import digest
from editspec_runtime.methods.least_squares import Problem, curve
from editspec_runtime.methods.solve import rule_directions, rule_function
from editspec_runtime.methods.solvers import NOTHING_TO_DO
from editspec_runtime.modalities.image.generator import Generator


@torch.no_grad()
def curves(session: BuildSession, built: Sequence[BuiltEdit]) -> list[dict[str, Any]]:
    """The curve of every edit of a build that is solved by least squares, on the model as the edits
    before left it.

    Each has ``edit``, ``layer`` and ``points``: ``number``, ``collateral_weight``, ``loss`` (as a
    share of the loss before the edit) and ``collateral`` (tr(dW C dW^T) / tr(W C W^T)). As
    collateral_weight falls, loss falls and collateral rises. ``picked`` is the number of the point
    that the spec has, None where it has another; ``inputs`` is `inputs_of`.

    Raises
    ------
    NumericalError
        As the solver does.
    """
    found = []
    for number, edit in enumerate(built):
        rule = edit.rule
        if rule.solver.method != "least-squares":
            continue
        generator = session.after(number).generator()
        problem = problem_of(session, rule, generator)
        points = curve(problem) if problem.asked > NOTHING_TO_DO else []
        names = ("collateral_weight", "loss", "collateral")
        rows = [
            {"number": n} | {name: getattr(p, name) for name in names}
            for n, p in enumerate(points, start=1)
        ]
        picked = next(
            (
                row["number"]
                for row in rows
                if row["collateral_weight"] == rule.solver.collateral_weight
            ),
            None,
        )
        inputs = inputs_of(session, number)
        found.append(
            {
                "edit": rule.edit,
                "layer": rule.layer,
                "inputs": inputs,
                "picked": picked,
                "points": rows,
            }
        )
    return found


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


def problem_of(session: BuildSession, rule: Rule, generator: Generator) -> Problem:
    """A rule on the model as the edits before left it, as least squares sees it. Raises as the
    solver does.
    """
    weight, keys = (
        generator.weight(rule.layer),
        session.keys(generator, rule.layer, dict.fromkeys(STAGES, 0.0)),
    )
    rule = _as_filed(rule, weight.device)
    function, directions = rule_function(rule, generator), rule_directions(rule, keys)
    return Problem.of(function, weight, rule, directions, keys.moment())


def _as_filed(rule: Rule, device: torch.device) -> Rule:
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


def as_text(found: Sequence[dict[str, Any]]) -> str:
    """The curves as tables, each point with what the spec has for it; a star at the one that it
    has.
    """
    lines = []
    for each in found:
        lines += [
            f"{each['edit']}: what each collateral_weight gives",
            "  number  loss  collateral  in the spec",
        ]
        for p in each["points"]:
            mark = "*" if p["number"] == each["picked"] else " "
            numbers = f"{p['number']:6d}  {p['loss']:4.2f}  {p['collateral']:10.2e}"
            lines.append(
                f"{mark} {numbers}  solver: {{method: least-squares, collateral_weight: {p['collateral_weight']!r}}}"
            )
    return "\n".join(lines)


def picture(found: Sequence[dict[str, Any]], size: int = 480) -> Image.Image:
    """Each curve below the other: loss (upwards) against collateral (to the right), a numbered dot
    for every point.
    """
    margin, font = 56, ImageFont.load_default(13)
    page = Image.new("RGB", (size, size * len(found)), "white")
    draw = ImageDraw.Draw(page)
    for row, each in enumerate(found):
        top, bottom = row * size + margin, (row + 1) * size - margin
        most = max((p["collateral"] for p in each["points"]), default=0.0) or 1.0
        draw.line((margin, top, margin, bottom, size - margin, bottom), fill="black")
        draw.text(
            (margin, top - margin // 2),
            f"{each['edit']}: loss, 0 to 100%",
            fill="black",
            font=font,
            anchor="lm",
        )
        label = f"predicted collateral, 0 to {most:.2e}"
        draw.text((size // 2, bottom + margin // 2), label, fill="black", font=font, anchor="mm")
        for p in each["points"]:
            x = margin + p["collateral"] / most * (size - 2 * margin)
            y = bottom - min(p["loss"], 1.0) * (bottom - top)
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="black")
            draw.text((x + 5, y - 5), str(p["number"]), fill="black", font=font, anchor="ls")
    return page
