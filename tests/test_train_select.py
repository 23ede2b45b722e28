"""Selection inside a run: the paper's protocol, and a choice that outlives an extended run."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from flan_train import errors, select_text, train
from flan_train.checkpoints import CheckpointConfig
from flan_train.evaluate import EvalConfig
from flan_train.select import SelectConfig, read_selected
from tests import small_run, toy_tasks

SUITE = "toy_published"


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with small_run.compiled_once(tmp_path_factory.getbasetemp() / "programs"):
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A run whose suite has a split "all", as the held-out benchmarks have."""
    task = dataclasses.replace(
        toy_tasks.toy(SUITE, toy_tasks.counting(6)), splits=("validation", "test", "all")
    )
    kept = small_run.settings(tmp_path_factory.mktemp("prepared")) | {
        "checkpoint": CheckpointConfig(period=1, keep=1),
        "evaluation": EvalConfig((SUITE,), period=1, batch_size=8, max_decode_length=8),
        "selection": SelectConfig(protocol="paper"),
        "train_steps": 2,
    }
    with toy_tasks.registered([task]):
        yield kept


@pytest.fixture(scope="module")
def whole_run(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, train.TrainResult]:
    folder = tmp_path_factory.mktemp("runs") / "paper"
    return folder, train.train(str(folder), **settings)


def _steps(run: pathlib.Path) -> set[int]:
    return {int(path.name) for path in (run / "checkpoints").iterdir()}


def test_the_papers_protocol_measures_the_whole_set_and_nothing_else(
    whole_run: tuple[pathlib.Path, train.TrainResult],
) -> None:
    run, result = whole_run
    assert {path.name for path in (run / "eval").iterdir()} == {f"{SUITE}_all"}
    selected = read_selected(run)
    assert selected == result.selected
    assert (selected["protocol"], selected["suites"]) == ("paper", [SUITE])
    assert [item["step"] for item in selected["candidates"]] == [1, 2]
    assert selected["reported_score"] == selected["score"]
    assert selected["reported"][SUITE]["exact_match"] == selected["score"]
    said = "\n".join(select_text.lines(run, selected))
    assert "the same numbers are what is reported" in said


def test_a_step_that_was_chosen_outlives_an_extended_run_that_chooses_otherwise(
    whole_run: tuple[pathlib.Path, train.TrainResult],
    settings: dict[str, Any],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = pathlib.Path(shutil.copytree(whole_run[0], tmp_path / "run"))
    # Nothing is right after so few steps, and of equals the first is chosen.
    assert (read_selected(run) or {})["step"] == 1
    assert _steps(run) == {1, 2}
    apart = settings | {"selection": SelectConfig(), "train_steps": 4}
    result = train.train(str(run), **apart)
    # The one that selected.json named, the run's best by now, and the newest: step 1 has not been
    # measured on the split that the run goes by now.
    assert _steps(run) == {1, 2, 4}
    shown = " ".join(capsys.readouterr().out.split())
    assert "chosen: step 2 is the earliest with the highest mean exact_match" in shown
    assert "selected.json named step 1, by exact_match" in shown
    # What the choice was made without is measured, and is in the file.
    selected = read_selected(run)
    assert selected == result.selected
    assert selected["step"] == 2
    assert selected["splits"] == {"selected": "validation", "reported": "test"}
    measured = run / "eval" / f"{SUITE}_test" / f"{selected['step']}.json"
    mean = json.loads(measured.read_text("utf-8"))["mean"]
    assert selected["reported"] == {SUITE: mean}
    assert selected["reported_score"] == mean["exact_match"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"selection": SelectConfig(metric="exact_mach")}, "did you mean exact_match"),
        ({"selection": SelectConfig(metric="normalized_average")}, "heldout_mmlu_direct"),
        ({"selection": SelectConfig(metric=f"{SUITE}:rougeL")}, "has the metric 'rougeL'"),
        (
            {
                "evaluation": EvalConfig((small_run.TASK,)),
                "selection": SelectConfig((), "f1", "paper"),
            },
            f"the suite '{small_run.TASK}' has no split 'all'",
        ),
    ],
)
def test_what_cannot_be_selected_by_is_refused_before_anything_is_written(
    settings: dict[str, Any], change: dict[str, Any], said: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(errors.UserError) as caught:
        train.train(str(tmp_path / "run"), **settings | change)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()
