"""How an answer is read out of a model's output, and how two answers are compared."""

from __future__ import annotations

import re
from collections.abc import Callable

from flan_train.errors import unknown_name

# What stands right before an answer, lower case. A target that ends in one of these and the
# answer can be read back; the last cue of a text counts, because a rationale may hold others.
CUES = (
    "answer is",
    "answer:",
    "answer =",
    "final answer is",
    "final answer:",
    "result is",
    "result:",
)

_CUE = re.compile(
    "|".join(
        r"(?<!\w)" + re.escape(cue) + (r"(?!\w)" if cue[-1].isalnum() else "")
        for cue in sorted(CUES, key=len, reverse=True)
    ),
    re.IGNORECASE,
)
_PAIRS = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'", "`": "`", "“": "”", "*": "*"}
_LEADING = " \t\n:,;"
_TRAILING = " \t\n.,;:!?"
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")


def _text(text: str) -> str | None:
    return text.strip() or None


def _first_line(text: str) -> str | None:
    stripped = text.strip()
    return stripped.split("\n", 1)[0].strip() or None


def _after_cue(text: str) -> str | None:
    cues = list(_CUE.finditer(text))
    if not cues:
        return None
    line = _first_line(text[cues[-1].end() :].lstrip(_LEADING))
    return line if line is not None and line.strip(_TRAILING) else None


STYLES: dict[str, Callable[[str], str | None]] = {
    "text": _text,
    "after_cue": _after_cue,
}


def extract(text: str, style: str) -> str | None:
    """Returns the answer a text gives, or None when none can be read out of it.

    Styles: "text" takes all of it, "after_cue" what follows the last cue on its line (facts
    section 6: text after the last "answer is" and its like).

    >>> extract("48 / 2 = 24. 48 + 24 = 72.\\nThe answer is 72.", "after_cue")
    '72.'

    Raises:
      UserError: no such style.
    """
    if style not in STYLES:
        raise unknown_name("extraction", style, STYLES)
    return STYLES[style](text)


def normalise(text: str) -> str:
    """Returns the form in which answers are compared.

    Lower case, single spaces, outer punctuation, quotes and matched brackets off, no thousands
    separators. An answer that is nothing but punctuation stays as it is.

    >>> normalise(' (C). '), normalise('1,200'), normalise('f(x)'), normalise('-5.')
    ('c', '1200', 'f(x)', '-5')
    """
    kept = " ".join(text.split()).casefold()
    stripped = kept
    while True:
        before = stripped
        stripped = stripped.lstrip(_LEADING).rstrip(_TRAILING)
        if _is_wrapped(stripped):
            stripped = stripped[1:-1]
        if stripped == before:
            break
    return _THOUSANDS.sub("", stripped) or kept


def _is_wrapped(text: str) -> bool:
    """Whether the first and last characters are a pair that belongs together."""
    if len(text) < 2 or _PAIRS.get(text[0]) != text[-1]:
        return False
    opening, closing = text[0], text[-1]
    inner = text[1:-1]
    if opening == closing:
        return opening not in inner
    depth = 0
    for character in inner:
        depth += (character == opening) - (character == closing)
        if depth < 0:
            return False
    return depth == 0
