"""Checksums: the same however an array is laid out, and no change of a bit stays unseen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import checkpoint_checksums, sharding
from flan_train.checkpoint_checksums import block, checksums, of_numpy, on_devices, text

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "bool")


def random_array(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    width = np.dtype(jnp.dtype(dtype)).itemsize
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, width), dtype=np.uint8)
    if dtype == "bool":
        return raw[..., 0] > 127
    return raw.view(jnp.dtype(dtype)).reshape(shape)  # infinities and NaN among them


shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)


@settings(deadline=None, max_examples=60)
@given(shapes, st.sampled_from([*DTYPES, "float64", "int64"]), st.integers(0, 99), st.data())
def test_parts_add_up_and_a_flipped_bit_shows(
    shape: tuple[int, ...], dtype: str, seed: int, data: st.DataObject
) -> None:
    array = random_array(shape, dtype, seed)
    whole = block(array, (0,) * len(shape), shape)
    assert block(np.array(array, order="F"), (0,) * len(shape), shape) == whole
    # Cut into parts, axis by axis.
    parts = [tuple(slice(0, n) for n in shape)]
    for axis, size in enumerate(shape):
        at = data.draw(st.integers(0, size))
        cuts = [(slice(0, at), slice(at, size)) for _ in parts]
        parts = [
            (*part[:axis], each, *part[axis + 1 :])
            for part, both in zip(parts, cuts, strict=True)
            for each in both
        ]
    sums = [block(array[part], tuple(s.start for s in part), shape) for part in parts]
    assert text((sum(s[0] for s in sums), sum(s[1] for s in sums))) == text(whole)
    if array.size and dtype != "bool":
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()
        bit = data.draw(st.integers(0, 8 * raw.size - 1))
        raw[bit // 8] ^= 1 << bit % 8
        changed = block(raw.view(array.dtype).reshape(shape), (0,) * len(shape), shape)
        assert changed[0] != whole[0]
        assert changed[1] != whole[1]


@pytest.mark.parametrize("shape", [(2**18 + 7,), (3, 2**17, 3), (700, 3, 401), (1, 1, 2**18 + 1)])
def test_large_arrays_are_worked_on_in_pieces(shape: tuple[int, ...]) -> None:
    array = random_array(shape, "float32", 3)
    words = array.reshape(-1).view(np.uint32).astype(object)
    sample = np.linspace(0, array.size - 1, 50).astype(int)
    # What the definition says, of what is left when all else is zero.
    lonely = np.zeros(array.size, np.uint32)
    lonely[sample] = array.reshape(-1).view(np.uint32)[sample]
    zeros = block(np.zeros(shape, np.float32), (0,) * len(shape), shape)
    linear = mixed = 0
    for at in sample.tolist():
        key = (at * 0x9E3779B1 + 0x7F4A7C15) % 2**32
        linear += words[at] * (key | 1)
        mixed += mix(words[at] ^ key) - mix(key)
    found = block(lonely.view(np.float32).reshape(shape), (0,) * len(shape), shape)
    assert zeros[0] == 0
    assert found[0] == linear % 2**32
    assert (found[1] - zeros[1]) % 2**32 == mixed % 2**32
    assert of_numpy({"x": array}) == checksums({"x": jnp.asarray(array)})


def mix(x: int) -> int:
    y = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    return y ^ y >> 15


@pytest.mark.parametrize(
    ("preset", "partitions", "devices"), [("fsdp_tensor", 2, 8), ("fsdp", 1, 4)]
)
def test_any_sharding_gives_the_same(preset: str, partitions: int, devices: int) -> None:
    tree: Any = {
        "block": {"kernel": random_array((2, 16, 8), "float32", 1)},
        "norm": random_array((16,), "bfloat16", 2),
        "count": np.int32(7),
    }
    expected = of_numpy(tree)
    assert set(expected) == {"block/kernel", "norm", "count"}
    config = sharding.ShardingConfig(preset, partitions)
    on = sharding.Partitioner(sharding.make_mesh(config, jax.devices()[:devices]), preset)
    axes = {"block": {"kernel": ("layers", "embed", "mlp")}, "norm": ("embed",), "count": ()}
    placed = jax.device_put(tree, on.param_shardings(axes, jax.eval_shape(lambda: tree)))
    assert not placed["block"]["kernel"].sharding.is_fully_replicated
    assert checksums(placed) == expected
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(placed)
    ]
    compiled = on_devices(jax.tree.leaves(placed))
    assert dict(zip(names, map(text, compiled), strict=True)) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_compiled_program_agrees_with_numpy(dtype: str) -> None:
    array = random_array((5, 3, 7), dtype, 4)
    assert on_devices([jnp.asarray(array)]) == [block(array, (0, 0, 0), array.shape)]


def test_exchanged_numbers_and_zeros_show() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 12)
    sums = {text(block(each, (0, 0), (2, 12))) for each in (array, array[::-1], array[:, ::-1])}
    assert len(sums) == 3
    assert of_numpy({"x": np.zeros((2, 3))}) != of_numpy({"x": np.zeros((3, 3))})
    assert checksums({}) == of_numpy({}) == {}
    one, two = {"a": "1", "b": "2"}, {"b": "3", "c": "1"}
    assert checkpoint_checksums.differing(one, two) == ["a", "b", "c"]
    assert checkpoint_checksums.differing(one, one) == []


def test_a_digest_is_the_same_after_json() -> None:
    value = {"b": (1, 2.5), "a": {3: None}}
    again = {"a": {"3": None}, "b": [1, 2.5]}
    assert checkpoint_checksums.digest(value) == checkpoint_checksums.digest(again)
    assert checkpoint_checksums.digest(value) != checkpoint_checksums.digest({"b": [1, 2.4]})


def test_large_arrays_in_another_order_are_not_copied_whole() -> None:
    """Above what is put in order at a time: in parts, which add up to the same."""
    array = random_array((2100, 2100), "float32", 0)
    whole = block(array, (0, 0), array.shape)
    for changed in (np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2]):
        assert not changed.flags.c_contiguous
        assert block(changed, (0, 0), array.shape) == whole
    assert block(array[:, 5:], (0, 5), array.shape) == block(
        np.asfortranarray(array[:, 5:]), (0, 5), array.shape
    )
