"""T5X checkpoints in and out: the real one of T5X's own, and small ones written by hand."""

from __future__ import annotations

import dataclasses
import filecmp
import pathlib

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest

from flan_train import checkpoints, cli, losses, optimizers, t5x_files
from flan_train.convert import t5x, t5x_write
from flan_train.convert.hf_table import flat
from flan_train.errors import UserError
from flan_train.models import t5
from tests import t5x_folder
from tests.models import seeded

UNTIED = seeded.CROSSED["t5_relu_untied"]
CONFIGS = {
    "t5_1_1": seeded.ALL["t5_1_1_base"],
    "t5_1_0": seeded.ALL["t5_1_0_small"],
    "gated_tied": seeded.CROSSED["t5_gated_tied"],
    "relu_untied": UNTIED,
}


@pytest.fixture(scope="module")
def fixture(flan_data_dir: pathlib.Path) -> pathlib.Path:
    """The folder with the checkpoint that T5X itself wrote; skips without."""
    folder = flan_data_dir / "t5x_fixture"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    return folder


def assert_same_folders(one: pathlib.Path, other: pathlib.Path) -> None:
    """Asserts that two folders have the same files, byte for byte."""
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in (one, other)
    ]
    assert names[0] == names[1]
    _, differing, unreadable = filecmp.cmpfiles(one, other, names[0], shallow=False)
    assert not differing
    assert not unreadable


# --- the checkpoint that T5X wrote


def test_reads_what_t5x_wrote(fixture: pathlib.Path) -> None:
    params, meta = checkpoints.load_params(fixture / "checkpoint_20")
    config = t5.T5Config(**meta["model"])
    assert (config.num_heads, config.head_dim) == (2, 8)
    assert meta["step"] == 20
    with np.load(fixture / "params.npz") as arrays:
        expected = dict(arrays)
    found = t5x_folder.unrolled(flat(params))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_logits_and_loss_equal_t5x(fixture: pathlib.Path) -> None:
    params, meta = checkpoints.load_params(fixture / "checkpoint_20")
    config = t5.T5Config(**meta["model"])
    with np.load(fixture / "forward.npz") as arrays:
        saved = dict(arrays)
    for kind in ("packed", "unpacked"):
        batch = {k.removeprefix(f"{kind}/"): v for k, v in saved.items() if k.startswith(kind)}
        for side, tokens in (("encoder", "input"), ("decoder", "target")):
            if f"{side}_segment_ids" not in batch:
                real = batch[f"{side}_{tokens}_tokens"] != 0
                batch[f"{side}_segment_ids"] = real.astype(np.int32)
        inputs = {name: value for name, value in batch.items() if value.ndim == 2}
        logits = np.asarray(jax.jit(t5.apply, static_argnums=1)(params, config, inputs))
        real = batch["decoder_segment_ids"] > 0
        assert np.abs(logits - batch["logits"])[real].max() < 1e-5
        weights = batch.get("decoder_loss_weights", real.astype(np.float32))
        loss, parts = losses.cross_entropy(
            jnp.asarray(logits),
            jnp.asarray(batch["decoder_target_tokens"]),
            jnp.asarray(weights),
            losses.LossConfig(z_loss=1e-4),
        )
        np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
        np.testing.assert_allclose(parts["z_loss"], batch["z_loss"], rtol=1e-4)


