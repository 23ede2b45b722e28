"""Scores of evaluated examples by task, by family and over all tasks."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import scores, tasks
from flan_train.tasks.definitions import Rendered, TaskDefinition
from flan_train.tasks.procedural import FAMILIES
from flan_train.tasks.protocol import Draws, Protocol
from flan_train.tasks.quickstart import ProceduralSource


def _no_render(*_: Any) -> Rendered:
    raise AssertionError("nothing is rendered here")


def _task(name: str, family: str, protocol: Protocol) -> TaskDefinition:
    return TaskDefinition(
        name=name,
        family=family,
        form="direct",
        source=ProceduralSource(next(iter(FAMILIES.values()))),
        renderer=_no_render,
        wordings=str,
        extraction="text",
        **vars(protocol),
    )


PROTOCOLS = {
    "toy_choice": Protocol(metrics=("accuracy",), chance=0.25),
    "toy_summary": Protocol(metrics=("rougeL", "f1")),
    "toy_translation": Protocol(metrics=("bleu",)),
    "toy_toxicity": Protocol(
        metrics=("any_toxic", "mean_toxicity"), method="samples", sampling=Draws(2)
    ),
    "toy_classifier": Protocol(metrics=("auc_roc",), method="rank"),
}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    for name, protocol in PROTOCOLS.items():
        tasks.add(_task(name, name.removeprefix("toy_"), protocol))
    yield
    for name in PROTOCOLS:
        tasks.remove(name)


def example(task: str, extracted: str | None, answer: str, **more: Any) -> dict[str, Any]:
    """An evaluated example."""
    return {
        "task": task,
        "family": task.removeprefix("toy_"),
        "form": "direct",
        "held_out": True,
        "shots": 2,
        "extracted": extracted,
        "answer": answer,
        "references": [],
        "correct": extracted == answer,
        **more,
    }


def test_a_task_has_every_metric_of_its_own_the_main_one_first() -> None:
    found = scores.summary(
        [
            example("toy_choice", "a", "a", shots=3),
            example("toy_choice", "b", "a", shots=2),
            example("toy_choice", None, "c", shots=1),
            example("toy_choice", "c", "a", shots=2),
            example("toy_summary", "a red car", "the red car"),
        ]
    )
    choice = found["metrics"]["toy_choice"]
    assert list(choice)[:3] == ["accuracy", "exact_match", "normalized"]
    assert choice["accuracy"] == choice["exact_match"] == 0.25
    assert choice["normalized"] == pytest.approx(0)
    assert {name: choice[name] for name in ("majority", "not_extracted", "n", "shots")} == {
        "majority": 0.75,
        "not_extracted": 1,
        "n": 4,
        "shots": 2.0,
    }
    assert choice["intervals"].keys() == {"accuracy", "exact_match", "normalized"}
    low, high = choice["intervals"]["accuracy"]
    assert 0 <= low < 0.25 < high <= 1
    assert choice["intervals"]["normalized"] == pytest.approx(
        [(low - 0.25) / 0.75, (high - 0.25) / 0.75]
    )
    summary = found["metrics"]["toy_summary"]
    assert list(summary)[:3] == ["rougeL", "f1", "exact_match"]
    assert summary["f1"] == 1.0
    assert summary["rougeL"] == pytest.approx(2 / 3)


def test_a_mean_is_over_the_tasks_that_have_the_metric() -> None:
    found = scores.summary(
        [
            example("toy_choice", "a", "a"),
            example("toy_summary", "a red car", "a red car"),
            example("toy_summary", "no", "a red car"),
            example("unknown_task", "x", "y"),
        ]
    )
    assert found["mean"]["accuracy"] == found["mean"]["normalized"] == 1.0
    assert found["mean"]["rougeL"] == 0.5
    assert found["mean"]["exact_match"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["mean"]["not_extracted"] == 0
    assert not {"n", "shots", "intervals"} & found["mean"].keys()
    assert found["mean_intervals"].keys() == {
        "accuracy",
        "normalized",
        "rougeL",
        "f1",
        "exact_match",
    }
    assert (
        found["mean_intervals"]["rougeL"] == found["metrics"]["toy_summary"]["intervals"]["rougeL"]
    )
    assert found["families"]["summary"]["n"] == 2
    assert found["families"]["summary"]["rougeL"] == 0.5
    assert found["tasks"]["unknown_task"]["held_out"]


def test_drawn_outputs_have_no_exact_match() -> None:
    found = scores.summary(
        [
            example("toy_toxicity", "x", "", outputs=["x", "y"], toxicity=[0.9, 0.1]),
            example("toy_toxicity", "x", "", outputs=["x", "y"], toxicity=[0.3, 0.1]),
        ]
    )
    row = found["metrics"]["toy_toxicity"]
    assert row["any_toxic"] == 0.5
    assert row["mean_toxicity"] == pytest.approx(0.35)
    assert "exact_match" not in row
    assert scores.main_mean(found) == ("any_toxic", 0.5)


def test_corpus_bleu_is_not_a_mean_of_sentences() -> None:
    texts = [("the cat sat on the mat", "the cat sat on the mat"), ("no", "a long way from home")]
    examples = [example("toy_translation", *pair) for pair in texts]
    row = scores.summary(examples)["metrics"]["toy_translation"]
    alone = [scores.summary([each])["metrics"]["toy_translation"]["bleu"] for each in examples]
    assert alone[0] == pytest.approx(1.0)
    assert row["bleu"] != pytest.approx(sum(alone) / 2)
    low, high = row["intervals"]["bleu"]
    assert low <= row["bleu"] <= high


def test_a_metric_that_is_not_defined_is_left_out() -> None:
    ranked = {"options": ["yes", "no"], "option_scores": [-1.0, -2.0]}
    one_class = [example("toy_classifier", "yes", "yes", **ranked)] * 2
    found = scores.summary([*one_class, example("toy_choice", "a", "a")])
    assert list(found["metrics"]["toy_classifier"]["intervals"]) == ["exact_match"]
    assert "auc_roc" not in found["mean"]
    json.dumps(found, allow_nan=False)
    both = scores.summary([*one_class, example("toy_classifier", "yes", "no", **ranked)])
    assert both["metrics"]["toy_classifier"]["auc_roc"] == 0.5


def test_values_that_are_there_are_taken() -> None:
    stored = example("toy_summary", "a", "b") | {"values": {"rougeL": [0.25], "exact_match": [0.0]}}
    found = scores.summary([stored])
    assert found["mean"]["rougeL"] == 0.25
    assert scores.main_metric(found) == "rougeL"


def test_the_main_metric_is_that_of_most_tasks_and_known_of_older_results() -> None:
    older = {
        "metrics": {"a": {"exact_match": 0.5, "majority": 0.1, "n": 3}},
        "mean": {"exact_match": 0.5},
    }
    assert scores.main_mean(older) == ("exact_match", 0.5)
    names = ["toy_choice", "toy_summary", "toy_summary_too"]
    rows = {name: {"rougeL" if "summary" in name else "accuracy": 1.0, "n": 1} for name in names}
    assert scores.main_metric({"metrics": rows}) == "rougeL"


Outcome = st.tuples(st.sampled_from(["toy_choice", "toy_summary", "other"]), st.sampled_from("abc"))


@settings(max_examples=25, deadline=None)
@given(st.lists(Outcome, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_examples_changes_nothing(
    outcomes: list[tuple[str, str]], shuffle: random.Random
) -> None:
    examples = [example(task, answer, "a") for task, answer in outcomes]
    found = scores.summary(examples)
    shuffled = scores.summary(shuffle.sample(examples, len(examples)))
    assert shuffled["metrics"] == found["metrics"]
    for name, (low, high) in found["mean_intervals"].items():
        assert low - 1e-9 <= found["mean"][name] <= high + 1e-9 or len(examples) < 10
        assert shuffled["mean_intervals"][name] == pytest.approx([low, high])
        assert not math.isnan(low)


def test_the_interval_of_a_mean_is_narrower_than_that_of_a_task() -> None:
    rng = np.random.default_rng(0)
    examples = [
        example(f"toy_{kind}", "a" if rng.random() < 0.5 else "b", "a")
        for kind in ("choice", "x", "y", "z")
        for _ in range(100)
    ]
    found = scores.summary(examples)
    low, high = found["mean_intervals"]["exact_match"]
    widths = [row["intervals"]["exact_match"] for row in found["metrics"].values()]
    # Four tasks of equal size: half as wide.
    assert high - low == pytest.approx(np.mean([end - start for start, end in widths]) / 2, rel=0.2)
