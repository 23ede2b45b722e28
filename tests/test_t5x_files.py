"""Files of T5X from anywhere: what is not as T5X writes it is refused, whatever it is."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_train import checkpoints, t5x_files, t5x_params
from flan_train.errors import UserError
from tests import t5x_folder

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def small(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """Returns a checkpoint of one parameter, in four chunks."""
    folder.mkdir()
    leaf = t5x_folder.stored(folder, "target.a.kernel", WEIGHTS, chunks=(2, 2))
    state = {"target": {"a": {"kernel": leaf}}, "state": {"step": t5x_folder.inline(np.int32(3))}}
    (folder / "checkpoint").write_bytes(msgpack.packb({"version": 3, "optimizer": state} | changes))
    return folder


def changed(folder: pathlib.Path, change: Callable[[dict[str, Any]], object]) -> pathlib.Path:
    """Returns the checkpoint with its spec of the one parameter changed in place."""
    file = folder / "checkpoint"
    tree = msgpack.unpackb(file.read_bytes())
    change(tree["optimizer"]["target"]["a"]["kernel"])
    file.write_bytes(msgpack.packb(tree))
    return folder


def read_all(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every array of a folder."""
    folder = t5x_files.T5XFolder(path)
    assert folder.step >= 0
    return {key: folder.read(key) for key in folder.leaves}


def test_reads_arrays_in_chunks_whole_and_in_part(tmp_path: pathlib.Path) -> None:
    folder = t5x_files.T5XFolder(small(tmp_path / "checkpoint_3"))
    assert folder.step == 3
    assert folder.leaves["target/a/kernel"].shape == (4, 3)
    np.testing.assert_array_equal(folder.read("target/a/kernel"), WEIGHTS)
    box = (slice(1, 3), slice(2, 3))
    np.testing.assert_array_equal(folder.read("target/a/kernel", box), WEIGHTS[box])
    by_file = t5x_files.T5XFolder(tmp_path / "checkpoint_3" / "checkpoint")
    assert by_file.leaves.keys() == folder.leaves.keys()
    assert t5x_files.steps_inside(tmp_path) == [3]
    assert not t5x_files.is_t5x(tmp_path)


def test_the_place_before_tensorstore_0_1_14_is_known(tmp_path: pathlib.Path) -> None:
    folder = changed(
        small(tmp_path / "c"), lambda spec: spec.update(path=spec["kvstore"].pop("path"))
    )
    np.testing.assert_array_equal(read_all(folder)["target/a/kernel"], WEIGHTS)


@pytest.mark.parametrize(
    "name",
    [
        "../secret/",
        "/etc/",
        "a/../../secret",
        "a//b",
        "./target.a.kernel",
        "..\\secret",
        "",
        "/",
        "nul\0",
        7,
        None,
        "x" * 1000,
        ["target.a.kernel"],
    ],
)
def test_paths_do_not_leave_the_folder(name: object, tmp_path: pathlib.Path) -> None:
    small(tmp_path / "secret")
    folder = changed(small(tmp_path / "c"), lambda spec: spec["kvstore"].update(path=name))
    with pytest.raises(UserError) as caught:
        read_all(folder)
    assert "outside of the folder" in str(caught.value) or "cannot be read" in str(caught.value)


@pytest.mark.parametrize(
    "what", ["target.a.kernel", "target.a.kernel/0.0", "target.a.kernel/.zarray"]
)
def test_links_do_not_leave_the_folder(what: str, tmp_path: pathlib.Path) -> None:
    folder = small(tmp_path / "c")
    outside = small(tmp_path / "secret") / what
    inside = folder / what
    if inside.is_dir():
        shutil.rmtree(inside)
    else:
        inside.unlink()
    os.symlink(outside, inside)
    with pytest.raises(UserError, match="leads out of the checkpoint's folder"):
        read_all(folder)


