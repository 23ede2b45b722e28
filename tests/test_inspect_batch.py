"""The batch that stopped a run is shown: prompt, target, task and template of its examples."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from flan_train import cli, errors, inspect_batch
from flan_train.batches import TrainBatches
from flan_train.prepare import prepare
from flan_train.prepared import PreparedDataset
from tests import small_run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    data = small_run.settings(tmp_path_factory.mktemp("prepared"))["data"]
    return prepare(data, "train", progress=False)


@pytest.fixture
def batch(prepared: PreparedDataset) -> dict[str, Any]:
    """The second batch, as a run records it."""
    lengths = prepared.manifest["feature_lengths"]
    reader = TrainBatches(prepared, batch_size=8, lengths=lengths, seed=5, threads=0)
    position = {"epoch": 0, "sequence": 8}
    return {
        "step": 2,
        "what": "the loss",
        "position": position,
        "prepared": str(prepared.path),
        "examples": reader.describe(position),
    }


def test_examples_are_shown(
    batch: dict[str, Any],
    prepared: PreparedDataset,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, written = tmp_path / "not_finite.json", tmp_path / "shown.json"
    file.write_text(json.dumps(batch))
    assert cli.main(["inspect", str(file), "--examples", "3", "--json", str(written)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2: the loss is not finite" in shown
    assert f"{small_run.TASK} ({len(batch['examples'])})" in shown
    assert f"and {len(batch['examples']) - 3:,} more" in shown
    for one in batch["examples"][:3]:
        record = prepared.record(one["example"])
        assert f"{one['task']}/{one['example_id']}" in shown
        assert record["template_id"] in shown
        for ids in prepared.tokens(one["example"]):
            assert " ".join(prepared.vocabulary.decode(ids).split()) in shown
    told = json.loads(written.read_text())
    assert [one["index"] for one in told["examples"]] == [
        one["example"] for one in batch["examples"][:3]
    ]
    assert cli.main(["inspect", str(file), "--dry_run"]) == 0
    assert "targets" not in capsys.readouterr().out


def test_skipped_updates_are_listed(
    batch: dict[str, Any], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del batch["what"]
    entries = [
        {**batch, "step": 2, "action": "skip", "loss": None, "median_loss": None},
        {**batch, "step": 5, "action": "skip", "loss": 9.0, "median_loss": 2.5},
        {**batch, "step": 7, "action": "rewind", "to": 6, "loss": 8.0, "median_loss": 2.0},
    ]
    file = tmp_path / "skipped.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert cli.main(["inspect", str(file), "--examples", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "2: a loss or gradient that is not finite: skipped",
        "5: loss 9.0000, where the median was 2.5000: skipped",
        "7: loss 8.0000, where the median was 2.0000: back to step 6",
        "of the batch of step 7",
    ):
        assert text in shown


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", '{"step": 1, "prepared": "x", "examples": [{"task": "a"}]}', "[" * 9999],
)
def test_a_file_that_is_something_else(tmp_path: pathlib.Path, text: str) -> None:
    file = tmp_path / "not_finite.json"
    file.write_text(text)
    with pytest.raises(errors.UserError, match="no batch can be read from"):
        inspect_batch.run(str(file))


def test_what_cannot_be_shown(
    batch: dict[str, Any], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.UserError, match="no batch can be read from"):
        inspect_batch.run(str(tmp_path / "nothing.json"))
    batch["examples"][0]["example_id"] = "another"
    file = tmp_path / "not_finite.json"
    file.write_text(json.dumps(batch))
    with pytest.raises(errors.UserError, match="another of the batch is not where it was"):
        inspect_batch.run(str(file))
    assert cli.main(["inspect", str(file), "--packing"]) == 2
    assert "--packing says nothing here" in capsys.readouterr().err
