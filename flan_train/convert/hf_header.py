"""Headers of safetensors files: read from files nobody vouches for, and written.

A file is the length of its header (8 bytes, little endian), the header (JSON: tensor -> data type,
shape, place), and the numbers. Everything the header says is checked against the file's size before
any number is read, by the rules of the format (github.com/huggingface/safetensors, README):
numbers without gaps and overlaps, as many bytes as a shape needs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from flan_train.errors import UserError

JSON_BYTES = 8_000_000  # of a header or an index; those of T5 XXL are under 100 kB
_AXES = 16
_METADATA = "__metadata__"
# Bits of each data type the format has, in the order in which the safetensors library ranks them;
# which of them a model may use is not decided here.
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor's numbers stand: `start` and `stop` are bytes from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read(path: pathlib.Path) -> dict[str, Tensor]:
    """Returns what each tensor of a file is and where it stands; reads the header alone.

    Raises:
      UserError: the file cannot be read, or is not what the format allows.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, JSON_BYTES):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = parse_json(file.read(length))
        return _tensors(header, 8 + length, size)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error})",
            where=str(path),
            expected="a whole safetensors file",
            fix="download it again",
        ) from error


def write(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, dict[str, Tensor]]:
    """Returns the beginning of a file with these tensors, and where each goes.

    Args:
      tensors: name, data type and shape of each; they are laid out as the safetensors library
        does, by falling rank of the data type and then by name.
    """
    ranks = list(_BITS)
    ordered = sorted(tensors, key=lambda tensor: (-ranks.index(tensor[1]), tensor[0]))
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    position = 0
    for name, dtype, shape in ordered:
        stop = position + math.prod(shape) * _BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    places = {
        name: Tensor(dtype, shape, *(begin + offset for offset in header[name]["data_offsets"]))
        for name, dtype, shape in ordered
    }
    return len(text).to_bytes(8, "little") + text, places


def parse_json(content: bytes) -> Any:
    """Returns what JSON in UTF-8 says.

    Raises:
      ValueError: it is no JSON, nested too deeply, repeats a key, or holds NaN, an infinity or
        characters that no text may have.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in pairs:
            if key in found:
                raise ValueError(f"the key {shown(key)} is there more than once")
            found[key] = item
        return found

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(f"{text[:40]} is no finite number")
        return number

    try:
        text = content.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite
        )
        if "\\u" in text:  # an escape can spell half a character, which nothing can print
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def shown(name: str) -> str:
    """Returns a name out of a file as a message may show it: one line of bounded length."""
    name = name if name.isprintable() else ascii(name)[1:-1]
    return name if len(name) <= 120 else f"{name[:117]}..."


def _tensors(header: Any, begin: int, size: int) -> dict[str, Tensor]:
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{_METADATA} is not text")
    found = {name: _tensor(name, entry, begin) for name, entry in header.items()}
    position = begin
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != position:
            raise ValueError(
                f"{shown(name)} begins at byte {tensor.start:,}, expected {position:,}"
            )
        position = tensor.stop
    if position != size:
        raise ValueError(f"the tensors end at byte {position:,} of {size:,}")
    return found


def _tensor(name: str, entry: Any, begin: int) -> Tensor:
    title = shown(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{title} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{title} is of no known data type")
    if not _whole_numbers(shape) or len(shape) > _AXES:
        raise ValueError(f"the shape of {title} is not up to {_AXES} whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise ValueError(f"the data_offsets of {title} are not two whole numbers")
    bits = math.prod(shape) * _BITS[dtype]
    if offsets[1] - offsets[0] != bits // 8 or bits % 8:
        raise ValueError(
            f"{title} has {offsets[1] - offsets[0]:,} bytes, its shape {shape} needs {bits // 8:,}"
        )
    return Tensor(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