def _set(*path: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(spec: dict[str, Any]) -> None:
        for name in path[:-1]:
            spec = spec[name]
        spec[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("driver", value="n5"), "is stored as 'n5'"),
        (_set("kvstore", "driver", value="http"), "on 'http'"),
        (_set("kvstore", value="http://example.org"), "no description"),
        (_set("metadata", value=None), "no description"),
        (_set("metadata", "shape", value=[-1, 3]), "the shape"),
        (_set("metadata", "shape", value=[2**62, 3]), "the shape"),
        (_set("metadata", "shape", value=[4.0, 3]), "the shape"),
        (_set("metadata", "shape", value=[True, 3]), "the shape"),
        (_set("metadata", "shape", value=[2**39, 3]), "says otherwise"),
        (_set("dtype", value="object"), "data type 'object'"),
        (_set("dtype", value="bfloat16"), "says otherwise"),
        (_set("transform", value={}), "is stored as"),
    ],
)
def test_descriptions_that_t5x_does_not_write(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_all(changed(small(tmp_path / "c"), change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zarr_format": 3}, "says otherwise"),
        ({"dtype": "|O"}, "says otherwise"),
        ({"filters": [{"id": "pickle"}]}, "says otherwise"),
        ({"compressor": {"id": "pickle"}}, "compressed by 'pickle'"),
        ({"compressor": None}, "cannot be read"),
        ({"chunks": [2**40 - 1, 2**40 - 1]}, "chunks are of the shape"),
        ({"chunks": [0, 2]}, "chunks are of the shape"),
        ({"chunks": [1, 1]}, "12 chunks belong to it"),
        ({"chunks": [4, 3], "order": "X"}, "cannot be read"),
    ],
)
def test_zarr_metadata_that_t5x_does_not_write(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    folder = small(tmp_path / "c")
    file = folder / "target.a.kernel" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_all(folder)


def test_an_absurd_shape_allocates_nothing(tmp_path: pathlib.Path) -> None:
    folder = changed(small(tmp_path / "c"), _set("metadata", "shape", value=[2**20, 2**20]))
    file = folder / "target.a.kernel" / ".zarray"
    described = json.loads(file.read_text()) | {"shape": [2**20, 2**20], "chunks": [2**19, 2**19]}
    file.write_text(json.dumps(described))
    # The four chunks it takes are there; they are just too small to hold a terabyte each.
    with pytest.raises(UserError, match="too small for its shape"):
        read_all(folder)


def test_a_chunk_that_is_lost_or_torn_is_told(tmp_path: pathlib.Path) -> None:
    folder = small(tmp_path / "c")
    chunk = folder / "target.a.kernel" / "1.1"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-12])
    with pytest.raises(UserError, match=r"target\.a\.kernel cannot be read"):
        read_all(folder)
    chunk.unlink()
    # Any other reader takes it for zeros.
    with pytest.raises(UserError, match="chunks belong to it"):
        read_all(folder)
    (folder / "target.a.kernel" / "7.7").write_bytes(whole)
    with pytest.raises(UserError, match="4 chunks belong to it, but 3 are there"):
        read_all(folder)
    shutil.rmtree(folder / "target.a.kernel")
    with pytest.raises(UserError, match=r"\.zarray cannot be read"):
        read_all(folder)


