"""How a letter that stands for an option is found in a model's output."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flan_train.tasks.answer_forms import LEADING, TRAILING, normalise
from flan_train.tasks.extraction import NEGATION, OR, cue_tails, first_line, first_sentence, plainly

# Characters before a letter that are looked at for a negation.
_REACH = 40
_NOUN = r"(?:option|choice|letter|answer)"
_OPENING = (
    r"[\s\"'“‘`*_:：.]*"
    rf"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?{_NOUN}\s+(?:is\s+)?)?"
    r"[\"'“‘`*_]*"
)
# From the surest to the least sure way of writing a letter at the beginning.
_LEADING_LETTER = tuple(
    re.compile(_OPENING + pattern)
    for pattern in (
        r"[(\[{]\s*([A-Za-z])\s*(?:[)\]}]|$)",
        r"([A-Za-z])\s*[)\]}]",
        r"([A-Za-z])(?=[.:,;!](?!\w)|[\"'”’`*_]*[.!]?\s*$)",
    )
)
# "B because", "A since": behind a cue only, for "A" and "I" are words.
_LETTER_AND_WORDS = re.compile(
    _OPENING
    + r"(?:([B-HJ-Z])(?=\s)|([AI])(?=\s+(?:because|since|as|which|and|or|is|-|–|—)\b|\s+[-–—=]))"
)
_MARKED_LETTER = re.compile(r"[(\[]\s*([A-Za-z])\s*[)\]]")
_NAMED_LETTER = re.compile(
    r"\b(?i:option|choice|letter)\s+(?i:is\s+)?[(\[\"'“]?"
    r"(?:([B-HJ-Z])(?!\w)|([AI])(?!\w)(?!\s+[a-z]))"
)
_BARE_LETTER = re.compile(r"(?<![\w'’.])(?:([B-HJ-Z])(?![\w'’])|([AI])(?=\W*$))")
_MARKER = re.compile(r"[(\[]?([A-Za-z])[)\].:]*")
_MARKER_AND_TEXT = re.compile(r"(?:([(\[]([A-Za-z])[)\]])|([A-Za-z])[.):])\s+(\S.*)", re.DOTALL)


def _lettered(options: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns ({letter: answer}, {text of an option in the form of comparison: answer})."""
    letters: dict[str, str] = {}
    texts: dict[str, str] = {}
    for option in options:
        if match := _MARKER.fullmatch(option.strip()):
            letters[match[1].upper()] = option.strip()
        elif match := _MARKER_AND_TEXT.fullmatch(option.strip()):
            letter = (match[2] or match[3]).upper()
            letters[letter] = match[1] or f"({letter})"
            text = normalise(match[4])
            # What two options say is the answer of neither.
            texts[text] = letters[letter] if text not in texts else ""
        else:
            texts[normalise(option)] = option.strip()
    if options and not letters:
        for place, option in enumerate(options[:26]):
            letter = chr(ord("A") + place)
            letters[letter] = texts[normalise(option)] = f"({letter})"
    # An output "B" is the marker, whatever option has that for its text.
    named = {
        text: answer for text, answer in texts.items() if answer and text.upper() not in letters
    }
    return letters or {chr(code): f"({chr(code)})" for code in range(65, 91)}, named


def letter(text: str, options: Sequence[str] = ()) -> str | None:
    """The option that an output names, as the options write it, "(B)" where they do not.

    Its marker may be written in any way ("B", "b)", "option B", "(B) the text"), or its text may
    stand in place of the marker where the options come with their texts. Several different letters
    of which no cue singles one out are no answer.

    Args:
      text: the output.
      options: markers ("(A)"), markers with texts ("(A) red"), or texts alone, which then are
        (A), (B), ... in order; none of them: any letter is one.
    """
    letters, texts = _lettered(options)
    plain = plainly(text)
    tails = cue_tails(plain)
    if tails:
        return _letter_behind_cue(tails[0], letters, texts)
    first = first_line(plain)
    if first is None:
        return None
    for part in (first, plain.strip()):
        if (named := texts.get(normalise(part))) is not None:
            return named
    found, rest = _leading_letter(first, letters)
    if found and not normalise(rest).strip(")]}*_\"'"):
        return letters[found]
    seen = _seen(_MARKED_LETTER, plain, letters)
    if found:
        return letters[found] if seen <= {found} and not _another(rest, found, letters) else None
    seen = seen or _seen(_NAMED_LETTER, plain, letters)
    return letters[seen.pop()] if len(seen) == 1 else None


def _seen(pattern: re.Pattern[str], text: str, letters: dict[str, str]) -> set[str]:
    """Returns the letters of options that a pattern finds and that are not negated."""
    return {
        group.upper()
        for match in pattern.finditer(text)
        if not NEGATION.search(text[max(0, match.start() - _REACH) : match.start()])
        for group in match.groups()
        if group
    } & letters.keys()


def _letter_behind_cue(tail: str, letters: dict[str, str], texts: dict[str, str]) -> str | None:
    sentence = first_sentence(tail)
    marked = _seen(_MARKED_LETTER, sentence, letters)
    if (named := _leading_text(tail, texts, whole=bool(marked))) is not None:
        return named
    found, rest = _leading_letter(tail, letters, words=True)
    if found:
        return None if _another(rest, found, letters) else letters[found]
    for pattern in (_MARKED_LETTER, _NAMED_LETTER, _BARE_LETTER):
        seen = _seen(pattern, sentence, letters)
        if seen:
            return letters[seen.pop()] if len(seen) == 1 else None
    return None


def _leading_letter(
    text: str, letters: dict[str, str], *, words: bool = False
) -> tuple[str | None, str]:
    patterns = (*_LEADING_LETTER, _LETTER_AND_WORDS) if words else _LEADING_LETTER
    for pattern in patterns:
        match = pattern.match(text)
        if match:
            found = next(group for group in match.groups() if group).upper()
            if found in letters:
                return found, text[match.end() :]
    return None, text


def _another(rest: str, found: str, letters: dict[str, str]) -> bool:
    """Whether another letter follows, as in "(A) or (B)"."""
    match = re.match(
        rf"[)\]\"'*.]*{OR}(?:option\s+)?(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Z])(?!\w))", rest
    )
    other = match and (match[1] or match[2]).upper()
    return bool(other) and other != found and other in letters


def _leading_text(text: str, texts: dict[str, str], *, whole: bool) -> str | None:
    """Returns the option whose text is the first line, or, unless `whole`, how that begins."""
    line = (first_line(text) or "").strip(TRAILING + LEADING + "\"'“”‘’*`")
    if not line:
        return None
    if (named := texts.get(normalise(line))) is not None:
        return named
    if whole:
        return None
    lowered = normalise(line)
    starting = [
        option for option in texts if option and re.match(rf"{re.escape(option)}(?!\w)", lowered)
    ]
    # A single letter is a marker that `_leading_letter` reads.
    starting = [option for option in starting if len(option) > 1]
    return texts[max(starting, key=len)] if starting else None
