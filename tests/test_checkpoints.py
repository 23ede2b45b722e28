"""Checkpoints: exact round trips, any mesh to any mesh, retention, and what is refused."""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_train import checkpoint_retention, checkpoints, errors, optimizers, sharding
from flan_train.checkpoint_names import SELECTION_FILE

AXES = {"block": {"kernel": ("layers", "embed", "mlp")}, "norm": {"scale": ("embed",)}}
CONFIG = optimizers.OptimizerConfig(min_dim_size_to_factor=8)
META = {"config_hash": "abc", "manifest_hash": "def", "model": {"embed_dim": 16}}
KEPT = {"period": 1000, "keep": 3, "keep_every": None, "keep_best": 1, "copied_to": None}


def values(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "block": {"kernel": jnp.asarray(random.normal(size=(2, 16, 8)).astype(np.float32))},
        "norm": {"scale": jnp.asarray(random.normal(size=(16,)).astype(np.float32))},
    }


def state_of(params: Any) -> Any:
    transform = optimizers.adafactor(CONFIG, AXES)
    return transform.update(params, transform.init(params), params)[1]


def placed(preset: str, partitions: int, devices: int) -> tuple[Any, Any]:
    """The abstract parameters and optimizer state on a mesh."""
    config = sharding.ShardingConfig(preset, partitions)
    mesh = sharding.make_mesh(config, jax.devices()[:devices])
    on = sharding.Partitioner(mesh, preset)
    params = jax.eval_shape(values)
    state = jax.eval_shape(lambda: state_of(values()))
    return tuple(  # type: ignore[return-value]
        jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            on.param_shardings(axes, shapes),
        )
        for axes, shapes in (
            (AXES, params),
            (optimizers.state_axes(CONFIG, AXES, params), state),
        )
    )


