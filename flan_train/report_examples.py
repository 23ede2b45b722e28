"""The part of a run's page with outputs to browse: right, wrong, and without an answer.

Per-example files are big: lines are told apart by a few bytes, and only those shown are read whole.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flan_train.errors import UserError
from flan_train.report_blocks import Block
from flan_train.report_text import empty, esc, number, percent, some
from flan_train.run_directory import Run
from flan_train.scores import Example

# Examples to browse: of each task this many of each outcome, so many in all, and no more than this
# of text; a page with everything else stays below 6 MB.
EXAMPLES_EACH = 4
MOST_EXAMPLES = 600
MOST_BYTES = 3_600_000
# A longer text is shown without its middle.
MOST_CHARACTERS = 12_000

OUTCOMES = {"right": "Right", "wrong": "Wrong", "none": "No answer"}
# Inside a JSON string a quotation mark has a backslash before it: these are always the keys.
_TASK = re.compile(rb'"task": ?"((?:[^"\\]|\\.)*)"')
_CORRECT = re.compile(rb'"correct": ?(true|false)')
_NOTHING = re.compile(rb'"extracted": ?null')


def outcome(example: Mapping[str, Any]) -> str:
    """Returns "right", "wrong" or "none": no answer could be read out of the output."""
    if example["correct"]:
        return "right"
    return "none" if example["extracted"] is None else "wrong"


def pick(path: pathlib.Path, each: int = EXAMPLES_EACH) -> list[list[Example]]:
    """Returns the first examples of each task and outcome in a per-example file, by round.

    The first round has one of each, the second a second one, and so on, `each` in all; within a
    round they are in the file's order. An absent file has none.

    Raises:
      UserError: a line that is picked is not JSON; names the file and the line.
    """
    if not path.is_file():
        return []
    seen: dict[tuple[bytes, str], int] = {}
    rounds: list[list[Example]] = [[] for _ in range(each)]
    with path.open("rb") as lines:
        for place, line in enumerate(lines, start=1):
            task, correct = _TASK.search(line), _CORRECT.search(line)
            if task is None or correct is None:
                example = _parsed(line, path, place)
                key = (str(example["task"]).encode(), outcome(example))
            elif correct[1] == b"true":
                key = (task[1], "right")
            else:
                key = (task[1], "none" if _NOTHING.search(line) else "wrong")
            count = seen[key] = seen.get(key, 0) + 1
            if count <= each:
                rounds[count - 1].append(_parsed(line, path, place))
    return rounds


def _parsed(line: bytes, path: pathlib.Path, place: int) -> Example:
    try:
        example = json.loads(line)
        if not {"task", "inputs", "output", "extracted", "answer", "correct"} <= example.keys():
            raise ValueError("keys are missing")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"not an evaluated example: {error}",
            where=f"{path}, line {place}",
            expected="one evaluated example a line",
            fix="delete the file and the .json beside it, and evaluate that step again",
        ) from error
    return dict(example)


def chosen(run: Run, blocks: Sequence[Block]) -> list[tuple[str, Example]]:
    """Returns the (suite, example) to show: as even over tasks and outcomes as the limits allow.

    One of each task and outcome comes first, then a second one of each, and so on.
    """
    places = dict.fromkeys((block.suite, block.filed, block.shown_step) for block in blocks)
    files = [
        (suite, pick(run.path / "eval" / filed / f"{step}.jsonl")) for suite, filed, step in places
    ]
    kept: list[tuple[str, Example]] = []
    size = 0
    for turn in range(EXAMPLES_EACH):
        there = [(suite, one) for suite, rounds in files if rounds for one in rounds[turn]]
        for pair in _spread(there, MOST_EXAMPLES - len(kept)):
            size += sum(len(esc(text).encode()) for text in _texts(pair[1]))
            if size > MOST_BYTES:
                return kept
            kept.append(pair)
    return kept


def _spread(items: list[Any], most: int) -> list[Any]:
    """Returns at most so many items, evenly spaced.

    >>> _spread([0, 1, 2, 3, 4, 5], 3)
    [0, 2, 4]
    """
    if len(items) <= most:
        return items
    return [items[place * len(items) // most] for place in range(most)]


def _texts(example: Example) -> list[str]:
    return [_short(text) for text in (example["inputs"], example["output"])] + [
        _short(text) for text in example.get("outputs", [])
    ]


def _short(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out:,} characters left out …]\n{text[-half:]}"


# ------------------------------------------------------------------------------------- as HTML


def section(run: Run, blocks: Sequence[Block]) -> str:
    """Returns the examples with the fields that filter them."""
    kept = chosen(run, blocks)
    if not kept:
        return empty("There are no outputs to show yet: no suite has been evaluated.")
    measured = sum(block.prompts for block in blocks)
    note = (
        f"{len(kept):,} of {measured:,} outputs at the step shown above: of each task the first "
        f"right ones, wrong ones and ones without an answer, up to {EXAMPLES_EACH} of each, and "
        f"{MOST_EXAMPLES} in all. Every output stands in eval/<suite>/<step>.jsonl."
    )
    suites = list(dict.fromkeys(suite for suite, _ in kept))
    tasks = sorted({str(example["task"]) for _, example in kept})
    filters = (
        '<form class="filter examples" hidden>'
        + _select("outcome", "Outcome", "all outcomes", OUTCOMES)
        + _select("suite", "Suite", "all suites", dict.fromkeys(suites, ""))
        + _select("task", "Task", "all tasks", dict.fromkeys(tasks, ""))
        + '<div><label for="text">Text</label><input id="text" name="text" type="search"></div>'
        '<output name="count" aria-live="polite"></output></form>'
    )
    articles = "".join(_article(suite, example) for suite, example in kept)
    more = '<button type="button" id="more" hidden>Show more</button>'
    return f'<p class="note">{esc(note)}</p>{filters}{articles}{more}'


def _select(key: str, title: str, everything: str, options: Mapping[str, str]) -> str:
    items = "".join(
        f'<option value="{esc(value)}">{esc(text or value)}</option>'
        for value, text in options.items()
    )
    return (
        f'<div><label for="{key}">{title}</label><select id="{key}" name="{key}">'
        f'<option value="">{everything}</option>{items}</select></div>'
    )


def _article(suite: str, example: Example) -> str:
    kind = outcome(example)
    extracted = example["extracted"]
    read = "no answer found" if extracted is None else f"read as <code>{esc(extracted)}</code>"
    output = esc(_short(example["output"])) or "(nothing)"
    about = [str(example.get("example_id", ""))]
    if "shots" in example:
        about.append(some(int(example["shots"]), "shot"))
    look = "right" if kind == "right" else "wrong"
    return (
        f'<article class="{look}" data-outcome="{kind}" data-suite="{esc(suite)}" '
        f'data-task="{esc(example["task"])}"><h4><b>{OUTCOMES[kind]}</b>{esc(example["task"])} · '
        f"{esc(' · '.join(about))}</h4>"
        f'<div class="pair"><div><h5>Prompt</h5><div class="text prompt" tabindex="0">'
        f"{esc(_short(example['inputs']))}</div></div>"
        f'<div><h5>{_kind_of_output(example)}</h5><div class="text" tabindex="0">{output}</div>'
        f'<p class="answers">{read} · expected {_expected(example)}{_values(example)}</p>'
        f"{_options(example)}{_votes(example)}{_samples(example)}</div></div></article>"
    )


def _kind_of_output(example: Example) -> str:
    if "option_scores" in example:
        return "Likeliest option"
    return "Output that the vote took" if "votes" in example else "Output"


def _expected(example: Example) -> str:
    texts = dict.fromkeys([str(example["answer"]), *map(str, example.get("references") or ())])
    return " or ".join(f"<code>{esc(text)}</code>" for text in list(texts)[:4])


# Right or wrong is said already.
_SAID = ("exact_match", "accuracy", "normalized")


def _values(example: Example) -> str:
    """Returns the example's graded scores, such as token F1."""
    texts = [
        f" · {esc(name)} {percent(value[0])}"
        for name, value in (example.get("values") or {}).items()
        if name not in _SAID and len(value) == 1
    ]
    return "".join(texts)


