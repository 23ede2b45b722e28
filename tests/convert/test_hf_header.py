"""Safetensors headers that nobody vouches for: taken whole or refused in words, never a crash."""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train.convert import hf_files, hf_header
from flan_train.errors import UserError

WHOLE = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def file_of(header: Any, numbers: int, length: int | None = None) -> bytes:
    """Returns a file with a header, that many bytes of numbers, and the length it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(numbers)


def read(content: bytes) -> dict[str, hf_header.Tensor]:
    """Returns what `hf_header.read` makes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.safetensors"
        path.write_bytes(content)
        return hf_header.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"\0" * 8, "a header of 0 bytes"),
        (file_of({}, 0, 2**63), "a header of 9,223,372,036,854,775,808 bytes"),
        (file_of({}, 0, 100), "a header of 100 bytes in a file of 10"),
        (file_of(b" " * 8_000_001, 0), "a header of 8,000,001 bytes"),
        (file_of(b"\xff\xfe{}", 0), "can't decode"),
        (file_of([], 0), "the header is no object"),
        (file_of(b"[" * 5_000_000, 0), "nested too deeply"),
        (file_of(b'{"a":' * 1_000_000, 0), "nested too deeply"),
        (file_of(b'{"a":' + b"9" * 5000 + b"}", 0), "4300 digits"),
        (file_of(b'{"a": NaN}', 0), "NaN is no finite number"),
        (file_of(b'{"a": 1e999}', 0), "1e999 is no finite number"),
        (file_of(rb'{"\ud800": 1}', 0), "surrogates not allowed"),
        (
            file_of(b'{"a\\u001b[1m": 1, "a\\u001b[1m": 2}', 0),
            r"a\\x1b\[1m is there more than once",
        ),
        (file_of({"__metadata__": {"format": 1}}, 0), "__metadata__ is not text"),
        (file_of({"a": []}, 0), "a has no dtype, shape and data_offsets"),
        (file_of({"a": WHOLE | {"more": 1}}, 24), "a has no dtype, shape and data_offsets"),
        (file_of({"a": WHOLE | {"dtype": "F33"}}, 24), "of no known data type"),
        (file_of({"a": WHOLE | {"dtype": ["F32"]}}, 24), "of no known data type"),
        (file_of({"a": WHOLE | {"shape": [2, -3]}}, 24), "is not up to 16 whole numbers"),
        (file_of({"a": WHOLE | {"shape": [1] * 17}}, 24), "is not up to 16 whole numbers"),
        (file_of({"a": WHOLE | {"shape": [2, 3.0]}}, 24), "is not up to 16 whole numbers"),
        (file_of({"a": WHOLE | {"shape": [True, 6]}}, 24), "is not up to 16 whole numbers"),
        (file_of({"a": WHOLE | {"shape": [2**62, 2**62]}}, 24), r"a has 24 bytes, its shape"),
        (file_of({"a": WHOLE | {"shape": [2, 4]}}, 24), r"a has 24 bytes, .* needs 32"),
        (file_of({"a": WHOLE | {"data_offsets": [24, 0]}}, 24), "a has -24 bytes"),
        (file_of({"a": WHOLE | {"data_offsets": [0]}}, 24), "are not two whole numbers"),
        (file_of({"a": WHOLE | {"data_offsets": [0, 2**64]}}, 24), "are not two whole numbers"),
        (file_of({"a": WHOLE}, 23), "the tensors end at byte .* of"),
        (file_of({"a": WHOLE}, 25), "the tensors end at byte .* of"),
        (file_of({"a": WHOLE, "b": WHOLE}, 48), "b begins at byte .*, expected"),
        (
            file_of({"a": WHOLE, "b": WHOLE | {"data_offsets": [20, 44]}}, 44),
            "b begins at byte .*, expected",
        ),
        (
            file_of({"a": WHOLE, "b": WHOLE | {"data_offsets": [28, 52]}}, 52),
            "b begins at byte .*, expected",
        ),
    ],
)
def test_what_the_format_forbids_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(content)
    assert "model.safetensors cannot be read as safetensors" in str(caught.value)


