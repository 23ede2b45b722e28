"""Copies of a run's checkpoints in an object store: what is left there, and whose it is."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from flan_train import checkpoint_care, checkpoint_mirror, checkpoint_names, launch, storage
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from flan_train.errors import UserError
from tests import object_store

URL = "gs://bucket/mine"
COPIES = storage.RemotePath(f"{URL}/checkpoints")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[object_store.ObjectStore]:
    with object_store.serving() as server:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        yield server


class SmallRun:
    """A run whose parameters at a step are the step's number and `offset`."""

    def __init__(self, folder: pathlib.Path, config: CheckpointConfig, offset: float = 0.0) -> None:
        self.folder = folder
        self.saved = Checkpoints(folder, config)
        self.offset = offset

    def save(self, *steps: int) -> None:
        for step in steps:
            params = {"kernel": jax.numpy.full((4, 4), step + self.offset)}
            meta = {"config_hash": "c", "manifest_hash": "m", "seed": int(self.offset)}
            self.saved.save(step, params, {"count": jax.numpy.zeros(1)}, {"epoch": step}, meta)
            self.saved.wait()

    def start(self) -> int | None:
        abstract = {"kernel": jax.ShapeDtypeStruct((4, 4), np.float32)}
        return launch.find_start(self.saved, 10_000, None, True, abstract)

    def judge(self, step: int, score: float) -> None:
        """Writes a result of a step."""
        path = self.folder / "eval" / "suite" / f"{step}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"step": step, "mean": {"exact_match": score}}))

    def choose(self, step: int) -> None:
        self.folder.mkdir(exist_ok=True)
        chosen = {"step": step, "metric": "exact_match", "score": 0.5}
        (self.folder / checkpoint_names.SELECTION_FILE).write_text(json.dumps(chosen))


def in_store() -> list[int]:
    return checkpoint_names.complete_steps(COPIES)


def test_what_the_store_alone_has_outlives_the_machine(
    store: object_store.ObjectStore, tmp_path: pathlib.Path
) -> None:
    config = CheckpointConfig(keep=2, keep_every=4, copied_to=URL)
    first = SmallRun(tmp_path / "one", config)
    first.saved.protect([3])
    first.choose(3)
    first.judge(3, 0.5)
    first.save(*range(1, 8))
    first.saved.close()
    assert in_store() == [3, 4, 6, 7]

    second = SmallRun(tmp_path / "two", config)
    with pytest.raises(UserError, match="go up to step 7, those of MODEL_DIR are none") as caught:
        second.start()
    # The newest, and the one that was selected.
    for step in (7, 3):
        assert f"copy {URL} --step={step} --to={second.saved.path(step)}" in caught.value.fix
    checkpoint_care.copy(URL, "latest", second.saved.path(7))
    assert second.start() == 7
    assert checkpoint_mirror.bring_results(second.folder, URL) == 2
    assert checkpoint_names.read_selected(second.folder) == checkpoint_names.read_selected(
        first.folder
    )
    assert (second.folder / "eval" / "suite" / "3.json").read_text() == (
        first.folder / "eval" / "suite" / "3.json"
    ).read_text()
    second.judge(7, 0.1)  # it has results of its own now, which are not replaced
    assert checkpoint_mirror.bring_results(second.folder, URL) == 0
    second.save(8, 9, 10)
    second.saved.close()
    # Its own 7 goes as it goes there; what it never had stays.
    assert in_store() == [3, 4, 6, 8, 9, 10]
    assert "mine/eval/suite/7.json" in store.keys("bucket")


def test_another_runs_copies_are_neither_removed_nor_taken(
    store: object_store.ObjectStore, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = SmallRun(tmp_path / "a", CheckpointConfig(keep=None, copied_to=URL))
    first.save(100, 200, 300)
    first.saved.close()
    for steps in ((100, 300), (350, 400)):  # with steps in common, and without
        local = SmallRun(tmp_path / f"b{steps[0]}", CheckpointConfig(keep=2), offset=1)
        local.save(*steps)
        local.saved.close()
        second = SmallRun(local.folder, CheckpointConfig(keep=2, copied_to=URL), offset=1)
        with pytest.raises(UserError, match="is of another run"):
            second.start()
        # One that did not ask first.
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert steps[0] != 100 or not checkpoint_mirror.Mirror(second.folder, URL).update(
                [300], [100]
            )
        assert ("is of another run" in caplog.text) == (steps[0] == 100)
    assert in_store() == [100, 200, 300]
    same = SmallRun(first.folder, CheckpointConfig(keep=None, copied_to=URL))
    assert same.start() == 300


def test_a_damaged_checkpoint_is_no_other_run(
    store: object_store.ObjectStore, tmp_path: pathlib.Path
) -> None:
    run = SmallRun(tmp_path / "run", CheckpointConfig(copied_to=URL))
    run.save(1, 2)
    run.saved.close()
    file = run.saved.path(2) / "meta" / "metadata"
    for content in (file.read_bytes()[:40], b"[]"):
        file.write_bytes(content)
        assert run.start() == 2  # restoring tells, and takes step 1


def test_removals_wait_for_the_store(
    store: object_store.ObjectStore, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = SmallRun(tmp_path / "run", CheckpointConfig(keep=1, copied_to=URL))
    run.save(1)
    store.refused.add("mine/")
    with caplog.at_level(logging.ERROR):
        run.save(2)
    assert "COULD NOT BE COPIED" in caplog.text
    store.refused.clear()
    assert in_store() == [1]
    run.save(3)
    run.saved.close()
    assert in_store() == [3]


def test_results_that_cannot_be_brought_back(
    store: object_store.ObjectStore, tmp_path: pathlib.Path
) -> None:
    store.objects["bucket", "mine/eval/../../out.json"] = 1, b"{}"
    with pytest.raises(UserError, match="outside of the folder"):
        checkpoint_mirror.bring_results(tmp_path, URL)
    store.objects.clear()
    store.objects["bucket", "mine/eval/a/1.json"] = 1, b"{}"
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="MODEL_DIR"):
        checkpoint_mirror.bring_results(tmp_path / "run", URL)
    assert checkpoint_mirror.bring_results(tmp_path / "other", None) == 0


def test_a_copy_that_cannot_be_read(
    store: object_store.ObjectStore, tmp_path: pathlib.Path
) -> None:
    run = SmallRun(tmp_path / "run", CheckpointConfig(copied_to=URL))
    run.save(1)
    run.saved.close()
    key: Any = ("bucket", "mine/checkpoints/1/meta/metadata")
    store.objects[key] = store.objects[key][0] + 1, b"[]"
    with pytest.raises(UserError, match="meta/metadata cannot be read"):
        run.start()
