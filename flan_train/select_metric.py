"""What a checkpoint is chosen by: the text of SELECT_METRIC -> weighted scores of suites.

>>> [str(term) for term in terms("exact_match", ["unseen", "held_out"])]
['0.5*unseen:exact_match', '0.5*held_out:exact_match']
>>> [str(term) for term in terms("0.7*unseen:rougeL - 0.3*tox:mean_toxicity", ["unseen", "tox"])]
['0.7*unseen:rougeL', '-0.3*tox:mean_toxicity']
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from flan_train import mixtures, tasks
from flan_train.errors import UserError, unknown_name
from flan_train.normalized import SIX_SUITES
from flan_train.tasks.metrics import METRICS, names_of
from flan_train.tasks.protocol import protocol_of

NORMALIZED_AVERAGE = "normalized_average"
# Chance-corrected accuracy or exact match, of tasks whose chance is known.
NORMALIZED = "normalized"
# The highest score is chosen, so these count only with a negative weight.
LOWER_IS_BETTER = frozenset({"any_toxic", "mean_toxicity", "toxic_share"})
SETTING = "SELECT_METRIC, or --metric"
EXAMPLE = "0.5*heldout_mmlu_direct:exact_match + 0.5*quickstart_unseen:exact_match"

_SIGN = re.compile(r"\s*([+-])\s*")
_TERM = re.compile(
    r"\s*(?:(?P<weight>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)\s*\*\s*)?"
    r"(?:(?P<suite>[^\s:*+]+)\s*:\s*)?(?P<metric>[A-Za-z_]\w*)(?=\s*(?:[+-]|$))"
)


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of a score: a weight times the mean over a suite's tasks of a metric."""

    weight: float
    suite: str
    metric: str

    def __str__(self) -> str:
        return f"{self.weight:g}*{self.suite}:{self.metric}"


@dataclasses.dataclass(frozen=True)
class _Written:
    weight: float
    suite: str
    metric: str


def terms(
    text: str, suites: Sequence[str], evaluated: Sequence[str] | None = None
) -> tuple[Term, ...]:
    """Returns the parts that a step's score is the sum of, each suite and metric once.

    A metric's name alone stands for its mean over `suites`; `normalized_average` for the mean of
    its six suites, chance-corrected; `w*suite:metric + ...` for a weighted sum, in which names
    without a suite may stand too.

    Args:
      text: the metric.
      suites: what a metric without a suite is the mean over.
      evaluated: every suite that may be named (None: `suites`).

    Raises:
      UserError: the text cannot be read, or names a metric or suite that there is not.
    """
    found: dict[tuple[str, str], float] = {}
    for part in _written(text):
        for suite, metric, share in _spread(
            part, suites, suites if evaluated is None else evaluated
        ):
            if metric in LOWER_IS_BETTER and part.weight > 0:
                raise UserError(
                    f"the highest {metric} would be chosen, and the lowest is best",
                    where=SETTING,
                    expected=f"a negative weight for {metric}",
                    fix=f"for example -1*{suite}:{metric}",
                )
            if (suite, metric) in found:
                raise UserError(
                    f"{suite}:{metric} is named twice in '{text}'",
                    where=SETTING,
                    expected="each suite and metric once",
                    fix="add up the weights",
                )
            found[suite, metric] = part.weight * share
    return tuple(Term(weight, suite, metric) for (suite, metric), weight in found.items())


def check_metric(text: str, suites: Sequence[str], evaluated: Sequence[str] | None = None) -> None:
    """Raises UserError for a metric that runs which evaluate these suites cannot be selected by.

    Of suites whose tasks are known to this process it is checked that they have the metric.

    Args:
      text, suites, evaluated: as `terms` takes them.

    Raises:
      UserError: as `terms` does, or a suite of which no task has the metric.
    """
    for term in terms(text, suites, evaluated):
        offered = metrics_of(term.suite)
        if offered is not None and term.metric not in offered:
            raise lacks(term, offered)


def metrics_of(suite: str) -> list[str] | None:
    """Returns the metrics that some task of a suite has; None for a name that is not known here."""
    if mixtures.find(suite) is None and suite not in tasks.names():
        return None
    found: dict[str, None] = {}
    for task in mixtures.tasks_of(suite):
        found.update(dict.fromkeys(names_of(protocol_of(task))))
    return list(found)


