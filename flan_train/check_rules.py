"""What can be wrong with rendered prompts, rule by rule; `flan-train inspect --check` applies them.

A failure is a defect of a task: of its reader, its table or its wordings. A warning is what real
data are sometimes like, and what a run then loses.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flan_train.tasks import BadRow, Rendered, Row, TaskDefinition, answers

FAILURE, WARNING = "failure", "warning"
# The reason that sources give for a label that the table of labels does not have.
UNMAPPED_LABEL = "unmapped label"

# A larger share of bad rows fails a task.
MOST_BAD_ROWS = 0.05
# Too few prompts of a wording to say anything about it.
FEWEST_OF_A_WORDING = 3
# Shorter texts stand in others by chance.
TELLING = 12

_SLOTS = re.compile(r"\{\{[^{}]*\}\}|\{%[^{}]*%\}|\{[A-Za-z_][A-Za-z_0-9]*\}|\|\|\|")
_CUED = r"\b(?:answer|label|output|solution|target)\s*(?:is\s*:?|:|=)\s*{}\W*$"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule has found in a task.

    Attributes:
      rule: its name, a few fixed words.
      severity: `FAILURE` or `WARNING`.
      count: how many prompts, rows or ids it is about.
      of: among how many.
      example: where to look: an example id, a file and row, or what is missing.
    """

    rule: str
    severity: str
    count: int
    of: int
    example: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.count} of {self.of} ({self.example})"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A row and its renderings.

    Attributes:
      row: what was rendered.
      rendered: with all exemplars that were drawn.
      query: the same without any; the same object where there are none.
    """

    row: Row
    rendered: Rendered
    query: Rendered


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the rules look at.

    Attributes:
      task: whose prompts.
      prompts: of the first rows.
      bad: rows among them that the source refused.
      lengths: tokens of inputs without exemplars and of targets, EOS included, prompt by prompt;
        None where there is no vocabulary.
      limits: most tokens of both that a run keeps.
      train_texts: reads the rows that exemplars come from and yields their texts.
    """

    task: TaskDefinition
    prompts: Sequence[Prompt]
    bad: Sequence[BadRow] = ()
    lengths: tuple[Sequence[int], Sequence[int]] | None = None
    limits: tuple[int, int] = (1024, 256)
    train_texts: Callable[[], Iterable[str]] = tuple


def texts_of(value: Any) -> Iterator[str]:
    """Yields every text in a row, however deep it lies."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_of(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts_of(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from texts_of(getattr(value, field.name))


def found(
    rule: str, severity: str, hits: Sequence[Prompt], sample: Sample, detail: str = ""
) -> Iterator[Finding]:
    """A finding about prompts, if there are any, with the first one's id."""
    if hits:
        example = hits[0].rendered.example_id + (f": {detail}" if detail else "")
        yield Finding(rule, severity, len(hits), len(sample.prompts), example)


# --- rows and targets -----------------------------------------------------------------------------


def _rows(sample: Sample) -> Iterator[Finding]:
    total = len(sample.prompts) + len(sample.bad)
    unmapped = [bad for bad in sample.bad if bad.reason == UNMAPPED_LABEL]
    others = [bad for bad in sample.bad if bad.reason != UNMAPPED_LABEL]
    if unmapped:
        example = f"{unmapped[0].where}: {unmapped[0].found}"
        yield Finding("unmapped labels", FAILURE, len(unmapped), total, example)
    if others:
        severity = FAILURE if len(others) > MOST_BAD_ROWS * total else WARNING
        example = f"{others[0].where}: {others[0].reason}"
        yield Finding("bad rows", severity, len(others), total, example)


