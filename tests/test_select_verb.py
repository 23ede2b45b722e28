"""`flan-train select`: what it prints and writes, and that it goes by what was chosen before."""

from __future__ import annotations

import json
import pathlib

import pytest

from flan_train import cli
from flan_train.normalized import SIX_SUITES, of_results
from flan_train.scores import read_results
from tests import synthetic_run

UNSEEN = [("add_direct", "add", "direct", False)]
# One file of each suite of the normalised average; BBH's has a chance of its own.
TASKS = {
    "heldout_mmlu_direct": "mmlu_anatomy_direct",
    "heldout_mmlu_cot": "mmlu_anatomy_cot",
    "heldout_bbh_direct": "bbh_formal_fallacies_direct",
    "heldout_bbh_cot": "bbh_formal_fallacies_cot",
    "heldout_tydiqa_direct": "tydiqa_sw_direct",
    "heldout_mgsm_cot": "mgsm_de_cot",
}


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    for place, (suite, task) in enumerate(TASKS.items()):
        family, form = task.split("_")[0], task.rsplit("_", 1)[1]
        rates = {10: 0.3, 20: 0.5 + 0.1 * place, 30: 0.3 + 0.05 * place}
        for split, ending in (("validation", ""), ("all", "_all")):
            tasks = [(task, family, form, True)]
            synthetic_run.write_suite(tmp_path, suite + ending, tasks, rates, split=split)
    synthetic_run.write_suite(tmp_path, "unseen", UNSEEN, {10: 0.9, 20: 0.2, 30: 0.3})
    return tmp_path


def test_by_the_normalized_average(run, capsys, tmp_path):
    written = tmp_path / "chosen.json"
    words = ["select", str(run), "--metric=normalized_average", f"--json={written}"]
    assert cli.main([*words, "--dry_run"]) == 0
    assert not (run / "selected.json").exists()
    said = capsys.readouterr().out
    chosen = json.loads(written.read_text("utf-8"))
    assert chosen["step"] == 20
    results = {suite: steps[20] for suite, steps in read_results(run).items()}
    validation = {suite: results[suite] for suite in SIX_SUITES}
    assert chosen["score"] == pytest.approx(of_results(validation))
    assert chosen["suites"] == list(SIX_SUITES)
    low, high = chosen["interval"]
    assert low < chosen["score"] < high
    for part in (
        "chosen        step 20 of 3 candidates",
        "by            normalized average of the six held-out evaluations",
        f"score         {chosen['score']:.3f} (95 % interval {low:.3f} to {high:.3f})",
        "within noise  no other step",
        "protocol      apart: chosen on split validation, reported on split test",
        "reported      not measured yet on split test",
        "flan-train eval --split=test --suite=heldout_mmlu_direct --suite=heldout_mmlu_cot",
        f"{run / 'selected.json'} was not written",
    ):
        assert part in said, said


def test_without_flags_it_goes_by_what_was_chosen_before(run, capsys):
    words = ["select", str(run), "--metric=normalized_average", "--protocol=paper"]
    assert cli.main(words) == 0
    first = (run / "selected.json").read_bytes()
    chosen = json.loads(first)
    assert (chosen["protocol"], chosen["metric"]) == ("paper", "normalized_average")
    said = capsys.readouterr().out
    assert "paper: chosen on the whole published sets (split all)" in said
    assert f"reported      {chosen['score']:.3f}" in said
    assert "flan-train eval" not in said  # what is reported is measured
    assert cli.main(["select", str(run)]) == 0
    assert (run / "selected.json").read_bytes() == first
    # A metric of one's own, over a suite of one's own, in the other protocol.
    again = ["--metric=exact_match", "--suite=unseen", "--protocol=apart"]
    assert cli.main(["select", str(run), *again]) == 0
    chosen = json.loads((run / "selected.json").read_text("utf-8"))
    assert (chosen["step"], chosen["suites"], chosen["protocol"]) == (10, ["unseen"], "apart")
    # The suites chosen by before do not stand in the way of a metric that names others.
    mix = "0.9*unseen:exact_match + 0.1*heldout_mgsm_cot:normalized"
    for metric, step in (("normalized_average", 20), (mix, 10)):
        assert cli.main(["select", str(run), f"--metric={metric}"]) == 0
        assert json.loads((run / "selected.json").read_text("utf-8"))["step"] == step


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metric=normalised_average"], "did you mean normalized_average"),
        (
            ["--metric=0.5*unseen:exact_match + 0.5*heldout_mmlu_dirct:accuracy"],
            "heldout_mmlu_direct",
        ),
        (["--suite=unsen"], "did you mean unseen"),
        (
            ["--suite=unseen", "--protocol=paper"],
            "flan-train eval --split=all --suite=unseen for each checkpoint, or --protocol=apart",
        ),
        (["--gin.SELECT_METRIC='f1'"], "this verb reads no gin settings"),
    ],
)
def test_mistakes(run, words, said, capsys):
    assert cli.main(["select", str(run), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (run / "selected.json").exists()


def test_a_damaged_selection_is_named(run, capsys):
    (run / "selected.json").write_text("{", "utf-8")
    assert cli.main(["select", str(run)]) == 2
    assert "delete it, and write it again" in capsys.readouterr().err
