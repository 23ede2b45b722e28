"""The paired bootstrap: against drawing by hand and against theory, for metrics of every kind."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from flan_train.select_metric import Term
from flan_train.select_noise import draws, within_noise
from flan_train.tasks import metrics
from flan_train.tasks.metrics import METRICS, RESAMPLES

KINDS = {"exact_match": "mean", "bleu": "sums", "auc_roc": "rows"}


def _write(folder: pathlib.Path, step: int, tasks: dict[str, dict[str, np.ndarray]]) -> None:
    """Writes per-example results: {task: {metric: [n, k]}}."""
    lines, index = [], 0
    for task, values in tasks.items():
        for row in range(len(next(iter(values.values())))):
            of_row = {name: rows[row].tolist() for name, rows in values.items()}
            example = {"index": index, "task": task, "example_id": f"{task}-{row}"}
            lines.append(json.dumps(example | {"inputs": "?", "values": of_row}) + "\n")
            index += 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{step}.jsonl").write_text("".join(lines), "utf-8")


def _values(kind: str, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if kind == "mean":
        return random.integers(0, 2, (count, 1)).astype(float)
    if kind == "rows":
        return np.stack([random.random(count), np.arange(count) % 2], 1)
    # Lengths, then n-grams that match and n-grams there are, of an output of ten words.
    matches = np.sort(random.integers(1, 8, (count, 4)), 1)[:, ::-1]
    return np.column_stack([np.full((count, 2), 10), matches, np.tile([10, 9, 8, 7], (count, 1))])


@pytest.mark.parametrize("metric", KINDS)
def test_scores_of_the_same_draws_for_all_steps(tmp_path, metric):
    count = 40
    values = {step: _values(KINDS[metric], count, step) for step in (1, 2)}
    values[3] = values[1]
    for step, rows in values.items():
        _write(tmp_path / "s", step, {"one": {metric: rows}})
    drawn = draws(tmp_path, [Term(1.0, "s", metric)], {"s": "s"}, [1, 2, 3])
    assert list(drawn) == [1, 2, 3]
    assert drawn[1].shape == (RESAMPLES,)
    np.testing.assert_array_equal(drawn[1], drawn[3])
    about = METRICS[metric]
    for step in (1, 2):
        # As wide and as high as the bootstrap of that step's examples alone.
        alone = metrics.bootstrap(values[step], about.kind, about.combine, seed=7)
        assert metrics.interval(drawn[step]) == pytest.approx(alone, abs=0.06)
        assert alone[0] < about.score(values[step]) < alone[1]


def test_the_difference_of_two_steps_is_as_uncertain_as_theory_says(tmp_path):
    count = 400
    random = np.random.default_rng(3)
    right = random.random((count, 1)) < 0.6
    flipped = right ^ (random.random((count, 1)) < 0.1)
    for step, rows in ((1, right), (2, flipped)):
        _write(tmp_path / "s", step, {"one": {"exact_match": rows.astype(float)}})
    drawn = draws(tmp_path, [Term(1.0, "s", "exact_match")], {"s": "s"}, [1, 2])
    each = right.astype(float) - flipped
    assert np.std(drawn[1] - drawn[2]) == pytest.approx(each.std() / np.sqrt(count), rel=0.08)
    # Much less than of two samples of other examples.
    assert np.std(drawn[1] - drawn[2]) < 0.6 * np.hypot(drawn[1].std(), drawn[2].std())


def test_weights_suites_and_tasks_that_lack_the_metric(tmp_path):
    def two(first: float, second: float) -> dict[str, np.ndarray]:
        return {"f1": np.full((5, 1), first), "exact_match": np.full((5, 1), second)}

    _write(tmp_path / "a", 1, {"x": two(0.25, 1.0), "y": {"exact_match": np.zeros((3, 1))}})
    _write(tmp_path / "b_all", 1, {"x": two(0.5, 0.75)})
    filed = {"a": "a", "b": "b_all"}
    parts = [Term(2.0, "a", "f1"), Term(1.0, "a", "exact_match"), Term(-1.0, "b", "exact_match")]
    drawn = draws(tmp_path, parts, filed, [1])
    np.testing.assert_allclose(drawn[1], 2 * 0.25 + (1.0 + 0.0) / 2 - 0.75)
    assert draws(tmp_path, [Term(1.0, "b", "rougeL")], filed, [1]) == {}
    # A score that is defined for no draw counts as little as one that is not there.
    _write(tmp_path / "c", 1, {"x": {"auc_roc": np.ones((4, 2))}})
    assert draws(tmp_path, [Term(1.0, "c", "auc_roc")], {"c": "c"}, [1]) == {}


def test_draws_depend_on_the_task_alone(tmp_path):
    one = {"exact_match": _values("mean", 30, 1)}
    other = {"exact_match": _values("mean", 30, 2)}
    _write(tmp_path / "a", 1, {"x": one})
    _write(tmp_path / "b", 1, {"x": one})
    _write(tmp_path / "c", 1, {"y": one, "x": other})
    same = {name: name for name in "abc"}

    def of(*parts: tuple[float, str]) -> np.ndarray:
        return draws(tmp_path, [Term(w, s, "exact_match") for w, s in parts], same, [1])[1]

    np.testing.assert_array_equal(of((1, "a")), of((1, "b")))
    np.testing.assert_allclose(of((1, "a"), (-1, "b")), 0, atol=1e-12)
    assert np.std(of((1, "a"), (-1, "c"))) > 0.01
    np.testing.assert_array_equal(of((1, "c")), of((1, "c")))


def test_many_examples_are_drawn_in_portions(tmp_path, monkeypatch):
    _write(tmp_path / "s", 1, {"one": {"exact_match": _values("mean", 50, 1)}})
    whole = draws(tmp_path, [Term(1.0, "s", "exact_match")], {"s": "s"}, [1])[1]
    monkeypatch.setattr("flan_train.select_noise._COUNTS_AT_ONCE", 700)
    parts = draws(tmp_path, [Term(1.0, "s", "exact_match")], {"s": "s"}, [1])[1]
    np.testing.assert_array_equal(whole, parts)


def test_without_the_first_steps_examples_there_is_nothing_to_compare_with(tmp_path):
    rows = {"one": {"exact_match": np.ones((3, 1))}}
    _write(tmp_path / "a", 1, rows)
    _write(tmp_path / "a", 2, rows)
    _write(tmp_path / "b", 2, rows)
    parts = [Term(0.5, "a", "exact_match"), Term(0.5, "b", "exact_match")]
    same = {"a": "a", "b": "b"}
    assert draws(tmp_path, parts, same, [1, 2]) == {}
    assert list(draws(tmp_path, parts, same, [2, 1])) == [2]


def test_a_score_above_chance_is_had_from_files_that_lack_it(tmp_path):
    task = "mmlu_anatomy_direct"
    rows = _values("mean", 14, 1)
    _write(tmp_path / "s", 1, {task: {"exact_match": rows, "accuracy": rows}})
    parts = [Term(1.0, "s", "normalized")]
    above = draws(tmp_path, parts, {"s": "s"}, [1])[1]
    plain = draws(tmp_path, [Term(1.0, "s", "exact_match")], {"s": "s"}, [1])[1]
    np.testing.assert_allclose(above, (plain - 0.25) / 0.75)


def test_an_interval_that_reaches_zero_is_within_noise():
    assert within_noise([-0.1, 0.2])
    assert within_noise([1e-17, 0.2])  # a difference of nothing, added up in another order
    assert not within_noise([0.001, 0.2])
    assert metrics.interval(np.zeros(5)) == (0.0, 0.0)
