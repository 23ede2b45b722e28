"""Optimised HLO text -> computations, instructions and shapes, as far as their costs need it.

XLA prints a compiled module as text (`jax.stages.Compiled.as_text`): one computation after another,
one instruction a line. Its Python objects tell no shapes, and its own cost analysis counts the body
of a loop once, so the text is read here.

    %dot.3 = bf16[64,512]{1,0:T(8,128)(2,1)S(1)} fusion(%p.0, %p.1), kind=kOutput, calls=%fused.2
     name    shape      layout, tiles, memory     opcode  operands    attributes

Source of the grammar: https://openxla.org/xla/operation_semantics and .../shapes, .../tiled_layout.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bits of an element; a shape of a type that is not here (token, opaque) holds no data.
BITS = {
    "pred": 8,
    **dict.fromkeys(("s1", "u1"), 1),
    **dict.fromkeys(("s2", "u2"), 2),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 4),
    **dict.fromkeys(("s8", "u8"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    "c128": 128,
}
_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([^\]]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([^\s=]+) = (.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
_COMMENT = re.compile(r"/\*.*?\*/")
_TILE = re.compile(r"\(([^)]*)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_WIDTH = re.compile(r"E\((\d+)\)")
_NAME = re.compile(r"%([^\s,(){}]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array, or a tuple of shapes.

    Attributes:
      dtype: "f32", "bf16", ...; "tuple" for a tuple.
      dims: sizes.
      minor_to_major: the order of the dimensions in memory, the fastest first.
      tiles: tiles of the physical dimensions, the outermost first; empty where it is not tiled.
      space: memory space; 0 is the device's main memory (HBM on a TPU).
      bits: bits of an element.
      parts: of a tuple.
    """

    dtype: str
    dims: tuple[int, ...] = ()
    minor_to_major: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    space: int = 0
    bits: int = 0
    parts: tuple[Shape, ...] = ()

    @property
    def is_tuple(self) -> bool:
        """Whether it is a tuple."""
        return self.dtype == "tuple"

    @functools.cached_property
    def elements(self) -> int:
        """The number of elements, padding not counted; of a tuple, of all its arrays."""
        if self.is_tuple:
            return sum(part.elements for part in self.parts)
        return math.prod(self.dims) if self.bits else 0

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of the array with the padding of its tiles; of a tuple, of all its arrays."""
        if self.is_tuple:
            return sum(part.bytes for part in self.parts)
        if not self.bits:
            return 0
        return math.ceil(math.prod(self._padded()) * self.bits / 8)

    def arrays(self) -> Iterator[Shape]:
        """Yields the arrays of a tuple, nested ones too; an array itself."""
        if not self.is_tuple:
            yield self
        for part in self.parts:
            yield from part.arrays()

    def _padded(self) -> list[int]:
        order = self.minor_to_major
        sizes = [self.dims[place] for place in reversed(order)] if order else list(self.dims)
        if self.tiles:
            tile = self.tiles[0]
            sizes = [1] * (len(tile) - len(sizes)) + sizes
            for back, step in enumerate(reversed(tile), 1):
                sizes[-back] = math.ceil(sizes[-back] / step) * step
        return sizes


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode, shape: as printed.
      operands: names of other instructions of the computation; of a constant or a parameter, none.
      literal: what stands between the parentheses.
      attributes: everything after them, metadata and backend_config included.
    """

    name: str
    opcode: str
    shape: Shape
    operands: tuple[str, ...]
    literal: str
    attributes: str

    def attribute(self, name: str) -> str:
        """Returns the text of an attribute up to its end, "" where there is none."""
        found = re.search(rf"(?:^|, ){name}=", self.attributes)
        return _value(self.attributes, found.end()) if found else ""

    def numbers(self, name: str) -> tuple[int, ...]:
        """Returns the whole numbers in an attribute: `dimensions={0,2}` -> (0, 2)."""
        return tuple(int(text) for text in re.findall(r"-?\d+", self.attribute(name)))

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that its attributes refer to."""
        end = self.attributes.find(", metadata=")
        plain = self.attributes if end < 0 else self.attributes[:end]
        return tuple(_NAME.findall(plain.split(", backend_config=")[0]))


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """Instructions by name, operands before users; `root` is the one that is returned."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """The parameters by number."""
        return {
            int(one.literal): one for one in self.instructions.values() if one.opcode == "parameter"
        }

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that read each one's result, by its name."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for one in self.instructions.values():
            for name in dict.fromkeys(one.operands):
                found[name].append(one)
        return found

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions that one of them reads."""
        return [self.instructions[name] for name in instruction.operands]


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """A compiled program.

    Attributes:
      entry: the name of the computation that is run.
      computations: all of them by name.
    """

    entry: str
    computations: dict[str, Computation]


