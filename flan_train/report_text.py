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
