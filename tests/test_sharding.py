"""The table of presets, the meshes it is used on, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flan_train import errors, sharding


def partitioner(preset: str, partitions: int = 1, devices: int = 8) -> sharding.Partitioner:
    mesh = sharding.make_mesh(
        sharding.ShardingConfig(preset, partitions), devices=jax.devices()[:devices]
    )
    return sharding.Partitioner(mesh, preset)


@pytest.mark.parametrize(
    ("preset", "partitions", "shape"),
    [
        ("data_parallel", 1, (1, 8, 1, 1)),
        ("fsdp", 1, (1, 1, 8, 1)),
        ("fsdp", 4, (1, 2, 4, 1)),
        ("tensor", 4, (1, 2, 1, 4)),
        ("tensor", 1, (1, 8, 1, 1)),
        ("fsdp_tensor", 2, (1, 1, 4, 2)),
    ],
)
def test_mesh_shapes(preset: str, partitions: int, shape: tuple[int, ...]) -> None:
    for devices in (None, jax.devices()):
        mesh = sharding.make_mesh(sharding.ShardingConfig(preset, partitions), devices)
        assert mesh.axis_names == sharding.MESH_AXES
        assert mesh.devices.shape == shape


def test_one_table_every_column_names_every_axis() -> None:
    names = {frozenset(rules) for rules in sharding.PRESETS.values()}
    assert len(names) == 1
    for rules in sharding.PRESETS.values():
        for over in rules.values():
            assert set(over if isinstance(over, tuple) else [over]) <= {*sharding.MESH_AXES, None}


def test_parameters_and_activations() -> None:
    both = partitioner("fsdp_tensor", 2)
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 16, 8), jnp.float32),
        "scale": jax.ShapeDtypeStruct((3, 16), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    axes = {"kernel": ("layers", "embed", "mlp"), "scale": ("layers", "embed"), "step": ()}
    shardings = both.param_shardings(axes, shapes)
    assert shardings["kernel"].spec == P(None, "fsdp", "tensor")
    assert shardings["scale"].spec == P(None, "fsdp")
    assert shardings["step"].spec == P()
    assert both.batch_sharding().spec == P(sharding.BATCH_AXES)
    assert both.replicated().spec == P()
    assert both.batch_parts == 4
    x = jax.jit(lambda v: both.constrain(v, ("batch", "length", "embed")))(jnp.zeros((8, 4, 16)))
    assert x.sharding.spec[0] == "fsdp"
    assert x.sharding.shard_shape(x.shape) == (2, 4, 16)


def test_values_survive_constraints() -> None:
    heads = partitioner("tensor", 4)
    x = jnp.arange(8 * 3 * 4 * 2.0).reshape(8, 3, 4, 2)
    y = jax.jit(lambda v: heads.constrain(v, ("batch", "length", "heads", "kv")))(x)
    np.testing.assert_array_equal(x, y)
    assert y.sharding.shard_shape(y.shape) == (4, 3, 1, 2)


def test_heads_that_do_not_divide_name_both_sides() -> None:
    heads = partitioner("tensor", 4)
    shapes = {"decoder": {"relpos_bias": jax.ShapeDtypeStruct((6, 32), jnp.float32)}}
    with pytest.raises(errors.UserError) as caught:
        heads.param_shardings({"decoder": {"relpos_bias": ("heads", "buckets")}}, shapes)
    message = str(caught.value)
    assert "'heads' of size 6" in message
    assert "'tensor' of size 4" in message
    assert "decoder/relpos_bias" in message
    assert "1, 2, 3, 6" in message
    with pytest.raises(errors.UserError, match="'heads' of size 6"):
        jax.jit(lambda v: heads.constrain(v, ("batch", "heads")))(jnp.zeros((8, 6)))


def test_batch_that_does_not_divide() -> None:
    rows = partitioner("fsdp")
    rows.check_batch_size(32, 4)
    with pytest.raises(errors.UserError) as caught:
        rows.check_batch_size(24, 2)
    assert "24 sequences" in str(caught.value)
    assert "a multiple of 16" in str(caught.value)
    assert "BATCH_SIZE = 32" in str(caught.value)
    with pytest.raises(errors.UserError, match="0 microbatches"):
        rows.check_batch_size(24, 0)


def test_two_axes_on_one_mesh_axis_raise() -> None:
    heads = partitioner("tensor", 4)
    with pytest.raises(ValueError, match="'heads' and 'mlp' both land on the mesh axis 'tensor'"):
        heads.spec(("heads", "mlp"), (8, 8), what="kernel", activation=False)


def test_unknown_axis_and_wrong_number_of_axes() -> None:
    one = partitioner("data_parallel", devices=1)
    with pytest.raises(ValueError, match="'hedas' is no logical axis"):
        one.spec(("hedas",), (8,), what="kernel", activation=False)
    with pytest.raises(ValueError, match="1 axis names"):
        one.spec(("heads",), (8, 8), what="kernel", activation=False)


def test_refused_settings() -> None:
    with pytest.raises(errors.UserError, match="unknown sharding preset 'tensors'") as caught:
        sharding.make_mesh(sharding.ShardingConfig("tensors"))
    assert "did you mean" in str(caught.value)
    with pytest.raises(errors.UserError, match="8 devices cannot be divided into groups of 3"):
        sharding.make_mesh(sharding.ShardingConfig("tensor", 3))
    with pytest.raises(errors.UserError, match="splits nothing"):
        sharding.make_mesh(sharding.ShardingConfig("data_parallel", 2))


def test_every_host_knows_its_rows() -> None:
    assert partitioner("fsdp_tensor", 2).host_rows(16).tolist() == list(range(16))
    assert (
        "8 devices, preset fsdp_tensor: data 1 x fsdp 4 x tensor 2"
        in partitioner("fsdp_tensor", 2).describe()
    )