def test_the_recorded_update_follows_from_the_checkpoint(
    fixture: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    t5x.t5x_to_flan(fixture / "checkpoint_20", tmp_path / "flan")
    params, meta = checkpoints.load_params(tmp_path / "flan")
    # The least threshold between what is factored and what is not; T5X was told 32.
    assert meta["t5x"]["min_dim_size_to_factor"] == 32
    optimizer = optimizers.OptimizerConfig(learning_rate=1e-3, min_dim_size_to_factor=32)
    transform = optimizers.adafactor(optimizer, t5.param_axes(t5.T5Config(**meta["model"])))
    stored = checkpoints.load_opt_state(tmp_path / "flan")
    assert stored is not None
    state = optimizers.AdafactorState(**stored)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, transform.init(params))
    with np.load(fixture / "one_step.npz") as arrays:
        step = dict(arrays)
    config = t5.T5Config(**meta["model"])
    stacked = {
        path: np.stack([step[f"grads/{key}"] for key in _keys(path, leaf.shape[0])])
        if "/layers/" in path
        else step[f"grads/{path}"]
        for path, leaf in flat(t5.abstract_params(config)).items()
    }
    updates, _ = jax.jit(transform.update)(t5x_folder.nested(stacked), state, params)
    after = t5x_folder.unrolled(flat(optax.apply_updates(params, updates)))
    for name, array in after.items():
        expected = step[f"params_after/{name}"]
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-7, err_msg=name)


def _keys(path: str, layers: int) -> list[str]:
    return [path.replace("/layers/", f"/layers_{i}/") for i in range(layers)]


def test_what_t5x_wrote_comes_back_byte_for_byte(
    fixture: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    theirs = fixture / "checkpoint_20"
    t5x.t5x_to_flan(theirs, tmp_path / "flan")
    t5x.flan_to_t5x(tmp_path / "flan", tmp_path / "back")
    assert_same_folders(theirs, tmp_path / "back" / "checkpoint_20")


# --- folders written by hand


@pytest.mark.parametrize(
    ("name", "layout", "dtype"),
    [
        ("t5_1_1", "unrolled", "float32"),
        ("t5_1_1", "scanned", "bfloat16"),
        ("t5_1_0", "unrolled", "bfloat16"),
        ("t5_1_0", "scanned", "float32"),
        ("gated_tied", "scanned", "float32"),
        ("relu_untied", "unrolled", "bfloat16"),
    ],
)
def test_round_trip_is_bit_exact(
    name: str, layout: str, dtype: str, tmp_path: pathlib.Path
) -> None:
    config = CONFIGS[name]
    params = t5x_folder.flat_params(config, dtype)
    target = (
        t5x_folder.unrolled(params) if layout == "unrolled" else t5x_folder.scanned(params, config)
    )
    theirs = t5x_folder.write(tmp_path / "t5x" / "checkpoint_1000000", target)
    summary = t5x.t5x_to_flan(theirs, tmp_path / "flan", params_only=True)
    assert f"({layout}, {dtype}) of step 1,000,000" in summary
    found, meta = checkpoints.load_params(tmp_path / "flan", t5.abstract_params(config))
    assert t5.T5Config(**meta["model"]) == config
    for path, array in flat(found).items():
        np.testing.assert_array_equal(array, params[path].astype(np.float32), err_msg=path)

    t5x.flan_to_t5x(tmp_path / "flan", tmp_path / "back")
    back = t5x_files.T5XFolder(tmp_path / "back" / "checkpoint_1000000")
    assert back.step == 1_000_000
    stored = back.keys("target/")
    assert stored.keys() == target.keys()
    for key, array in target.items():
        again = back.read(f"target/{key}")
        assert again.dtype == array.dtype
        assert again.tobytes() == np.ascontiguousarray(array).tobytes(), key


@pytest.mark.parametrize("first", ["unrolled", "scanned"])
def test_a_run_goes_out_and_comes_back_with_its_optimizer(
    first: str, tmp_path: pathlib.Path
) -> None:
    config = UNTIED
    params = seeded.params(config)
    # 16 is above the number of heads, and not above any size of a layer's matrices.
    settings = optimizers.OptimizerConfig(min_dim_size_to_factor=16)
    transform = optimizers.adafactor(settings, t5.param_axes(config))
    random = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: random.random(x.shape, np.float32) if x.shape != (1,) else np.zeros(1, x.dtype),
        jax.eval_shape(transform.init, params),
    )._replace(count=np.int32(7))
    run = checkpoints.Checkpoints(tmp_path / "run", checkpoints.CheckpointConfig())
    run.save(7, params, state, {}, {"model": dataclasses.asdict(config)})
    run.close()
    source = tmp_path / "run" / "checkpoints" / "latest"
    t5x.flan_to_t5x(source, tmp_path / "t5x", layout=first, step_offset=100)
    theirs = tmp_path / "t5x" / "checkpoint_107"
    t5x.t5x_to_flan(theirs, tmp_path / "flan")
    found, meta = checkpoints.load_params(tmp_path / "flan")
    assert meta["step"] == 107
    jax.tree.map(np.testing.assert_array_equal, found, params)
    back = checkpoints.load_opt_state(tmp_path / "flan")
    assert back is not None
    for slot in ("v_row", "v_col", "v"):
        jax.tree.map(np.testing.assert_array_equal, back[slot], getattr(state, slot))
    assert int(back["count"]) == 107
    # Written again, it is the folder that it was read from.
    t5x.flan_to_t5x(tmp_path / "flan", tmp_path / "again")
    assert_same_folders(theirs, tmp_path / "again" / "checkpoint_107")


