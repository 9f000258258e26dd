"""The curve of losses over steps, as a drawing of SVG in units of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editspec.charts.ticks import Frame, Tick, pick_ticks

POINTS = 400
"""Points that a curve has at most."""


FRAME = Frame(width=720, height=240, left=56, right=704, top=16, bottom=200)


@dataclass(frozen=True)
class LossChart:
    """Losses over steps.

    Attributes
    ----------
    points
        The points of the curve, as SVG has them.
    steps, losses
        The ticks of the axes.
    best
        The place of the lowest loss.
    summary
        The curve in words.
    """

    points: str
    steps: list[Tick]
    losses: list[Tick]
    best: tuple[float, float]
    summary: str


def draw_losses(losses: Sequence[tuple[int, float]], frame: Frame = FRAME) -> LossChart | None:
    """Draw the curve of losses that are given as (step, loss).

    None where there are fewer than two.
    """
    if len(losses) < 2:
        return None
    last_step = losses[-1][0]
    step_ticks = pick_ticks(last_step)
    loss_ticks = pick_ticks(max(loss for _, loss in losses))
    highest = float(loss_ticks[-1])

    def to_x(step: float) -> float:
        """The place of a step on the horizontal axis."""
        return round(frame.left + (frame.right - frame.left) * step / last_step, 1)

    def to_y(loss: float) -> float:
        """The place of a loss on the vertical axis, which SVG counts downwards."""
        return round(frame.bottom - (frame.bottom - frame.top) * loss / highest, 1)

    places = [f"{to_x(step):g},{to_y(loss):g}" for step, loss in _thin(losses)]
    # The last round number may lie beyond the last step; the axis ends there.
    shown_ticks = [text for text in step_ticks if float(text) <= last_step]
    best_step, best_loss = min(losses, key=lambda point: point[1])
    first_step, first_loss = losses[0]
    summary = (
        f"From {first_loss:.3g} at step {first_step} to {best_loss:.3g} at step {best_step}, "
        f"the lowest of {last_step} steps."
    )
    return LossChart(
        points=" ".join(places),
        steps=[Tick(to_x(float(text)), text) for text in shown_ticks],
        losses=[Tick(to_y(float(text)), text) for text in loss_ticks],
        best=(to_x(best_step), to_y(best_loss)),
        summary=summary,
    )


def _thin(losses: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Take every so many points, and the last one."""
    stride = -(-len(losses) // POINTS)
    return [*losses[:-1:stride], losses[-1]]
