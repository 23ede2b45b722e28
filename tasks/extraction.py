"""How the answer is found in a model's output: what follows a cue, a letter, a number, ..."""

from __future__ import annotations

import csv
import functools
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from flan_train.tasks import answer_forms
from flan_train.tasks.answer_forms import BRACKETS, LEADING, NUMBER, TRAILING, normalise

# What stands right before an answer, by language. A target that ends in one of these and the
# answer can be read back; the last cue of a text counts, because a rationale may hold others.
CUE_TABLE = pathlib.Path(__file__).resolve().parent / "tables" / "answer_cues.csv"

_BOX = re.compile(r"\\boxed\s*\{|\\fbox\s*\{")
_LATEX_TEXT = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|mathit|textit|operatorname)\s*\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_BOLD = re.compile(r"(?<![\w*])(\*\*|__)(?=\S)([^*\n]+?)(?<=\S)\1(?!\w)")
_MATHS = re.compile(r"(?<![\w$])\$([^$\n]+)\$(?!\w)")
# A model that goes on after its answer makes up the next question of a few-shot prompt.
_NEXT_QUESTION = re.compile(r"(?<=\S)\s+(?:Q|Question)\s?:", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？।]")
_YES_NO = ("yes", "no", "true", "false", "valid", "invalid")
NEGATION = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bneither|\bnor)\s+(?:\w+\s+)?[(\[\"']*$", re.IGNORECASE
)
OR = r"\s*(?:/|,|\bor\b|\band\b|&|\bund\b|\boder\b|\bou\b)\s*"

Options = Sequence[str]


# ------------------------------------------------------------------------------- cues


@functools.cache
def cues() -> tuple[str, ...]:
    """Returns the cues of every language, as the table has them."""
    with CUE_TABLE.open(encoding="utf-8", newline="") as stream:
        return tuple(row["cue"] for row in csv.DictReader(stream))


def _is_spaced_letter(character: str) -> bool:
    """Whether words of its script are separated, so that a cue must not go on with a letter."""
    return character.isalpha() and unicodedata.name(character, "").startswith(("LATIN", "CYRILLIC"))


@functools.cache
def _cue_pattern() -> re.Pattern[str]:
    patterns = []
    for cue in sorted(cues(), key=len, reverse=True):
        before = r"(?<!\w)" if _is_spaced_letter(cue[0]) else ""
        after = r"(?!\w)" if _is_spaced_letter(cue[-1]) else ""
        patterns.append(before + r"\s+".join(map(re.escape, cue.split())) + after)
    return re.compile("|".join(patterns), re.IGNORECASE)


def cue_tails(text: str, more: str = "") -> list[str]:
    """Returns what follows each cue up to the next one, the last first, without empty ones at once.

    A text that was cut behind a last cue still has what followed the cue before.
    """
    found = list(_cue_pattern().finditer(text))
    if more:
        found += re.finditer(more, text)
        found.sort(key=lambda match: match.end())
    tails, end, cut = [], len(text), False
    for match in reversed(found):
        tail = text[match.end() : end].lstrip(LEADING)
        if cut:
            # The words that lead to the next cue are no part of the answer.
            ends = list(_SENTENCE_END.finditer(tail))
            tail = tail[: ends[-1].start()] if ends else tail.split("\n", 1)[0]
        tails.append(tail)
        end, cut = match.start(), True
    while len(tails) > 1 and not tails[0].strip(TRAILING):
        del tails[0]
    return tails


def _last_tail(text: str, more: str = "") -> str | None:
    tails = cue_tails(text, more)
    return tails[0] if tails else None


# ------------------------------------------------------------------- marks around an answer


def _boxes_as_cues(text: str) -> str:
    """Puts the content of a LaTeX box behind a cue; of one that was cut, what is there."""
    parts, start = [], 0
    for match in _BOX.finditer(text):
        if match.start() < start:
            continue
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        content = text[match.end() : end - (not depth)]
        parts += [text[start : match.start()], f" answer: {content}\n"]
        start = end
    return "".join([*parts, text[start:]])


def unmarked(text: str) -> str:
    """Returns the text without Markdown's bold and the commonest LaTeX, cut at a next question."""
    if "\\" in text:
        text = _boxes_as_cues(text)
        text = _LATEX_TEXT.sub(r"\1", text)
        text = _FRACTION.sub(r"\1/\2", text)
        text = re.sub(r"\\[()\[\]]", " ", text)
        text = re.sub(
            r"\\([$%&#_{},!;])", lambda match: match[1] if match[1] in "$%&#_{}" else "", text
        )
    text = text.replace("$$", " ")
    text = _MATHS.sub(r"\1", text)
    text = _BOLD.sub(r"\2", text)
    following = _NEXT_QUESTION.search(text)
    return text[: following.start()] if following else text


def plainly(text: str) -> str:
    """As `unmarked`, with full-width letters and digits as ASCII has them."""
    text = text if text.isascii() else answer_forms.ascii_digits(text)
    return unmarked(text)


# ------------------------------------------------------------------------- whole pieces


def whole(text: str, options: Options = ()) -> str | None:
    """All of the output."""
    return text.strip() or None


def first_line(text: str, options: Options = ()) -> str | None:
    """The first line that is not empty."""
    return text.strip().split("\n", 1)[0].strip() or None


def first_word(text: str, options: Options = ()) -> str | None:
    """The first word, without the punctuation around it."""
    for word in text.split():
        if kept := word.strip(".,;:!?\"'`“”‘’()[]{}*"):
            return kept
    return None


def after_cue(text: str, options: Options = ()) -> str | None:
    """What follows the last cue on its line."""
    tail = _last_tail(unmarked(text))
    line = None if tail is None else first_line(tail)
    return line if line is not None and line.strip(TRAILING) else None


def cued_or_first_line(text: str, options: Options = ()) -> str | None:
    """What follows the last cue on its line; without a cue, the first line."""
    plain = unmarked(text)
    return after_cue(text) if _cue_pattern().search(plain) else first_line(plain)


def word_list(text: str, options: Options = ()) -> str | None:
    """Words in their order: what follows the last cue, or the first line, or all of a list."""
    plain = unmarked(text)
    tail = _last_tail(plain)
    part = (plain if tail is None else tail).strip()
    if not re.match(r"(?:\d+[.)]|[-*•])\s", part):
        part = part.split("\n", 1)[0]
    return answer_forms.words(part) or None


def brackets(text: str, options: Options = ()) -> str | None:
    """The last run of brackets in what follows the last cue, or in the first line."""
    plain = unmarked(text)
    tail = _last_tail(plain)
    line = first_line(plain if tail is None else tail)
    runs = re.findall(r"[()\[\]{}<>](?:[()\[\]{}<>\s]*[()\[\]{}<>])?", line or "")
    wanted = [run for run in runs if BRACKETS.issuperset(run.replace(" ", ""))]
    return " ".join(wanted[-1].replace(" ", "")) if wanted else None


def first_sentence(text: str) -> str:
    line = first_line(text) or ""
    end = _SENTENCE_END.search(line)
    return line[: end.start()] if end else line


# --------------------------------------------------------------------- one of a few words


def closed(text: str, options: Options = ()) -> str | None:
    """The option that an output names in words; without options: yes, no, true, false, ...

    Behind a cue, or at the beginning, or the only one that occurs; not one that is negated.
    """
    known = {normalise(option): option for option in options or _YES_NO}
    known.pop("", None)
    if not known:
        return None
    plain = plainly(text)
    tails = cue_tails(plain)
    part = tails[0] if tails else plain
    if (named := known.get(normalise(part))) is not None:
        return named
    pattern = re.compile(
        r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(known, key=len, reverse=True))) + r")(?!\w)"
    )
    sentence = first_sentence(part).casefold()
    for place in (sentence, (first_line(part) or "").casefold(), part.casefold()):
        found = list(pattern.finditer(place))
        if not found:
            continue
        distinct = {match[0] for match in found}
        starts = not place[: found[0].start()].strip(LEADING + TRAILING + "\"'“”‘’*`()[]")
        either = len(found) > 1 and re.fullmatch(OR, place[found[0].end() : found[1].start()])
        if len(distinct) > 1 and (either or not starts):
            return None
        if not starts and NEGATION.search(place[: found[0].start()]):
            return None
        return known[found[0][0]]
    return None


# ------------------------------------------------------------------------------ numbers


def number(text: str, options: Options = ()) -> str | None:
    """The number that an output gives, in its plain form; the last one where there is no cue.

    Thousands separators, currencies and per cent are dropped, digits of every script are read, and
    "12.0" is "12". Behind a cue: what follows the last "=" of the sentence, or the number that the
    cue is right before, or the last one.
    """
    plain = plainly(text)
    tail = _last_tail(plain, "####")
    if tail is None:
        return _last_number(plain)
    tail = re.sub(r"^-\s+(?=\d)", "-", tail)
    sentence = first_sentence(tail)
    if "=" in sentence:
        sentence = sentence.rsplit("=", 1)[1] or sentence
        first = next(NUMBER.finditer(sentence), None)
        if first:
            return answer_forms.number_of(first)
    first = next(NUMBER.finditer(sentence), None)
    if first and not re.search(r"\w", sentence[: first.start()]):
        return answer_forms.number_of(first)
    return _last_number(sentence) or _last_number(tail)


def _last_number(text: str) -> str | None:
    found = list(NUMBER.finditer(text))
    return answer_forms.number_of(found[-1]) if found else None
