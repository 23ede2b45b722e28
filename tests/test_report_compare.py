"""Several runs on one page."""

from __future__ import annotations

import json
import pathlib
import re
import shutil

import pytest
from rich.console import Console

from flan_train import cli, report, report_compare, report_compare_scores, report_compare_settings
from flan_train.errors import UserError
from flan_train.report_blocks import blocks
from flan_train.report_text import percent, signed
from flan_train.run_directory import read_run
from tests import browser, synthetic_held_out, synthetic_run
from tests.test_report import HOSTILE, Page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    folder = tmp_path_factory.mktemp("runs")
    lower = synthetic_held_out.write_run(
        folder / "small_lr1", best=0.2, steps=(500, 1000), extra=False, setting="1e-4"
    )
    higher = synthetic_held_out.write_run(
        folder / "small_lr2", best=0.9, steps=(500, 1000), setting="2e-4"
    )
    mixture = json.loads((higher / "mixture.json").read_text("utf-8"))
    mixture["tasks"][0]["share"] = 0.5
    mixture["tasks"].pop()
    (higher / "mixture.json").write_text(json.dumps(mixture), "utf-8")
    return [lower, higher]


def text_between(page: Page, first: str, then: str) -> str:
    return page.text.partition(f" {first} ")[2].partition(f" {then} ")[0]


def test_scores_stand_side_by_side_with_their_differences(runs):
    lines = {line.name: line for line in report_compare_scores.compare([*map(read_run, runs)])}
    both = [{block.suite: block for block in blocks(read_run(run))} for run in runs]
    line = lines["heldout_bbh_cot"]
    # What is reported of both is compared, not what they were chosen by.
    assert line.split == "test"
    assert line.scores == [of_run["heldout_bbh_cot"].on("test") for of_run in both]
    page = Page(report.write_report(runs).read_text("utf-8"))
    lower, higher = (score for score, _ in line.scores)
    assert f"{percent(lower)}" in page.text
    assert signed(higher - lower) in page.text
    average = lines[report_compare_scores.NORMALISED]
    reported = [
        json.loads((run / "selected.json").read_text("utf-8"))["reported_score"] for run in runs
    ]
    assert [score for score, _ in average.scores] == pytest.approx(reported)
    assert "lr2 is highest on 7" in page.text
    # A suite that one run alone has still has its line.
    assert lines["heldout_mmlu_rank"].scores[0] == (None, None)


def test_only_settings_and_tasks_that_differ_are_listed(runs):
    page = Page(report.write_report(runs).read_text("utf-8"))
    assert "4 settings in all, 1 of which differ." in page.text
    assert "1e-4 2e-4" in page.text
    assert "heldout_bbh_direct'" not in page.text
    assert "2 tasks with another share or other rows." in page.text
    assert "not there" in page.text


def test_the_page_goes_where_the_runs_are_or_where_it_is_asked_for(runs, tmp_path):
    assert report.write_report(runs) == runs[0].parent / "comparison.html"
    out = tmp_path / "deep" / "page.html"
    assert report.write_report(runs, out) == out
    assert report.write_report(runs[0], tmp_path / "one.html") == tmp_path / "one.html"
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(UserError, match="--out cannot be written"):
        report.write_report(runs, tmp_path / "file" / "page.html")


def test_a_run_named_twice_and_what_is_no_run_are_refused(runs, tmp_path):
    for call in (report.write_report, lambda given: report.summary(given, Console())):
        with pytest.raises(UserError, match="named twice"):
            call([runs[0], runs[1], runs[0].parent / "." / runs[0].name])
        with pytest.raises(UserError, match="does not exist"):
            call([runs[0], tmp_path / "absent"])


