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
    """

    line: re.Pattern[str] | None = None
    required: bool = False
    answers: tuple[str, ...] = ()


DATASETS: dict[str, OptionFormat] = {
    "aqua": OptionFormat(_LETTERED, required=True),
    "creak": OptionFormat(_BULLETED, answers=("yes", "no")),
    "ecqa": OptionFormat(_BULLETED, required=True),
    "esnli": OptionFormat(_BULLETED),
    "gsm8k": OptionFormat(),
    "qasc": OptionFormat(_LETTERED, required=True),
    "qed": OptionFormat(),
    "sensemaking": OptionFormat(_SENTENCE, required=True),
    "strategyqa": OptionFormat(answers=("yes", "no")),
}


def parse(
    dataset: str, question: str, answer: str
) -> tuple[tuple[str, ...], tuple[str, str] | None]:
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
      (options, None), or (options, (reason, detail)) for a bad row.
    """
    shape = DATASETS[dataset]
    options = _listed(shape, question)
    if shape.required and not options:
        return (), ("no options", 'the question has no list of options below "Options:"')
    allowed = options or shape.answers
    if allowed and answer not in allowed:
        return options, (
            "target outside its options",
            f"the answer is {answer!r}; expected one of " + ", ".join(map(repr, allowed)),
        )
    return options, None


def _listed(shape: OptionFormat, question: str) -> tuple[str, ...]:
    if shape.line is None:
        return ()
    lines = question.split("\n")
    headings = [index for index, line in enumerate(lines) if _HEADING.match(line)]
    if headings:
        candidates = lines[headings[-1] + 1 :]
    else:
        # Under another heading: the run of option lines that the question ends with.
        start = len(lines)
        while start and shape.line.match(lines[start - 1]):
            start -= 1
        candidates = lines[start:]
    matches = (shape.line.match(line) for line in candidates)
    return tuple(match.group(1) for match in matches if match)