_sizes = st.one_of(st.integers(-2, 40), st.integers(-(2**70), 2**70), st.booleans(), st.none())
_entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F16", "F64", "BOOL", "F4", "f32", ""]),
        "shape": st.lists(_sizes, max_size=4),
        "data_offsets": st.lists(_sizes, max_size=3),
    }
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    header=st.dictionaries(st.text(max_size=4), _entries | _json, max_size=4),
    numbers=st.integers(0, 64),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_any_header_is_taken_or_refused(
    header: dict[str, Any], numbers: int, length: int | None
) -> None:
    content = file_of(header, numbers, length)
    try:
        found = read(content)
    except UserError:
        return
    # What is taken lies within the file, and the library agrees about it.
    assert all(8 <= tensor.start <= tensor.stop <= len(content) for tensor in found.values())
    library = dict(safetensors.deserialize(content))
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tuple(entry["shape"]) for name, entry in library.items()
    }


@settings(max_examples=200, deadline=None)
@given(
    damage=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 400),
)
def test_damaged_files_are_taken_or_refused(damage: list[tuple[int, int]], cut: int) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.float16)}
    content = bytearray(safetensors.numpy.save(tensors, {"format": "pt"}))
    for place, byte in damage:
        content[place % len(content)] = byte
    content = content[: max(len(content) - cut, 0)] if cut < 20 else content
    try:
        found = read(bytes(content))
    except UserError:
        return
    assert all(8 <= tensor.start <= tensor.stop <= len(content) for tensor in found.values())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["F32", "BF16", "F16"]), st.lists(st.integers(0, 5), max_size=3)),
        max_size=5,
    ),
    st.integers(1, 200),
)
def test_files_are_those_of_the_library(
    kinds: list[tuple[str, list[int]]], shard_bytes: int
) -> None:
    generator = np.random.default_rng(0)
    tensors = {
        f"t{i}": generator.normal(size=shape).astype(hf_files.DTYPES[dtype])
        for i, (dtype, shape) in enumerate(kinds)
    }
    written = [
        hf_files.Written(f"t{i}", dtype, tuple(shape), lambda i=i: iter([tensors[f"t{i}"]]))
        for i, (dtype, shape) in enumerate(kinds)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        hf_files.write_tensors(folder, written)
        expected = safetensors.numpy.save(tensors, {"format": "pt"})
        assert (folder / "model.safetensors").read_bytes() == expected
        (folder / "model.safetensors").unlink()
        hf_files.write_tensors(folder, written, shard_bytes)
        found = {}
        for path in folder.glob("*.safetensors"):
            shard = safetensors.numpy.load_file(path)
            assert len(shard) <= 1 or sum(t.nbytes for t in shard.values()) <= shard_bytes
            found |= shard
        assert found.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert found[key].tobytes() == tensor.tobytes()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=20))
def test_bfloat16_comes_back_bit_for_bit(bits: list[int]) -> None:
    stored = np.array(bits, np.uint16).view(ml_dtypes.bfloat16)  # infinities and NaNs among them
    wide = hf_files.to_float32(stored)
    np.testing.assert_array_equal(wide, stored.astype(np.float32))
    assert hf_files.from_float32(wide, "BF16").tobytes() == stored.tobytes()


def test_rounding_to_bfloat16_is_to_the_nearest() -> None:
    numbers = np.array([1.0, 1.001953125, 1.01171875, -3.3e38], np.float32)
    rounded = hf_files.from_float32(numbers, "BF16")
    np.testing.assert_array_equal(rounded.astype(np.float32)[:3], [1.0, 1.0, 1.015625])
    assert rounded.tobytes() == numbers.astype(ml_dtypes.bfloat16).tobytes()
