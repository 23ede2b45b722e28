"""FLOPs and bytes of each instruction of a compiled module, by the rules of XLA's cost analysis.

XLA's own analysis (`jax.stages.Compiled.cost_analysis`) gives totals alone, with the body of a loop
counted once. The same rules, instruction by instruction, can be multiplied out; that they are the
same is checked on each module against XLA's totals. Source: xla/service/hlo_cost_analysis.cc.

Besides what XLA counts as accessed, which includes the on-chip memories, the bytes that really pass
between main memory (HBM) and the core are counted: operands and results in memory space 0, a copy
that runs beside the program once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from typing import NamedTuple

import numpy as np

from flan_train.plan_hlo import Computation, Instruction, Module, Shape


def _opcodes(text: str) -> frozenset[str]:
    return frozenset(text.split())


TRANSCENDENTAL = _opcodes(
    "exponential exponential-minus-one log log-plus-one logistic power sqrt cbrt rsqrt tanh "
    "sine cosine tan atan2 erf"
)
ELEMENTWISE = TRANSCENDENTAL | _opcodes(
    "abs add and bitcast-convert ceil clamp compare complex convert count-leading-zeros "
    "divide floor imag is-finite maximum minimum multiply negate not or popcnt real "
    "reduce-precision remainder round-nearest-afz round-nearest-even select shift-left "
    "shift-right-arithmetic shift-right-logical sign stochastic-convert subtract xor"
)
# They give names to what is there already.
FREE = _opcodes(
    "parameter constant get-tuple-element bitcast after-all add-dependency partition-id "
    "replica-id opt-barrier domain"
)
# Custom calls by which the TPU compiler names and places buffers, or promises something.
PLACING = frozenset(
    (
        "AllocateBuffer",
        "AssumeGatherIndicesInBound",
        "AsyncCollectiveDone",
        "AsyncCollectiveStart",
        "ConcatBitcast",
    )
)
# Whose cost is that of the computations they run.
CONTROL = frozenset(("while", "conditional", "call"))


class Cost(NamedTuple):
    """What one instruction takes on one device.

    Attributes:
      flops: floating point operations, a fused multiply and add being two.
      transcendentals: evaluations of exp, tanh, rsqrt and the like.
      accessed: bytes read and written as XLA counts them: any memory, the padding of tiles
        included, a copy that runs beside the program both at its start and at its end.
      hbm: bytes read from and written to main memory.
    """

    flops: float = 0.0
    transcendentals: float = 0.0
    accessed: float = 0.0
    hbm: float = 0.0

    def plus(self, other: Cost) -> Cost:
        """Returns the cost of doing both."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> Cost:
        """Returns the cost of doing it several times."""
        return Cost(*(value * factor for value in self))


