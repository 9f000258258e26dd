"""The chart of the curves of least squares: residual against predicted collateral."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from editspec.engine.pareto import ParetoCurve

SIZE, MARGIN, RADIUS = 480, 56, 3
"""The width and height of one plot, the margin around it, and the radius of a dot, in pixels."""


def draw_curves(curves: Sequence[ParetoCurve]) -> Image.Image:
    """Draw each curve below the one before, with a numbered dot for every point.

    The residual grows upwards, from 0 to 100 %, and the predicted collateral to the right.
    """
    picture = Image.new("RGB", (SIZE, SIZE * len(curves)), "white")
    draw = ImageDraw.Draw(picture)
    for row, curve in enumerate(curves):
        _draw_curve(draw, curve, top=row * SIZE + MARGIN)
    return picture


def _draw_curve(draw: ImageDraw.ImageDraw, curve: ParetoCurve, top: int) -> None:
    font = ImageFont.load_default(13)
    length = SIZE - 2 * MARGIN
    left, right, bottom = MARGIN, SIZE - MARGIN, top + length
    most = max((point.collateral for point in curve.points), default=0.0) or 1.0
    draw.line((left, top, left, bottom, right, bottom), fill="black")
    title = f"{curve.edit}: residual, 0 to 100%"
    draw.text((left, top - MARGIN // 2), title, fill="black", font=font, anchor="lm")
    label = f"predicted collateral, 0 to {most:.2e}"
    draw.text((SIZE // 2, bottom + MARGIN // 2), label, fill="black", font=font, anchor="mm")
    for point in curve.points:
        x = left + point.collateral / most * length
        y = bottom - min(point.residual, 1.0) * length
        draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill="black")
        draw.text((x + 5, y - 5), str(point.number), fill="black", font=font, anchor="ls")