def bomb(depth: int) -> bytes:
    """Returns msgpack maps within maps."""
    return b"\x81\xa1a" * depth + b"\x01"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as msgpack"),
        (b"model_checkpoint_path: 'model.ckpt-1000'", "a TensorFlow checkpoint"),
        (b"\x93\x01\x02\x03", "holds a list"),
        (b"\xdd\xff\xff\xff\xff", "cannot be read as msgpack"),
        (b"\xdf\xff\xff\xff\xff", "cannot be read as msgpack"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "cannot be read as msgpack"),
        (bomb(100_000), "cannot be read as msgpack"),
        (b"\x82\xa7version\x03\xa9optimizer" + bomb(400), "nested more than"),
        (b"\x82\xa1a\x01\xa1a\x02", "is there twice"),
        (b"\x81\x01\x02", "cannot be read as msgpack"),
        (b"\x81\xa1a\xd4\x05a", "unknown kind 5"),
        (b"\x81\xa1a\xc7\x03\x01\xdd\xff\xff", "cannot be read as msgpack"),
        (b"\x80", "its version is None"),
        (b"\x81\xa7version\x01", "its version is 1"),
        (b"\x81\xa7version\x03", "no training state"),
    ],
)
def test_damaged_msgpack(content: bytes, message: str, tmp_path: pathlib.Path) -> None:
    folder = small(tmp_path / "c")
    (folder / "checkpoint").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_all(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (([2**30], "float32", b""), "other than so many numbers"),
        (([1], "object", b"\0" * 8), "type 'object'"),
        (([-1], "float32", b"\0" * 4), "an array of shape"),
        (([1], "float32", "text"), "other than so many numbers"),
        (([1], "float32"), "without shape"),
    ],
)
def test_damaged_arrays_in_msgpack(
    fields: tuple[Any, ...], message: str, tmp_path: pathlib.Path
) -> None:
    step = msgpack.ExtType(1, msgpack.packb(fields))
    with pytest.raises(UserError, match=message):
        read_all(small(tmp_path / "c", optimizer={"state": {"step": step}}))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"state": {}}, "its step is missing"),
        ({"state": {"step": t5x_folder.inline(np.zeros(2, np.int32))}}, "its step is missing"),
        ({"state": {"step": -1}}, "its step is missing"),
        ({"target": {"a/b": 1}}, "it has the name"),
        ({"target": {"a\n": 1}}, "it has the name"),
        ({"target": {"a": "text"}}, "of the kind str"),
    ],
)
def test_states_that_t5x_does_not_write(
    state: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_all(small(tmp_path / "c", optimizer=state))


def test_what_is_no_checkpoint_is_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no native T5X checkpoint"):
        t5x_files.T5XFolder(tmp_path / "nowhere")
    small(tmp_path / "checkpoint_30")
    small(tmp_path / "checkpoint_4")
    with pytest.raises(UserError, match="no native T5X checkpoint") as caught:
        t5x_files.T5XFolder(tmp_path)
    assert "checkpoint_30" in str(caught.value)
    with pytest.raises(UserError, match="are not those of a T5 of T5X's"):
        checkpoints.load_params(tmp_path / "checkpoint_4")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, bytes]:
    """A checkpoint to spoil, and its msgpack file as it was."""
    folder = small(tmp_path_factory.mktemp("fuzz") / "c")
    return folder, (folder / "checkpoint").read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_spoilt_msgpack_gives_numbers_or_an_error_of_ours(
    fuzzed: tuple[pathlib.Path, bytes], data: st.DataObject
) -> None:
    folder, whole = fuzzed
    spoilt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(spoilt) - 1))
        kind = data.draw(st.sampled_from(("byte", "cut", "put")))
        if kind == "byte":
            spoilt[place] = data.draw(st.integers(0, 255))
        elif kind == "put":
            spoilt[place:place] = data.draw(st.binary(max_size=8))
        else:
            del spoilt[place:]
            break
        if not spoilt:
            break
    (folder / "checkpoint").write_bytes(spoilt)
    try:
        read_all(folder)
        t5x_params.read_meta(folder)
    except UserError:
        pass


@settings(max_examples=80, deadline=None)
@given(
    content=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=4) | st.binary(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(("driver", "kvstore", "metadata", "path", "shape", "a")),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ).map(lambda tree: msgpack.packb({"version": 3, "optimizer": {"target": tree}}))
)
def test_any_msgpack_gives_an_error_of_ours(
    fuzzed: tuple[pathlib.Path, bytes], content: bytes
) -> None:
    folder, _ = fuzzed
    (folder / "checkpoint").write_bytes(content)
    with pytest.raises(UserError):
        t5x_params.read_meta(folder)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=80), name=st.sampled_from((".zarray", "0.0")))
def test_spoilt_arrays_give_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    folder = small(tmp_path_factory.mktemp("array") / "c")
    (folder / "target.a.kernel" / name).write_bytes(content)
    with pytest.raises(UserError):
        read_all(folder)
