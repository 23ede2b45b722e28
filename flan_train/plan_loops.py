"""How often each instruction of a compiled module runs: the trip counts of its loops.

A `while` that came from `jax.lax.scan` counts a number up from one constant to another. GPU and CPU
compilers write the count down (`known_trip_count`); for a TPU it follows from the loop itself: the
first value from what the loop is given, the step from its body, the end from its condition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from flan_train.plan_hlo import Computation, Instruction, Module

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SAME = frozenset(("copy", "bitcast", "convert", "copy-start", "copy-done", "reshape"))


class Loop(NamedTuple):
    """A loop of the program.

    Attributes:
      name: of the while instruction.
      body: of the computation that is repeated.
      trips: how often it runs each time; None where that is not known.
    """

    name: str
    body: str
    trips: int | None


class Run(NamedTuple):
    """One instruction, and how often it runs in one run of the program."""

    computation: Computation
    instruction: Instruction
    times: int


def _one(computation: Computation, instruction: Instruction) -> float:
    return 1.0


def runs(
    module: Module,
    *,
    once: bool = False,
    weight: Callable[[Computation, Instruction], float] = _one,
) -> Iterator[Run]:
    """Yields every instruction that is run by itself, not inside of a fusion.

    Args:
      module: what was compiled.
      once: count the body of each loop once, as XLA's cost analysis does.
      weight: of one instruction; of the branches of a conditional the heaviest is yielded.
    """
    yield from _runs(module, module.computations[module.entry], 1, once, weight)


def loops(module: Module) -> list[Loop]:
    """Returns the loops of a module, outer ones first."""
    return [
        Loop(one.name, _body(one), trip_count(module, computation, one))
        for computation, one, _ in runs(module, once=True)
        if one.opcode == "while"
    ]


def _runs(
    module: Module,
    computation: Computation,
    times: int,
    once: bool,
    weight: Callable[[Computation, Instruction], float],
) -> Iterator[Run]:
    for one in computation.instructions.values():
        yield Run(computation, one, times)
        if one.opcode == "while":
            trips = 1 if once else trip_count(module, computation, one) or 1
            for name in (_body(one), _condition(one)):
                yield from _runs(module, module.computations[name], times * trips, once, weight)
        elif one.opcode == "call":
            yield from _runs(module, module.computations[one.called[0]], times, once, weight)
        elif one.opcode == "conditional":
            branches = [
                list(_runs(module, module.computations[name], times, once, weight))
                for name in one.called
            ]
            yield from max(
                branches,
                key=lambda branch: sum(weight(run[0], run[1]) * run.times for run in branch),
            )


def trip_count(module: Module, computation: Computation, one: Instruction) -> int | None:
    """Returns how often the body of a `while` runs; None where the text does not tell."""
    known = _KNOWN.search(one.attributes)
    if known:
        return int(known[1])
    condition = module.computations[_condition(one)]
    body = module.computations[_body(one)]
    test = _source(condition, condition.root)
    if test.opcode == "fusion":
        inside = module.computations[test.called[0]]
        if inside.root.opcode != "compare":
            return None
        pair = [
            _source(condition, condition.instructions[test.operands[int(side.literal)]])
            if side.opcode == "parameter"
            else side
            for side in (_source(inside, item) for item in inside.operands(inside.root))
        ]
        direction = inside.root.attribute("direction")
    elif test.opcode == "compare":
        pair = [_source(condition, item) for item in condition.operands(test)]
        direction = test.attribute("direction")
    else:
        return None
    if pair[0].opcode != "get-tuple-element":
        pair.reverse()
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if pair[0].opcode != "get-tuple-element":
        return None
    place = _place(pair[0])
    first = _entering(computation, one, place)
    last = _held(computation, one, body, pair[1])
    step = _step(module, computation, one, body, place)
    if first is None or last is None or not step:
        return None
    span = {"LT": last - first, "LE": last - first + 1, "GT": first - last, "GE": first - last + 1}
    if direction == "NE":
        trips, rest = divmod(last - first, step)
        return None if rest or trips < 0 else trips
    if direction not in span or (step > 0) != direction.startswith("L"):
        return None
    return max(0, math.ceil(span[direction] / abs(step)))


def _body(one: Instruction) -> str:
    return one.attribute("body").removeprefix("%")


def _condition(one: Instruction) -> str:
    return one.attribute("condition").removeprefix("%")


def _place(one: Instruction) -> int:
    return one.numbers("index")[0]


def _source(computation: Computation, one: Instruction) -> Instruction:
    while one.opcode in _SAME:
        one = computation.instructions[one.operands[0]]
    return one


def _number(one: Instruction) -> int | None:
    text = one.literal.strip("{} ")
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _entering(computation: Computation, one: Instruction, place: int) -> int | None:
    """The number that a loop is given at a place of its tuple, if it is a constant."""
    given = _source(computation, computation.instructions[one.operands[0]])
    if given.opcode != "tuple":
        return None
    value = _source(computation, computation.instructions[given.operands[place]])
    return _number(value) if value.opcode == "constant" else None


def _held(
    computation: Computation, one: Instruction, body: Computation, value: Instruction
) -> int | None:
    """The number that a value of a loop's body or condition is in every trip, if it is constant."""
    if value.opcode == "constant":
        return _number(value)
    if value.opcode != "get-tuple-element" or body.root.opcode != "tuple":
        return None
    place = _place(value)
    handed_on = _source(body, body.instructions[body.root.operands[place]])
    return _entering(computation, one, place) if _is_element(body, handed_on, place) else None


def _is_element(body: Computation, value: Instruction, place: int) -> bool:
    """Whether a value is the loop's own at a place of its tuple."""
    return (
        value.opcode == "get-tuple-element"
        and _place(value) == place
        and body.instructions[value.operands[0]].opcode == "parameter"
    )


def _step(
    module: Module, computation: Computation, one: Instruction, body: Computation, place: int
) -> int | None:
    """What a loop's body adds to the number at a place of its tuple; None if that is not plain."""
    if body.root.opcode != "tuple":
        return None
    outer = value = _source(body, body.instructions[body.root.operands[place]])
    inside = body
    if outer.opcode == "fusion":
        inside = module.computations[outer.called[0]]
        value = _source(inside, inside.root)
    if value.opcode not in ("add", "subtract"):
        return None
    left, right = (
        _source(body, body.instructions[outer.operands[int(side.literal)]])
        if inside is not body and side.opcode == "parameter"
        else side
        for side in (_source(inside, item) for item in inside.operands(value))
    )
    if value.opcode == "add" and not _is_element(body, left, place):
        left, right = right, left
    if not _is_element(body, left, place):
        return None
    step = _held(computation, one, body, right)
    return -step if step is not None and value.opcode == "subtract" else step
