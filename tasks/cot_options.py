"""What answers a chain-of-thought question allows (facts/cot_tasks.csv, options_in_question)."""

from __future__ import annotations

import dataclasses
import re

_LETTERED = re.compile(r"^\s*(?:- )?(\([A-Z]\))(?:\s|$)")
_BULLETED = re.compile(r"^\s*- (.*\S)\s*$")
_SENTENCE = re.compile(r"^\s*- (Sentence [A-Z]):")
_HEADING = re.compile(r"^\s*options:?\s*$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class OptionFormat:
    """How a dataset lists its options below the heading "Options:".

    Attributes:
      line: matches an option's line; group 1 is what an answer says to name that option.
      required: whether every question has the list.
      answers: every answer there is, listed or not; empty when answers are open.
      asked_about: the options are what the question is about, and the text above them is the
        same for many questions.
    """

    line: re.Pattern[str] | None = None
    required: bool = False
    answers: tuple[str, ...] = ()
    asked_about: bool = False


DATASETS: dict[str, OptionFormat] = {
    "aqua": OptionFormat(_LETTERED, required=True),
    "creak": OptionFormat(_BULLETED, answers=("yes", "no")),
    "ecqa": OptionFormat(_BULLETED, required=True),
    "esnli": OptionFormat(_BULLETED),
    "gsm8k": OptionFormat(),
    "qasc": OptionFormat(_LETTERED, required=True),
    "qed": OptionFormat(),
    "sensemaking": OptionFormat(_SENTENCE, required=True, asked_about=True),
    "strategyqa": OptionFormat(answers=("yes", "no")),
}


def parse(
    dataset: str, question: str, answer: str
) -> tuple[tuple[str, ...], tuple[str, str, str] | None]:
    """Returns the options a question lists, and what is wrong with the row if anything is.

    An option is what the answer says to name it: the text ("house"), or the marker alone where
    answers are markers ("(B)", "Sentence A").

    >>> parse("aqua", "How many?\\nOptions:\\n(A) 3\\n(B) 4", "(B)")
    (('(A)', '(B)'), None)

    Args:
      dataset: a key of `DATASETS`.
      question: with newlines decoded.
      answer: the reference answer.

    Returns:
      (options, None), or (options, (reason, what was found, what was expected)) for a bad row.
    """
    shape = DATASETS[dataset]
    options = _listed(shape, question)
    if shape.required and not options:
        return (), (
            "no options",
            "a question without a list of options",
            'a list of options below "Options:"',
        )
    allowed = options or shape.answers
    if allowed and answer not in allowed:
        return options, (
            "target outside its options",
            f"the answer {answer!r}",
            "one of " + ", ".join(map(repr, allowed)),
        )
    return options, None


def asked(dataset: str, question: str) -> tuple[str, ...]:
    """Returns what tells a question from others: its text above the options.

    Where the options are what is asked about, these without their marks.

    >>> asked("aqua", "How many?\\nOptions:\\n(A) 3\\n(B) 4")
    ('How many?',)
    >>> asked("sensemaking", "Pick one.\\nOptions:\\n- Sentence A: It ate.\\n- Sentence B: I ate.")
    ('It ate.', 'I ate.')
    """
    shape = DATASETS[dataset]
    above, below = _parted(shape, question)
    if shape.asked_about and shape.line is not None:
        marked = ((line, shape.line.match(line)) for line in below)
        return tuple(line[match.end() :].strip() for line, match in marked if match)
    return ("\n".join(above),)


def _parted(shape: OptionFormat, question: str) -> tuple[list[str], list[str]]:
    """Returns the lines of a question above its options, and those with the options."""
    lines = question.split("\n")
    if shape.line is None:
        return lines, []
    headings = [index for index, line in enumerate(lines) if _HEADING.match(line)]
    if headings:
        return lines[: headings[-1]], lines[headings[-1] + 1 :]
    # Under another heading: the run of option lines that the question ends with.
    start = len(lines)
    while start and shape.line.match(lines[start - 1]):
        start -= 1
    return lines[:start], lines[start:]


def _listed(shape: OptionFormat, question: str) -> tuple[str, ...]:
    if shape.line is None:
        return ()
    matches = (shape.line.match(line) for line in _parted(shape, question)[1])
    return tuple(match.group(1) for match in matches if match)