class Costs:
    """The costs of a module's instructions; `of(computation, instruction)` is that of one.

    Args:
      module: what was compiled.
      tpu: whether it is for TPUs, where a tuple's table of pointers fills whole 512 bytes.
    """

    def __init__(self, module: Module, *, tpu: bool) -> None:
        self.module = module
        self.tpu = tpu
        self._inside: dict[str, tuple[float, float]] = {}

    def of(self, computation: Computation, one: Instruction) -> Cost:
        """Returns the cost of one instruction, without that of computations which it controls."""
        if one.opcode in FREE or one.opcode in CONTROL:
            return Cost()
        flops, transcendentals = self._work(computation, one)
        read, written = self._traffic(computation, one)
        accessed = sum(size for size, _ in read) + sum(size for size, _ in written)
        if one.opcode.endswith("-start") or one.opcode == "async-start":
            hbm = self._started(computation, one)
        elif one.opcode.endswith("-done"):
            hbm = 0.0
        else:
            hbm = sum(size for size, space in written if space == 0)
            for (size, space), operand in zip(read, computation.operands(one), strict=False):
                # What a fusion reads for several uses it reads once, if it is no slice.
                hbm += min(size, self._size(operand.shape)) if space == 0 else 0.0
        return Cost(flops, transcendentals, accessed, hbm)

    # ---- operations ------------------------------------------------------------------------------

    def _work(self, computation: Computation, one: Instruction) -> tuple[float, float]:
        opcode, count = one.opcode, one.shape.elements
        if opcode in TRANSCENDENTAL:
            return 0.0, count
        if opcode in ELEMENTWISE:
            return count, 0.0
        operands = computation.operands(one)
        if opcode == "dot":
            return _dot_flops(one, operands[0].shape), 0.0
        if opcode == "convolution":
            return _convolution_flops(one, operands[0].shape, operands[1].shape), 0.0
        if opcode == "fusion" or opcode == "async-start":
            return self._inside_of(one.called[0])
        if opcode in ("reduce", "reduce-window", "map", "scatter", "select-and-scatter"):
            flops, transcendentals = self._inside_of(one.called[-1])
            times = _applications(one, operands)
            return flops * times, transcendentals * times
        if opcode in ("all-reduce", "all-reduce-start", "reduce-scatter"):
            return count, 0.0
        if opcode == "sort":
            size = operands[0].shape.elements
            return size * math.ceil(math.log2(size)) if size > 1 else 0.0, 0.0
        if opcode == "custom-call":
            estimate = _estimate(one)
            return estimate.flops, estimate.transcendentals
        return 0.0, 0.0

    def _inside_of(self, name: str) -> tuple[float, float]:
        if name not in self._inside:
            computation = self.module.computations[name]
            work = [self._work(computation, one) for one in computation.instructions.values()]
            self._inside[name] = (sum(w[0] for w in work), sum(w[1] for w in work))
        return self._inside[name]

    # ---- bytes -----------------------------------------------------------------------------------

    def _size(self, shape: Shape) -> float:
        """Bytes of the buffer that a shape stands for; of a tuple, its table of pointers."""
        if not shape.is_tuple:
            return shape.bytes
        table = 8 * len(shape.parts)
        return math.ceil(table / 512) * 512 if self.tpu else table

    def _traffic(
        self, computation: Computation, one: Instruction
    ) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
        """(bytes, memory space) of what is read, and of what is written."""
        operands = computation.operands(one)
        opcode = one.opcode
        if opcode == "tuple":
            return [], [(self._size(one.shape), one.shape.space or -1)]
        if opcode == "fusion":
            return self._fused(one, operands)
        read = [(self._size(item.shape), _space(item.shape)) for item in operands]
        written = [(self._size(part), part.space) for part in one.shape.arrays()]
        if opcode in ("slice", "dynamic-slice"):
            read[0] = (self._size(one.shape), read[0][1])
        elif opcode == "dynamic-update-slice":
            written = [(read[1][0], written[0][1])]
            read[0] = (0.0, read[0][1])
        elif opcode == "gather":
            read[0] = (_gathered(one, operands[0].shape), read[0][1])
        elif opcode == "scatter":
            read[0] = (read[2][0], read[0][1])
            written = [(read[2][0], written[0][1])]
        elif opcode == "slice-start":
            size = self._size(next(one.shape.parts[1].arrays()))
            return [(size, -1)], [(size, -1)]
        elif opcode == "custom-call":
            # Nothing is known of the others (`uncosted` names them).
            return [], [(_estimate(one).accessed, 0)]
        return read, written

    def _started(self, computation: Computation, one: Instruction) -> float:
        """Bytes of main memory that an operation beside the program moves, at its start."""
        operands = computation.operands(one)
        arrays = list(one.shape.arrays())
        if one.opcode == "copy-start":
            return sum(part.bytes for part in arrays[:2] if part.space == 0)
        if one.opcode == "slice-start":
            size = arrays[1].bytes
            return sum(size for part in (operands[0].shape, arrays[1]) if part.space == 0)
        if one.opcode in ("async-start", "dynamic-slice-start"):
            inside = self.module.computations[one.called[0]]
            return self.of(inside, inside.root).hbm
        half = (
            arrays[len(arrays) // 2 :] if one.opcode != "collective-permute-start" else arrays[1:2]
        )
        sizes = [item.shape for item in operands] + half
        return sum(part.bytes for part in sizes if part.space == 0)

    def _fused(
        self, one: Instruction, operands: list[Instruction]
    ) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
        inside = self.module.computations[one.called[0]]
        read = [
            (self._parameter_bytes(inside, inside.parameters[number]), _space(operand.shape))
            for number, operand in enumerate(operands)
        ]
        written = []
        for part, source in zip(one.shape.arrays(), _results(inside), strict=False):
            size = self._size(part)
            if source.opcode == "dynamic-update-slice":
                size = self._size(inside.instructions[source.operands[1]].shape)
            written.append((size, part.space))
        return read, written

    def _parameter_bytes(self, inside: Computation, parameter: Instruction) -> float:
        """Bytes that a fusion reads of a parameter: the slices of it that are taken, or all."""
        whole, total, shared = self._size(parameter.shape), 0.0, False
        for user in inside.users[parameter.name]:
            places = [n for n, name in enumerate(user.operands) if name == parameter.name]
            if user.opcode == "fusion":
                nested = self.module.computations[user.called[0]]
                total += sum(self._parameter_bytes(nested, nested.parameters[n]) for n in places)
            elif user.opcode == "slice" or (user.opcode == "dynamic-slice" and 0 in places):
                total += self._size(user.shape)
            elif user.opcode == "gather" and 0 in places:
                total += _gathered(user, parameter.shape)
            elif user.opcode == "dynamic-update-slice" and places == [0]:
                continue
            elif user.opcode in ("broadcast", "reshape"):
                total += whole
            elif not shared:
                total += whole
                shared = True
        return total


def _gathered(one: Instruction, operand: Shape) -> float:
    """Bytes that a gather reads: each of its slices is read in whole tiles."""
    sizes = one.numbers("slice_sizes")
    count = one.shape.elements / max(1, math.prod(sizes))
    return count * dataclasses.replace(operand, dims=sizes).bytes


def _space(shape: Shape) -> int:
    return -1 if shape.is_tuple else shape.space


def _results(computation: Computation) -> list[Instruction]:
    root = computation.root
    return computation.operands(root) if root.opcode == "tuple" else [root]


def _dot_flops(one: Instruction, left: Shape) -> float:
    contracted = math.prod(left.dims[axis] for axis in one.numbers("lhs_contracting_dims"))
    return 2.0 * one.shape.elements * contracted


_WINDOW_DEFAULTS = {"stride": "1", "lhs_dilate": "1", "rhs_dilate": "1", "pad": "0_0"}


def window(one: Instruction) -> list[dict[str, tuple[int, ...]]]:
    """Returns, a dimension each, size, stride, pad (low, high), lhs_dilate and rhs_dilate."""
    fields = dict(re.findall(r"(\w+)=(\S+)", one.attribute("window").strip("{}")))
    count = len(fields["size"].split("x")) if "size" in fields else 0
    found: list[dict[str, tuple[int, ...]]] = [{} for _ in range(count)]
    for name in ("size", *_WINDOW_DEFAULTS):
        texts = fields.get(name, "x".join([_WINDOW_DEFAULTS.get(name, "1")] * count)).split("x")
        for place, text in enumerate(texts[:count]):
            found[place][name] = tuple(int(part) for part in text.split("_"))
    return found


def _convolution_flops(one: Instruction, left: Shape, right: Shape) -> float:
    labels, output = one.attribute("dim_labels").split("->")
    lhs = labels.split("_")[0]
    groups = {
        name: int(one.attribute(name) or 1) for name in ("feature_group_count", "batch_group_count")
    }
    positions = 1.0
    for place, limits in enumerate(window(one)):
        axis = str(place)
        positions *= _valid_positions(
            left.dims[lhs.index(axis)],
            limits["size"][0],
            one.shape.dims[output.index(axis)],
            limits["stride"][0],
            limits["pad"][0],
            limits["lhs_dilate"][0],
            limits["rhs_dilate"][0],
        )
    features = left.dims[lhs.index("f")] / groups["feature_group_count"]
    batch = left.dims[lhs.index("b")] / groups["batch_group_count"]
    return 2.0 * features * batch * one.shape.dims[output.index("f")] * positions


@functools.lru_cache(maxsize=4096)
def _valid_positions(
    inputs: int, kernel: int, outputs: int, stride: int, low: int, dilate: int, spread: int
) -> int:
    """Pairs of a kernel and an output position that fall on a real input."""
    out = np.arange(outputs, dtype=np.int64) * stride - low
    count = 0
    for first in range(0, kernel, 1024):
        taps = np.arange(first, min(kernel, first + 1024), dtype=np.int64) * spread
        places = out[None, :] + taps[:, None]
        valid = (places >= 0) & (places < inputs * dilate)
        if dilate > 1:
            valid &= places % dilate == 0
        count += int(valid.sum())
    return count


def _applications(one: Instruction, operands: list[Instruction]) -> float:
    """How often an instruction applies the computation that it is given."""
    result = next(one.shape.arrays()).elements
    if one.opcode == "reduce":
        return max(0, operands[0].shape.elements - result)
    if one.opcode == "reduce-window":
        sides = zip(one.shape.dims, window(one), strict=True)
        if all(part["size"][0] == 2 * side - 1 for side, part in sides if part["size"][0] > 1):
            # A sum over a whole side that is wanted at each place of it: the compiler adds once.
            return 0.0
        size = math.prod(part["size"][0] for part in window(one))
        return result * (size - 1)
    if one.opcode == "scatter":
        return operands[2].shape.elements
    return result


def uncosted(one: Instruction) -> str | None:
    """Returns the target of a custom call of whose cost nothing is known; None for all others."""
    if one.opcode != "custom-call" or _estimate(one) != Cost():
        return None
    target = one.attribute("custom_call_target").strip('"')
    return None if target in PLACING else target


def _estimate(one: Instruction) -> Cost:
    """What a kernel says of itself (`pallas_call`'s cost_estimate); nothing where it does not."""
    found = one.attribute("backend_config")
    if not found.startswith("{"):
        return Cost()
    try:
        config = json.loads(found)
    except ValueError:
        return Cost()
    told = config.get("custom_call_config", config).get("cost_estimate", {})
    accessed = float(told.get("bytes_accessed", 0))
    return Cost(
        float(told.get("flops", 0)), float(told.get("transcendentals", 0)), accessed, accessed
    )
