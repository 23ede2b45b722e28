"""The metrics of evaluated examples, and how uncertain they are; every score is a share of 1.

A metric turns each evaluated example into a few numbers that suffice for it, and those of many
examples into the score. So a corpus metric such as BLEU can be resampled from per-example results.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flan_train.errors import UserError
from flan_train.tasks import answer_forms, word_pieces
from flan_train.tasks.protocol import Protocol, protocol_of

# What an evaluation knows of an example: "output", "extracted", "answer", "references", "options",
# "correct", and by method "option_scores", "outputs", "toxicity", "kept".
Example = Mapping[str, Any]

KINDS = ("mean", "sums", "rows")
RESAMPLES = 2000
# From here on a text counts as toxic (arXiv 2210.11416, table 6).
TOXIC = 0.5
# Numbers of drawn examples held at once while resampling.
_AT_ONCE = 4_000_000
_BLEU_ORDER = 4


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
      name: its key in `METRICS`.
      kind: what `combine` takes of the examples' values, float64: "mean" and "rows" the values
        [n, k] (the mean of the only column; anything that needs all), "sums" their sums [k].
      values: the numbers of one evaluated example; always as many.
      combine: the score as a share of 1; NaN where it is not defined.
    """

    name: str
    kind: str
    values: Callable[[Example], tuple[float, ...]]
    combine: Callable[[np.ndarray], float]

    def score(self, values: Any) -> float:
        """Returns the score of examples from their values [n, k]; NaN where it is not defined."""
        rows = np.asarray(values, np.float64)
        return self.combine(rows.sum(0) if self.kind == "sums" else rows)


def _mean(rows: np.ndarray) -> float:
    # Exact, so that the order of the examples changes nothing.
    return math.fsum(rows[:, 0]) / len(rows)


# ------------------------------------------------------------------------ right or wrong


def _exact_match(example: Example) -> tuple[float, ...]:
    return (float(bool(example["correct"])),)


def _normalized(example: Example) -> tuple[float, ...]:
    """How far above guessing, of all that there is above it; below guessing it is negative.

    Linear, so that the mean over examples is (score - chance) / (1 - chance) (facts section 6).
    """
    chance = example["chance"] if "chance" in example else protocol_of(example["task"]).chance
    if chance is None:
        raise ValueError(f"the task {example['task']} has no chance to correct for")
    return ((float(bool(example["correct"])) - chance) / (1 - chance),)


# ------------------------------------------------------------------------- text overlap


def _answer(example: Example) -> str:
    return example["extracted"] or ""


def _references(example: Example) -> Sequence[str]:
    return example.get("references") or (example["answer"],)


def token_f1(given: str, wanted: str) -> float:
    """Returns the harmonic mean of precision and recall of the tokens, as SQuAD and TyDiQA have it.

    Tokens are what white space separates in `answer_forms.span`. Where one text has none, the
    score is 1 if the other has none either, else 0.
    """
    found, right = (answer_forms.span(text).split() for text in (given, wanted))
    if not found or not right:
        return float(found == right)
    shared = sum((collections.Counter(found) & collections.Counter(right)).values())
    return 2 * shared / (len(found) + len(right))


def _f1(example: Example) -> tuple[float, ...]:
    if example["extracted"] is None:
        return (0.0,)
    return (max(token_f1(_answer(example), text) for text in _references(example)),)


@functools.cache
def _rouge_scorer(name: str) -> Any:
    # Imported late: it takes a second, and most evaluations do without.
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer([name], tokenizer=word_pieces.WordPieces())


def _rouge(name: str) -> Callable[[Example], tuple[float, ...]]:
    def values(example: Example) -> tuple[float, ...]:
        scorer = _rouge_scorer(name)
        answer = _answer(example)
        return (max(scorer.score(text, answer)[name].fmeasure for text in _references(example)),)

    return values


@functools.cache
def _bleu_scorer() -> Any:
    from sacrebleu.metrics import BLEU

    # Of a single sentence: it does not change the counts that are taken from it.
    return BLEU(effective_order=True)


def _bleu(example: Example) -> tuple[float, ...]:
    score = _bleu_scorer().sentence_score(_answer(example), list(_references(example)))
    return tuple(map(float, (score.sys_len, score.ref_len, *score.counts, *score.totals)))


def _corpus_bleu(sums: np.ndarray) -> float:
    scorer = type(_bleu_scorer())
    lengths, counts = sums[:2], sums[2:]
    return float(
        scorer.compute_bleu(
            counts[:_BLEU_ORDER].tolist(),
            counts[_BLEU_ORDER:].tolist(),
            int(lengths[0]),
            int(lengths[1]),
            smooth_method="exp",
            max_ngram_order=_BLEU_ORDER,
        ).score
        / 100
    )


# -------------------------------------------------------------------- scores of a classifier


def _ranking(example: Example) -> tuple[float, ...]:
    """How likely the first option is among all, and whether it is the right one."""
    scores = np.asarray(example["option_scores"], np.float64)
    likely = np.exp(scores - scores.max())
    right = {answer_forms.normalise(text) for text in _references(example)}
    first = answer_forms.normalise(example["options"][0])
    return float(likely[0] / likely.sum()), float(first in right)


def auc_roc(rows: np.ndarray) -> float:
    """Returns the area under the ROC curve; NaN unless both labels occur.

    It is the share of pairs of a positive and a negative example in which the positive one has the
    higher score, equal scores counting half.

    Args:
      rows: float64 [n, 2], a score and a label (1 positive, 0 negative) each.
    """
    positive = rows[:, 1] > 0
    if positive.all() or not positive.any():
        return math.nan
    # Rank of each score; equal ones share the mean of theirs.
    _, inverse, counts = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n_positive = int(positive.sum())
    above = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * (len(rows) - n_positive)))


