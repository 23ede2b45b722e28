"""A run's scores beside those that the paper published of T5 and Flan-T5 (arXiv 2210.11416).

The paper measured whole evaluation sets; a run may have measured a part. What was measured stands
beside every number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

from flan_train import normalized
from flan_train.report_blocks import SPLIT_NAMES, SPLITS, Block, Interval
from flan_train.report_text import esc, percent, span, table
from flan_train.run_directory import Run
from flan_train.scores import Result
from flan_train.suites import ALL, PUBLISHED_TEST, TEST, VALIDATION
from flan_train.tasks import held_out_table

# The paper's table of T5 and Flan-T5, and of its averages by file.
_SIZES = {"80M": 80e6, "250M": 250e6, "780M": 780e6, "3B": 3e9, "11B": 11e9}
# Prompts as the paper's: exemplars with answers, or with rationales.
_FORMS = ("direct", "cot")
PARTS = tuple(f"{benchmark} {how.replace('cot', 'CoT')}" for benchmark, how in normalized.SIX)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the paper.

    Attributes:
      name: "T5-Small" to "Flan-T5-XXL".
      parameters: how many, about.
      tuned: whether it is a Flan-T5.
    """

    name: str
    parameters: float
    tuned: bool


@functools.cache
def _scores() -> dict[tuple[str, str, str, str], float]:
    """Returns {(model, benchmark, prompting, subset): share} of T5 and Flan-T5."""
    return {
        (row.model, row.benchmark, row.prompting, row.subset): row.score
        for row in normalized.reference_rows()
        if row.model.removeprefix("Flan-").startswith("T5-")
    }


def models(parameters: int | None) -> list[Model]:
    """Returns the paper's T5 models, those nearest in size first; by size where that is unknown."""
    sizes = {row.model: row.params for row in normalized.reference_rows()}
    found = [
        Model(name, _SIZES[sizes[name]], name.startswith("Flan-"))
        for name in dict.fromkeys(key[0] for key in _scores())
    ]

    def distance(model: Model) -> tuple[float, float, bool]:
        far = abs(math.log(model.parameters / parameters)) if parameters else 0.0
        return far, model.parameters, not model.tuned

    return sorted(found, key=distance)


def nearest(parameters: int | None) -> Model | None:
    """Returns the Flan-T5 nearest in size; None where the run's size is not known."""
    return next(model for model in models(parameters) if model.tuned) if parameters else None


def published(model: Model | None, block: Block, subset: str = normalized.AVERAGE) -> float | None:
    """Returns what a model of the paper scored on a suite, or on one file of it; None if nothing.

    Only a suite with the paper's kind of prompts and one greedy output a prompt can be compared.
    """
    if model is None or block.benchmark is None or block.votes:
        return None
    benchmark, prompting, form = block.benchmark
    if form not in _FORMS:
        return None
    return _scores().get((model.name, benchmark, prompting, subset))


def _of_model(model: Model, benchmark: str, prompting: str) -> float | None:
    return _scores().get((model.name, benchmark, prompting, normalized.AVERAGE))


# ---------------------------------------------------------------------- the six and their average


@dataclasses.dataclass(frozen=True)
class Six:
    """What a run has of the normalised average on one split.

    Attributes:
      split: which.
      blocks: by the suite's name; not every one need be there.
      average: the normalised average; None while one of the six is missing.
      interval: its 95 % interval, where the checkpoint was chosen by it.
    """

    split: str
    blocks: Mapping[str, Block]
    average: float | None
    interval: Interval | None = None

    def score(self, suite: str) -> tuple[float | None, Interval | None]:
        """Returns (mean, its interval) of one of the six suites."""
        block = self.blocks.get(suite)
        return block.on(self.split) if block else (None, None)

    def result(self, suite: str) -> Result | None:
        """Returns the result of one of the six suites."""
        block = self.blocks.get(suite)
        if block is None:
            return None
        return block.result if self.split == block.split else block.others[self.split]


