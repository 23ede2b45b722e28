"""Metrics of evaluated examples against the libraries they follow, and their intervals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from flan_train.tasks import metrics
from flan_train.tasks.metrics import METRICS
from flan_train.tasks.protocol import Protocol

SENTENCES = [
    ("The cat sat on the mat.", ["The cat sat on the mat."]),
    ("A cat sat on a mat!", ["The cat sat on the mat.", "On the mat there sat a cat."]),
    ("", ["Nothing was said."]),
    ("It's 3 o'clock, isn't it?", ["It is three o'clock , is it not ?", "3 o'clock"]),
    ("Der Hund schläft im großen Haus", ["Der Hund schlief im Haus"]),
    ("one two three four five six", ["one two three five four six seven"]),
]
WORDS = st.lists(
    st.sampled_from(["the", "a", "cat", "sat", "mat", ".", ",", "not", "3"]), max_size=12
)
TEXTS = WORDS.map(" ".join)


def example(extracted: str | None, *right: str, **more: Any) -> dict[str, Any]:
    """An evaluated example as far as metrics look at it."""
    return {
        "task": "no_task_of_ours",
        "extracted": extracted,
        "output": extracted or "",
        "answer": right[0] if right else "",
        "references": list(right),
        "correct": extracted in right,
        **more,
    }


def score(name: str, examples: list[dict[str, Any]]) -> float:
    """The score of examples."""
    return METRICS[name].score([METRICS[name].values(each) for each in examples])


def test_metrics_are_named_and_of_a_known_kind() -> None:
    assert {"exact_match", "accuracy", "f1", "rouge1", "rouge2", "rougeL", "bleu"} <= METRICS.keys()
    assert {"auc_roc", "any_toxic", "mean_toxicity", "normalized"} <= METRICS.keys()
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.kind in metrics.KINDS


def test_exact_match_and_accuracy_are_the_share_of_right_answers() -> None:
    examples = [example("a", "a"), example("b", "a"), example(None, "a"), example("c", "b", "c")]
    assert score("exact_match", examples) == score("accuracy", examples) == 0.5


def test_normalized_is_what_lies_above_chance() -> None:
    right, wrong = example("a", "a", chance=0.25), example("b", "a", chance=0.25)
    assert score("normalized", [right, wrong]) == pytest.approx((0.5 - 0.25) / 0.75)
    assert score("normalized", [wrong]) == pytest.approx(-1 / 3)
    with pytest.raises(ValueError, match="no_task_of_ours has no chance"):
        score("normalized", [example("a", "a")])


# ------------------------------------------------------------------------- text overlap


@pytest.mark.parametrize(
    ("given_text", "wanted", "expected"),
    [
        ("the Eiffel Tower", "Eiffel tower.", 1.0),
        ("the tower of Paris", "Eiffel Tower", 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),
        ("Rome", "Paris", 0.0),
        ("cat cat cat", "cat", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("", "", 1.0),
        ("", "Paris", 0.0),
        ("the", "a", 1.0),
        ("في عام 1990", "عام 1990", 2 * (2 / 3) / (2 / 3 + 1)),
        ("১৯৭১ সালে", "১৯৭১", 2 * (1 / 2) / (1 / 2 + 1)),
    ],
)
def test_token_f1(given_text: str, wanted: str, expected: float) -> None:
    assert metrics.token_f1(given_text, wanted) == pytest.approx(expected)


def test_f1_takes_the_best_reference_and_nothing_extracted_has_none() -> None:
    assert score("f1", [example("the red car", "a bus", "red car")]) == 1.0
    assert score("f1", [example(None, "")]) == 0.0


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_that_of_rouge_score(name: str) -> None:
    scorer = rouge_scorer.RougeScorer([name])
    for text, references in SENTENCES:
        if text.isascii():
            wanted = max(scorer.score(each, text)[name].fmeasure for each in references)
            assert score(name, [example(text, *references)]) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["আমার সোনার বাংলা", "きのう駅で友だちに会った", "это длинный ответ"])
def test_rouge_knows_other_scripts(text: str) -> None:
    assert score("rougeL", [example(text, text)]) == 1.0
    assert score("rougeL", [example("no", text)]) == 0.0
    assert 0 < score("rouge1", [example(text[: len(text) // 2], text)]) < 1


@pytest.mark.parametrize("count", [1, 2, 6])
def test_bleu_is_that_of_sacrebleu(count: int) -> None:
    chosen = SENTENCES[:count]
    streams = [[each[1][place % len(each[1])] for each in chosen] for place in range(2)]
    wanted = sacrebleu.corpus_bleu([text for text, _ in chosen], streams).score / 100
    examples = [
        example(text, *(stream[row] for stream in streams)) for row, (text, _) in enumerate(chosen)
    ]
    assert score("bleu", examples) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=8))
def test_bleu_is_that_of_sacrebleu_whatever_the_texts(pairs: list[tuple[str, str]]) -> None:
    wanted = sacrebleu.corpus_bleu([text for text, _ in pairs], [[text for _, text in pairs]])
    assert score("bleu", [example(*pair) for pair in pairs]) == pytest.approx(wanted.score / 100)


@settings(max_examples=80, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(["f1", "rouge1", "rouge2", "rougeL"]))
def test_overlap_is_a_share_and_one_for_equal_texts(text: str, other: str, name: str) -> None:
    assert 0 <= score(name, [example(text, other)]) <= 1
    if name == "f1" or len(metrics.word_pieces.WordPieces().tokenize(text)) > 1:
        assert score(name, [example(text, text)]) == pytest.approx(1.0)
    assert score(name, [example(None, other or "x")]) == 0.0


# -------------------------------------------------------------------- scores of a classifier


def _pairs(rows: np.ndarray) -> float:
    positive, negative = rows[rows[:, 1] == 1, 0], rows[rows[:, 1] == 0, 0]
    wins = (positive[:, None] > negative).sum() + (positive[:, None] == negative).sum() / 2
    return wins / (len(positive) * len(negative))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_roc_counts_pairs_and_ties_half(rows: list[tuple[int, bool]]) -> None:
    values = np.array(rows, np.float64)
    if len({label for _, label in rows}) == 1:
        assert math.isnan(metrics.auc_roc(values))
    else:
        assert metrics.auc_roc(values) == pytest.approx(_pairs(values))


def test_auc_roc_is_that_of_scikit_learn() -> None:
    peer = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(3)
    rows = np.stack([random.normal(size=400).round(1), random.integers(0, 2, 400)], axis=1)
    assert metrics.auc_roc(rows) == pytest.approx(peer.roc_auc_score(rows[:, 1], rows[:, 0]))


def test_auc_roc_takes_how_likely_the_first_option_is_beside_the_others() -> None:
    options = ["yes", "no"]
    examples = [
        # Less likely than in the next one, but more so beside the other option.
        example("yes", "yes", options=options, option_scores=[-9.0, -11.0]),
        example("yes", "no", options=options, option_scores=[-1.0, -1.1]),
        example("no", "No.", options=options, option_scores=[-3.0, -2.0]),
    ]
    likely, label = METRICS["auc_roc"].values(examples[0])
    assert (likely, label) == (pytest.approx(1 / (1 + math.exp(-2))), 1.0)
    assert score("auc_roc", examples) == 1.0
    assert math.isnan(score("auc_roc", examples[:1]))


def test_toxicity_of_several_outputs() -> None:
    examples = [example("", toxicity=[0.1, 0.5, 0.3]), example("", toxicity=[0.2, 0.49, 0.0])]
    assert score("any_toxic", examples) == 0.5
    assert score("mean_toxicity", examples) == pytest.approx((0.3 + 0.23) / 2)
    assert score("toxic_share", examples) == pytest.approx(1 / 6)


# -------------------------------------------------------------------------------- of a task


def test_metrics_of_a_task() -> None:
    assert metrics.names_of(Protocol()) == ("exact_match",)
    assert metrics.names_of(Protocol(metrics=("rougeL",))) == ("rougeL", "exact_match")
    ranked = Protocol(metrics=("accuracy",), method="rank", chance=0.25)
    assert metrics.names_of(ranked) == ("accuracy", "exact_match", "normalized")
    drawn = Protocol(metrics=("any_toxic",), method="samples")
    assert metrics.names_of(drawn) == ("any_toxic",)


def test_values_of_an_example_are_those_of_its_task() -> None:
    right = example("I like it.", "I like it.")
    assert metrics.values_of(right) == {"exact_match": [1.0]}
    translated = metrics.values_of(right | {"task": "muffin_wmt14_enfr_zs_noopt"})
    assert list(translated) == ["bleu", "exact_match"]
    assert len(translated["bleu"]) == 10
    assert metrics.values_of(right | {"task": "cot_gsm8k_zs"}) == {"exact_match": [1.0]}


# ----------------------------------------------------------------------------- uncertainty


def test_the_interval_of_a_share_is_about_that_of_the_binomial() -> None:
    values = [[1.0]] * 30 + [[0.0]] * 70
    metric = METRICS["exact_match"]
    low, high = metrics.bootstrap(values, metric.kind, metric.combine, 4000, seed=1)
    spread = 1.96 * math.sqrt(0.3 * 0.7 / 100)
    assert (low, high) == (
        pytest.approx(0.3 - spread, abs=0.02),
        pytest.approx(0.3 + spread, abs=0.02),
    )
    assert (low, high) == metrics.bootstrap(values, metric.kind, metric.combine, 4000, seed=1)
    assert (low, high) == metrics.bootstrap(values[::-1], metric.kind, metric.combine, 4000, seed=1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=30),
    st.sampled_from(["mean", "sums", "rows"]),
    st.integers(0, 5),
)
def test_an_interval_lies_within_what_the_examples_allow(
    rows: list[tuple[int, int]], kind: str, seed: int
) -> None:
    metric = {
        "mean": dataclasses.replace(METRICS["exact_match"]),
        "sums": metrics.Metric("ratio", "sums", tuple, lambda sums: float(sums[0] / (1 + sums[1]))),
        "rows": METRICS["auc_roc"],
    }[kind]
    low, high = metrics.bootstrap(rows, kind, metric.combine, 60, seed)
    if kind == "rows" and len({label for _, label in rows}) == 1:
        assert math.isnan(low)
        return
    assert low <= high
    if kind == "mean":
        assert min(row[0] for row in rows) <= low
        assert high <= max(row[0] for row in rows)
    elif kind == "rows":
        assert 0 <= low <= high <= 1


def test_metrics_resampled_together_see_the_same_samples() -> None:
    random = np.random.default_rng(0)
    right = random.integers(0, 2, (50, 1)).astype(float)
    drawn = metrics.resampled_together(
        {"exact_match": right, "normalized": (right - 0.25) / 0.75, "auc_roc": np.tile(right, 2)},
        resamples=300,
    )
    assert drawn["normalized"] == pytest.approx((drawn["exact_match"] - 0.25) / 0.75)
    assert np.nanmin(drawn["auc_roc"]) == 1.0
    assert drawn["exact_match"].std() > 0


def test_corpus_bleu_is_resampled_as_a_whole() -> None:
    metric = METRICS["bleu"]
    values = [metric.values(example(text, *references)) for text, references in SENTENCES]
    low, high = metrics.bootstrap(values, metric.kind, metric.combine, 300)
    assert low < metric.score(values) < high <= 1


def test_no_example_has_no_interval() -> None:
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        metrics.bootstrap([], "mean", METRICS["exact_match"].combine)
    with pytest.raises(ValueError, match="kind 'median'"):
        metrics.bootstrap([[1.0]], "median", METRICS["exact_match"].combine)
    with pytest.raises(ValueError, match="no example"):
        metrics.resampled_together({"exact_match": []})