def _options(example: Example) -> str:
    """Returns what each option scored, where options were ranked."""
    marks = example.get("option_scores") or []
    options = example.get("options") or []
    if not marks or len(marks) != len(options):
        return ""
    best = max(marks)
    rows = "".join(
        f"<tr{' class=on' if mark == best else ''}><td><code>{esc(option)}</code></td>"
        f'<td class="n">{number(mark, 2)}</td></tr>'
        for option, mark in zip(options, marks, strict=True)
    )
    return f'<table class="options"><caption>log-likelihood</caption><tbody>{rows}</tbody></table>'


def _votes(example: Example) -> str:
    votes = example.get("votes")
    if votes is None:
        return ""
    said = " · ".join(f"<code>{esc(answer)}</code> × {count}" for answer, count in votes.items())
    return f'<p class="answers">votes: {said or "none"}</p>{_outputs(example["outputs"])}'


def _samples(example: Example) -> str:
    if "votes" in example or not example.get("outputs"):
        return ""
    notes = [
        "".join(
            f"{word} {number(column[place], 2)}; "
            for word, column in (
                ("log-probability", example.get("log_probabilities")),
                ("toxicity", example.get("toxicity")),
            )
            if column and place < len(column)
        )
        for place in range(len(example["outputs"]))
    ]
    return _outputs(example["outputs"], notes)


def _outputs(texts: Sequence[str], notes: Iterable[str] = ()) -> str:
    about = [*notes, *[""] * len(texts)]
    items = "".join(
        f'<li>{f"<small>{esc(note)}</small>" if note else ""}<div class="text">'
        f"{esc(_short(text)) or '(nothing)'}</div></li>"
        for text, note in zip(texts, about, strict=False)
    )
    return f"<details><summary>all {len(texts)} outputs</summary><ol>{items}</ol></details>"
