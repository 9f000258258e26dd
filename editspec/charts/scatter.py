"""Points in two measures, and the front of those that no other point beats in both.

`lay_out` says where everything lies, in units of the drawing; `picture` draws that in pixels, and a
template of the reports draws it as SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil, cos, hypot, pi, sin

from PIL import ImageFont

from editspec.charts.ticks import Frame, pick_ticks

FRAME = Frame(width=720, height=470, left=76, right=688, top=74, bottom=412)

MARKERS = (
    ("circle", "#0072b2"),
    ("square", "#d55e00"),
    ("triangle", "#009e73"),
    ("diamond", "#cc79a7"),
    ("nabla", "#e69f00"),
    ("cross", "#56b4e9"),
)
"""Shapes and colours of series: those of Okabe and Ito, which colour-blind readers tell apart."""

NO_MARKER = ("circle", "none")
"""The shape and the colour of a ring without a marker in it."""

SHAPES = {
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "triangle": ((0, -1.1), (1.05, 0.8), (-1.05, 0.8)),
    "nabla": ((0, 1.1), (1.05, -0.8), (-1.05, -0.8)),
    "diamond": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    "cross": (
        *((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)),
        *((0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)),
    ),
}
"""The corners of markers, in units of their radius."""

RADIUS = 5.5
"""The radius of a marker."""

TEXT = 13
"""The size of letters."""

REACHES = (12.0, 24.0, 38.0, 54.0, 72.0, 92.0, 116.0)
"""How far from its point a label may stand."""

MARGIN = 16
"""The least distance of a label from the right edge of the drawing, which cuts what lies beyond."""

ROUNDS = 5
"""How often labels are placed anew, so that those that found no room come first."""

ANGLES = (0.0, -0.25, 0.25, 1.0, -0.75, 0.75, -0.5, 0.5)
"""The sides of a point on which its label may stand, in half turns; to its right first."""

LEAST_RANK = (True, True)
"""The rank of a point that was not picked and is not of the front."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Axis:
    """A measure: its title, and whether it is a share, which is shown in percent."""

    title: str
    share: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a chart.

    Attributes
    ----------
    label
        Its name, which may be left out of the drawing where there is no room.
    x, y
        Its measures; less of x is better.
    series
        What it has in common with others of one marker.
    picked
        Whether it was picked from among all points.
    """

    label: str
    x: float
    y: float
    series: str = ""
    picked: bool = False


@dataclass(frozen=True)
class Scatter:
    """A chart of points.

    `rising` says whether more of y is better, or less.
    """

    title: str
    x: Axis
    y: Axis
    points: Sequence[Point]
    rising: bool = True


@dataclass(frozen=True)
class Line:
    """A line of a drawing: an axis, a rule, a part of the front, or from a point to its label."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str


@dataclass(frozen=True)
class Text:
    """A text of a drawing; `anchor` says which end of it lies at x."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    kind: str = "tick"


@dataclass(frozen=True)
class Marker:
    """A marker of a drawing."""

    x: float
    y: float
    shape: str
    colour: str
    picked: bool = False

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The corners of the shape; a circle has none."""
        shape = SHAPES.get(self.shape, ())
        places = ((self.x + RADIUS * across, self.y + RADIUS * down) for across, down in shape)
        return [(round(x, 1), round(y, 1)) for x, y in places]


@dataclass(frozen=True)
class Drawing:
    """All that is drawn, from the back to the front, and the chart in words."""

    frame: Frame
    lines: Sequence[Line]
    markers: Sequence[Marker]
    texts: Sequence[Text]
    summary: str


def find_front(points: Sequence[Point], rising: bool) -> list[Point]:
    """Find the points that no other point beats in both measures, by rising x."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.x, -each.y if rising else each.y)):
        if not front or (point.y > front[-1].y if rising else point.y < front[-1].y):
            front.append(point)
    return front


def lay_out(chart: Scatter, frame: Frame = FRAME) -> Drawing:
    """Lay a chart out: axes with ticks, the front, markers, a legend, labels that do not overlap.

    A label that finds no room is left out.
    """
    layout = _Layout(chart, frame)
    layout.draw_axes()
    layout.draw_front()
    layout.draw_points()
    layout.draw_legend()
    names = (f"{each.series} {each.label}" for each in find_front(chart.points, chart.rising))
    front = ", ".join(name.strip() for name in names)
    summary = f"{chart.title}. No point is better in both than one of these: {front}."
    return Drawing(frame, layout.lines, layout.markers, layout.texts, summary)


def overlap(one: Box, other: Box) -> bool:
    """Say whether two boxes overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def text_width(text: str) -> float:
    """Measure a text in units of the drawing."""
    # Small letters are measured in whole pixels: far larger ones, as pictures have, give the width.
    return float(ImageFont.load_default(8 * TEXT).getlength(text)) / 8