def test_parameters_alone_get_a_fresh_optimizer(tmp_path: pathlib.Path) -> None:
    checkpoints.save_params(
        tmp_path / "params", seeded.params(UNTIED), {"model": dataclasses.asdict(UNTIED)}
    )
    assert checkpoints.load_opt_state(tmp_path / "params") is None
    for layout in ("unrolled", "scanned"):
        summary = t5x.flan_to_t5x(
            tmp_path / "params", tmp_path / layout / "checkpoint_5", layout=layout, step_offset=5
        )
        assert "as before any update" in summary
        folder = t5x_files.T5XFolder(tmp_path / layout / "checkpoint_5")
        moments = folder.keys("state/param_states/")
        assert len(moments) == 4 * len(folder.keys("target/"))
        assert not any(folder.read(f"state/param_states/{key}").any() for key in moments)


def test_dry_runs_write_nothing(tmp_path: pathlib.Path) -> None:
    target = t5x_folder.unrolled(t5x_folder.flat_params(UNTIED))
    theirs = t5x_folder.write(tmp_path / "checkpoint_3", target)
    summary = t5x.t5x_to_flan(theirs, tmp_path / "flan", params_only=True, dry_run=True)
    assert "nothing was written" in summary
    t5x.t5x_to_flan(theirs, tmp_path / "flan", params_only=True)
    assert "nothing was written" in t5x.flan_to_t5x(
        tmp_path / "flan", tmp_path / "new", dry_run=True
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_3", "flan"]


def test_the_command_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = t5x_folder.unrolled(t5x_folder.flat_params(UNTIED))
    theirs = t5x_folder.write(tmp_path / "checkpoint_3", target)
    ours, back = tmp_path / "flan", tmp_path / "back"
    words = ["convert", "t5x-to-flan", f"--from={theirs}", f"--to={ours}", "--params_only"]
    assert cli.main(words) == 0
    words = ["convert", "flan-to-t5x", f"--from={ours}", f"--to={back}", "--step_offset=4"]
    assert cli.main([*words, "--layout=scanned", "--dtype=bfloat16"]) == 0
    assert "(scanned, bfloat16), step 1,000,004" in capsys.readouterr().out
    assert (back / "checkpoint_1000004" / "checkpoint").is_file()
    words = ["convert", "hf-to-flan", f"--from={ours}", f"--to={back}", "--layout=scanned"]
    assert cli.main(words) == 2
    assert "convert hf-to-flan does not know --layout" in capsys.readouterr().err


def test_destinations_and_sources_that_cannot_be(tmp_path: pathlib.Path) -> None:
    target = t5x_folder.unrolled(t5x_folder.flat_params(UNTIED))
    theirs = t5x_folder.write(tmp_path / "checkpoint_3", target)
    with pytest.raises(UserError, match="exists already"):
        t5x.t5x_to_flan(theirs, theirs)
    with pytest.raises(UserError, match="is not that of Adafactor for this model") as caught:
        t5x.t5x_to_flan(theirs, tmp_path / "flan")
    assert "--params_only" in str(caught.value)
    with pytest.raises(UserError, match="is a native T5X checkpoint"):
        t5x.flan_to_t5x(theirs, tmp_path / "new")
    with pytest.raises(UserError, match="it holds those of T5X") as caught:
        t5x.flan_to_t5x(tmp_path, tmp_path / "new")
    assert "checkpoint_3" in str(caught.value)
    t5x.t5x_to_flan(theirs, tmp_path / "flan", params_only=True)
    with pytest.raises(UserError, match="exists already"):
        t5x.flan_to_t5x(tmp_path / "flan", tmp_path, step_offset=3 - 1_000_000)
    with pytest.raises(UserError, match="its step is 1000000") as caught:
        t5x.flan_to_t5x(tmp_path / "flan", tmp_path / "checkpoint_1000010")
    assert "--step_offset=10" in str(caught.value)
    with pytest.raises(UserError, match="the step would be -1"):
        t5x.flan_to_t5x(tmp_path / "flan", tmp_path / "new", step_offset=-1_000_001)
    with pytest.raises(UserError, match="unknown layout"):
        t5x.flan_to_t5x(tmp_path / "flan", tmp_path / "new", layout="rolled")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the folder cannot be made"):
        t5x.flan_to_t5x(tmp_path / "flan", tmp_path / "file" / "new")
    checkpoints.save_params(tmp_path / "unnamed", seeded.params(UNTIED), {"step": 1})
    with pytest.raises(UserError, match="does not say which T5"):
        t5x.flan_to_t5x(tmp_path / "unnamed", tmp_path / "new")
    other = {"model": dataclasses.asdict(seeded.CROSSED["t5_gated_tied"])}
    checkpoints.save_params(tmp_path / "other", seeded.params(UNTIED), other)
    with pytest.raises(UserError, match="only in the checkpoint: decoder/layers/mlp/wi/kernel"):
        t5x.flan_to_t5x(tmp_path / "other", tmp_path / "new")
    state = {"momentum": seeded.params(UNTIED)}
    run = checkpoints.Checkpoints(tmp_path / "run", checkpoints.CheckpointConfig())
    run.save(7, seeded.params(UNTIED), state, {}, {"model": dataclasses.asdict(UNTIED)})
    run.close()
    with pytest.raises(UserError, match="is not our Adafactor's"):
        t5x.flan_to_t5x(tmp_path / "run" / "latest", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*writing*"))


@pytest.mark.parametrize(
    ("shape", "most", "expected"),
    [
        ((), 16, []),
        ((7,), 16, [7]),
        ((7,), 6, [1]),
        ((4096, 10240), 2**24, [4096, 2560]),
        ((32128, 4096), 2**24, [4016, 4096]),
        ((6, 6), 12, [3, 3]),
        ((4, 4, 4), 16, [2, 2, 4]),
    ],
)
def test_chunks_divide_the_largest_dimension_first(
    shape: tuple[int, ...], most: int, expected: list[int]
) -> None:
    assert t5x_write.chunk_shape(shape, most) == expected


def test_large_arrays_are_cut_and_read_again(tmp_path: pathlib.Path) -> None:
    array = np.arange(50 * 40, dtype=np.float32).reshape(50, 40)
    writer = t5x_write.T5XWriter(tmp_path, chunk_bytes=4 * 1600)
    writer.array("target/a/kernel", array)
    writer.inline("state/step", np.asarray(1, np.int32))
    writer.finish()
    names = sorted(path.name for path in (tmp_path / "target.a.kernel").iterdir())
    assert names == [".zarray", "0.0", "1.0"]
    folder = t5x_files.T5XFolder(tmp_path)
    np.testing.assert_array_equal(folder.read("target/a/kernel"), array)
    box = (slice(20, 30), slice(3, 5))
    np.testing.assert_array_equal(folder.read("target/a/kernel", box), array[box])
    tree = msgpack.unpackb((tmp_path / "checkpoint").read_bytes())
    assert tree["optimizer"]["target"]["a"]["kernel"]["metadata"]["chunks"] == [25, 40]
