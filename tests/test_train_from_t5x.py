"""From a T5X checkpoint to a run, and from the run's result to a T5X checkpoint."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from flan_train import checkpoints, train
from flan_train.convert import t5x
from flan_train.convert.hf_table import flat
from flan_train.evaluate import EvalConfig
from tests import killed_run, small_run
from tests.models import seeded


def logged(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's log without what depends on the clock."""
    lines = map(json.loads, (run / "log.jsonl").read_text("utf-8").splitlines())
    return [{k: v for k, v in line.items() if k not in killed_run.CLOCK} for line in lines]


def test_a_run_starts_from_t5x_as_from_ours_and_goes_back(tmp_path: pathlib.Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs" / "checkpoint_1100000"
    params = seeded.params(small_run.MODEL)
    checkpoints.save_params(ours, params, {"model": dataclasses.asdict(small_run.MODEL)})
    t5x.flan_to_t5x(ours, theirs, step_offset=1_100_000)
    settings = small_run.settings(tmp_path / "prepared")
    settings |= {"train_steps": 2, "evaluation": EvalConfig()}
    with small_run.compiled_once(tmp_path / "programs"):
        for name, start in (("one", ours), ("other", theirs)):
            train.train(str(tmp_path / name), **settings, initial_checkpoint_path=str(start))
    assert logged(tmp_path / "other") == logged(tmp_path / "one")
    assert [line["step"] for line in logged(tmp_path / "other")] == [1, 2]

    result = tmp_path / "other" / "checkpoints" / "latest"
    back = tmp_path / "theirs" / "checkpoint_1100002"
    t5x.flan_to_t5x(result, back, step_offset=1_100_000)
    found, meta = checkpoints.load_params(back)
    assert meta["step"] == 1_100_002
    trained = flat(checkpoints.load_params(result)[0])
    for path, array in flat(found).items():
        np.testing.assert_array_equal(array, trained[path], err_msg=path)
    assert any((trained[path] != array).any() for path, array in flat(params).items())
