"""What a SentencePiece model file says of itself: its pieces, switches and normalisation rules.

The file is a protocol buffer (sentencepiece_model.proto of the SentencePiece project). The few
fields needed are read from its bytes here, since the class that the sentencepiece package brings
for it works with some versions of protobuf only.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator

import numpy as np

UNIGRAM = 1
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers of ModelProto, its pieces, its trainer's settings and its normaliser's.
_PIECES, _TRAINER, _NORMALISER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SUFFIX, _BYTE_FALLBACK = 3, 24, 35
_RULES, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """The content of a model file.

    Attributes:
      pieces: (text, log probability, type) of each id.
      model_type: UNIGRAM or another.
      byte_fallback: unknown characters become pieces for their bytes.
      whitespace_as_suffix: a space belongs to the word before it.
      add_dummy_prefix: a space goes before the text.
      remove_extra_whitespaces: one space stands for several, and none at either end.
      escape_whitespaces: a space is written as U+2581.
      rules: the normalisation rules as stored; empty for none.
    """

    pieces: tuple[tuple[str, float, int], ...]
    model_type: int
    byte_fallback: bool
    whitespace_as_suffix: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    rules: bytes


def check(content: bytes) -> None:
    """Raises ValueError for a model file that SentencePiece had better not load.

    It follows the places that normalisation rules name without looking whether they are inside: a
    file with one byte altered can end the process.
    """
    Rules(read(content).rules).check()


def read(content: bytes) -> ModelFile:
    """Returns what the bytes of a model file say.

    Raises:
      ValueError: they are no such file after all.
    """
    try:
        return _read(content)
    except (IndexError, struct.error, TypeError) as error:
        raise ValueError(f"no SentencePiece model: {error}") from error


def _read(content: bytes) -> ModelFile:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int | bytes] = {}
    normaliser: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if isinstance(value, int):
            continue
        if number == _PIECES:
            fields = dict(_fields(value))
            score = fields.get(_SCORE, b"\0\0\0\0")
            pieces.append(
                (
                    _as_bytes(fields.get(_PIECE, b"")).decode("utf-8"),
                    struct.unpack("<f", _as_bytes(score))[0],
                    int(fields.get(_TYPE, NORMAL)),
                )
            )
        elif number == _TRAINER:
            trainer.update(_fields(value))
        elif number == _NORMALISER:
            normaliser.update(_fields(value))
    return ModelFile(
        pieces=tuple(pieces),
        model_type=int(trainer.get(_MODEL_TYPE, UNIGRAM)),
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        whitespace_as_suffix=bool(trainer.get(_SUFFIX, 0)),
        add_dummy_prefix=bool(normaliser.get(_DUMMY_PREFIX, 1)),
        remove_extra_whitespaces=bool(normaliser.get(_REMOVE_SPACES, 1)),
        escape_whitespaces=bool(normaliser.get(_ESCAPE_SPACES, 1)),
        rules=_as_bytes(normaliser.get(_RULES, b"")),
    )


def _as_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where a text was expected")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (field number, value) of a message; a nested message or a float comes as bytes."""
    position, end = 0, len(content)

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = content[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if shift > 63:
                raise IndexError("a number without an end")
            if byte < 0x80:
                return value
            shift += 7

    while position < end:
        key = varint()
        kind = key & 7
        if kind == _VARINT:
            yield key >> 3, varint()
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind) or varint()
        if position + size > end:
            raise IndexError("a part that is longer than the whole")
        yield key >> 3, content[position : position + size]
        position += size


class Rules:
    """The normalisation rules of a model: which strings are replaced, and by what.

    Stored as the length of a double-array trie in bytes, the trie (the "Darts" layout: a unit
    holds the label that leads to it and the offset to its children), and what the strings are
    replaced by.
    """

    def __init__(self, rules: bytes) -> None:
        size = int.from_bytes(rules[:4], "little")
        if size % 4 or size > max(0, len(rules) - 4):
            raise ValueError("no normalisation rules")
        self.replacements = rules[4 + size :]
        self._units = np.frombuffer(rules[4 : 4 + size], "<u4")
        # A unit that ends a string has its value in place of children; its label fits no byte.
        self._labels = self._units & np.uint32(0x800000FF)
        self._offsets = (self._units >> 10) << ((self._units & 0x200) >> 6)

    def joining(self, characters: Iterable[str]) -> set[str]:
        """Returns those of the characters that are part of a longer string which is replaced."""
        if not len(self._units):
            return set()
        nodes = self._nodes()
        found = set()
        for character in characters:
            path = character.encode()
            inner = self._walk(nodes, path)
            root = self._walk(np.zeros(1, np.uint32), path)
            if len(inner) or (len(root) and len(self._children(root))):
                found.add(character)
        return found

    def check(self) -> None:
        """Raises ValueError for rules that name places outside of them."""
        if not len(self._units):
            return
        outside = ValueError("normalisation rules that lead out of themselves")
        texts = np.frombuffer(self.replacements, np.uint8)
        self.replacements.decode("utf-8")
        nodes = np.zeros(1, np.uint32)
        reached = np.zeros(len(self._units), bool)
        while len(nodes):
            bases = nodes ^ self._offsets[nodes]
            # A look-up reads the place of any next byte, and only then whether it is right.
            if ((bases | 0xFF) >= len(self._units)).any():
                raise outside
            ends = bases[(self._units[nodes] & 0x100) != 0]
            begins = self._units[ends] & 0x7FFFFFFF
            if (begins >= len(texts)).any() or ((texts[begins] & 0xC0) == 0x80).any():
                raise outside
            children = np.unique(self._children(nodes))
            nodes = children[~reached[children]]
            reached[nodes] = True
        if not self.replacements.endswith(b"\0"):
            raise outside

    def _nodes(self) -> np.ndarray:
        """Returns every unit that can be reached from the root, without the root."""
        reached = np.zeros(len(self._units), bool)
        frontier = np.zeros(1, np.uint32)
        while len(frontier):
            children = np.unique(self._children(frontier))
            frontier = children[~reached[children]]
            reached[frontier] = True
        return np.flatnonzero(reached).astype(np.uint32)

    def _children(self, nodes: np.ndarray) -> np.ndarray:
        bases = nodes ^ self._offsets[nodes]
        found = [self._with_label(bases ^ label, label) for label in range(1, 256)]
        return np.concatenate(found)

    def _walk(self, nodes: np.ndarray, path: bytes) -> np.ndarray:
        for label in path:
            nodes = self._with_label(nodes ^ self._offsets[nodes] ^ label, label)
        return nodes

    def _with_label(self, places: np.ndarray, label: int) -> np.ndarray:
        places = places[places < len(self._units)]
        return places[self._labels[places] == label]
