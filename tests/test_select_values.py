"""Per-example values: what is cut out of a line is what parsing it gives, whatever the text."""

from __future__ import annotations

import json
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train.errors import UserError
from flan_train.select_values import StepValues

TRICKY = st.text(max_size=8) | st.sampled_from(
    ['", "values": {"f1": [9.0]}', '\\", "inputs": "', '"', "\\", "}", "\u2028\n", '{"values": {']
)


def _write(folder: pathlib.Path, step: int, examples: list[dict]) -> None:
    lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in examples]
    (folder / f"{step}.jsonl").write_text("".join(lines), "utf-8")


def _example(index: int, task: str, text: str, **values: list[float]) -> dict:
    return {
        "index": index,
        "task": task,
        "form": text,
        "example_id": f"{text}-{index}",
        "shots": 5,
        "inputs": text,
        "output": text,
        "answer": text,
        "correct": True,
        "values": values,
        "option_scores": [1.0],
        "votes": {text: 2},
    }


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["one", "two"]),
            TRICKY,
            st.sampled_from([0.0, 1.0]) | st.floats(-1e6, 1e6),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_what_is_cut_out_is_what_parsing_gives(rows):
    examples = [
        _example(index, task, text, exact_match=[value], bleu=[value, 2.0, 3.0])
        for index, (task, text, value) in enumerate(rows)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _write(folder, 10, examples)
        # Keys in another order, and no values: parsed whole.
        _write(folder, 20, [dict(reversed(example.items())) for example in examples])
        found = StepValues(folder, [10, 20, 30])
    assert found.steps == [10, 20]
    assert sorted(found.tasks) == sorted({task for task, _, _ in rows})
    for task in found.tasks:
        expected = [value for name, _, value in rows if name == task]
        for metric, size in (("exact_match", 1), ("bleu", 3)):
            values = found.of(task, metric)
            assert values.shape == (len(expected), 2, size)
            np.testing.assert_array_equal(values[:, 0, 0], expected)
            np.testing.assert_array_equal(values[:, 1, 0], expected)
        assert found.of(task, "rougeL") is None


def test_of_an_earlier_version_right_and_wrong_count(tmp_path):
    examples = [_example(index, "one", "x") | {"correct": index > 0} for index in range(3)]
    for example in examples:
        del example["values"]
    _write(tmp_path, 1, examples)
    found = StepValues(tmp_path, [1])
    np.testing.assert_array_equal(found.of("one", "exact_match")[:, 0, 0], [0, 1, 1])
    assert found.of("one", "f1") is None


def test_steps_of_other_examples_are_left_out(tmp_path):
    _write(tmp_path, 1, [_example(0, "one", "x", f1=[1.0])])
    _write(tmp_path, 2, [_example(0, "one", "y", f1=[0.0])])
    _write(tmp_path, 3, [_example(0, "one", "x", f1=[0.5])])
    (tmp_path / "4.jsonl").write_text("", "utf-8")
    assert StepValues(tmp_path, [1, 2, 3, 4, 5]).steps == [1, 3]
    assert StepValues(tmp_path, [2, 1]).steps == [2]
    assert StepValues(tmp_path, [4, 5]).steps == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{torn", "not an evaluated example"),
        ('{"index": 1, "task": "one"}', "there is no 'example_id'"),
        (
            '{"index": 1, "task": "a", "example_id": "b", "inputs": "", "values": {"f1": [1}}',
            "not an evaluated example: Expecting",
        ),
        ("[]", "not an evaluated example"),
        ("3", "not an evaluated example"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, said):
    good = json.dumps(_example(0, "one", "x", f1=[1.0]))
    (tmp_path / "7.jsonl").write_text(f"{good}\n{line}\n", "utf-8")
    with pytest.raises(UserError, match=said) as caught:
        StepValues(tmp_path, [7])
    assert "7.jsonl, line 2" in str(caught.value)