def six(run: Run, blocks: Sequence[Block]) -> list[Six]:
    """Returns what the shown step has of the six suites, for each split it was measured on."""
    named = {block.suite: block for block in blocks if block.suite in normalized.SIX_SUITES}
    # Of one checkpoint: a suite that was measured at another step alone is no part of an average.
    shown = max((block.shown_step for block in named.values()), default=0)
    found = []
    for split in SPLITS:
        there = {
            suite: block
            for suite, block in named.items()
            if split in block.splits and block.shown_step == shown
        }
        if there:
            one = Six(split, there, None)
            results = {suite: one.result(suite) for suite in there}
            known = {suite: result for suite, result in results.items() if result}
            average = normalized.of_results(known)
            interval = _interval_of(run, split, shown) if average is not None else None
            found.append(dataclasses.replace(one, average=average, interval=interval))
    return found


def _interval_of(run: Run, split: str, step: int) -> Interval | None:
    selected = run.selected or {}
    splits = selected.get("splits") or {}
    if selected.get("metric") != "normalized_average" or selected["step"] != step:
        return None
    keys = (("selected", "interval"), ("reported", "reported_interval"))
    found = next((selected.get(key) for part, key in keys if splits.get(part) == split), None)
    return (found[0], found[1]) if found else None


def best_six(run: Run, blocks: Sequence[Block]) -> Six | None:
    """Returns the six on the split that is reported: the test part where it was measured."""
    whole = [one for one in six(run, blocks) if one.average is not None]
    return _most_reported(whole) if whole else None


def _most_reported(found: Sequence[Six]) -> Six:
    order = (TEST, ALL, VALIDATION, PUBLISHED_TEST)
    return min(found, key=lambda one: (one.average is None, order.index(one.split)))


def normalized_average_of(model: Model) -> float | None:
    """Returns the normalised average that the paper published of a model."""
    return _of_model(model, "normalized_average", "")


def section(run: Run, blocks: Sequence[Block]) -> str:
    """Returns the part of the page with the paper's numbers; empty without any of the six."""
    found = six(run, blocks)
    if not found:
        return ""
    size = run.parameters()
    rows = [row for one in found for row in _our_rows(run, one)]
    rows += [_paper_row(model) for model in models(size)]
    head = (
        ("Model", ""),
        ("Step or table", "soft minor"),
        *((part, "n") for part in PARTS),
        ("Normalised average", "n"),
    )
    return (
        "<p>Percent right of the six evaluations whose mean, corrected for chance, is the paper’s "
        "normalised average; the paper’s models nearest in size first. "
        "They were measured on the whole published sets (MMLU: its validation set); below each of "
        "this run’s scores stands how many of those prompts it was measured on.</p>"
        f"{ladder(found, size)}{table(head, rows, look='beside')}"
    )


def _our_rows(run: Run, one: Six) -> list[str]:
    """Returns the scores on one split, those corrected for chance, and how many were measured."""
    step = next(iter(one.blocks.values())).shown_step
    split = SPLIT_NAMES[one.split]
    scores, corrected, measured = [], [], []
    for suite in normalized.SIX_SUITES:
        score, interval = one.score(suite)
        result = one.result(suite)
        scores.append(f'<td class="n strong">{percent(score)}<small>{span(interval)}</small></td>')
        above = result["mean"].get("normalized") if result else None
        corrected.append(f'<td class="n">{percent(above)}</td>')
        text = "–"
        if result:
            whole = sum(file.examples for file in held_out_table.files_of(suite.split("_")[1]))
            text = f"{sum(int(row['n']) for row in result['metrics'].values()):,} of {whole:,}"
        measured.append(f'<td class="n"><small>{text}</small></td>')
    average = f'<td class="n strong">{percent(one.average)}<small>{span(one.interval)}</small></td>'
    return [
        f'<tr class="ours"><td class="name">{esc(run.path.resolve().name)}, {split}</td>'
        f'<td class="soft minor">step {step:,}</td>{"".join(scores)}{average}</tr>',
        '<tr class="ours"><td class="soft">… corrected for chance</td><td class="minor"></td>'
        f"{''.join(corrected)}{average}</tr>",
        '<tr class="ours last"><td class="soft">… prompts measured</td><td class="minor"></td>'
        f"{''.join(measured)}<td></td></tr>",
    ]


