"""Scanned arrays of T5X's, read and written a few chunks at a time."""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import checkpoints, t5x_layout, t5x_params
from flan_train.convert import t5x, t5x_write
from flan_train.convert.hf_table import flat
from flan_train.models import t5
from tests import t5x_folder

CONFIG = t5.T5Config(
    vocab_size=32,
    embed_dim=12,
    num_heads=6,
    head_dim=4,
    mlp_dim=20,
    num_encoder_layers=5,
    num_decoder_layers=3,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
)
SHAPES = t5x_params.shapes_of(t5.abstract_params(CONFIG))
STACKED = [s for s in t5x_layout.sources(SHAPES, t5x_layout.SCANNED) if s.scanned and s.stacked]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_boxes_cover_what_is_wanted_in_whole_chunks(data: Any) -> None:
    source = data.draw(st.sampled_from(STACKED))
    chunk = tuple(data.draw(st.integers(1, size)) for size in source.key_shape)
    starts = [data.draw(st.integers(0, size - 1)) for size in source.shape]
    stops = [data.draw(st.integers(a + 1, n)) for a, n in zip(starts, source.shape, strict=True)]
    wanted = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    ours = np.arange(math.prod(source.shape), dtype=np.float32).reshape(source.shape)
    theirs = source.to_scanned(ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t5x_layout, "_BOX_BYTES", data.draw(st.sampled_from([1, 300, 2**30])))
        boxes = list(source.scanned_boxes(chunk, wanted))
    seen = np.zeros(source.shape, int)
    for there, here in boxes:
        seen[here] += 1
        np.testing.assert_array_equal(source.box_from_scanned(theirs[there]), ours[here])
        np.testing.assert_array_equal(source.box_to_scanned(ours[here], there), theirs[there])
    assert (seen[wanted] == 1).all()
    if wanted == tuple(slice(0, size) for size in source.shape):
        for there, _ in boxes:  # nothing is read or written twice
            for axis in (0, 1):
                assert there[axis].start % chunk[axis] == 0
                end = there[axis].stop
                assert end % chunk[axis] == 0 or end == source.key_shape[axis]


@pytest.fixture
def scanned(tmp_path: pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """A scanned folder in small chunks, and what its parameters are as ours."""
    params = t5x_folder.flat_params(CONFIG)
    folder = tmp_path / "checkpoint_3"
    writer = t5x_write.T5XWriter(make(folder), chunk_bytes=4 * 40)
    for key, array in t5x_folder.scanned(params, CONFIG).items():
        writer.array(f"target/{key}", array)
    writer.inline("state/step", np.asarray(3, np.int32))
    writer.finish()
    return folder, params


def make(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    return folder


def test_small_boxes_give_the_same_numbers(
    scanned: tuple[pathlib.Path, dict[str, np.ndarray]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, params = scanned
    monkeypatch.setattr(t5x_layout, "_BOX_BYTES", 1)
    monkeypatch.setattr(t5x_params, "_IN_FLIGHT_BYTES", 400)
    found, _ = t5x_params.load_params(folder)
    for path, array in flat(found).items():
        np.testing.assert_array_equal(array, params[path], err_msg=path)
    t5x.t5x_to_flan(folder, tmp_path / "ours", params_only=True)
    # The rows of no chunk are read for another's.
    largest = max(array.nbytes for array in params.values())
    there = t5x_params.T5XParams(folder)
    sizes = [b.nbytes for s in STACKED for _, b in there.blocks(s)]
    assert max(sizes) < largest / 4
    for path, array in flat(checkpoints.load_params(tmp_path / "ours")[0]).items():
        np.testing.assert_array_equal(array, params[path], err_msg=path)
    small = functools.partial(t5x_write.T5XWriter, chunk_bytes=4 * 40)
    monkeypatch.setattr(t5x, "T5XWriter", small)
    t5x.flan_to_t5x(tmp_path / "ours", tmp_path / "back")
    back, _ = t5x_params.load_params(tmp_path / "back" / "checkpoint_3")
    jax.tree.map(np.testing.assert_array_equal, back, found)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_device_gets_its_own_part(
    scanned: tuple[pathlib.Path, dict[str, np.ndarray]],
    axis: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, params = scanned
    monkeypatch.setattr(t5x_layout, "_BOX_BYTES", 1)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))

    def abstract(path: Any, leaf: Any) -> Any:
        fits = len(leaf.shape) > axis and leaf.shape[axis] % 2 == 0
        spec = jax.sharding.PartitionSpec(*[None] * axis, "x") if fits else None
        sharding = jax.sharding.NamedSharding(mesh, spec or jax.sharding.PartitionSpec())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    wanted = jax.tree_util.tree_map_with_path(abstract, t5.abstract_params(CONFIG))
    found, _ = t5x_params.load_params(folder, wanted)
    for path, array in flat(found).items():
        np.testing.assert_array_equal(np.asarray(array), params[path], err_msg=path)


def test_a_part_costs_a_part(scanned: tuple[pathlib.Path, dict[str, np.ndarray]]) -> None:
    """Of half of an array's rows about half of it is asked for, however the layers lie."""
    folder, _ = scanned
    there = t5x_params.T5XParams(folder)
    source = next(s for s in STACKED if s.ours == "encoder/layers/mlp/wi_0/kernel")
    asked: list[int] = []
    started = there.folder.started

    def counted(key: str, box: Any = ()) -> Any:
        asked.append(math.prod(part.stop - part.start for part in box))
        return started(key, box)

    there.folder.started = counted  # type: ignore[method-assign]
    layers, rows, columns = source.shape
    box = (slice(0, layers), slice(0, rows // 2), slice(0, columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t5x_layout, "_BOX_BYTES", 1)
        list(there._pieces(source, box))
    assert len(asked) > 1
    assert sum(asked) == layers * rows // 2 * columns
