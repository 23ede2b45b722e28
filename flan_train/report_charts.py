"""Line charts as inline SVG: no script is needed to read them; colours come from the page."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 460, 226
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 24, 24
# A longer series is averaged in groups: a chart has no more pixels than that.
MOST_POINTS = 360

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
      name: what the legend calls it.
      points: (step, value), steps ascending.
      look: "a" or "b" (the page's two colours), "r0" to "r7" (runs side by side), "base" or
        "paper" (dashed reference lines).
      dots: whether each point is marked: for few, separate measurements.
      band: (step, low, high) around the line.
      chosen: the step whose dot is filled.
    """

    name: str
    points: Sequence[Point]
    look: str = "a"
    dots: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    chosen: int | None = None


@dataclasses.dataclass(frozen=True)
class Mark:
    """A step that the chart points out, with the interval of the first series there."""

    step: int
    label: str
    interval: tuple[float, float] | None = None


def thin(points: Sequence[Point]) -> list[Point]:
    """Returns the finite points, averaged in equal groups when there are more than a chart shows.

    A group stands at its last step, so that the curve still ends where the run does.
    """
    finite = [point for point in points if all(map(math.isfinite, point))]
    if len(finite) <= MOST_POINTS:
        return finite
    size = -(-len(finite) // MOST_POINTS)
    groups = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Returns round values from at most `low` to at least `high`, about `wanted` steps apart.

    >>> ticks(0.0, 0.47)
    [0.0, 0.2, 0.4, 0.6]
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def short(value: float) -> str:
    """Returns a number for an axis: 1500 -> "1.5k", 0.25 -> "0.25"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    form: Callable[[float], str] = short,
    floor: float | None = None,
    top: float | None = None,
    mark: Mark | None = None,
) -> str:
    """Returns a `<figure>` with title, legend and chart; says so in words when nothing is known.

    Args:
      title: what is shown, with its unit.
      series: the lines; the legend names them with their latest value.
      form: how a value is written in the legend.
      floor: the lowest value the axis must reach down to (None: wherever the data start).
      top: the highest value the axis must reach (None: wherever the data end).
      mark: a step to point out.
    """
    lines = [dataclasses.replace(one, points=thin(one.points)) for one in series]
    lines = [one for one in lines if one.points]
    if not lines:
        return (
            f"<figure><figcaption>{html.escape(title)}</figcaption>"
            '<p class="note">Nothing has been recorded yet.</p></figure>'
        )
    values = [y for one in lines for _, y in one.points]
    values += [value for one in lines for _, *ends in one.band for value in ends]
    values += [value for value in (floor, top) if value is not None]
    if mark and mark.interval:
        values += mark.interval
    y_ticks = ticks(min(values), max(values))
    steps = [x for one in lines for x, _ in one.points]
    low, high = min(steps), max(steps)
    span = (high - low) or 1.0

    def across(x: float) -> float:
        inner = WIDTH - LEFT - RIGHT
        return round(LEFT + (inner * (x - low) / span if high > low else inner / 2), 1)

    def up(y: float) -> float:
        share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for tick in y_ticks:
        kind = "axis" if tick == y_ticks[0] else "grid"
        parts.append(_line(kind, LEFT, up(tick), WIDTH - RIGHT, up(tick)))
        parts.append(_text(LEFT - 8, up(tick) + 4, "end", short(tick)))
    x_ticks = [tick for tick in ticks(low, high, 5) if low <= tick <= high] or [low]
    for tick in x_ticks:
        anchor = "end" if across(tick) > WIDTH - RIGHT - 12 else "middle"
        parts.append(_text(across(tick), HEIGHT - BOTTOM + 17, anchor, short(tick)))
    if mark:
        parts += _mark(mark, across(mark.step), up)
    for number, one in reversed(list(enumerate(lines))):
        parts.append(f'<g class="{one.look}" data-line="{number}">{_line_of(one, across, up)}</g>')
    parts.append(_line("cursor", LEFT, TOP, LEFT, HEIGHT - BOTTOM))
    described = "; ".join(
        f"{one.name} from {form(one.points[0][1])} at step {one.points[0][0]:g} "
        f"to {form(one.points[-1][1])} at step {one.points[-1][0]:g}"
        for one in lines
    )
    legend = "".join(
        f'<span class="{one.look}" data-line="{number}"><i></i>'
        f'<em title="{html.escape(one.name)}">{html.escape(one.name)}</em> '
        f"<b>{form(one.points[-1][1])}</b></span>"
        for number, one in enumerate(lines)
    )
    data = {
        "width": WIDTH,
        "series": [[[x, across(x), form(y)] for x, y in one.points] for one in lines],
    }
    return (
        f'<figure data-chart="{html.escape(json.dumps(data, separators=(",", ":")))}">'
        f"<figcaption>{html.escape(title)}</figcaption>"
        f'<div class="legend">{legend}<span class="at">at step {high:,.0f}</span></div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(f"{title}: {described}")}">{"".join(parts)}</svg></figure>'
    )


def _mark(mark: Mark, x: float, up: Callable[[float], float]) -> list[str]:
    parts = [_line("mark", x, TOP, x, HEIGHT - BOTTOM)]
    if mark.interval:
        parts.append(_line("whisker", x, up(mark.interval[0]), x, up(mark.interval[1])))
    anchor = "middle"
    if x > WIDTH - RIGHT - 50:
        anchor = "end"
    elif x < LEFT + 50:
        anchor = "start"
    parts.append(
        f'<text class="marked" x="{x:g}" y="{TOP - 5}" text-anchor="{anchor}">'
        f"{html.escape(mark.label)}</text>"
    )
    return parts


def _line_of(one: Series, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    """Returns a line's band, its strokes and its dots."""
    parts = []
    if one.band:
        edge = [(x, high) for x, _, high in one.band]
        edge += [(x, low) for x, low, _ in reversed(one.band)]
        outline = " ".join(f"{across(x):g},{up(y):g}" for x, y in edge)
        parts.append(f'<polygon class="band" points="{outline}"/>')
    places = [(across(x), up(y)) for x, y in one.points]
    path = " ".join(f"{x:g},{y:g}" for x, y in places)
    parts.append(f'<polyline points="{path}"/>')
    if one.dots or len(places) == 1:
        for (step, _), (x, y) in zip(one.points, places, strict=True):
            look = ' class="chosen"' if step == one.chosen else ""
            parts.append(f'<circle{look} cx="{x:g}" cy="{y:g}" r="{3.5 if one.dots else 2.5}"/>')
    return "".join(parts)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(text)}</text>'