def _paper_row(model: Model) -> str:
    values = [_of_model(model, *pair) for pair in normalized.SIX]
    values.append(normalized_average_of(model))
    cells = "".join(f'<td class="n">{percent(value)}</td>' for value in values)
    look = "" if model.tuned else ' class="untuned"'
    return (
        f'<tr{look}><td class="name">{model.name} <span class="soft">{size_name(model)}</span></td>'
        f'<td class="soft minor">table 5</td>{cells}</tr>'
    )


def size_name(model: Model) -> str:
    """Returns a model's size as the paper writes it, such as "80M"."""
    return next(name for name, size in _SIZES.items() if size == model.parameters)


# ------------------------------------------------------------------------------------- a picture

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 960, 150, 24, 40, 34


def ladder(found: Sequence[Six], size: int | None) -> str:
    """Returns a picture: for each of the six and their average, the paper's models and the run."""
    one = _most_reported(found)
    names = [*PARTS, "Normalised average"]
    ours = [one.score(suite) for suite in normalized.SIX_SUITES] + [(one.average, one.interval)]
    pairs = [*normalized.SIX, ("normalized_average", "")]
    theirs = [
        [(model, _of_model(model, *pair)) for model in models(None) if model.tuned]
        for pair in pairs
    ]
    values = [value for row in theirs for _, value in row if value is not None]
    values += [value for value, _ in ours if value is not None]
    values += [end for _, interval in ours if interval for end in interval]
    low = min(0.0, math.floor(10 * min(values)) / 10)
    high = max(0.6, math.ceil(10 * max(values)) / 10)

    def across(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    height = _TOP + _ROW * len(names) + 6
    parts = []
    for tenth in range(round(10 * low), round(10 * high) + 1):
        x = across(tenth / 10)
        kind = "axis" if tenth == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{height - 6}"/>')
        parts.append(f'<text x="{x}" y="{_TOP - 14}" text-anchor="middle">{10 * tenth}</text>')
    for place, (name, row, (value, interval)) in enumerate(zip(names, theirs, ours, strict=True)):
        y = _TOP + _ROW * place + _ROW / 2
        look = ' class="marked"' if place == len(names) - 1 else ""
        parts.append(f'<text{look} x="{_LEFT - 14}" y="{y + 4}" text-anchor="end">{name}</text>')
        known = [(model, score) for model, score in row if score is not None]
        if known:
            ends = [across(score) for _, score in known]
            parts.append(
                f'<line class="span" x1="{min(ends)}" y1="{y}" x2="{max(ends)}" y2="{y}"/>'
            )
        before = -math.inf
        for model, score in sorted(known, key=lambda pair: pair[1]):
            x = across(score)
            parts.append(f'<circle class="paper" cx="{x}" cy="{y}" r="4"/>')
            # Letters that would lie on each other: the lower score has it.
            if x - before >= 20:
                letters = model.name.rpartition("-")[2].replace("Small", "S").replace("Base", "B")
                letters = letters.replace("Large", "L")
                parts.append(
                    f'<text class="size" x="{x}" y="{y + 17}" text-anchor="middle">{letters}</text>'
                )
                before = x
        if value is not None:
            x = across(value)
            if interval:
                ends = [across(end) for end in interval]
                parts.append(
                    f'<line class="whisker" x1="{ends[0]}" y1="{y}" x2="{ends[1]}" y2="{y}"/>'
                )
            parts.append(
                f'<path class="here" d="M{x} {y - 7}L{x + 6} {y}L{x} {y + 7}L{x - 6} {y}Z"/>'
                f'<text class="marked" x="{x}" y="{y - 10}" text-anchor="middle">'
                f"{percent(value)}</text>"
            )
    described = "; ".join(
        f"{name} {percent(value)}" for name, (value, _) in zip(names, ours, strict=True)
    )
    return (
        '<figure class="ladder"><figcaption>This run among the Flan-T5 models of the paper, '
        f"percent</figcaption>"
        '<div class="legend"><span class="a"><i class="diamond"></i>this run, '
        f"{SPLIT_NAMES[one.split]}</span>"
        '<span class="b"><i class="dot"></i>Flan-T5 Small (S) to XXL</span></div>'
        f'<div class="scroll"><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label='
        f'"{esc(described)}">{"".join(parts)}</svg></div></figure>'
    )
