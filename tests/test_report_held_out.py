"""Pages of runs with held-out suites: the paper beside them, splits, protocols, the script."""

from __future__ import annotations

import json
import pathlib
import re
import shutil

import pytest
from rich.console import Console

from flan_train import normalized, report, report_blocks, report_reference, report_text, scores
from flan_train.run_directory import Run, read_run
from tests import browser, synthetic_held_out
from tests.test_report import Page, page_of


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return synthetic_held_out.write_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def run(run_dir: pathlib.Path) -> Run:
    return read_run(run_dir)


@pytest.fixture(scope="module")
def page(run_dir: pathlib.Path) -> Page:
    return page_of(run_dir)


def block_of(run: Run, suite: str) -> report_blocks.Block:
    return next(block for block in report_blocks.blocks(run) if block.suite == suite)


def test_suites_come_with_all_their_splits_the_six_first(run):
    blocks = report_blocks.blocks(run)
    assert [block.suite for block in blocks] == [
        *normalized.SIX_SUITES,
        "heldout_mgsm_cot_sc3",
        "heldout_mmlu_rank",
    ]
    by_split = {block.suite: (block.split, block.splits) for block in blocks}
    assert by_split["heldout_mmlu_cot"] == ("validation", ["validation", "test"])
    # Votes were taken at the chosen step alone, on the part that is reported.
    assert by_split["heldout_mgsm_cot_sc3"] == ("test", ["test"])
    assert block_of(run, "heldout_mgsm_cot_sc3").votes == 3


def test_numbers_of_a_block_are_those_of_the_results(run):
    step = run.selected["step"]
    block = block_of(run, "heldout_tydiqa_direct")
    shown = run.results["heldout_tydiqa_direct"][step]
    tested = run.results["heldout_tydiqa_direct_test"][step]
    assert block.metric == "exact_match"
    assert block.mean("shown") == pytest.approx(shown["mean"]["exact_match"])
    assert block.interval == tuple(shown["mean_intervals"]["exact_match"])
    assert block.on("test")[0] == pytest.approx(tested["mean"]["exact_match"])
    assert block.on("test")[1] == tuple(tested["mean_intervals"]["exact_match"])
    assert block.more == {"f1": shown["mean"]["f1"]}
    assert [low for _, low, _ in block.band] == [
        run.results["heldout_tydiqa_direct"][at]["mean_intervals"]["exact_match"][0]
        for at in synthetic_held_out.STEPS
    ]
    row = block.rows[0]
    task = shown["metrics"][row.task]
    assert (row.n, row.shots, row.not_extracted) == (
        task["n"],
        task["shots"],
        task["not_extracted"],
    )
    assert row.dropped == {"inputs too long": 2}


def test_the_normalised_average_is_the_one_of_the_results(run):
    step = run.selected["step"]
    found = {one.split: one for one in report_reference.six(run, report_blocks.blocks(run))}
    for split, ending in (("validation", ""), ("test", "_test")):
        means = [
            run.results[suite + ending][step]["mean"]["normalized"]
            for suite in normalized.SIX_SUITES
        ]
        assert found[split].average == pytest.approx(sum(means) / 6)
    assert found["validation"].average == pytest.approx(run.selected["score"])
    assert found["validation"].interval == tuple(run.selected["interval"])
    assert found["test"].interval == tuple(run.selected["reported_interval"])
    best = report_reference.best_six(run, report_blocks.blocks(run))
    assert best is not None
    assert best.split == "test"


def test_the_average_waits_for_all_six(tmp_path, run_dir):
    part = tmp_path / "part"
    shutil.copytree(run_dir, part)
    shutil.rmtree(part / "eval" / "heldout_bbh_cot")
    shutil.rmtree(part / "eval" / "heldout_bbh_cot_test")
    run = read_run(part)
    blocks = report_blocks.blocks(run)
    assert report_reference.best_six(run, blocks) is None
    assert [one.average for one in report_reference.six(run, blocks)] == [None, None]
    assert "Beside the paper" in page_of(part).text


def test_the_papers_models_nearest_in_size_come_first():
    assert [model.name for model in report_reference.models(77_000_000)[:4]] == [
        "Flan-T5-Small",
        "T5-Small",
        "Flan-T5-Base",
        "T5-Base",
    ]
    assert report_reference.models(3_000_000_000)[0].name == "Flan-T5-XL"
    assert report_reference.models(None)[-1].name == "T5-XXL"
    assert len(report_reference.models(None)) == 10
    assert report_reference.nearest(None) is None


def test_only_what_the_paper_measured_alike_stands_beside(run):
    model = report_reference.nearest(synthetic_held_out.PARAMETERS)
    published = {
        block.suite: report_reference.published(model, block) for block in report_blocks.blocks(run)
    }
    # Table 5 of arXiv 2210.11416.
    assert published == {
        "heldout_mmlu_direct": 0.287,
        "heldout_mmlu_cot": 0.121,
        "heldout_bbh_direct": 0.291,
        "heldout_bbh_cot": 0.192,
        "heldout_tydiqa_direct": 0.011,
        "heldout_mgsm_cot": 0.002,
        "heldout_mgsm_cot_sc3": None,
        "heldout_mmlu_rank": None,
    }
    german = {row.task: row for row in block_of(run, "heldout_mgsm_cot").rows}["mgsm_de_cot"]
    block = block_of(run, "heldout_mgsm_cot")
    assert report_reference.published(model, block, german.subset) == 0.004