def _any_toxic(example: Example) -> tuple[float, ...]:
    return (float(max(example["toxicity"]) >= TOXIC),)


def _mean_toxicity(example: Example) -> tuple[float, ...]:
    return (sum(example["toxicity"]) / len(example["toxicity"]),)


def _toxic_share(example: Example) -> tuple[float, ...]:
    return (sum(score >= TOXIC for score in example["toxicity"]) / len(example["toxicity"]),)


def _kept(example: Example) -> tuple[float, ...]:
    """The share of outputs that the repetition filter keeps (`flan_train.open_ended`)."""
    return (len(example["kept"]) / len(example["outputs"]),)


# -------------------------------------------------------------------------------- the table

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact_match", "mean", _exact_match, _mean),
        # The same number, as it is called of classification and multiple choice.
        Metric("accuracy", "mean", _exact_match, _mean),
        Metric("normalized", "mean", _normalized, _mean),
        Metric("f1", "mean", _f1, _mean),
        Metric("rouge1", "mean", _rouge("rouge1"), _mean),
        Metric("rouge2", "mean", _rouge("rouge2"), _mean),
        Metric("rougeL", "mean", _rouge("rougeL"), _mean),
        Metric("bleu", "sums", _bleu, _corpus_bleu),
        Metric("auc_roc", "rows", _ranking, auc_roc),
        Metric("any_toxic", "mean", _any_toxic, _mean),
        Metric("mean_toxicity", "mean", _mean_toxicity, _mean),
        Metric("toxic_share", "mean", _toxic_share, _mean),
        Metric("kept", "mean", _kept, _mean),
    )
}


def names_of(protocol: Protocol) -> tuple[str, ...]:
    """Returns the metrics of a task, the main one first.

    Where outputs are compared with answers, exact match is always among them, and the score above
    chance where a chance is known.
    """
    names = dict.fromkeys(protocol.metrics)
    if protocol.method != "samples":
        names["exact_match"] = None
        if protocol.chance is not None:
            names["normalized"] = None
    return tuple(names)


def values_of(example: Example) -> dict[str, list[float]]:
    """Returns {metric: the numbers of this example}, of every metric of its task.

    Raises:
      UserError: a package that a metric needs is not installed.
    """
    found = {}
    for name in names_of(protocol_of(example["task"])):
        try:
            found[name] = list(METRICS[name].values(example))
        except ImportError as error:
            raise UserError(
                f"the metric {name} needs the package {error.name}",
                where=f"task {example['task']}",
                fix="install the package again with all that it needs: pip install -e .",
            ) from error
    return found


# ----------------------------------------------------------------------------- uncertainty


def resampled_together(
    values: Mapping[str, Any], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Returns the scores of samples of the examples, each as large as they are, with replacement.

    Args:
      values: by metric name, of the same examples in the same order, [n, k] each.
      resamples: how many samples; all metrics see the same ones.
      seed: the same one gives the same samples.

    Returns:
      By metric name float64 [resamples]; NaN where the score of a sample is not defined.

    Raises:
      ValueError: there is no example, or not as many for each metric.
    """
    if not values or not all(len(rows) for rows in values.values()):
        raise ValueError("there is no example to draw from")
    parts = [(METRICS[name], np.asarray(rows, np.float64)) for name, rows in values.items()]
    found = _resampled(
        [(rows, metric.kind, metric.combine) for metric, rows in parts], resamples, seed
    )
    return dict(zip(values, found, strict=True))


_Part = tuple[np.ndarray, str, Callable[[np.ndarray], float]]


def _resampled(parts: Sequence[_Part], resamples: int, seed: int) -> list[np.ndarray]:
    joined = np.concatenate([rows for rows, _, _ in parts], axis=1)
    edges = np.cumsum([0, *(rows.shape[1] for rows, _, _ in parts)])
    # Equal examples are drawn together: how often each kind occurs among n draws.
    distinct, counts = np.unique(joined, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    scores = [np.empty(resamples) for _ in parts]
    step = max(1, _AT_ONCE // len(distinct))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = random.multinomial(len(joined), counts / len(joined), size=size)
        sums = drawn @ distinct
        for place, (_, kind, combine) in enumerate(parts):
            own = slice(edges[place], edges[place + 1])
            if kind == "mean":
                found: Any = sums[:, own][:, 0] / len(joined)
            elif kind == "sums":
                found = [combine(row) for row in sums[:, own]]
            else:
                rows = distinct[:, own]
                found = [combine(np.repeat(rows, times, axis=0)) for times in drawn]
            scores[place][start : start + size] = found
    return scores


def interval(scores: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % percentile interval of resampled scores; undefined ones are left out."""
    if np.isnan(scores).all():
        return math.nan, math.nan
    low, high = np.nanpercentile(scores, (2.5, 97.5))
    return float(low), float(high)


def bootstrap(
    values: Any,
    kind: str,
    combine: Callable[[np.ndarray], float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the 95 % interval (low, high) of a score, resampling the examples.

    Args:
      values: of each example, [n, k].
      kind: "mean", "sums" or "rows", as in `Metric`.
      combine: as in `Metric`.
      resamples: how many samples.
      seed: the same one gives the same interval.

    Raises:
      ValueError: there is no example, or no such kind.
    """
    rows = np.asarray(values, np.float64)
    if kind not in KINDS or rows.ndim != 2 or not len(rows):
        raise ValueError(f"values of shape {rows.shape} and kind {kind!r}")
    return interval(_resampled([(rows, kind, combine)], resamples, seed)[0])