def assert_same(one: Any, two: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, two)


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run with one checkpoint, of step 7."""
    run = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig())
    run.save(7, values(), state_of(values()), {"epoch": 1, "position": 5}, META)
    run.close()
    return tmp_path


def test_another_mesh_gets_the_same_numbers(saved: pathlib.Path) -> None:
    run = checkpoints.Checkpoints(saved, checkpoints.CheckpointConfig())
    assert run.latest_step() == 7
    for preset, partitions, devices in (("fsdp_tensor", 2, 8), ("tensor", 4, 4), ("fsdp", 1, 1)):
        params, state = placed(preset, partitions, devices)
        restored = run.restore(7, params, state)
        assert_same(restored.params, values())
        assert_same(restored.opt_state, state_of(values()))
        kernel = restored.params["block"]["kernel"]
        assert kernel.sharding == params["block"]["kernel"].sharding
        assert restored.data == {"epoch": 1, "position": 5}
        assert restored.meta == {**META, "step": 7, "checkpoint": KEPT}


def test_arrays_may_be_donated_after_save_returns(tmp_path: pathlib.Path) -> None:
    run = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig())
    params, state = values(), state_of(values())
    run.save(1, params, state, {}, META)
    jax.tree.map(lambda x: x.delete(), (params, state))
    run.wait()
    restored = run.restore(1, *placed("data_parallel", 1, 1))
    assert_same(restored.params, values())
    run.close()


def test_keeps_the_newest_and_the_protected(tmp_path: pathlib.Path) -> None:
    run = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig(keep=2))
    for step in (1, 2, 3, 4, 5):
        run.save(step, values(step), state_of(values(step)), {}, META)
        run.protect([min(step, 2)])
    run.wait()
    assert run.steps() == [2, 4, 5]
    run.close()
    everything = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig(keep=None))
    everything.save(6, values(), state_of(values()), {}, META)
    everything.close()
    assert everything.steps() == [2, 4, 5, 6]


def test_keeps_what_any_rule_keeps(tmp_path: pathlib.Path) -> None:
    config = checkpoints.CheckpointConfig(keep=1, keep_every=4, keep_best=2)
    run = checkpoints.Checkpoints(tmp_path, config)
    run.protect([3, 5])
    # What a removal leaves that was stopped in the middle.
    (tmp_path / "checkpoints" / "2.removing" / "params").mkdir(parents=True)
    save(run, *range(1, 10))
    assert run.steps() == [3, 4, 5, 8, 9]
    run.protect([])
    save(run, 10)
    assert run.steps() == [4, 8, 10]
    assert {path.name for path in run.folder.iterdir()} == {"4", "8", "10"}
    run.close()


def test_why_a_checkpoint_is_kept() -> None:
    steps = range(1, 7)
    found = checkpoint_retention.reasons(steps, keep=2, keep_every=3, best=[4, 9], selected=5)
    assert found == {
        1: [],
        2: [],
        3: ["every"],
        4: ["best"],
        5: ["newest", "selected"],
        6: ["newest", "every"],
    }
    everything = checkpoint_retention.reasons(steps, keep=None, keep_every=None)
    assert set(map(tuple, everything.values())) == {("newest",)}


def select_by_hand(run: pathlib.Path, step: int) -> None:
    chosen = {"step": step, "metric": "0.5*a:f1 + 0.5*b:f1", "score": 0.5}
    (run / SELECTION_FILE).write_text(json.dumps(chosen), encoding="utf-8")


def save(run: checkpoints.Checkpoints, *steps: int) -> None:
    for step in steps:
        run.save(step, values(step), state_of(values(step)), {}, META)
    run.wait()


def test_the_selected_checkpoint_is_never_removed(tmp_path: pathlib.Path) -> None:
    first = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig(keep=2))
    save(first, 1, 2)
    # Selected while the run goes on, by a metric that is not the run's: that keeps another.
    select_by_hand(tmp_path, 1)
    first.protect([2])
    save(first, 3, 4, 5)
    assert first.steps() == [1, 2, 4, 5]
    first.close()
    # The run is extended: nothing was said of the selection to the new process.
    later = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig(keep=1))
    later.protect([5])
    save(later, 6, 7)
    assert later.steps() == [1, 5, 7]
    # Another one is selected: the one before is removed like any other.
    select_by_hand(tmp_path, 7)
    save(later, 8, 9)
    assert later.steps() == [5, 7, 9]
    later.close()
    assert_same(checkpoints.load_params(tmp_path / "selected")[0], values(7))


def test_nothing_is_removed_while_the_selection_cannot_be_read(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig(keep=1))
    save(run, 1)
    (tmp_path / SELECTION_FILE).write_text("{", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        save(run, 2, 3)
    assert run.steps() == [1, 2, 3]
    assert "no checkpoint is removed" in caplog.text
    select_by_hand(tmp_path, 2)
    save(run, 4)
    assert run.steps() == [2, 4]
    run.close()


def test_a_checkpoint_by_name(saved: pathlib.Path) -> None:
    select_by_hand(saved, 7)
    for name in ("selected", "latest", "checkpoints/selected", "checkpoints/latest"):
        params, meta = checkpoints.load_params(saved / name, placed("fsdp", 1, 1)[0])
        assert_same(params, values())
        assert meta == {**META, "step": 7, "checkpoint": KEPT}
        assert checkpoints.read_meta(saved / name) == meta
        assert checkpoints.read_position(saved / name) == {"epoch": 1, "position": 5}
        checkpoints.check_params(saved / name, jax.eval_shape(values))
    (saved / SELECTION_FILE).unlink()
    with pytest.raises(errors.UserError, match="has been selected yet"):
        checkpoints.load_params(saved / "checkpoints" / "selected")


def test_saving_a_step_twice_keeps_the_first(saved: pathlib.Path) -> None:
    run = checkpoints.Checkpoints(saved, checkpoints.CheckpointConfig())
    where = placed("data_parallel", 1, 1)
    run.save(7, values(1), state_of(values(1)), {}, META)
    run.wait()
    assert_same(run.restore(7, *where).params, values(0))
    run.close()


@pytest.mark.parametrize(
    "torn",
    ["_CHECKPOINT_METADATA", "params", "params/_METADATA", "opt_state", "data/metadata", "meta"],
)
def test_a_torn_checkpoint_is_not_seen_and_its_step_can_be_saved_again(
    saved: pathlib.Path, torn: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = saved / "checkpoints" / "9"
    shutil.copytree(saved / "checkpoints" / "7", broken)
    path = broken / torn
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    left = saved / "checkpoints" / "11.orbax-checkpoint-tmp-3"
    left.mkdir()
    run = checkpoints.Checkpoints(saved, checkpoints.CheckpointConfig())
    with caplog.at_level(logging.WARNING):
        assert run.latest_step() == 7
        assert run.steps() == [7]
    warnings = [r.getMessage() for r in caplog.records if "incomplete checkpoint" in r.getMessage()]
    assert len(warnings) == 1
    assert str(broken) in warnings[0]
    assert torn in warnings[0]
    assert broken.is_dir()  # looking changes nothing
    with pytest.raises(errors.UserError, match="no complete checkpoint of step 9"):
        run.restore(9, *placed("data_parallel", 1, 1))
    assert left.is_dir()
    with caplog.at_level(logging.WARNING):
        run.save(9, values(9), state_of(values(9)), {}, META)
    run.close()
    assert f"removed the unfinished checkpoint {left}" in caplog.text
    assert run.steps() == [7, 9]
    assert {path.name for path in left.parent.iterdir()} == {"7", "9", "9.torn"}


def test_no_checkpoint_at_all(tmp_path: pathlib.Path) -> None:
    run = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig())
    assert run.latest_step() is None
    assert run.steps() == []
    with pytest.raises(errors.UserError, match="no complete checkpoint of step 3"):
        run.restore(3, None, None)
    run.close()
    assert not list(tmp_path.iterdir())


def test_parameters_only_folder(tmp_path: pathlib.Path, saved: pathlib.Path) -> None:
    folder = tmp_path / "converted"
    as_numpy = jax.tree.map(np.asarray, values())
    checkpoints.save_params(folder, as_numpy, META)
    for source in (folder, saved / "checkpoints" / "7"):
        params, meta = checkpoints.load_params(source)
        assert_same(params, values())
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
        assert meta["model"] == META["model"]
        assert checkpoints.read_meta(source)["model"] == META["model"]
        where = placed("fsdp_tensor", 2, 8)[0]
        params, _ = checkpoints.load_params(source, where)
        assert_same(params, values())
        assert params["norm"]["scale"].sharding == where["norm"]["scale"].sharding
        # Without a sharding: on the first device.
        params, _ = checkpoints.load_params(source, jax.eval_shape(values))
        assert_same(params, values())
    with pytest.raises(errors.UserError, match="exists already"):
        checkpoints.save_params(folder, as_numpy, META)


def test_what_is_not_a_checkpoint(tmp_path: pathlib.Path, saved: pathlib.Path) -> None:
    with pytest.raises(errors.UserError, match="there is no checkpoint") as caught:
        checkpoints.load_params(tmp_path / "nowhere")
    assert "never replaced by random parameters" in str(caught.value)
    for inside_run in (saved, saved / "checkpoints"):
        with pytest.raises(errors.UserError, match="is not a checkpoint") as caught:
            checkpoints.load_params(inside_run)
        assert str(saved / "checkpoints" / "7") in str(caught.value)
    (tmp_path / "other").mkdir()
    with pytest.raises(errors.UserError, match="is not a checkpoint") as caught:
        checkpoints.load_params(tmp_path / "other")
    assert "flan-train convert" in str(caught.value)


def test_another_model_lists_both_sides(saved: pathlib.Path) -> None:
    wanted = {
        "block": {"kernel": jax.ShapeDtypeStruct((2, 16, 12), jnp.float32)},
        "gate": {"kernel": jax.ShapeDtypeStruct((16, 4), jnp.float32)},
    }
    with pytest.raises(errors.UserError) as caught:
        checkpoints.load_params(saved / "checkpoints" / "7", wanted)
    message = str(caught.value)
    assert "of another model" in message
    assert "only in the checkpoint: norm/scale [16]" in message
    assert "only in this model: gate/kernel [16, 4]" in message
    assert "block/kernel: [2, 16, 8] in the checkpoint, [2, 16, 12] in this model" in message
    run = checkpoints.Checkpoints(saved, checkpoints.CheckpointConfig())
    params = placed("data_parallel", 1, 1)[0]
    unfactored = optimizers.adafactor(optimizers.OptimizerConfig(), AXES)
    with pytest.raises(errors.UserError, match="of another optimizer"):
        run.restore(7, params, jax.eval_shape(unfactored.init, params))


def test_many_differences_are_counted(tmp_path: pathlib.Path) -> None:
    many = {f"layer_{i:02}": np.zeros(3, np.float32) for i in range(12)}
    checkpoints.save_params(tmp_path / "many", many, {})
    with pytest.raises(errors.UserError) as caught:
        checkpoints.load_params(tmp_path / "many", {"one": jax.ShapeDtypeStruct((3,), np.float32)})
    assert "only in the checkpoint: 4 more" in str(caught.value)
    wide = {name: jax.ShapeDtypeStruct((4,), np.float32) for name in many}
    with pytest.raises(errors.UserError, match="4 more of other shapes"):
        checkpoints.load_params(tmp_path / "many", wide)


def test_damaged_files_are_named(saved: pathlib.Path) -> None:
    path = saved / "checkpoints" / "7"
    meta = path / "meta" / "metadata"
    written = meta.read_text("utf-8")
    meta.write_text("{", encoding="utf-8")
    with pytest.raises(errors.UserError, match="cannot be read") as caught:
        checkpoints.load_params(path)
    assert "meta/metadata" in str(caught.value)
    meta.write_text(written, encoding="utf-8")
    shutil.rmtree(path / "params" / "d", ignore_errors=True)
    for file in (path / "params").rglob("*"):
        if file.is_file() and file.name != "_METADATA":
            file.write_bytes(b"damaged")
    with pytest.raises(errors.UserError, match="params cannot be read"):
        checkpoints.load_params(path)


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="file is not a folder"):
        checkpoints.save_params(tmp_path / "file" / "new", {"x": np.zeros(2)}, META)
    # No folder can be made there, whoever asks.
    if pathlib.Path("/proc/self").is_dir():
        with pytest.raises(errors.UserError, match="cannot be"):
            checkpoints.save_params("/proc/flan/new", {"x": np.zeros(2)}, META)
