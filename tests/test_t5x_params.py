"""A run starts from a T5X folder: the same parameters on any mesh, and nothing else of it."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest

from flan_train import checkpoints, launch, sharding, t5x_params
from flan_train.convert.hf_table import flat
from flan_train.errors import UserError
from flan_train.models import t5
from tests import t5x_folder
from tests.models import seeded

UNTIED = seeded.CROSSED["t5_relu_untied"]
LAYOUTS = ("unrolled", "scanned")


def written(folder: pathlib.Path, layout: str, config: t5.T5Config = UNTIED) -> pathlib.Path:
    """Writes a T5X checkpoint by hand and returns its folder."""
    params = t5x_folder.flat_params(config)
    target = (
        t5x_folder.unrolled(params) if layout == "unrolled" else t5x_folder.scanned(params, config)
    )
    return t5x_folder.write(folder, target)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_placed_as_a_mesh_wants_them(layout: str, tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "checkpoint_1000000", layout)
    abstract = t5.abstract_params(UNTIED)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # The last axis over four devices, and the one before it over two, where they divide.
        axes: list[str | None] = [None] * leaf.ndim
        if leaf.shape[-1] % 4 == 0:
            axes[-1] = "model"
        if leaf.ndim > 1 and leaf.shape[-2] % 2 == 0:
            axes[-2] = "data"
        spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=spec)

    wanted = jax.tree.map(place, abstract)
    params, meta = checkpoints.load_params(path, wanted)
    expected = t5x_folder.flat_params(UNTIED)
    for (name, array), leaf in zip(flat(params).items(), jax.tree.leaves(wanted), strict=True):
        assert array.sharding == leaf.sharding
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert meta["model"] == checkpoints.read_meta(path)["model"]


def test_a_run_starts_at_step_0_and_another_model_is_refused(tmp_path: pathlib.Path) -> None:
    path = str(written(tmp_path / "checkpoint_1000000", "unrolled"))
    saved = checkpoints.Checkpoints(tmp_path / "run", checkpoints.CheckpointConfig())
    start = launch.find_start(saved, 10, path, True, t5.abstract_params(UNTIED))
    assert start is None
    assert checkpoints.read_meta(path)["step"] == 1_000_000
    other = t5.abstract_params(seeded.CROSSED["t5_gated_tied"])
    with pytest.raises(UserError, match="are not those of the model") as caught:
        launch.find_start(saved, 10, path, True, other)
    assert "only in the checkpoint: decoder/layers_0/mlp/wi/kernel" in str(caught.value)
    assert "only in the model: decoder/layers_0/mlp/wi_0/kernel" in str(caught.value)


def test_files_that_are_lost_are_told_before_anything_is_read(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "checkpoint_1000000", "unrolled")
    (path / "target.encoder.encoder_norm.scale" / "0").unlink()
    with pytest.raises(UserError, match="1 chunks belong to it"):
        checkpoints.check_params(path, t5.abstract_params(UNTIED))


def test_tables_of_their_own_for_each_layer_are_refused(tmp_path: pathlib.Path) -> None:
    target = t5x_folder.scanned(t5x_folder.flat_params(UNTIED), UNTIED)
    table = target["encoder/encoder/relpos_bias/rel_embedding"].copy()
    table[1, 2, 3] += 1e-3
    target["encoder/encoder/relpos_bias/rel_embedding"] = table
    path = t5x_folder.write(tmp_path / "checkpoint_1000000", target)
    with pytest.raises(UserError, match="tables of relative positions of their own"):
        checkpoints.load_params(path)


def test_the_way_back_from_shapes() -> None:
    params = seeded.params(UNTIED)
    tree = t5x_params.unflattened(flat(params))
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    assert t5x_params.shapes_of(tree) == {k: v.shape for k, v in flat(params).items()}


def test_the_training_presets_place_them(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "checkpoint_1000000", "unrolled")
    partitioner = sharding.Partitioner(
        sharding.make_mesh(sharding.ShardingConfig()), sharding.ShardingConfig().preset
    )
    abstract = t5.abstract_params(UNTIED)
    shardings = partitioner.param_shardings(t5.param_axes(UNTIED), abstract)
    wanted = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        shardings,
    )
    params, _ = checkpoints.load_params(path, wanted)
    jax.tree.map(np.testing.assert_array_equal, params, seeded.params(UNTIED))