def lacks(term: Term, offered: Sequence[str]) -> UserError:
    """Returns the error for a suite without a metric that is asked of it."""
    shown = [name for name in offered if name in METRICS]
    error = unknown_name("metric", term.metric, shown)
    return UserError(
        f"no task of the suite '{term.suite}' has the metric '{term.metric}'",
        where=SETTING,
        expected=f"one of its metrics: {', '.join(shown) or 'it has none'}",
        fix=(error.fix if error.fix.startswith("did you mean") else "")
        or f'other metrics for other suites are a mix: "{EXAMPLE}"',
    )


def describe(text: str, suites: Sequence[str]) -> str:
    """Returns a metric in words: "mean exact_match over unseen, held_out"."""
    if text == NORMALIZED_AVERAGE:
        return "normalized average of the six held-out evaluations"
    return f"mean {text} over {', '.join(suites)}" if text in METRICS else text


def _written(text: str) -> list[_Written]:
    """Returns the terms as they stand in the text; the suite is "" where none is named."""
    rest, found = text.strip() if isinstance(text, str) else "", []
    if not rest:
        raise _unreadable(text, "it is empty")
    sign = 1.0
    opening = _SIGN.match(rest)
    if opening:
        sign, rest = -1.0 if opening[1] == "-" else 1.0, rest[opening.end() :]
    while True:
        match = _TERM.match(rest)
        if match is None:
            raise _unreadable(text, f"no term begins at '{rest}'" if rest else "a term is missing")
        weight = float(match["weight"] or 1)
        if not weight or not math.isfinite(weight):
            raise _unreadable(text, f"the weight {match['weight']} counts for nothing")
        if match["metric"] not in {*METRICS, NORMALIZED_AVERAGE}:
            raise unknown_name(
                "metric", match["metric"], [*METRICS, NORMALIZED_AVERAGE], where=SETTING
            )
        if match["suite"] and match["metric"] == NORMALIZED_AVERAGE:
            raise _unreadable(text, "normalized_average has suites of its own")
        found.append(_Written(sign * weight, match["suite"] or "", match["metric"]))
        rest = rest[match.end() :].strip()
        if not rest:
            return found
        following = _SIGN.match(rest)
        assert following is not None  # a term ends before a sign, or the text does
        sign, rest = -1.0 if following[1] == "-" else 1.0, rest[following.end() :]


def _spread(
    part: _Written, suites: Sequence[str], evaluated: Sequence[str]
) -> list[tuple[str, str, float]]:
    """Returns (suite, metric, share) of what a term stands for."""
    if part.metric == NORMALIZED_AVERAGE:
        missing = [suite for suite in SIX_SUITES if suite not in evaluated]
        if missing:
            raise UserError(
                f"{NORMALIZED_AVERAGE} needs suites that are not evaluated: {', '.join(missing)}",
                where=SETTING,
                expected="results of " + ", ".join(SIX_SUITES),
                fix='evaluate them: EVAL_SUITES = ("heldout",), or flan-train eval '
                "--suite=heldout for each checkpoint",
            )
        return [(suite, NORMALIZED, 1 / len(SIX_SUITES)) for suite in SIX_SUITES]
    if not part.suite:
        return [(suite, part.metric, 1 / len(suites)) for suite in suites]
    if part.suite not in evaluated:
        raise unknown_name("evaluated suite", part.suite, evaluated, where=SETTING)
    return [(part.suite, part.metric, 1.0)]


def _unreadable(text: object, why: str) -> UserError:
    return UserError(
        f"not a metric: {text!r}: {why}",
        where=SETTING,
        expected=f"a metric ({', '.join([*METRICS, NORMALIZED_AVERAGE])}) or a weighted mix",
        fix=f'a mix is written as "{EXAMPLE}"',
    )


def suites_of(parts: Sequence[Term]) -> list[str]:
    """Returns the suites of terms, each once, in order."""
    return list(dict.fromkeys(term.suite for term in parts))


def score(parts: Sequence[Term], means: Mapping[str, Mapping[str, float]]) -> float:
    """Returns the score: the weighted sum over terms of `means[suite][metric]`."""
    return math.fsum(term.weight * means[term.suite][term.metric] for term in parts)
