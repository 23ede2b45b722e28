"""Checksums of arrays that do not depend on how the arrays are laid out.

An array is a row of 32-bit words w[0], w[1], ... in row-major order (a number of 16 or 8 bits is a
word of its own, one of 64 bits is two), with a key k[i] = i * A + B for each place. Two sums modulo
2^32 are kept:

    linear: w[i] * (k[i] | 1)
    mixed:  g(w[i] ^ k[i]), with g(x) = y ^ (y >> 15), y = (x ^ (x >> 16)) * C

For one place both are one-to-one in w[i], so a change of one word always shows; other changes stay
unseen about once in 2^64. Sums of integers are the same in any order: `checksums` gives the same
text for any sharding, number of devices or processes, `of_numpy` for the same numbers on the host,
and the sums that `block` gives of disjoint parts of an array add up to those of the whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Sums = tuple[int, int]

_A, _B, _C = 0x9E3779B1, 0x7F4A7C15, 0x85EBCA6B  # as in the kernel; _A, _C are odd
_MASK = 2**32 - 1
_COPIED = 1 << 24  # bytes of numbers in another order that are put in order at a time
_WORD_OF = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}


def checksums(tree: Any) -> dict[str, str]:
    """Returns path -> checksum of every JAX array of a tree, computed where the arrays are.

    On a CPU, whose memory the host reads as it is, by a loop that is compiled once for all. With
    several processes each of them has to call this, and each gets the same.

    Args:
      tree: arrays of 8, 16, 32 or 64 bits a number; a path has "/" between its parts.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    arrays = [jnp.asarray(leaf) for _, leaf in leaves]
    if all(_on_this_host(array) for array in arrays):
        sums = [_of_shards(array) for array in arrays]
    else:
        sums = on_devices(arrays)
    return {name: text(each) for name, each in zip(names, sums, strict=True)}


def on_devices(arrays: Sequence[jax.Array]) -> list[Sums]:
    """Returns the sums of each array, computed by a compiled program on its own devices."""
    # One program for each shape and layout: a model has many arrays, but few shapes.
    started = []
    for array in arrays:
        started.append(_program(_replicated(array))(array))
        if jax.default_backend() == "cpu":
            # Processors run programs beside each other, each process in an order of its own: sums
            # over processes would wait for each other for ever.
            jax.block_until_ready(started[-1])
    return [(int(one), int(two)) for one, two in jax.device_get(started)]


def of_numpy(tree: Any) -> dict[str, str]:
    """Returns what `checksums` does for the same numbers in numpy arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    found = {}
    for path, leaf in leaves:
        values = np.asarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = text(block(values, (0,) * values.ndim, values.shape))
    return found


def block(values: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> Sums:
    """Returns the two sums of a rectangular part of an array; those of disjoint parts add up.

    Args:
      values: the part, in any memory order.
      start: where it begins in the array, an index for each axis.
      shape: of the whole array.
    """
    from flan_train import checkpoint_checksums_kernel

    values = np.asarray(values)
    if values.size == 0:
        return 0, 0
    if values.ndim == 0:
        values, start, shape = values.reshape(1), (0,), (1,)
    if not values.flags.c_contiguous and values.nbytes > _COPIED:
        axis = next(a for a in range(values.ndim) if values.shape[a] > 1)
        linear = mixed = 0
        for part, first in _halves(values, axis):
            moved = (*start[:axis], start[axis] + first, *start[axis + 1 :])
            one, two = block(part, moved, shape)
            linear, mixed = linear + one, mixed + two
        return linear & _MASK, mixed & _MASK
    if values.dtype.itemsize == 8:  # two words for each number of the last axis
        start, shape = (*start[:-1], 2 * start[-1]), (*shape[:-1], 2 * shape[-1])
    words = np.ascontiguousarray(values).view(_WORD_OF[values.dtype.itemsize])
    # Axes after `cut` are whole: from there on words follow each other in the whole array as well.
    cut = words.ndim - 1
    while cut and words.shape[cut] == shape[cut]:
        cut -= 1
    firsts = np.zeros((1,) * (cut + 1), np.uint64)
    for axis in range(cut + 1):
        count = words.shape[axis] if axis < cut else 1
        places = np.arange(start[axis], start[axis] + count, dtype=np.uint64)
        on_axis = [-1 if each == axis else 1 for each in range(cut + 1)]
        firsts = firsts + (places * np.uint64(math.prod(shape[axis + 1 :]))).reshape(on_axis)
    rows = words.reshape(firsts.size, -1)
    linear, mixed = checkpoint_checksums_kernel.sums(rows, firsts.reshape(-1).astype(np.uint32))
    return int(linear), int(mixed)


def text(sums: Sums) -> str:
    """Returns the sums of a whole array as they are recorded: 16 hex digits."""
    return "".join(f"{each & _MASK:08x}" for each in sums)


def digest(value: Any) -> str:
    """Returns the sha256 of what JSON holds, the same before and after it was written and read."""
    plain = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def differing(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Returns the paths whose checksums differ, or that only one side has, sorted."""
    return sorted(
        path for path in recorded.keys() | found.keys() if recorded.get(path) != found.get(path)
    )


def _halves(values: np.ndarray, axis: int) -> list[tuple[np.ndarray, int]]:
    """Returns both halves of an array along an axis, and where each begins."""
    middle = values.shape[axis] // 2
    one, two = np.split(values, [middle], axis)
    return [(one, 0), (two, middle)]


def _on_this_host(array: jax.Array) -> bool:
    platforms = {str(getattr(device, "platform", "")) for device in array.sharding.device_set}
    return array.is_fully_addressable and platforms == {"cpu"}


def _of_shards(array: jax.Array) -> Sums:
    linear = mixed = 0
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            start = tuple(part.start or 0 for part in shard.index)
            one, two = block(np.asarray(shard.data), start, array.shape)
            linear, mixed = linear + one, mixed + two
    return linear, mixed


def _replicated(array: jax.Array) -> jax.sharding.Sharding | None:
    sharding = array.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return None


@functools.lru_cache(maxsize=64)
def _program(out: jax.sharding.Sharding | None) -> Any:
    return jax.jit(_of_one, out_shardings=out)


def _of_one(array: jax.Array) -> jax.Array:
    """Returns the two sums of an array, uint32 [2]."""
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    kind = _WORD_OF[array.dtype.itemsize]
    # 64 bits become two words along a new last axis, the lower half first, as numpy's view does.
    words = jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)
    keys = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) * _A & _MASK
        keys += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
    keys += jnp.uint32(_B)
    x = words ^ keys
    x = (x ^ (x >> 16)) * jnp.uint32(_C)
    x = x ^ (x >> 15)
    linear = words * (keys | jnp.uint32(1))
    return jnp.stack([linear.sum(dtype=jnp.uint32), x.sum(dtype=jnp.uint32)])
