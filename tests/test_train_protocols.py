"""What a run evaluates, and files, under each way to choose a checkpoint; votes at its end."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from flan_train import errors, train
from flan_train.evaluate import EvalConfig
from flan_train.select import SelectConfig
from tests import small_run, toy_tasks

WHOLE = dataclasses.replace(
    toy_tasks.toy("toy_whole", toy_tasks.counting(40)),
    splits=("train", "all", "validation", "test"),
    prompting="cot",
    chance=0.25,
)


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with small_run.compiled_once(tmp_path_factory.getbasetemp() / "programs"):
        yield


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with toy_tasks.registered([WHOLE]):
        yield


def run(folder: pathlib.Path, protocol: str, suite: str = "toy_whole", **more: Any) -> Any:
    """Trains for two steps and evaluates after each; returns what `train` returns."""
    settings = small_run.settings(folder / "prepared")
    data = dataclasses.replace(
        settings["data"], mixture_or_task_name="toy_whole", num_workers=1, examples_per_task=None
    )
    evaluation = EvalConfig(
        suite, period=1, examples_per_task=4, batch_size=4, max_decode_length=3, **more
    )
    changes = {"evaluation": evaluation, "selection": SelectConfig((), "normalized", protocol)}
    changes |= {"data": data, "train_steps": 2}
    return train.train(str(folder / "run"), **settings | changes)


def filed(folder: pathlib.Path) -> dict[str, list[int]]:
    """Returns the steps of each result by the name that it is filed under."""
    return {
        path.name: sorted(int(file.stem) for file in path.glob("*.json"))
        for path in sorted((folder / "run" / "eval").iterdir())
    }


def test_apart_the_chosen_step_is_reported_on_what_it_was_not_chosen_by(
    tmp_path: pathlib.Path,
) -> None:
    lengths = {"inputs": 80, "targets": 24}
    result = run(tmp_path, "apart", self_consistency=2, feature_lengths=lengths)
    chosen = result.selected["step"]
    assert filed(tmp_path) == {
        "toy_whole": [1, 2],
        "toy_whole_sc2_test": [chosen],
        "toy_whole_test": [chosen],
    }
    selected = json.loads((tmp_path / "run" / "selected.json").read_text("utf-8"))
    assert selected == result.selected
    assert selected["protocol"] == "apart"
    assert selected["metric"] == "normalized"
    path = tmp_path / "run" / "eval" / "toy_whole_test" / f"{chosen}.json"
    measured = json.loads(path.read_text("utf-8"))
    assert measured["protocol"]["lengths"] == lengths
    assert selected["reported"]["toy_whole"] == measured["mean"]


def test_the_papers_way_measures_the_whole_set_and_nothing_apart(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path, "paper")
    assert filed(tmp_path) == {"toy_whole_all": [1, 2]}
    assert result.selected["protocol"] == "paper"
    assert "step 2: toy_whole_all: exact_match" in capsys.readouterr().out


def test_the_papers_way_needs_suites_that_have_a_whole_set(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UserError, match=f"'{small_run.TASK}' has no split 'all'") as caught:
        run(tmp_path, "paper", small_run.TASK)
    assert "SELECT_PROTOCOL" in str(caught.value)
    assert not (tmp_path / "run").exists()