def test_the_command_compares(runs, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli.main(["report", *map(str, runs), f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert str(out) in said
    assert "2 runs, percent" in said
    (line,) = [line for line in said.splitlines() if "heldout_mmlu_cot" in line]
    found = report_compare_scores.compare([*map(read_run, runs)])
    lower, higher = next(one for one in found if one.name == "heldout_mmlu_cot").scores
    assert percent(lower[0]) in line
    assert f"{percent(higher[0])} ({signed(higher[0] - lower[0])})" in line
    page = out.read_text("utf-8")
    assert cli.main(["report", *map(str, runs), f"--out={out}", "--dry_run"]) == 0
    assert out.read_text("utf-8") == page


def test_the_page_loads_nothing_and_is_the_same_every_time(runs):
    path = report.write_report(runs)
    text = path.read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("// ", ""))
    for _, attrs in Page(text).tags:
        assert "src" not in attrs
        assert (attrs.get("href") or "#").startswith("#")
    assert report.write_report(runs).read_text("utf-8") == text


def test_runs_that_have_just_begun_are_described_in_words(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.gin").write_text(f"# {HOSTILE}\nSEED = '{HOSTILE}'", "utf-8")
    (tmp_path / "b" / "config.gin").write_text("", "utf-8")
    page = Page(report.write_report([tmp_path / "a", tmp_path / "b"]).read_text("utf-8"))
    for words in (
        "The runs share no suite",
        "Nothing has been evaluated yet",
        "Nothing has been recorded yet",
        "1 run without a config.gin",
        "No run holds a mixture.json",
    ):
        assert words in page.text
    assert page.count("script") == 1
    assert page.count("img") == 0
    console = Console(record=True, width=100)
    report.summary([tmp_path / "a", tmp_path / "b"], console)
    assert "No evaluation results yet." in console.export_text()


def test_runs_without_a_suite_in_common_are_not_compared(tmp_path):
    for name in ("a", "b"):
        tasks = synthetic_run.tasks_of([name], True)
        synthetic_run.write_suite(tmp_path / name, f"suite_{name}", tasks, {10: 0.5, 20: 0.7})
    page = Page(report.write_report([tmp_path / "a", tmp_path / "b"]).read_text("utf-8"))
    assert "The runs share no suite" in page.text
    assert "suite_a" in page.text
    assert "suite_b" in page.text


def test_labels_are_the_shortest_that_tell_runs_apart(tmp_path):
    for name in ("x/run_lr1", "x/run_lr2", "y/run_lr1"):
        (tmp_path / name / "eval").mkdir(parents=True)
    of = {name: read_run(tmp_path / name) for name in ("x/run_lr1", "x/run_lr2", "y/run_lr1")}
    near = report_compare_scores.labels([of["x/run_lr1"], of["x/run_lr2"]])
    assert near == ["run_lr1", "run_lr2"]
    assert report_compare_scores.short_labels(near) == ["lr1", "lr2"]
    far = report_compare_scores.labels([of["x/run_lr1"], of["y/run_lr1"]])
    assert far == ["x/run_lr1", "y/run_lr1"]
    assert report_compare_scores.short_labels(["run", "run_long"]) == ["run", "run_long"]


def test_bindings_of_a_configuration():
    text = """
# Macros:
# ======
STEPS = 10
WORDS = 'a = b'
train.suites = \\
    ('one',
     'two')
EvalConfig.lengths =
    {'inputs': 4}
"""
    assert report_compare_settings.bindings(text) == {
        "STEPS": "10",
        "WORDS": "'a = b'",
        "train.suites": "('one', 'two')",
        "EvalConfig.lengths": "{'inputs': 4}",
    }


def test_eight_runs_have_eight_looks():
    assert len({report_compare.look(place) for place in range(8)}) == 8
    style = "".join(path.read_text("utf-8") for path in report.STYLES)
    for theme in (style.partition("--r0:")[2], style.rpartition("--r0:")[2]):
        colours = re.findall(r"#[0-9a-f]{6}", theme)[:8]
        assert len(set(colours)) == 8


def test_the_script_runs_in_a_browser_with_eight_runs(runs, tmp_path):
    several = []
    for place in range(8):
        several.append(tmp_path / f"run_{place}")
        shutil.copytree(runs[place % 2], several[-1], ignore=shutil.ignore_patterns("*.jsonl"))
        shutil.copy(runs[0] / "log.jsonl", several[-1])
    document = browser.dom(report.write_report(several))
    facts = browser.root_facts(document)
    # Seven suites; loss, accuracy, tokens per second, two of packing.
    assert facts["ready"] == "12"
    assert (facts["checks"], facts["self-check"]) == ("2", "passed")
    assert document.count('class="swatch r7 dashed"') >= 3