def _targets(sample: Sample) -> Iterator[Finding]:
    empty, outside, unnamed, unread, changed, strange = [], [], [], [], [], []
    for prompt in sample.prompts:
        query, row_options = prompt.query, prompt.query.options
        if not query.targets.strip():
            empty.append(prompt)
            continue
        if prompt.rendered.targets != query.targets:
            changed.append(prompt)
        if query.references and query.answer not in query.references:
            strange.append(prompt)
        # Nothing is right for outputs that are drawn: there is no answer to read.
        if sample.task.method != "samples" and not _is_read(query, sample.task.extraction):
            unread.append(prompt)
        if not row_options or sample.task.form == "inv":
            continue
        if sample.task.extraction == "letter" and not query.target_text:
            # Of "(A) red" the marker alone is what a target may be.
            row_options = (*row_options, *(option.partition(" ")[0] for option in row_options))
        if (query.target_text or query.answer) not in row_options:
            outside.append(prompt)
        elif query.target_text and not _is_named(query):
            unnamed.append(prompt)
    yield from found("empty targets", FAILURE, empty, sample)
    yield from found("targets outside options", FAILURE, outside, sample)
    yield from found("markers of another option", FAILURE, unnamed, sample)
    yield from found("answers that cannot be read out of targets", FAILURE, unread, sample)
    yield from found("targets that change with the exemplars", FAILURE, changed, sample)
    yield from found("references without the answer", FAILURE, strange, sample)


def _is_read(rendered: Rendered, extraction: str) -> bool:
    read = answers.extract(rendered.targets, extraction, rendered.options)
    return answers.is_right(read, [rendered.answer], extraction)


def _is_named(query: Rendered) -> bool:
    """Whether the marker that is the answer stands before the option that it is to stand for."""
    # "(b)" may be the answer to "b." or "[b]": what is between the signs tells.
    core = re.sub(r"^\W+|\W+$", "", query.answer) or query.answer
    before = rf"(?<!\w){re.escape(core)}\W{{0,3}}\s"
    return bool(re.search(before + r"?\s*" + re.escape(query.target_text), query.inputs))


# --- wordings -------------------------------------------------------------------------------------


def _unfilled(sample: Sample) -> Iterator[Finding]:
    hits: list[tuple[Prompt, str]] = []
    of_exemplars: list[tuple[Prompt, str]] = []
    for prompt in sample.prompts:
        query, rendered = prompt.query, prompt.rendered
        marks = set(_SLOTS.findall(f"{query.inputs}\n{query.targets}"))
        more = set() if query is rendered else set(_SLOTS.findall(rendered.inputs)) - marks
        if not (marks or more):
            continue
        own = "\x00".join(texts_of(prompt.row))
        hits += [(prompt, mark) for mark in sorted(marks) if mark not in own]
        of_exemplars += [(prompt, mark) for mark in sorted(more) if mark not in own]
    # Exemplars that are no rows of the task have whatever braces their authors wrote.
    if of_exemplars and "train" in sample.task.splits:
        known = {mark for text in sample.train_texts() for mark in _SLOTS.findall(text)}
        hits += [(prompt, mark) for prompt, mark in of_exemplars if mark not in known]
    if hits:
        prompts = list({id(prompt): prompt for prompt, _ in hits}.values())
        yield from found("unfilled slots", FAILURE, prompts, sample, hits[0][1])


def _given_away(sample: Sample) -> Iterator[Finding]:
    """Wordings that say what is to be predicted.

    What a passage says about itself is in some rows; what a wording gives away, in all of its own.
    """
    inverted = sample.task.form == "inv"
    by_wording: dict[str, list[Prompt]] = collections.defaultdict(list)
    for prompt in sample.prompts:
        by_wording[prompt.query.template_id].append(prompt)
    leaks: list[Prompt] = []
    copies: list[Prompt] = []
    for listed in by_wording.values():
        hits = [prompt for prompt in listed if _shows(prompt.query, inverted)]
        several = len({prompt.query.targets for prompt in listed}) > 1
        if several and len(listed) >= FEWEST_OF_A_WORDING and len(hits) == len(listed):
            leaks += hits
        elif inverted:
            copies += [prompt for prompt in hits if len(prompt.query.targets) >= 2 * TELLING]
    yield from found("answer given away", FAILURE, leaks, sample)
    yield from found("inputs that hold the target", WARNING, copies, sample)


def _shows(query: Rendered, inverted: bool) -> bool:
    target = " ".join(query.targets.split())
    inputs = " ".join(query.inputs.split())
    if inverted:
        return len(target) >= TELLING and target in inputs
    return bool(re.search(_CUED.format(re.escape(target)), inputs, re.IGNORECASE))


RULES: tuple[Callable[[Sample], Iterator[Finding]], ...] = (
    _rows,
    _targets,
    _unfilled,
    _given_away,
)
