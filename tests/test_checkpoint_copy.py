"""`checkpoint copy`: links, folders with other names, sources that go away."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import jax.numpy as jnp
import pytest

from flan_train import checkpoint_care, checkpoints, cli, storage, storage_transfer
from flan_train.errors import UserError
from tests import object_store


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run with a checkpoint of step 7."""
    saved = checkpoints.Checkpoints(tmp_path / "run", checkpoints.CheckpointConfig())
    params = {"a": {"kernel": jnp.arange(12, dtype=jnp.float32).reshape(3, 4)}}
    saved.save(7, params, {"count": jnp.zeros(3)}, {"epoch": 1}, {})
    saved.close()
    return tmp_path / "run"


def test_links_that_lead_out_are_not_followed(
    run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    link = run / "checkpoints" / "7" / "params" / "more"
    for target in (secret / "key", secret, tmp_path / "none", pathlib.Path("../../../../secret")):
        link.symlink_to(target)
        with pytest.raises(UserError, match="leads out of the folder, or to nothing") as caught:
            checkpoint_care.copy(run, "7", tmp_path / "copy")
        assert str(link) in str(caught.value)
        with object_store.serving() as store:
            monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", store.url)
            with pytest.raises(UserError, match="leads out of the folder"):
                checkpoint_care.copy(run, "7", "gs://bucket/copy")
            assert store.keys("bucket") == []
        link.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "secret"]
    # One that stays inside is as good as the file; so is a checkpoint that is a link itself.
    link.symlink_to("_METADATA")
    shutil.move(run / "checkpoints" / "7", tmp_path / "elsewhere")
    (run / "checkpoints" / "7").symlink_to(tmp_path / "elsewhere")
    checkpoint_care.copy(run, "7", tmp_path / "copy")
    assert (tmp_path / "copy" / "params" / "more").is_file()


def test_a_folder_that_is_called_latest(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (run / "checkpoints" / "7").rename(run / "checkpoints" / "latest")
    done = checkpoint_care.copy(run, "latest", tmp_path / "copy")
    assert done["step"] == 7
    checkpoint_care.copy(run, "latest", run / "checkpoints" / "7")
    with pytest.raises(UserError, match="of step 7 cannot be called 8"):
        checkpoint_care.copy(run, "latest", run / "checkpoints" / "8")


def test_a_checkpoint_that_is_removed_while_it_is_copied(
    run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = storage_transfer.check_links

    def then_removed(folder: pathlib.Path) -> None:
        look(folder)
        shutil.rmtree(folder)

    monkeypatch.setattr(storage_transfer, "check_links", then_removed)
    with pytest.raises(UserError, match="removed while it was copied") as caught:
        checkpoint_care.copy(run, "7", tmp_path / "copy")
    assert caught.value.where == str(run / "checkpoints" / "7")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_copy_has_left(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / f".copy.copying-{os.getpid()}" / "params").mkdir(parents=True)
    checkpoint_care.copy(run, "7", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "run"]


def test_a_model_dir_of_t5x_in_a_store_takes_any_number(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    params_only_folder: Callable[[int], pathlib.Path],
) -> None:
    with object_store.serving() as store:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", store.url)
        for step in (1, 2):
            ours = params_only_folder(step)
            words = ["convert", "flan-to-t5x", f"--from={ours}", "--to=gs://bucket/t5x"]
            assert cli.main(words) == 0
        assert cli.main(words) == 2
        assert "gs://bucket/t5x/checkpoint_2 exists already" in capsys.readouterr().err
        words = ["convert", "flan-to-t5x", f"--from={ours}", "--to=gs://bucket/t5x/checkpoint_2"]
        assert cli.main(words) == 2
        steps = [path.name for path in storage.RemotePath("gs://bucket/t5x").iterdir()]
        assert steps == ["checkpoint_1", "checkpoint_2"]


@pytest.fixture
def params_only_folder(tmp_path: pathlib.Path) -> Callable[[int], pathlib.Path]:
    import dataclasses

    from tests.models import seeded

    config = seeded.CROSSED["t5_relu_untied"]

    def made(step: int) -> pathlib.Path:
        folder = tmp_path / f"ours{step}"
        meta = {"model": dataclasses.asdict(config), "step": step}
        checkpoints.save_params(folder, seeded.params(config), meta)
        return folder

    return made
