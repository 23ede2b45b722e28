"""What a run says of its data."""

from __future__ import annotations

from typing import Any

from flan_train import run_record


def task(name: str, rows: int, **changes: Any) -> dict[str, Any]:
    return {"task": name, "rows": rows, "drops": {}, "inputs_cut": 0, "fewer_shots": 0} | changes


def summary(tasks: list[dict[str, Any]], missing: dict[str, str]) -> dict[str, Any]:
    packing = {"sequences": 1200, "examples": 9000, "fill_encoder": 0.985, "fill_decoder": 0.5}
    empty = {one["task"]: "20 too long" for one in tasks if not one["rows"]}
    facts = {"tasks": tasks, "missing": missing, "empty": empty, "epoch_note": None}
    return facts | {"packing": packing}


def test_nothing_lost_is_one_line() -> None:
    assert run_record.describe_data(summary([task("a", 4000), task("b", 5000)], {})) == [
        "training data: 9,000 examples of 2 tasks; an epoch is 9,000 examples in 1,200 packed "
        "sequences, filled 98% + 50%"
    ]


def test_every_loss_is_said() -> None:
    tasks = [
        task("a", 9000, drops={"too long": 3, "bad row: empty": 1}, inputs_cut=1234),
        task("b", 0, drops={"too long": 20}, fewer_shots=2),
    ]
    missing = {"c_zs": "c.tsv is missing", "d": "d.tsv is missing", "c_fs": "c.tsv is missing"}
    first, *rest = run_record.describe_data(summary(tasks, missing))
    assert first.startswith("training data: 9,000 examples of 1 task;")
    assert rest == [
        "left out: c_zs, c_fs: c.tsv is missing",
        "left out: d: d.tsv is missing",
        "without a single example: b: 20 too long",
        "rows dropped: 23 too long; 1 bad row: empty (mixture.json has each task)",
        "rows kept, but shortened: 1,234 with their inputs cut to the limit; 2 with fewer "
        "exemplars, so that they fit (mixture.json has each task)",
    ]
