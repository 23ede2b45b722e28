"""Selection: the right step, the reason, what is left out, and every message a user can meet."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import select_text
from flan_train.errors import UserError
from flan_train.scores import read_results
from flan_train.select import (
    SelectConfig,
    best_steps,
    bootstrap_interval,
    read_selected,
    select,
    with_reported,
)
from tests import synthetic_run

UNSEEN = [("add_direct", "add", "direct", False), ("sort_direct", "sort", "direct", False)]
HELD_OUT = [("parity_direct", "parity", "direct", True)]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    synthetic_run.write_suite(tmp_path, "unseen", UNSEEN, {100: 0.2, 200: 0.6, 300: 0.55})
    synthetic_run.write_suite(tmp_path, "held_out", HELD_OUT, {100: 0.2, 200: 0.5, 300: 0.5})
    synthetic_run.write_suite(tmp_path, "unseen_test", UNSEEN, {200: 0.9}, split="test")
    return tmp_path


def _change(path: pathlib.Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def test_the_step_with_the_highest_mean_over_suites_is_chosen_and_written(run):
    chosen = select(run, SelectConfig(("unseen", "held_out")))
    assert chosen["step"] == 200
    results = read_results(run)
    means = [results[suite][200]["mean"]["exact_match"] for suite in ("unseen", "held_out")]
    assert chosen["score"] == sum(means) / 2
    assert [item["step"] for item in chosen["candidates"]] == [100, 200, 300]
    low, high = chosen["interval"]
    assert low < chosen["score"] < high
    # What step 300 gets right step 200 does too: by its interval alone it could be as good, on the
    # same examples it is worse.
    assert chosen["candidates"][2]["interval"][1] > chosen["score"]
    assert chosen["within_noise"] == []
    assert (chosen["suites"], chosen["protocol"]) == (["unseen", "held_out"], "apart")
    assert chosen["splits"] == {"selected": "validation", "reported": "test"}
    assert chosen["reason"] == (
        f"step 200 has the highest mean exact_match over unseen, held_out "
        f"({chosen['score']:.3f}, 95 % interval {low:.3f} to {high:.3f}); "
        f"runner-up step 300 ({chosen['candidates'][2]['score']:.3f}) is beyond noise"
    )
    assert json.loads((run / "selected.json").read_text("utf-8")) == chosen
    assert read_selected(run) == chosen
    # The same every time, byte for byte.
    before = (run / "selected.json").read_bytes()
    select(run, SelectConfig(("unseen", "held_out")))
    assert (run / "selected.json").read_bytes() == before


def test_runners_up_within_noise_are_listed_with_their_difference(tmp_path):
    random = np.random.default_rng(0)
    for step, share in ((100, 0.1), (200, 0.6), (300, 0.58), (400, 0.56)):
        right = np.sort(random.random(200)).searchsorted(share) > random.permutation(200)
        synthetic_run.write_examples(
            tmp_path, "unseen", step, synthetic_run.examples_of(UNSEEN[0], right.tolist())
        )
        synthetic_run.write_suite_checkpoint(tmp_path, step)
    chosen = select(tmp_path)
    near = chosen["within_noise"]
    assert [item["score"] for item in near] == sorted((i["score"] for i in near), reverse=True)
    assert {chosen["step"], *(item["step"] for item in near)} == {200, 300, 400}
    intervals = {item["step"]: item["interval"] for item in chosen["candidates"]}
    for item in near:
        low, high = item["difference_interval"]
        assert item["difference"] == chosen["score"] - item["score"] >= 0
        assert low <= 0 < item["difference"] < high
        assert item["interval"] == intervals[item["step"]]
    assert chosen["reason"].endswith("is within noise")
    said = "\n".join(select_text.lines(tmp_path, chosen))
    assert f"within noise  step {near[0]['step']} ({near[0]['score']:.3f}; " in said
    assert f"chosen        step {chosen['step']} of 4 candidates" in said


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
    shutil.rmtree(run / "checkpoints" / "200")
    synthetic_run.write_suite(run, "unseen", UNSEEN, {50: 0.99}, count=10)
    synthetic_run.write_suite(run, "held_out", HELD_OUT, {50: 0.99})
    synthetic_run.write_suite(run, "unseen", UNSEEN, {400: 0.99})
    synthetic_run.write_suite(run, "unseen", UNSEEN, {500: 0.99})
    synthetic_run.write_suite(run, "held_out", HELD_OUT, {500: 0.99})
    (run / "checkpoints" / "500" / "meta" / "metadata").unlink()
    synthetic_run.write_suite(run, "unseen", UNSEEN, {600: 0.99})
    synthetic_run.write_suite(run, "held_out", HELD_OUT, {600: 0.99})
    _change(run / "eval" / "unseen" / "600.json", lambda result: result["mean"].clear())
    chosen = select(run)
    assert chosen["step"] == 300
    reasons = {item["step"]: item["reason"] for item in chosen["skipped"]}
    assert reasons[200] == "its checkpoint is gone"
    assert reasons[400] == "no result for held_out"
    assert reasons[500] == "its checkpoint is incomplete"
    assert reasons[600] == "not measured: 0.5*unseen:exact_match"
    assert reasons[50].startswith("unseen was measured on other examples")


def test_an_interval_needs_the_per_example_results(run):
    (run / "eval" / "unseen" / "200.jsonl").unlink()
    chosen = select(run, SelectConfig(("unseen",)))
    assert chosen["interval"] is None
    assert chosen["within_noise"] == []
    assert "interval" not in chosen["reason"]
    assert "noise" not in chosen["reason"]
    assert "within noise  not known" in "\n".join(select_text.lines(run, chosen))
    # Without those of the runner-up alone, nothing is said of it.
    (run / "eval" / "held_out" / "300.jsonl").unlink()
    chosen = select(run, SelectConfig(("held_out",)))
    assert chosen["interval"]
    assert chosen["candidates"][2]["interval"] is None
    assert "noise" not in chosen["reason"]
    assert "not known of step 300" in "\n".join(select_text.lines(run, chosen))


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
        (SelectConfig(("unseen_all",)), "measured on split 'all'"),
        (SelectConfig(("unseen",), "rouge1"), "no task of the suite 'unseen' has the metric"),
        (SelectConfig((), "normalized_average"), "suites that are not evaluated: heldout_mmlu"),
        (SelectConfig((), "2*unsen:exact_match"), "did you mean unseen"),
    ],
)
def test_unknown_names_give_the_nearest_and_test_splits_are_refused(run, config, said):
    synthetic_run.write_suite(run, "unseen_all", UNSEEN, {200: 0.9}, split="all")
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


# ------------------------------------------------------------------- metrics, protocols, reported


def test_a_weighted_mix_is_the_weighted_sum_and_may_choose_another_step(tmp_path):
    synthetic_run.write_suite(tmp_path, "unseen", UNSEEN, {100: 0.6, 200: 0.5})
    synthetic_run.write_suite(tmp_path, "held_out", HELD_OUT, {100: 0.2, 200: 0.6})
    results = read_results(tmp_path)
    for text, step in (
        ("0.9*unseen:exact_match + 0.1*held_out:exact_match", 100),
        ("0.1*unseen:exact_match + 0.9*held_out:exact_match", 200),
    ):
        chosen = select(tmp_path, SelectConfig((), text))
        assert chosen["step"] == step == best_steps(tmp_path, SelectConfig((), text))[0]
        one, other = (
            results[suite][step]["mean"]["exact_match"] for suite in ("unseen", "held_out")
        )
        first = float(text[:3])
        assert chosen["score"] == pytest.approx(first * one + (1 - first) * other)
        assert chosen["interval"][0] < chosen["score"] < chosen["interval"][1]
        assert chosen["metric"] == text
        assert text in chosen["reason"]


def test_apart_reports_the_test_split_of_the_chosen_step(run):
    chosen = select(run, SelectConfig(("unseen", "held_out")))
    # One suite of two is measured there: no score yet, and the command that measures the other.
    assert list(chosen["reported"]) == ["unseen"]
    assert (chosen["reported_score"], chosen["reported_interval"]) == (None, None)
    said = select_text.lines(run, chosen)
    assert "reported      not measured yet on split test" in said
    assert said[-1].endswith(
        f"--split=test --suite=held_out --checkpoint={run / 'checkpoints' / '200'}"
    )
    synthetic_run.write_suite(run, "held_out_test", HELD_OUT, {200: 0.7}, split="test")
    renewed = with_reported(run, chosen)
    assert read_selected(run) == renewed
    assert (renewed["step"], renewed["score"]) == (chosen["step"], chosen["score"])
    means = [renewed["reported"][suite]["exact_match"] for suite in ("unseen", "held_out")]
    assert renewed["reported_score"] == pytest.approx(sum(means) / 2)
    low, high = renewed["reported_interval"]
    assert low < renewed["reported_score"] < high
    said = select_text.lines(run, renewed)
    assert f"reported      {sum(means) / 2:.3f} (95 % interval {low:.3f} to {high:.3f}) " in (
        "\n".join(said)
    )
    assert "apart: chosen on split validation, reported on split test" in "\n".join(said)


def test_the_papers_protocol_chooses_by_and_reports_the_whole_set_and_says_so(run):
    with pytest.raises(UserError, match="no suite was evaluated on split 'all'"):
        select(run, SelectConfig(protocol="paper"))
    synthetic_run.write_suite(run, "unseen_all", UNSEEN, {100: 0.7, 200: 0.3}, split="all")
    chosen = select(run, SelectConfig(protocol="paper"))
    assert chosen["step"] == 100  # on split validation it would be 200
    assert (chosen["suites"], chosen["protocol"]) == (["unseen"], "paper")
    assert chosen["splits"] == {"selected": "all", "reported": "all"}
    assert chosen["reported_score"] == chosen["score"]
    assert chosen["reported_interval"] == chosen["interval"]
    assert chosen["reason"].endswith("which are also what is reported, as in the paper")
    said = "\n".join(select_text.lines(run, chosen))
    assert "paper: chosen on the whole published sets (split all), and the same numbers" in said
    assert "on split all, the split that it was chosen on" in said
    # The names of suites are the same in both protocols.
    assert select(run, SelectConfig(("unseen",)))["step"] == 200


def test_another_protocol_is_refused():
    with pytest.raises(UserError, match="did you mean paper"):
        SelectConfig(protocol="papers")


def test_votes_count_only_where_they_are_named(run):
    synthetic_run.write_suite(run, "unseen_sc5", UNSEEN, {300: 0.9}, split="validation")
    assert select(run)["suites"] == ["held_out", "unseen"]
    assert select(run, SelectConfig((), "unseen_sc5:exact_match"))["step"] == 300


def test_a_score_that_is_not_defined_is_not_chosen(tmp_path):
    synthetic_run.write_suite(tmp_path, "unseen", UNSEEN, {100: 0.5, 200: 0.6})
    _change(
        tmp_path / "eval" / "unseen" / "200.json",
        lambda result: result["mean"].update(exact_match=float("nan")),
    )
    chosen = select(tmp_path)
    assert chosen["step"] == 100
    assert chosen["skipped"] == [{"step": 200, "reason": "its score is not defined"}]