def test_the_page_shows_every_part(run, page):
    step = run.selected["step"]
    assert f"Step {step:,} has the highest normalized average" in page.text
    assert "Apart: chosen on the validation part, reported on the test part" in page.text
    assert f"{report_text.percent(run.selected['reported_score'])} (95 % interval" in page.text
    # Seven suites over steps, the choice, four of training; and the paper's models as a picture.
    assert page.count("figure") == 13
    assert page.count("figure", "ladder") == 1
    # How much of the published sets was measured, beside the paper's rows.
    assert "180 of 1,531" in page.text
    assert "180 of 6,511" in page.text
    assert page.text.count("table 5") == 10
    assert "vote of 3, T 0.7, top-k 40, 16 tokens at most" in page.text
    assert "2 inputs too long; 3 with fewer exemplars" in page.text
    assert "log-likelihood" in page.text
    assert "all 3 outputs" in page.text
    assert "Percent right of the six evaluations" in page.text


def test_the_paper_way_is_named_as_such(tmp_path):
    run = synthetic_held_out.write_run(
        tmp_path / "paper", protocol="paper", steps=(500, 1000), extra=False
    )
    text = page_of(run).text
    assert "The paper’s way: chosen on what is reported, the whole published sets" in text
    assert "What is reported of it" in text
    blocks = report_blocks.blocks(read_run(run))
    assert {block.split for block in blocks} == {"all"}
    assert {block.suite for block in blocks} == set(normalized.SIX_SUITES)
    console = Console(record=True, width=140)
    report.summary(run, console)
    assert "The paper’s way" in console.export_text()


def test_runners_up_within_noise_are_listed(tmp_path):
    run = synthetic_held_out.write_run(
        tmp_path / "flat", steps=(3000, 3500, 4000), best=0.4, extra=False
    )
    near = json.loads((run / "selected.json").read_text("utf-8"))["within_noise"]
    assert near
    page = page_of(run)
    assert "Runners-up within noise" in page.text
    for one in near:
        low, high = one["difference_interval"]
        assert report_text.percents((low, high)) in page.text
        assert report_text.percent(one["difference"]) in page.text


def test_a_run_that_still_goes_on_has_a_page(tmp_path, run_dir):
    run = tmp_path / "going_on"
    for suite in ("heldout_mmlu_direct", "heldout_mgsm_cot"):
        shutil.copytree(run_dir / "eval" / suite, run / "eval" / suite)
    for step in (1500, 2000):
        (run / "eval" / "heldout_mgsm_cot" / f"{step}.json").unlink()
    examples = run / "eval" / "heldout_mgsm_cot" / "1500.jsonl"
    examples.rename(examples.with_name("1500.jsonl.partial"))
    text = page_of(run).text
    assert "No checkpoint has been selected yet" in text
    assert block_of(read_run(run), "heldout_mgsm_cot").shown_step == 1000


def test_results_of_before_have_a_page(tmp_path, run_dir):
    run = tmp_path / "old"
    shutil.copytree(run_dir, run)
    kept = {"suite", "step", "checkpoint", "metrics", "mean", "tasks"}
    for path in (run / "eval").glob("*/*.json"):
        result = scores.read_result(path)
        old = {key: value for key, value in result.items() if key in kept}
        for row in old["metrics"].values():
            for key in ("intervals", "shots", "normalized"):
                row.pop(key, None)
        path.write_text(json.dumps(old), "utf-8")
    selected = json.loads((run / "selected.json").read_text("utf-8"))
    kept = {"step", "metric", "score", "interval", "candidates", "suites", "reason", "skipped"}
    old = {key: value for key, value in selected.items() if key in kept}
    (run / "selected.json").write_text(json.dumps({**old, "within_interval": [1500]}), "utf-8")
    text = page_of(run).text
    assert "Other steps that score inside the interval: 1,500." in text
    assert selected["reason"][1:] in text


def test_the_summary_has_a_line_a_suite_with_the_papers_beside(run, run_dir):
    console = Console(record=True, width=150)
    report.summary(run_dir, console)
    text = console.export_text()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    block = block_of(run, "heldout_bbh_direct")
    assert lines["heldout_bbh_direct"][3:] == [
        report_text.percent(value)
        for value in (
            block.mean("first"),
            block.curve[-1][1],
            block.mean("shown"),
            block.mean("majority"),
            block.on("test")[0],
            0.291,
        )
    ]
    assert "Flan-T5-Small: −3.1" in text


def test_the_script_runs_in_a_browser(run_dir):
    document = browser.dom(report.write_report(run_dir))
    facts = browser.root_facts(document)
    assert (facts["checks"], facts["self-check"]) == ("4", "passed")
    assert facts["ready"] == "12"
    rows = sum(len(block.rows) for block in report_blocks.blocks(read_run(run_dir)))
    assert f"{rows} of {rows} rows" in document
    # The tables are as they were before the page checked itself.
    names = re.findall(r'<tr><td class="name">(mmlu_[^/]*_direct)', document.replace("<wbr>", ""))
    assert names == sorted(names)
