"""Values, tables and empty places of a report page, as HTML text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence


def esc(value: object) -> str:
    """Returns a value's text with everything that HTML could read as markup made harmless."""
    return html.escape(str(value))


def name(value: object) -> str:
    """Returns a task's or suite's name that may break after its underscores."""
    return esc(value).replace("_", "_<wbr>")


def number(value: float | None, digits: int = 3) -> str:
    """Returns a score with fixed digits, or a dash when it is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a share in percent without its sign, or a dash when it is not known.

    >>> percent(0.28666), percent(-0.031), percent(None)
    ('28.7', '−3.1', '–')
    """
    return number(None if value is None else 100 * value, digits).replace("-", "−")


def percents(interval: Sequence[float] | None) -> str:
    """Returns an interval of shares in percent.

    >>> percents((0.25, 0.3))
    '25.0 to 30.0'
    """
    return f"{percent(interval[0])} to {percent(interval[1])}" if interval else "–"


def span(interval: Sequence[float] | None) -> str:
    """Returns an interval of shares in percent in few letters, for tables; "" for none.

    >>> span((0.25, 0.3)), span((-0.01, 0.3))
    ('25.0–30.0', '−1.0 to 30.0')
    """
    if not interval:
        return ""
    return percents(interval) if interval[0] < 0 else percents(interval).replace(" to ", "–")


def signed(value: float | None) -> str:
    """Returns a difference of shares in percentage points with its sign, or a dash.

    >>> signed(0.0301), signed(-0.2), signed(0.0)
    ('+3.0', '−20.0', '0.0')
    """
    if value is None or math.isnan(value):
        return "–"
    text = f"{abs(100 * value):.1f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def count(value: float | None) -> str:
    """Returns a whole number with separators, or a dash when it is not known."""
    return f"{int(value):,}" if value is not None else "–"


def some(number_of: int, one: str, more: str = "") -> str:
    """Returns a number with its noun: "1 step", "3 steps"."""
    return f"{number_of:,} {one if number_of == 1 else more or one + 's'}"


def duration(seconds: float) -> str:
    """Returns a length of time in its two largest units.

    >>> duration(42), duration(275), duration(8000)
    ('42 s', '4 min 35 s', '2 h 13 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def empty(text: str) -> str:
    """Returns the sentence that stands where a run holds nothing yet."""
    return f'<p class="empty">{esc(text)}</p>'


def table(
    head: Sequence[tuple[str, str]], rows: Iterable[str], caption: str = "", look: str = ""
) -> str:
    """Returns a table: `head` is (title, CSS classes) of each column, `rows` are HTML already."""
    cells = "".join(f'<th class="{kind}" scope="col">{esc(title)}</th>' for title, kind in head)
    above = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="{look}">{above}<thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