def parse(text: str) -> Module:
    """Returns the module that XLA printed.

    Raises:
      ValueError: the text is not what XLA prints.
    """
    computations: dict[str, Computation] = {}
    entry = ""
    name = ""
    instructions: dict[str, Instruction] = {}
    root: Instruction | None = None
    for line in text.splitlines():
        if not name:
            head = _HEAD.match(line)
            if head:
                name, instructions, root = head[2], {}, None
                if head[1]:
                    entry = name
        elif line.startswith("}"):
            if root is None:
                raise ValueError(f"the computation {name} has no root")
            computations[name] = Computation(name, instructions, root)
            name = ""
        else:
            found = _INSTRUCTION.match(line)
            if not found:
                continue
            one = _instruction(found[2], found[3])
            instructions[one.name] = one
            if found[1]:
                root = one
    if not entry:
        raise ValueError("the text holds no ENTRY computation")
    return Module(entry, computations)


def parse_shape(text: str) -> Shape:
    """Returns the shape at the start of a text, `f32[8,64]{1,0:T(8,128)}` or `(f32[], s32[2])`."""
    return _shape(_COMMENT.sub("", text), 0)[0]


def _instruction(name: str, rest: str) -> Instruction:
    if "/*" in rest:
        rest = _COMMENT.sub("", rest)
    shape, end = _shape(rest, 0)
    opening = rest.index("(", end)
    opcode = rest[end:opening].strip()
    closing = _closing(rest, opening)
    literal = rest[opening + 1 : closing]
    data = opcode in ("constant", "parameter", "iota")
    return Instruction(
        name,
        opcode,
        shape,
        () if data else tuple(_NAME.findall(literal)),
        literal,
        rest[closing + 1 :].removeprefix(", "),
    )


def _shape(text: str, start: int) -> tuple[Shape, int]:
    while text[start] == " ":
        start += 1
    if text[start] == "(":
        parts = []
        start += 1
        while text[start] != ")":
            part, start = _shape(text, start)
            parts.append(part)
            while text[start] in ", ":
                start += 1
        return Shape("tuple", parts=tuple(parts)), start + 1
    found = _SHAPE.match(text, start)
    if not found:
        raise ValueError(f"no shape: {text[start : start + 60]}")
    return _array(found[0]), found.end()


@functools.lru_cache(maxsize=65536)
def _array(text: str) -> Shape:
    found = _SHAPE.match(text)
    assert found
    dtype, sizes, layout = found[1], found[2], (found[3] or "{}")[1:-1]
    order, _, rest = layout.partition(":")
    # `<=8` is a dimension of at most 8.
    dims = tuple(int(size.removeprefix("<=")) for size in sizes.split(",") if size)
    tiles: tuple[tuple[int, ...], ...] = ()
    if rest.startswith("T"):
        run = re.match(r"T((?:\([^)]*\))+)", rest)
        inside = run[1] if run else ""
        tiles = tuple(
            tuple(1 if size == "*" else int(size) for size in tile.split(",") if size)
            for tile in _TILE.findall(inside)
        )
    space = _SPACE.search(rest)
    width = _WIDTH.search(rest)
    bits = BITS.get(dtype, 8 if dtype.startswith("f8") else 0)
    return Shape(
        dtype,
        dims,
        tuple(int(place) for place in order.split(",") if place),
        tiles,
        int(space[1]) if space else 0,
        int(width[1]) if width else bits,
    )


def _closing(text: str, opening: int) -> int:
    depth, quoted = 0, False
    for place in range(opening, len(text)):
        sign = text[place]
        if sign == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif sign in "({[":
            depth += 1
        elif sign in ")}]":
            depth -= 1
            if not depth:
                return place
    raise ValueError(f"a parenthesis is left open: {text[opening : opening + 60]}")


def _value(text: str, start: int) -> str:
    """An attribute's text: to the next comma outside of parentheses and quotation marks."""
    depth, quoted = 0, False
    for place in range(start, len(text)):
        sign = text[place]
        if sign == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif sign in "({[":
            depth += 1
        elif sign in ")}]":
            depth -= 1
        elif sign == "," and not depth:
            return text[start:place]
    return text[start:]
