"""The report: what stands on the page, that no run can break it, that its script runs."""

from __future__ import annotations

import html.parser
import json
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flan_train import report, report_blocks, report_charts, report_text
from flan_train.errors import UserError
from flan_train.run_directory import read_run
from flan_train.select import select
from tests import browser, synthetic_run

HOSTILE = "</script><script>window.broken=1</script><img src=x onerror=broken()>\"'&amp;<!--BODY-->"
VOID = {"meta", "input", "wbr", "br"}


class Page(html.parser.HTMLParser):
    """The page's tags and text; tags that do not match up are a failure."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def count(self, tag: str, cls: str = "") -> int:
        return sum(
            name == tag and (not cls or cls in (attrs.get("class") or "").split())
            for name, attrs in self.tags
        )

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(run: pathlib.Path) -> Page:
    return Page(report.write_report(run).read_text("utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    run = synthetic_run.write_run(tmp_path_factory.mktemp("runs") / "quickstart")
    select(run)
    return run


def test_a_finished_run_shows_every_part(finished):
    page = page_of(finished)
    selected = json.loads((finished / "selected.json").read_text("utf-8"))
    suites = ["quickstart_held_out", "quickstart_unseen"]
    low, high = (report_text.percent(end) for end in selected["interval"])
    score = report_text.percent(selected["score"])
    assert (
        f"Step 800 has the highest mean exact_match over {', '.join(suites)}: {score}" in page.text
    )
    assert f"{score} percent, 95 % interval {low} to {high}. The runner-up is step" in page.text
    assert "Apart: chosen on the validation part, reported on the test part" in page.text
    # Two suites, the choice, and loss, accuracy, tokens per second, packing fill.
    assert page.count("figure") == page.count("svg") == 7
    assert "Suites marked held out are of families that training never saw" in page.text
    assert page.count("span", "tag") == 1
    assert "4 min 10 s" in page.text
    assert "1,245,184" in page.text
    assert "One epoch packs 48,000 examples into 5,210 sequences of 256 input" in page.text
    assert "TRAIN_STEPS = 1000" in page.text
    assert page.count("article", "right") > 30
    assert page.count("article", "wrong") > 30


def test_held_out_families_have_a_table_apart_after_the_others(finished):
    blocks = report_blocks.blocks(read_run(finished))
    assert [(block.suite, block.held_out) for block in blocks] == [
        ("quickstart_unseen", False),
        ("quickstart_held_out", True),
    ]
    assert len(blocks[0].rows) == 24
    assert len(blocks[1].rows) == 6
    assert {row.family for row in blocks[1].rows} == set(synthetic_run.HELD_OUT)
    assert blocks[0].shown_step == 800
    assert blocks[0].first_step == 200


def test_a_suite_that_mixes_both_is_divided(tmp_path):
    tasks = [("seen", "f", "direct", False), ("apart", "g", "direct", True)]
    synthetic_run.write_suite(tmp_path, "both", tasks, {10: 0.5})
    blocks = report_blocks.blocks(read_run(tmp_path))
    assert [(block.held_out, [row.task for row in block.rows]) for block in blocks] == [
        (False, ["seen"]),
        (True, ["apart"]),
    ]


def test_the_page_loads_nothing_from_anywhere(finished):
    text = report.write_report(finished).read_text("utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("// ", ""))
    for _, attrs in page.tags:
        assert "src" not in attrs
        assert (attrs.get("href") or "#").startswith("#")


def test_the_same_run_gives_the_same_page(finished):
    assert report.write_report(finished).read_bytes() == report.write_report(finished).read_bytes()


def test_hostile_text_stays_text(tmp_path):
    task = (f"task{HOSTILE}", f"family{HOSTILE}", "direct", False)
    examples = synthetic_run.examples_of(task, [True, False])
    for example in examples:
        for field in ("inputs", "output", "extracted", "answer", "example_id"):
            example[field] = HOSTILE
    synthetic_run.write_examples(tmp_path, "suite", 5, examples)
    synthetic_run.write_suite_checkpoint(tmp_path, 5)
    select(tmp_path)
    selected = json.loads((tmp_path / "selected.json").read_text("utf-8"))
    (tmp_path / "selected.json").write_text(json.dumps({**selected, "reason": HOSTILE}), "utf-8")
    synthetic_run.write_mixture(tmp_path, [task], mixture=HOSTILE, missing={HOSTILE: HOSTILE})
    (tmp_path / "config.gin").write_text(HOSTILE, "utf-8")
    page = page_of(tmp_path)
    assert page.count("script") == 1
    assert page.count("img") == 0
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert page.text.count("window.broken=1") > 10


def test_a_run_that_has_just_begun_is_described_in_words(tmp_path):
    (tmp_path / "config.gin").write_text("", "utf-8")
    page = page_of(tmp_path)
    for words in (
        "No checkpoint has been selected yet",
        "Nothing has been evaluated yet",
        "No training step has been logged yet",
        "holds no mixture.json",
        "no outputs to show yet",
        "holds no config.gin",
    ):
        assert words in page.text
    console = Console(record=True, width=100)
    report.summary(tmp_path, console)
    assert "No evaluation results yet." in console.export_text()


def test_an_evaluated_run_without_selection_shows_its_last_step(tmp_path):
    synthetic_run.write_suite(tmp_path, "s", synthetic_run.tasks_of(["f"], False), {1: 0.1, 2: 0.4})
    page = page_of(tmp_path)
    assert "No checkpoint has been selected yet" in page.text
    assert report_blocks.blocks(read_run(tmp_path))[0].shown_step == 2
    console = Console(record=True, width=100)
    report.summary(tmp_path, console)
    assert "No checkpoint has been selected yet." in console.export_text()


def test_missing_sources_and_drops_are_listed(tmp_path):
    synthetic_run.write_mixture(
        tmp_path,
        synthetic_run.tasks_of(["f", "g", "h"], False),
        missing={"cot_qed_zs": "cot/qed_train.tsv is not there"},
        empty={"cot_aqua_zs": "0 rows in the file"},
        epoch_note="cot_small repeats within an epoch",
    )
    text = page_of(tmp_path).text
    assert "Left out, because their source is missing" in text
    assert "cot_qed_zs: cot/qed_train.tsv is not there" in text
    assert "4 targets too long" in text
    assert "cot_aqua_zs: 0 rows in the file" in text
    assert "cot_small repeats within an epoch" in text


def test_passes_and_renderings_of_each_task(tmp_path):
    synthetic_run.write_mixture(tmp_path, synthetic_run.tasks_of(["f", "g", "h"], False))
    tasks = read_run(tmp_path).mixture["tasks"]
    again, most = sum(task["passes"] > 1 for task in tasks), tasks[-1]["passes"]
    assert 0 < again < len(tasks)
    page = report.write_report(tmp_path).read_text("utf-8")
    assert f"a task up to {most:.2f} times, through {again} of {len(tasks)} tasks" in page
    assert f"up to {len(tasks)} renderings" in page
    assert "(RENDERINGS = 16)" in page
    for task in tasks:
        cells = page.partition(report_text.name(task["task"]))[2].partition("</tr>")[0]
        numbers = re.findall(r'class="n minor"[^>]*>([^<]*)<', cells)
        assert numbers[2:] == [f"{task['passes']:.2f}", str(task["renderings"])]


def test_the_summary_shows_held_out_apart_with_all_columns(finished):
    console = Console(record=True, width=120)
    report.summary(finished, console)
    text = console.export_text()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    unseen, apart = report_blocks.blocks(read_run(finished))
    for block in (unseen, apart):
        numbers = lines[block.suite][1:]
        assert numbers[:2] == [str(len(block.rows)), str(sum(row.n for row in block.rows))]
        assert numbers[2] == report_text.percent(block.mean("first"))
        assert numbers[3] == report_text.percent(block.curve[-1][1])
        assert numbers[4] == report_text.percent(block.mean("shown"))
        assert numbers[6] == report_text.percent(block.on("test")[0])
    assert text.index("Families of the training mixture") < text.index("Held-out families")
    assert "Chosen: Step 800 has the highest" in text


def test_what_is_no_run_directory_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        for call in (report.write_report, lambda p: report.summary(p, Console())):
            with pytest.raises(UserError, match=r"not a run directory|does not exist"):
                call(path)
    assert list(tmp_path.iterdir()) == []


def test_of_a_step_logged_twice_the_later_counts_and_a_torn_line_does_not(tmp_path):
    lines = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.5}, {"step": 10, "loss": 2.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(text + '{"step": 30, "lo', "utf-8")
    assert read_run(tmp_path).series("loss") == [(10.0, 2.0), (20.0, 2.5)]
    (tmp_path / "log.jsonl").write_text('{"step": 30, "lo\n' + text, "utf-8")
    with pytest.raises(UserError, match=r"log\.jsonl, line 1"):
        read_run(tmp_path)


def test_a_loss_that_is_no_number_leaves_a_gap(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n{"step": 3, "loss": 1.0}\n', "utf-8"
    )
    assert read_run(tmp_path).series("loss") == [(1.0, 2.0), (3.0, 1.0)]
    assert "nan" not in page_of(tmp_path).text


def test_a_mixture_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "mixture.json").write_text('{"tasks": 3}', "utf-8")
    with pytest.raises(UserError, match=r"mixture\.json"):
        read_run(tmp_path)


@given(low=st.floats(-1e6, 1e6), size=st.floats(1e-4, 1e6))
def test_ticks_are_round_few_and_cover_the_values(low, size):
    found = report_charts.ticks(low, low + size)
    assert found[0] <= low + 1e-6 * size
    assert found[-1] >= low + size - 1e-6 * size
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=3000))
def test_a_thinned_curve_keeps_its_end_and_its_mean(values):
    points = [(float(step), value) for step, value in enumerate(values)]
    thin = report_charts.thin(points)
    assert len(thin) <= report_charts.MOST_POINTS
    assert thin[-1][0] == points[-1][0]
    assert min(values) - 1e-9 <= min(y for _, y in thin) <= max(y for _, y in thin)
    assert max(y for _, y in thin) <= max(values) + 1e-9


def test_the_script_runs_in_a_browser_and_the_filter_works(finished):
    document = browser.dom(report.write_report(finished))
    facts = browser.root_facts(document)
    assert facts["ready"] == "7"
    # Two tables that sort, the filter of one, and that of the examples.
    assert (facts["checks"], facts["self-check"]) == ("4", "passed")
    articles = document.count("<article")
    assert f"{articles} of {articles} match" in document
    assert 0 < len(re.findall(r"<article(?![^>]* hidden)", document)) < articles
    assert "30 of 30 rows" in document
