"""Folders written and read block by block are those that Orbax writes and reads whole."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import checkpoint_checksums, checkpoint_files, checkpoints
from flan_train.convert import slices
from flan_train.errors import UserError

GENERATOR = np.random.default_rng(0)
WI = GENERATOR.normal(size=(3, 8, 4)).astype(np.float32)
TABLE = np.tile(np.array([0.0, -0.0, np.nan, np.inf], np.float32), (6, 1))
TREE = {"encoder": {"layers": {"wi": {"kernel": WI}}}, "table": {"embedding": TABLE}}
SHAPES = {"encoder/layers/wi/kernel": WI.shape, "table/embedding": TABLE.shape}


def write(path: pathlib.Path, **options: Any) -> pathlib.Path:
    """Writes TREE layer by layer and the table in two pieces, and returns the folder."""
    with slices.ParamsWriter(path, SHAPES, **options) as writer:
        for layer in range(3):
            writer.write("encoder/layers/wi/kernel", (layer, slice(2, 8)), WI[layer, 2:])
            writer.write("encoder/layers/wi/kernel", (layer, slice(0, 2)), WI[layer, :2])
        writer.write("table/embedding", (slice(None), slice(1, 4)), TABLE[:, 1:])
        writer.write("table/embedding", (slice(0, 6), slice(0, 1)), TABLE[:, :1])
        writer.commit({"step": 7})
    return path


def assert_same_bits(found: Any, wanted: Any) -> None:
    """Asserts that two trees hold the same float32 bits."""
    jax.tree.map(
        lambda one, two: np.testing.assert_array_equal(
            np.asarray(one).view(np.uint32), np.asarray(two).view(np.uint32)
        ),
        found,
        wanted,
    )


@pytest.mark.parametrize(
    "chunks", [{}, {"encoder/layers/wi/kernel": (1, 8, 3), "table/embedding": (4, 3)}]
)
def test_what_was_written_is_restored_whole_and_sharded(
    chunks: dict[str, tuple[int, ...]], tmp_path: pathlib.Path
) -> None:
    folder = write(tmp_path / "ours", chunks=chunks)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    params, meta = checkpoints.load_params(folder)
    assert meta["step"] == 7
    assert_same_bits(params, TREE)
    recorded = json.loads((folder / "meta" / "metadata").read_text())["checksums"]
    assert recorded["params"] == checkpoint_checksums.of_numpy(TREE)
    assert recorded["shapes"] == {"params": checkpoint_files.described(TREE)}

    mesh = jax.make_mesh((2,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), TREE
    )
    params, _ = checkpoints.load_params(folder, abstract)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(params))
    assert_same_bits(params, TREE)


def test_orbax_by_itself_restores_it(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path / "ours")
    items = ocp.args.Composite(params=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler("params", "meta")) as reader:
        found = reader.restore(folder, args=items)
    assert_same_bits(found.params, TREE)
    assert found.meta["step"] == 7
    with ocp.StandardCheckpointer() as reader:
        assert_same_bits(reader.restore(folder / "params"), TREE)


def test_stored_chunks_hold_one_layer_and_64_mib_at_most() -> None:
    assert slices.chunk_shape("encoder/layers/mlp/wi_0/kernel", (24, 4096, 10240)) == (
        1,
        1638,
        10240,
    )
    assert slices.chunk_shape("encoder/layers/norm/scale", (24, 4096)) == (1, 4096)
    assert slices.chunk_shape("token_embedder/embedding", (250112, 4096)) == (4096, 4096)
    assert slices.chunk_shape("encoder/relpos_bias/rel_embedding", (64, 32)) == (64, 32)
    assert slices.row_blocks((3, 2**30)) == (1, 2**30)


@pytest.mark.parametrize(
    "options", [{}, {"use_ocdbt": False}, {"use_ocdbt": False, "use_zarr3": True}]
)
def test_blocks_are_read_from_whatever_orbax_writes(
    options: dict[str, bool], tmp_path: pathlib.Path
) -> None:
    tree = jax.tree.map(jax.numpy.asarray, TREE)
    tree["half"] = {"scale": jax.numpy.asarray(np.arange(4), jax.numpy.bfloat16)}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as writer:
        writer.save(tmp_path / "params", args=ocp.args.PyTreeSave(tree))
    reader = slices.ParamsReader(tmp_path / "params")
    assert sorted(reader.paths) == sorted([*SHAPES, "half/scale"])
    assert reader.shape("encoder/layers/wi/kernel") == (3, 8, 4)
    found = reader.read("encoder/layers/wi/kernel", (1, slice(2, 5)))
    np.testing.assert_array_equal(found, WI[1, 2:5])
    assert_same_bits(reader.read("table/embedding"), TABLE)
    scale = reader.read("half/scale", (slice(1, 3),))
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, [1, 2])


def test_an_array_in_one_large_chunk_is_read_by_layers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "BLOCK_BYTES", 64)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
        writer.save(tmp_path / "params", args=ocp.args.PyTreeSave(TREE))
    reader = slices.ParamsReader(tmp_path / "params")
    for layer in range(3):
        found = reader.read("encoder/layers/wi/kernel", (layer,))
        np.testing.assert_array_equal(found, WI[layer])


def test_a_folder_that_is_not_filled_is_not_made(tmp_path: pathlib.Path) -> None:
    with slices.ParamsWriter(tmp_path / "ours", SHAPES) as writer:
        writer.write("table/embedding", (), TABLE)
        with pytest.raises(ValueError, match="not written exactly once: encoder/layers/wi/kernel"):
            writer.commit({})
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        slices.ParamsWriter(tmp_path / "there", SHAPES)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the folder cannot be made"):
        slices.ParamsWriter(tmp_path / "file" / "new", SHAPES)
    with slices.ParamsWriter(tmp_path / "new", SHAPES) as writer:
        # What takes a folder's place while it is written: its disk, its permissions, another file.
        unfinished = tmp_path / f".new.writing-{os.getpid()}"
        (unfinished / "arrays" / "table.embedding").touch()
        with pytest.raises(UserError, match="the folder"):
            writer.write("table/embedding", (), TABLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


def _described(keys: Any = None, **changes: Any) -> str:
    entry = {"key_metadata": keys or [{"key": "a", "key_type": 2}]}
    return json.dumps({"tree_metadata": {"a": entry}, "use_ocdbt": False} | changes)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 200_000,
        "{}",
        _described(tree_metadata=[1]),
        _described(tree_metadata={"a": 1}),
        _described(tree_metadata={"a": {"key_metadata": [{}]}}),
    ],
)
def test_a_broken_description_is_named(content: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "_METADATA").write_text(content)
    with pytest.raises(UserError, match="_METADATA cannot be read"):
        slices.ParamsReader(tmp_path)


@pytest.mark.parametrize(
    ("zarray", "message"),
    [
        (None, "cannot be read"),
        ({"dtype": "<i4"}, r"table/embedding is int32 \[6, 4\]"),
        ({"chunks": [6, 2**40]}, r"chunks \[6, 1099511627776\]"),
        ({"chunks": [6, 0]}, "cannot be read"),
        ({"shape": "six"}, "cannot be read"),
    ],
)
def test_a_broken_array_is_named(
    zarray: dict[str, Any] | None, message: str, tmp_path: pathlib.Path
) -> None:
    file = write(tmp_path / "ours") / "params" / "table.embedding" / ".zarray"
    if zarray is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | zarray))
    with pytest.raises(UserError, match=message):
        slices.ParamsReader(tmp_path / "ours" / "params").read("table/embedding")


def test_a_torn_chunk_is_named(tmp_path: pathlib.Path) -> None:
    chunk = write(tmp_path / "ours") / "params" / "encoder.layers.wi.kernel" / "1.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    reader = slices.ParamsReader(tmp_path / "ours" / "params")
    with pytest.raises(UserError, match=r"encoder\.layers\.wi\.kernel cannot be read"):
        reader.read("encoder/layers/wi/kernel", (1,))


@settings(max_examples=6, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    cuts=st.integers(1, 3),
    bits=st.integers(0, 2**32 - 1),
)
def test_any_array_in_any_pieces(shape: tuple[int, ...], cuts: int, bits: int) -> None:
    generator = np.random.default_rng(bits)
    array = generator.integers(0, 2**32, shape, np.uint32).view(np.float32)
    with tempfile.TemporaryDirectory() as name:
        with slices.ParamsWriter(pathlib.Path(name) / "x", {"layers/a": shape}) as writer:
            for start in range(0, shape[0], cuts):
                rows = slice(start, min(start + cuts, shape[0]))
                writer.write("layers/a", (rows,), np.asfortranarray(array[rows]))
            writer.commit({})
        found = slices.ParamsReader(pathlib.Path(name) / "x" / "params").read("layers/a")
    assert found.tobytes() == array.tobytes()


def test_checksums_of_bfloat16_are_those_of_what_is_kept(tmp_path: pathlib.Path) -> None:
    array = np.arange(6, dtype=ml_dtypes.bfloat16).astype(np.float32)
    sums = slices.Checksums({"a": (6,)})
    sums.add("a", (slice(3, 6),), array[3:])
    sums.add("a", (slice(0, 3),), array[:3])
    assert sums.texts() == checkpoint_checksums.of_numpy({"a": array})
