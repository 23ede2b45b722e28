"""The examples of a page: which are shown, read without parsing all the others."""

from __future__ import annotations

import itertools
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train import report_blocks, report_examples
from flan_train.errors import UserError
from flan_train.run_directory import read_run
from tests import synthetic_run
from tests.test_report import page_of

# What a text could hold to be taken for the line's own keys.
TRICKS = ['"correct": true', '"correct": false', '"extracted": null', '"task": "x"', "\\", "é\n"]


def example(task: str, index: int, *, correct: bool, extracted: str | None, text: str) -> dict:
    return {
        "index": index,
        "task": task,
        "example_id": text,
        "inputs": text,
        "output": text,
        "extracted": extracted,
        "answer": text,
        "votes": {"correct": 3, "extracted": 2, text: 1},
        "outputs": [text],
        "correct": correct,
    }


@given(
    examples=st.lists(
        st.tuples(
            st.sampled_from(["a", 'b"c', "é"]),
            st.booleans(),
            st.sampled_from([None, "x", *TRICKS]),
            st.lists(st.sampled_from(TRICKS), max_size=3).map(" ".join),
        ),
        max_size=30,
    ),
    each=st.integers(1, 3),
    plain=st.booleans(),
)
def test_picking_by_bytes_is_picking_by_what_the_lines_say(tmp_path_factory, examples, each, plain):
    path = tmp_path_factory.mktemp("examples") / "1.jsonl"
    whole = [
        example(task, index, correct=correct, extracted=extracted, text=text)
        for index, (task, correct, extracted, text) in enumerate(examples)
    ]
    lines = [json.dumps(one, ensure_ascii=plain) + "\n" for one in whole]
    path.write_text("".join(lines), "utf-8")
    counts: dict[tuple[str, str], int] = {}
    expected: list[list[dict]] = [[] for _ in range(each)]
    for one in whole:
        key = (one["task"], report_examples.outcome(one))
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= each:
            expected[counts[key] - 1].append(one)
    assert report_examples.pick(path, each) == expected


def write(run: pathlib.Path, tasks: int, each: int, text: str = "t") -> list[report_blocks.Block]:
    examples = []
    for task in range(tasks):
        about = (f"task_{task:04}", "family", "direct", True)
        examples += synthetic_run.examples_of(about, [True, False] * each)
    for one in examples:
        one["inputs"] = text
    synthetic_run.write_examples(run, "suite", 5, examples)
    return report_blocks.blocks(read_run(run))


def test_more_examples_than_the_page_holds_are_thinned_evenly(tmp_path):
    blocks = write(tmp_path, 700, 2)
    kept = report_examples.chosen(read_run(tmp_path), blocks)
    assert len(kept) == report_examples.MOST_EXAMPLES
    numbers = [int(str(one["task"]).removeprefix("task_")) for _, one in kept]
    assert numbers == sorted(numbers)
    gaps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    assert max(gaps) <= 2
    assert numbers[-1] > 690


def test_each_task_and_outcome_comes_before_any_second_one(tmp_path):
    blocks = write(tmp_path, 3, 5)
    kept = report_examples.chosen(read_run(tmp_path), blocks)
    assert len(kept) == 3 * 2 * report_examples.EXAMPLES_EACH
    first = [(one["task"], one["correct"]) for _, one in kept[:6]]
    assert len(set(first)) == 6


def test_a_page_of_long_texts_stays_small(tmp_path):
    blocks = write(tmp_path, 60, 1, text="<&" * 10_000)
    kept = report_examples.chosen(read_run(tmp_path), blocks)
    assert 10 < len(kept) < 120
    page = page_of(tmp_path)
    assert "[… 8,000 characters left out …]" in page.text
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


def test_an_example_that_is_shown_and_cannot_be_read_is_named(tmp_path):
    write(tmp_path, 1, 2)
    path = tmp_path / "eval" / "suite" / "5.jsonl"
    lines = path.read_text("utf-8").splitlines()
    for broken in (lines[1][:-1], '{"correct": true, "task": "x"}', "[1]"):
        path.write_text("\n".join([lines[0], broken, *lines[2:]]) + "\n", "utf-8")
        with pytest.raises(UserError, match=r"5\.jsonl, line 2"):
            report_examples.pick(path)
    assert report_examples.pick(tmp_path / "absent.jsonl") == []
