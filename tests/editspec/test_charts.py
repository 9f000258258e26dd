"""Charts: the front, labels that do not overlap, and colours that everybody tells apart."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from editspec.charts.picture import draw_picture, draw_scatters
from editspec.charts.scatter import (
    MARGIN,
    MARKERS,
    TEXT,
    Axis,
    Box,
    Drawing,
    Point,
    Scatter,
    find_front,
    lay_out,
    overlap,
    text_width,
)

VIENOT = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}
"""How linear colours look without the one or the other cone (Vienot, Brettel, Mollon 1999)."""


def make_chart(count: int, spread: float = 1.0, rising: bool = True) -> Scatter:
    """Make a chart of random points in three series."""
    draw = random.Random(count)
    points = [
        Point(f"rank {n}", spread * draw.random(), spread * draw.random(), f"layer{n % 3}", n == 2)
        for n in range(count)
    ]
    return Scatter("A chart", Axis("change"), Axis("efficacy", share=True), points, rising)


def label_boxes(drawing: Drawing) -> Iterator[Box]:
    """The places of the labels of points."""
    for text in drawing.texts:
        if text.kind in ("label", "picked") and text.anchor == "middle":
            half = text_width(text.text) / 2
            yield (text.x - half, text.y - TEXT / 2, text.x + half, text.y + TEXT / 2)


@pytest.mark.parametrize("rising", [True, False])
def test_no_point_beats_one_of_the_front_and_every_other_is_beaten(rising: bool) -> None:
    points = make_chart(40).points
    front = find_front(points, rising)

    def beats(one: Point, other: Point) -> bool:
        better = one.y >= other.y if rising else one.y <= other.y
        return one != other and one.x <= other.x and better

    assert 1 < len(front) < 40
    for point in points:
        assert any(beats(other, point) for other in points) == (point not in front)


@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_labels_overlap_neither_each_other_nor_a_marker(spread: float) -> None:
    chart = make_chart(18, spread)
    # All points but one lie in a corner, where the spread is small.
    chart = Scatter("A chart", chart.x, chart.y, [*chart.points, Point("far", 1, 1)])
    drawing = lay_out(chart)
    boxes = list(label_boxes(drawing))
    assert len(boxes) > 5
    assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
    for marker in drawing.markers[: len(chart.points)]:
        box = (marker.x - 5, marker.y - 5, marker.x + 5, marker.y + 5)
        assert not any(overlap(box, other) for other in boxes)
    frame = drawing.frame
    assert all(box[0] >= 0 and box[2] <= frame.width for box in boxes)


def test_a_label_without_room_comes_first_in_another_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The chart of docs/bench.md: the label of one point took the place of the next one's."""
    measured = {
        "Our method (projected gradient descent)": (0.0188, 0.923),
        "Our method, solved by least squares": (0.0182, 0.959),
        "Directions learned and refined (the recipe)": (0.0041, 0.945),
        "With direct optimization of A": (0.0225, 0.968),
        "With single-image direction constraint": (0.0182, 0.869),
        "With single-layer, no direction constraint": (0.0591, 0.969),
        "Finetuning all weights": (0.0443, 0.904),
        "NBB + direct copying": (0.0490, 0.864),
        "NBB + Laplace blending": (0.0283, 0.778),
    }
    points = [Point(label, *place) for label, place in measured.items()]
    chart = Scatter("Dome to spire", Axis("change"), Axis("efficacy", share=True), points)

    def labelled() -> set[str]:
        return {text.text for text in lay_out(chart).texts} & set(measured)

    drawing = lay_out(chart)
    boxes = list(label_boxes(drawing))
    assert labelled() == set(measured)
    # No label runs to the edge of the picture.
    assert max(box[2] for box in boxes) <= drawing.frame.width - MARGIN
    margin = np.asarray(draw_picture(drawing))[:, 2 * (2 - MARGIN) :]
    assert margin.min() == 255
    assert len(boxes) == len(measured)
    assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
    monkeypatch.setattr("editspec.charts.scatter.ROUNDS", 1)
    assert set(measured) - labelled() == {"With direct optimization of A"}


def test_overlapping_labels_would_be_seen() -> None:
    assert overlap((0, 0, 10, 10), (9, 9, 20, 20))
    assert not overlap((0, 0, 10, 10), (10, 0, 20, 10))


def test_ticks_are_numbers_of_the_axes_and_shares_are_percent() -> None:
    drawing = lay_out(Scatter("A", Axis("x"), Axis("y", True), [Point("a", 0.02, -0.2)]))
    ticks = [text for text in drawing.texts if text.kind == "tick"]
    across = {text.text: text.x for text in ticks if text.anchor == "middle"}
    up = {text.text: text.y for text in ticks if text.anchor == "end"}
    assert across["0.010"] == (across["0.000"] + across["0.020"]) / 2
    assert up["0 %"] < up["-20 %"]
    (marker,) = [each for each in drawing.markers if each.colour != "none"]
    assert (marker.x, marker.y) == (across["0.020"], up["-20 %"])


def look(colour: str, matrix: tuple[tuple[float, ...], ...] | None) -> np.ndarray:
    """A colour in CIELAB, as somebody sees it."""
    levels = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    if matrix is not None:
        linear = np.clip(np.array(matrix) @ linear, 0, 1)
    white = np.array([0.9505, 1.0, 1.089])
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.maximum(np.array(to_xyz) @ linear / white, 0.0089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colours: list[str], matrix: tuple[tuple[float, ...], ...] | None) -> float:
    """The least difference of two colours, as somebody sees them."""
    seen = [look(colour, matrix) for colour in colours]
    return min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2))


@pytest.mark.parametrize("matrix", [None, *VIENOT.values()], ids=["all", *VIENOT])
def test_colours_differ_for_everybody(matrix: tuple[tuple[float, ...], ...] | None) -> None:
    assert nearest([colour for _, colour in MARKERS], matrix) > 10
    assert len({shape for shape, _ in MARKERS}) == len(MARKERS)


def test_colours_that_some_take_for_the_same_would_be_seen() -> None:
    assert (
        nearest(["#d62728", "#6b6b00"], VIENOT["deutan"])
        < nearest(["#d62728", "#6b6b00"], None) / 3
    )


def test_charts_are_drawn_below_each_other_and_the_same_twice() -> None:
    charts = [make_chart(5), make_chart(6, rising=False)]
    picture = draw_scatters(charts)
    assert picture.size == (1440, 1880)
    assert picture.tobytes() == draw_scatters(charts).tobytes()
    blue = tuple(int(MARKERS[0][1][n : n + 2], 16) for n in (1, 3, 5))
    marker = lay_out(charts[0]).markers[0]
    assert picture.getpixel((round(2 * marker.x), round(2 * marker.y))) == blue
    assert math.isclose(marker.x, round(marker.x, 1))
