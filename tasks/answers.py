"""The one table of how an answer is read out of a model's output, and how two are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from flan_train.errors import unknown_name
from flan_train.tasks import answer_forms, extraction, extraction_letters
from flan_train.tasks.answer_forms import normalise

__all__ = ["STYLES", "Style", "extract", "form", "is_right", "normalise"]


class Style(NamedTuple):
    """A kind of answer.

    Attributes:
      read: (output, options) -> the answer, None where there is none to be read.
      form: answer -> the text that two answers are compared by; idempotent.
    """

    read: Callable[[str, Sequence[str]], str | None]
    form: Callable[[str], str]


STYLES: dict[str, Style] = {
    # All of the output; `verbatim` compares it as it is written, for case and punctuation.
    "text": Style(extraction.whole, normalise),
    "verbatim": Style(extraction.whole, answer_forms.as_written),
    "first_line": Style(extraction.first_line, normalise),
    "first_word": Style(extraction.first_word, normalise),
    # What follows the last cue, such as "answer is" (facts section 6).
    "after_cue": Style(extraction.after_cue, normalise),
    # A piece of a passage, compared as SQuAD and TyDiQA do; behind a cue where there is one.
    "span": Style(extraction.cued_or_first_line, answer_forms.span),
    # Someone or something by name, compared without an article before it (Winogender).
    "noun": Style(extraction.first_line, answer_forms.noun),
    # One of the options by its marker.
    "letter": Style(extraction_letters.letter, normalise),
    # One of the options in words: yes, no, true, false, valid, invalid.
    "closed": Style(extraction.closed, normalise),
    "number": Style(extraction.number, answer_forms.number),
    # Words in their order, and brackets (word_sorting and dyck_languages of BBH).
    "words": Style(extraction.word_list, answer_forms.words),
    "brackets": Style(extraction.brackets, normalise),
}


def extract(text: str, style: str, options: Sequence[str] = ()) -> str | None:
    """Returns the answer a text gives, or None when none can be read out of it.

    >>> extract("48 / 2 = 24. 48 + 24 = 72.\\nThe answer is 72.", "after_cue")
    '72.'
    >>> extract("b) is right", "letter", ("(A)", "(B)")), extract("That makes $1,200.", "number")
    ('(B)', '1200')

    Args:
      text: a model's output.
      style: a key of `STYLES`.
      options: what the answer may be, where the record says it.

    Raises:
      UserError: no such style.
    """
    return _style(style).read(text, options)


def form(answer: str, style: str) -> str:
    """Returns the text that answers of a style are compared by; raises as `extract`."""
    return _style(style).form(answer)


def is_right(extracted: str | None, accepted: Iterable[str], style: str) -> bool:
    """Returns whether an extracted answer is among those that are right; None never is.

    >>> is_right("12", ["12.0"], "number"), is_right("the Nile", ["Nile"], "span")
    (True, True)

    Raises:
      UserError: no such style.
    """
    compared = _style(style).form
    if extracted is None:
        return False
    given = compared(extracted)
    return any(given == compared(answer) for answer in accepted)


def _style(name: str) -> Style:
    if name not in STYLES:
        raise unknown_name("extraction", name, STYLES)
    return STYLES[name]
