"""Damaged checkpoints: never wrong numbers, never a silent fresh start."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_train import checkpoint_retention, checkpoints, errors
from flan_train.checkpoints import CheckpointConfig, Checkpoints, DamagedCheckpoint

META = {"config_hash": "abc", "model": {"embed_dim": 16}, "seed": 3}
STEPS = (3, 6)


def state(step: int) -> tuple[Any, Any]:
    random = np.random.default_rng(step)
    params = {"a": {"kernel": random.normal(size=(40, 30))}, "b": random.normal(size=(9,))}
    kept = {"count": np.int32(step), "rows": random.normal(size=(40,))}
    as_jax = lambda x: jnp.asarray(x, jnp.int32 if x.dtype == np.int32 else jnp.float32)  # noqa: E731
    return jax.tree.map(as_jax, params), jax.tree.map(as_jax, kept)


def position(step: int) -> dict[str, Any]:
    return {"epoch": 1, "sequence": 100 + step, "window": [0.1 * step]}


ABSTRACT = jax.eval_shape(lambda: state(0))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with checkpoints of STEPS."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = Checkpoints(folder, CheckpointConfig())
    for step in STEPS:
        run.save(step, *state(step), position(step), META)
    run.close()
    return folder


@pytest.fixture
def damaged(original: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(original, tmp_path / "run"))


def checkpoints_of(folder: pathlib.Path) -> Checkpoints:
    return Checkpoints(folder, CheckpointConfig())


def assert_same(found: checkpoints.Found) -> None:
    """What was restored is, bit for bit, what was saved at that step."""
    for one, two in zip(found.restored[:2], state(found.step), strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(two)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            assert a.dtype == b.dtype
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert found.restored.data == position(found.step)
    meta = found.restored.meta
    assert {name: meta[name] for name in META} == META
    assert meta["step"] == found.step


def largest(folder: pathlib.Path) -> pathlib.Path:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def change_number(folder: pathlib.Path) -> None:
    """Puts other numbers in the place of the parameters, in files that are whole."""
    params = jax.tree.map(lambda x: x + (x > 2), state(6)[0])
    other = folder.parent / "other"
    checkpoints.save_params(other, params, {})
    shutil.rmtree(folder / "params")
    shutil.move(other / "params", folder / "params")
    shutil.rmtree(other)


def test_the_newest_is_damaged(
    damaged: pathlib.Path, caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path
) -> None:
    change_number(damaged / "checkpoints" / "6")
    run = checkpoints_of(damaged)
    with pytest.raises(
        DamagedCheckpoint, match="step 6 is damaged, and --strict was given"
    ) as told:
        run.newest_restorable(*ABSTRACT, strict=True)
    assert told.value.arrays == ["a/kernel"]
    assert run.steps() == [3, 6]
    with pytest.raises(DamagedCheckpoint, match="checksums of 1 of 2 arrays differ: a/kernel"):
        run.restore(6, *ABSTRACT)
    # A checkpoint that was asked for by name is never replaced by another one.
    for wanted in (ABSTRACT[0], None):
        with pytest.raises(errors.UserError, match="are not what was saved: the checksums"):
            checkpoints.load_params(damaged / "checkpoints" / "6", wanted)
    with caplog.at_level(logging.WARNING):
        found = run.newest_restorable(*ABSTRACT)
    assert found
    assert found.step == 3
    assert_same(found)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "THE CHECKPOINT OF STEP 6 IS DAMAGED" in line
    assert "checksums of 1 of 2 arrays differ: a/kernel" in line
    assert "set aside as 6.damaged" in line
    assert "goes on from the checkpoint of step 3" in line
    assert run.steps() == [3]
    # The step is reached again, and damaged again: nothing that was set aside is lost.
    run.save(6, *state(6), position(6), META)
    run.close()
    shutil.rmtree(damaged / "checkpoints" / "6" / "opt_state" / "d")
    again = checkpoints_of(damaged).newest_restorable(*ABSTRACT)
    assert again
    assert again.step == 3
    names = sorted(path.name for path in run.folder.iterdir())
    assert names == ["3", "6.damaged", "6.damaged-2"]


def test_none_can_be_used(damaged: pathlib.Path) -> None:
    folder = damaged / "checkpoints"
    largest(folder / "6" / "params").write_bytes(b"")
    (folder / "3" / "data" / "metadata").write_text('{"epoch": 1, "sequence": 104}')
    run = checkpoints_of(damaged)
    for _ in range(2):  # nothing was set aside
        with pytest.raises(errors.UserError, match="none of the run's checkpoints can") as told:
            run.newest_restorable(*ABSTRACT)
        assert "6: " in told.value.what
        assert "3: data is not what was saved" in told.value.what
        assert run.steps() == [3, 6]
    # Nor with torn ones, and such as were set aside before.
    shutil.rmtree(folder / "6" / "opt_state")
    (folder / "3").rename(folder / "3.damaged")
    with pytest.raises(errors.UserError, match="none of the run's checkpoints can") as told:
        checkpoints_of(damaged).newest_restorable(*ABSTRACT)
    assert "6: incomplete (no opt_state" in told.value.what
    assert "3.damaged: set aside before" in told.value.what
    shutil.rmtree(folder)
    assert checkpoints_of(damaged).newest_restorable(*ABSTRACT) is None


def test_a_checkpoint_of_another_model_is_not_taken_for_a_damaged_one(
    damaged: pathlib.Path,
) -> None:
    wanted = {"a": {"kernel": jax.ShapeDtypeStruct((40, 31), jnp.float32)}, "b": ABSTRACT[0]["b"]}
    run = checkpoints_of(damaged)
    with pytest.raises(errors.UserError, match="of another model") as told:
        run.newest_restorable(wanted, ABSTRACT[1])
    assert not isinstance(told.value, DamagedCheckpoint)
    # Its own description of the arrays is damaged: then it is.
    other = damaged / "other"
    checkpoints.save_params(other, {"a": {"kernel": jnp.zeros((40, 31))}, "b": jnp.zeros(9)}, {})
    shutil.rmtree(run.path(6) / "params")
    shutil.move(other / "params", run.path(6) / "params")
    with pytest.raises(DamagedCheckpoint, match="other shapes than were saved"):
        run.restore(6, *ABSTRACT)
    assert run.steps() == [3, 6]


def test_a_folder_under_another_step_is_not_that_step(damaged: pathlib.Path) -> None:
    shutil.copytree(damaged / "checkpoints" / "3", damaged / "checkpoints" / "9")
    run = checkpoints_of(damaged)
    with pytest.raises(DamagedCheckpoint, match="is of step 3, but its folder is called 9"):
        run.restore(9, *ABSTRACT)
    found = run.newest_restorable(*ABSTRACT)
    assert found
    assert found.step == 6


@pytest.mark.parametrize("key", ["seed", "config_hash", "checksums", "step"])
def test_what_is_known_of_a_checkpoint_is_sealed(damaged: pathlib.Path, key: str) -> None:
    file = damaged / "checkpoints" / "6" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    meta[key] = {"meta": 1, "params": {}} if key == "checksums" else 5
    file.write_text(json.dumps(meta))
    with pytest.raises(DamagedCheckpoint, match="meta is not what was saved"):
        checkpoints.read_meta(damaged / "checkpoints" / "6")


def test_a_checkpoint_that_has_lost_its_checksums(
    damaged: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = damaged / "checkpoints" / "6" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    assert set(meta["checksums"]) == {"params", "opt_state", "shapes", "data", "meta"}
    assert set(meta["checksums"]["params"]) == {"a/kernel", "b"}
    assert meta["checksums"]["shapes"]["opt_state"]["rows"] == "float32[40]"
    del meta["checksums"]
    file.write_text(json.dumps(meta))
    # Parameters that are asked for by name may come from elsewhere, without any.
    with caplog.at_level(logging.WARNING):
        checkpoints.load_params(damaged / "checkpoints" / "6")
    assert "has no checksums to compare with" in caplog.text
    assert checkpoints.read_checksums(damaged / "checkpoints" / "6") == {}
    found = checkpoints_of(damaged).newest_restorable(*ABSTRACT)
    assert found
    assert found.step == 3
    assert "has lost its checksums" in caplog.text
    assert (damaged / "checkpoints" / "6.damaged").is_dir()


def test_strict_refuses_a_torn_newest_checkpoint(damaged: pathlib.Path) -> None:
    (damaged / "checkpoints" / "6" / "_CHECKPOINT_METADATA").unlink()
    before = sorted(path.name for path in (damaged / "checkpoints").iterdir())
    with pytest.raises(DamagedCheckpoint) as told:
        checkpoints_of(damaged).newest_restorable(*ABSTRACT, strict=True)
    assert "step 6 is incomplete (no _CHECKPOINT_METADATA), and --strict" in told.value.what
    assert sorted(path.name for path in (damaged / "checkpoints").iterdir()) == before
    found = checkpoints_of(damaged).newest_restorable(*ABSTRACT)
    assert found
    assert found.step == 3
    # An older one that is torn is nothing that the run would go on without.
    (damaged / "checkpoints" / "2").mkdir()
    shutil.rmtree(damaged / "checkpoints" / "6")
    assert checkpoints_of(damaged).newest_restorable(*ABSTRACT, strict=True)


def test_other_types_are_compared_before_they_are_converted(damaged: pathlib.Path) -> None:
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), ABSTRACT[0])
    params, _ = checkpoints.load_params(damaged / "checkpoints" / "6", wanted)
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state(6)[0])
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert params["b"].dtype == jnp.bfloat16


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 10**6), st.sampled_from(["flip", "cut", "delete", "zero", "swap"]), st.data())
def test_any_damage_of_any_file(original: pathlib.Path, which: int, how: str, data: Any) -> None:
    """One file of the newest checkpoint is damaged: its numbers, or those of the one before."""
    with tempfile.TemporaryDirectory(dir=original.parent) as place:
        folder = pathlib.Path(shutil.copytree(original, pathlib.Path(place) / "run"))
        newest = folder / "checkpoints" / "6"
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        file = files[which % len(files)]
        raw = bytearray(file.read_bytes())
        if how == "delete":
            file.unlink()
        elif how == "cut":
            os.truncate(file, data.draw(st.integers(0, max(len(raw) - 1, 0))))
        elif how == "swap":
            file.write_bytes(files[(which // 64) % len(files)].read_bytes())
        elif raw:
            at = data.draw(st.integers(0, len(raw) - 1))
            if how == "flip":
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
            else:
                raw[at : at + 16] = bytes(len(raw[at : at + 16]))
            file.write_bytes(raw)
        run = checkpoints_of(folder)
        found = run.newest_restorable(*ABSTRACT)
        assert found
        assert_same(found)
        if found.step == 3:
            left = {path.name for path in run.folder.iterdir()}
            assert left in ({"3", "6.damaged"}, {"3", "6"})  # set aside, or torn


def test_a_damaged_checkpoint_that_cannot_be_set_aside(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UserError, match="6 cannot be set aside: No such file") as told:
        checkpoint_retention.set_aside(tmp_path / "6", "damaged")
    assert "rename 6 yourself" in told.value.fix
