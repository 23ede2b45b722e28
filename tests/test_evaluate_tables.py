"""Scores as tables: every number in its place, what is left out in words."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from flan_train import evaluate_tables, normalized


def printed(table: Any, width: int = 120) -> list[list[str]]:
    """Returns the cells of a table, row by row."""
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return [line.split() for line in text.getvalue().splitlines() if line.strip()]


def result(suite: str, accuracy: float, **changes: Any) -> dict[str, Any]:
    mean = {"accuracy": accuracy, "exact_match": accuracy, "normalized": accuracy - 0.25}
    row = {**mean, "majority": 0.5, "not_extracted": 1, "n": 1000}
    return {
        "suite": suite,
        "step": 7,
        "metrics": {"easy": row, "hard": {**row, "accuracy": 0.0}},
        "mean": {**mean, "majority": 0.5, "not_extracted": 1},
        "mean_intervals": {"accuracy": [accuracy - 0.1, accuracy + 0.1]},
        "protocol": {"shots": 4.96},
        "examples": 2000,
        **{key: {} for key in ("missing", "empty", "dropped", "shortened", "out_of_reach")},
        **changes,
    }


def test_a_suite_by_task() -> None:
    rows = printed(evaluate_tables.of_suite(result("s", 0.5)))
    assert rows[0] == ["s,", "step", "7"]
    assert rows[1] == ["task", "accuracy", "normalized", "majority", "no", "answer", "n"]
    assert rows[3] == ["easy", "0.500", "0.250", "0.500", "1", "1,000"]
    assert rows[-1] == ["mean,", "or", "sum", "0.500", "0.250", "0.500", "2", "2,000"]


def test_suites_side_by_side_in_percent() -> None:
    both = {name: result(name, score) for name, score in (("a", 0.5), ("b_test", 0.25))}
    rows = printed(evaluate_tables.of_all(both))
    assert rows[3] == ["a", "accuracy", "50.0", "40.0", "to", "60.0", "25.0", "2", "5.0", "2,000"]
    assert rows[4][:3] == ["b_test", "accuracy", "25.0"]
    assert len(rows) == 5


def test_on_a_narrow_terminal_names_give_way() -> None:
    name = "heldout_mmlu_direct_published_test"
    rows = printed(evaluate_tables.of_all({name: result(name, 0.5)}), width=88)
    assert rows[-1][0].endswith("…")
    assert rows[-1][1:3] == ["accuracy", "50.0"]


@pytest.mark.parametrize("ending", ["", "_all", "_test"])
def test_the_normalised_average_where_all_six_are_there(ending: str) -> None:
    six = {name + ending: result(name + ending, 0.5) for name in normalized.SIX_SUITES}
    assert printed(evaluate_tables.of_all(six))[-1][-1] == "25.0"
    six.popitem()
    assert printed(evaluate_tables.of_all(six))[-1][-1] == "2,000"


def test_what_is_left_out_is_said() -> None:
    told = evaluate_tables.remarks(
        {
            "a": result("a", 0.5),
            "b": result(
                "b",
                0.5,
                missing={"hard": "no file"},
                empty={"void": "no rows"},
                dropped={"easy": {"targets too long": 2, "bad row: short": 1}},
                shortened={"easy": {"inputs_cut": 4}, "hard": {"inputs_cut": 1, "fewer_shots": 7}},
                out_of_reach={"t1": 1, "t2": 5, "t3": 4, "t4": 3},
            ),
        }
    )
    assert told == [
        "b: left out, without data: hard",
        "b: without examples: void",
        "b: 3 examples dropped, by reason in the result's JSON",
        "b: 5 of 2,000 have their prompt cut to the limit",
        "b: 7 of 2,000 have fewer exemplars, so that they fit",
        "b: 13 of 2,000 answers cannot be written with this vocabulary, and count as wrong: "
        "t2 5, t3 4, t4 3 and 1 more",
    ]