@dataclass
class _Layout:
    """A drawing while it is made."""

    chart: Scatter
    frame: Frame
    lines: list[Line] = field(default_factory=list)
    markers: list[Marker] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        xs = [point.x for point in self.chart.points]
        ys = [point.y for point in self.chart.points]
        self.x_ticks = pick_ticks(max([0.0, *xs]), min([0.0, *xs]))
        # Where all points lie far from zero, the axis begins nearer to them.
        begin = min(ys) if min(ys, default=0.0) > 0.4 * max(ys, default=0.0) else 0.0
        self.y_ticks = pick_ticks(max([begin, *ys]), min([begin, *ys]))
        series = dict.fromkeys(point.series for point in self.chart.points)
        self.look = {name: MARKERS[n % len(MARKERS)] for n, name in enumerate(series)}

    def to_x(self, value: float) -> float:
        """The place of a value on the horizontal axis."""
        first, last = float(self.x_ticks[0]), float(self.x_ticks[-1])
        share = (value - first) / (last - first)
        return round(self.frame.left + share * (self.frame.right - self.frame.left), 1)

    def to_y(self, value: float) -> float:
        """The place of a value on the vertical axis."""
        first, last = float(self.y_ticks[0]), float(self.y_ticks[-1])
        share = (value - first) / (last - first)
        return round(self.frame.bottom - share * (self.frame.bottom - self.frame.top), 1)

    def draw_axes(self) -> None:
        """Draw the title, both axes, their ticks, and which corner is the better one."""
        frame, chart = self.frame, self.chart
        for text in self.x_ticks:
            at = self.to_x(float(text))
            self.lines.append(Line(at, frame.bottom, at, frame.bottom + 5, "axis"))
            self.texts.append(Text(at, frame.bottom + 17, _shown(text, chart.x)))
        for text in self.y_ticks:
            at = self.to_y(float(text))
            self.lines.append(Line(frame.left, at, frame.right, at, "rule"))
            self.texts.append(Text(frame.left - 10, at, _shown(text, chart.y), "end"))
        self.lines.append(Line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
        middle = (frame.left + frame.right) / 2
        self.texts.append(Text(frame.left, 18, chart.title, "start", "title"))
        self.texts.append(Text(middle, frame.height - 14, chart.x.title, kind="axis"))
        self.texts.append(Text(frame.left, frame.top - 14, chart.y.title, "start", "axis"))

    def draw_front(self) -> None:
        """Draw the line through the points of the front."""
        front = find_front(self.chart.points, self.chart.rising)
        places = [(self.to_x(point.x), self.to_y(point.y)) for point in front]
        for begin, end in pairwise(places):
            self.lines.append(Line(*begin, *end, "front"))
            self.taken += _boxes_along(begin, end)

    def draw_points(self) -> None:
        """Draw the markers, then each label where there is room for it."""
        places = [(self.to_x(point.x), self.to_y(point.y)) for point in self.chart.points]
        reach = RADIUS + 1
        self.taken += [(x - reach, y - reach, x + reach, y + reach) for x, y in places]
        for point, (x, y) in zip(self.chart.points, places, strict=True):
            self.markers.append(Marker(x, y, *self.look[point.series], point.picked))
        for number, box in self._place_labels(places).items():
            self._draw_label(self.chart.points[number], *places[number], box)

    def _place_labels(self, places: Sequence[tuple[float, float]]) -> dict[int, Box]:
        """Find a place for the label of each point, by its number; some may find none.

        Where a label finds no room, those that found none are placed first in another round. The
        round that names the most of what matters is taken, then the one that names the most.
        """
        points, front = self.chart.points, find_front(self.chart.points, self.chart.rising)
        ranks = [_rank_of(point, front) for point in points]
        # What matters most is named first, so that its label lies close to it.
        order = sorted(range(len(points)), key=lambda number: ranks[number])
        best: dict[int, Box] = {}
        reached = (-1, -1)
        for _ in range(ROUNDS):
            found = self._place_in_order(order, places)
            important = sum(ranks[number] != LEAST_RANK for number in found)
            if (important, len(found)) > reached:
                best, reached = found, (important, len(found))
            missing = [number for number in order if number not in found]
            if not missing:
                break
            order = missing + [number for number in order if number in found]
        return best

    def _place_in_order(
        self, order: Sequence[int], places: Sequence[tuple[float, float]]
    ) -> dict[int, Box]:
        """Place the labels of points one after the other, each where there still is room."""
        found: dict[int, Box] = {}
        taken = list(self.taken)
        for number in order:
            place = places[number]
            width = text_width(self.chart.points[number].label)
            box = self._find_room(*place, width, taken, list(found.values()))
            if box is None:
                continue
            found[number] = box
            if leader := _leader(*place, box):
                taken += _boxes_along(place, leader)
        return found

    def _draw_label(self, point: Point, x: float, y: float, box: Box) -> None:
        """Draw the name of a point, with a line to it where it stands further away."""
        if leader := _leader(x, y, box):
            self.lines.append(Line(x, y, *leader, "leader"))
        across, level = round((box[0] + box[2]) / 2, 1), round((box[1] + box[3]) / 2, 1)
        kind = "picked" if point.picked else "label"
        self.texts.append(Text(across, level, point.label, kind=kind))

    def _find_room(
        self, x: float, y: float, width: float, taken: Sequence[Box], labels: Sequence[Box]
    ) -> Box | None:
        """Find the nearest place of a label where it, and the line to it, crosses nothing."""
        frame = self.frame
        for box in _boxes_around(x, y, width):
            inside = box[0] >= frame.left + 2 and box[2] <= frame.width - MARGIN
            inside = inside and box[1] >= frame.top - 4 and box[3] <= frame.bottom - 2
            if not inside or any(overlap(box, other) for other in [*taken, *labels]):
                continue
            leader = _leader(x, y, box)
            path = _boxes_along((x, y), leader) if leader else []
            if not any(overlap(part, other) for part in path for other in labels):
                return box
        return None

    def draw_legend(self) -> None:
        """Draw what the markers and the line of the front stand for, from the right."""
        at: float = self.frame.right
        y = self.frame.top - 34.0
        named = [(name, look) for name, look in self.look.items() if name]
        entries = [(name, Marker(0, y, *look)) for name, look in named]
        if any(point.picked for point in self.chart.points):
            entries.append(("picked", Marker(0, y, *NO_MARKER, picked=True)))
        for name, marker in reversed(entries):
            at -= text_width(name)
            self.texts.append(Text(at, y, name, "start", "label"))
            self.markers.append(replace(marker, x=at - (16 if marker.picked else 12)))
            at -= 42
        front = "no point is better in both"
        at -= text_width(front)
        self.texts.append(Text(at, y, front, "start", "label"))
        self.lines.append(Line(at - 30, y, at - 8, y, "front"))


def _rank_of(point: Point, front: Sequence[Point]) -> tuple[bool, bool]:
    """Rank a point among those whose labels are placed: what was picked, the front, the rest."""
    return (not point.picked, point not in front)


def _leader(x: float, y: float, box: Box) -> tuple[float, float] | None:
    """The end of the line from a point to its label; None where the label lies beside it."""
    near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
    return near if hypot(near[0] - x, near[1] - y) > REACHES[0] + 1 else None


def _shown(tick: str, axis: Axis) -> str:
    if not axis.share:
        return tick
    decimals = max(0, len(tick.partition(".")[2]) - 2)
    return f"{100 * float(tick):.{decimals}f} %"


def _boxes_along(begin: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Cover a line by small boxes, so that no label lies on it."""
    across, down = end[0] - begin[0], end[1] - begin[1]
    count = ceil(hypot(across, down) / 4) + 1
    places = [(begin[0] + across * n / count, begin[1] + down * n / count) for n in range(count)]
    return [(x - 2, y - 2, x + 2, y + 2) for x, y in places]


def _boxes_around(x: float, y: float, width: float) -> Iterator[Box]:
    """Find the places of a label around a point, the nearest first."""
    half, high = width / 2 + 1, TEXT / 2 + 1
    for reach in REACHES:
        for angle in ANGLES:
            across, down = cos(angle * pi), sin(angle * pi)
            middle = x + across * (reach + half) if abs(across) > 0.1 else x
            level = y + down * (reach + high / 2)
            yield (middle - half, level - high, middle + half, level + high)
