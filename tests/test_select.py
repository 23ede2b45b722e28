"""Selection: the right step, the reason, what is left out, and every message a user can meet."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train.errors import UserError
from flan_train.scores import read_results
from flan_train.select import SelectConfig, bootstrap_interval, read_selected, select
from tests import synthetic_run

UNSEEN = [("add_direct", "add", "direct", False), ("sort_direct", "sort", "direct", False)]
HELD_OUT = [("parity_direct", "parity", "direct", True)]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    synthetic_run.write_suite(tmp_path, "unseen", UNSEEN, {100: 0.2, 200: 0.6, 300: 0.55})
    synthetic_run.write_suite(tmp_path, "held_out", HELD_OUT, {100: 0.2, 200: 0.5, 300: 0.5})
    synthetic_run.write_suite(tmp_path, "unseen_test", UNSEEN, {200: 0.9}, split="test")
    return tmp_path


def test_the_step_with_the_highest_mean_over_suites_is_chosen_and_written(run):
    chosen = select(run, SelectConfig(("unseen", "held_out")))
    assert chosen["step"] == 200
    results = read_results(run)
    means = [results[suite][200]["mean"]["exact_match"] for suite in ("unseen", "held_out")]
    assert chosen["score"] == sum(means) / 2
    assert [item["step"] for item in chosen["candidates"]] == [100, 200, 300]
    low, high = chosen["interval"]
    assert low < chosen["score"] < high
    assert chosen["within_interval"] == [300]
    assert chosen["reason"] == (
        f"step 200 has the highest mean exact_match over unseen, held_out "
        f"({chosen['score']:.3f}, 95 % interval {low:.3f} to {high:.3f}); "
        f"runner-up step 300 ({chosen['candidates'][2]['score']:.3f}) lies within the interval"
    )
    assert json.loads((run / "selected.json").read_text("utf-8")) == chosen
    assert read_selected(run) == chosen
    # The same every time, byte for byte.
    before = (run / "selected.json").read_bytes()
    select(run, SelectConfig(("unseen", "held_out")))
    assert (run / "selected.json").read_bytes() == before


def test_without_named_suites_all_but_the_test_splits_count(run):
    assert select(run)["suites"] == ["held_out", "unseen"]
    assert select(run, SelectConfig("unseen"))["suites"] == ["unseen"]


def test_nothing_is_written_when_asked_not_to(run):
    assert select(run, write=False)["step"] == 200
    assert read_selected(run) is None


def test_of_equal_scores_the_earlier_step_is_chosen(tmp_path):
    synthetic_run.write_suite(tmp_path, "unseen", UNSEEN, {300: 0.5, 100: 0.5, 200: 0.4})
    chosen = select(tmp_path)
    assert chosen["step"] == 100
    assert "earliest" in chosen["reason"]
    assert "step 300 scores the same" in chosen["reason"]


def test_a_single_candidate_is_said_to_be_the_only_one(tmp_path):
    synthetic_run.write_suite(tmp_path, "unseen", UNSEEN, {100: 0.5})
    assert "only candidate" in select(tmp_path)["reason"]


def test_steps_that_cannot_be_compared_are_left_out_with_the_reason(run):
    (run / "checkpoints" / "200").rmdir()
    synthetic_run.write_suite(run, "unseen", UNSEEN, {50: 0.99}, count=10)
    synthetic_run.write_suite(run, "held_out", HELD_OUT, {50: 0.99})
    synthetic_run.write_suite(run, "unseen", UNSEEN, {400: 0.99})
    chosen = select(run)
    assert chosen["step"] == 300
    reasons = {item["step"]: item["reason"] for item in chosen["skipped"]}
    assert reasons[200] == "its checkpoint is gone"
    assert reasons[400] == "no result for held_out"
    assert reasons[50].startswith("unseen was measured on other examples")


def test_an_interval_needs_the_per_example_results(run):
    (run / "eval" / "unseen" / "200.jsonl").unlink()
    chosen = select(run, SelectConfig(("unseen",)))
    assert chosen["interval"] is None
    assert chosen["within_interval"] == []
    assert "interval" not in chosen["reason"]


@settings(max_examples=15, deadline=None)
@given(right=st.lists(st.booleans(), min_size=1, max_size=60), step=st.integers(1, 10_000))
def test_the_interval_holds_the_score_and_is_as_wide_as_the_binomial(tmp_path_factory, right, step):
    run = tmp_path_factory.mktemp("run")
    synthetic_run.write_examples(run, "s", step, synthetic_run.examples_of(UNSEEN[0], right))
    low, high = bootstrap_interval(run, ["s"], step, "exact_match")
    share = float(np.mean(right))
    assert low - 1e-12 <= share <= high + 1e-12
    # Within a resampling error of the normal approximation, which is rough for few examples.
    spread = 1.96 * np.sqrt(share * (1 - share) / len(right))
    assert abs((high - low) - 2 * spread) <= 2 / len(right) + 1e-12


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SelectConfig(("unsen",)), "did you mean unseen"),
        (SelectConfig(("unseen",), "exact_mach"), "did you mean exact_match"),
        (SelectConfig(("unseen_test",)), "is the reported part"),
    ],
)
def test_unknown_names_give_the_nearest_and_test_splits_are_refused(run, config, said):
    with pytest.raises(UserError, match=said):
        select(run, config)
    assert not (run / "selected.json").exists()


def test_no_run_no_results_and_no_checkpoint_are_said(tmp_path):
    with pytest.raises(UserError, match="no such run directory"):
        select(tmp_path / "absent")
    with pytest.raises(UserError, match="no evaluation results"):
        select(tmp_path)
    synthetic_run.write_examples(
        tmp_path, "unseen", 7, synthetic_run.examples_of(UNSEEN[0], [True])
    )
    with pytest.raises(UserError, match="step 7: its checkpoint is gone"):
        select(tmp_path)


def test_files_that_cannot_be_read_are_named(run):
    (run / "selected.json").write_text('{"step"', "utf-8")
    with pytest.raises(UserError, match=r"selected\.json"):
        read_selected(run)
    path = run / "eval" / "unseen" / "200.jsonl"
    path.write_text(path.read_text("utf-8") + "{torn", "utf-8")
    with pytest.raises(UserError, match=r"200\.jsonl, line 81"):
        select(run)
    (run / "eval" / "unseen" / "200.json").write_text("[]", "utf-8")
    with pytest.raises(UserError, match=r"200\.json"):
        select(run)
