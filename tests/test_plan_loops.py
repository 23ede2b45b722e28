"""Trip counts of loops, from what the compiler wrote down or from the loop itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from flan_train import plan_hlo, plan_loops

LOOP = """\
%body (t: (s32[], f32[4], s32[])) -> (s32[], f32[4], s32[]) {{
  %t = (s32[], f32[4], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[4] get-tuple-element(%t), index=1
  %one = s32[] get-tuple-element(%t), index=2
  %step = s32[] constant({step})
  %next = s32[] {change}
  %y = f32[4] add(%x, %x)
  ROOT %out = (s32[], f32[4], s32[]) tuple(%next, %y, {handed})
}}

%condition (t: (s32[], f32[4], s32[])) -> pred[] {{
  %t = (s32[], f32[4], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %end = s32[] {end}
  ROOT %more = pred[] compare(%i, %end), direction={direction}
}}

ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4] parameter(0)
  %first = s32[] constant({first})
  %held = s32[] copy(%first)
  %one = s32[] constant({one})
  %given = (s32[], f32[4], s32[]) tuple(%held, %x, %one)
  %loop = (s32[], f32[4], s32[]) while(%given), condition=%condition, body=%body{known}
  ROOT %y = f32[4] get-tuple-element(%loop), index=1
}}
"""
PLAIN = {
    "first": "0",
    "end": "24",
    "step": "1",
    "direction": "LT",
    "change": "add(%i, %step)",
    "known": "",
    "one": "1",
    "handed": "%one",
}


def program(**changes: str) -> plan_hlo.Module:
    given = PLAIN | changes
    held = given["end"] == "%one"
    end = "get-tuple-element(%t), index=2" if held else f"constant({given['end']})"
    return plan_hlo.parse(LOOP.format(**given | {"end": end}))


def trips(**changes: str) -> int | None:
    loops = plan_loops.loops(program(**changes))
    assert [loop.name for loop in loops] == ["loop"]
    return loops[0].trips


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 24),
        ({"first": "4"}, 20),
        ({"step": "5"}, 5),
        ({"direction": "LE"}, 25),
        ({"direction": "NE"}, 24),
        ({"first": "24", "end": "0", "step": "-3", "direction": "GT"}, 8),
        ({"first": "9", "end": "0", "direction": "GE", "change": "subtract(%i, %step)"}, 10),
        ({"end": "0"}, 0),
        ({"known": ', backend_config={"known_trip_count":{"n":"7"}}'}, 7),
        # A direction that the step leads away from, a step that is no constant.
        ({"direction": "GT"}, None),
        ({"change": "multiply(%i, %i)"}, None),
        # A step or an end that the loop is given, and one that its body changes.
        ({"change": "add(%i, %one)"}, 24),
        ({"change": "add(%one, %i)", "one": "8"}, 3),
        ({"change": "add(%i, %one)", "one": "8", "handed": "%next"}, None),
        ({"change": "subtract(%one, %i)"}, None),
        ({"change": "add(%one, %one)"}, None),
        ({"end": "%one", "one": "10"}, 10),
        ({"end": "%one", "one": "10", "handed": "%next"}, None),
        ({"direction": "NE", "step": "5"}, None),
        ({"first": "30", "direction": "NE"}, None),
    ],
)
def test_trip_counts(changes: dict[str, str], count: int | None) -> None:
    assert trips(**changes) == count


def test_instructions_run_as_often_as_their_loops() -> None:
    module = program()
    times = {run.instruction.name: run.times for run in plan_loops.runs(module)}
    assert (times["y"], times["next"], times["loop"]) == (1, 24, 1)
    once = {run.instruction.name: run.times for run in plan_loops.runs(module, once=True)}
    assert set(once.values()) == {1}


def test_loops_in_loops_multiply() -> None:
    def program(x: jax.Array) -> jax.Array:
        def outer(c: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.lax.fori_loop(0, 7, lambda i, y: jnp.sin(y) @ y, c), None

        return jax.lax.scan(outer, x, length=5)[0]

    compiled = jax.jit(program).lower(jnp.ones((32, 32))).compile()
    module = plan_hlo.parse(compiled.as_text())
    assert sorted(loop.trips or 0 for loop in plan_loops.loops(module)) == [5, 7]
    assert 35 in {run.times for run in plan_loops.runs(module)}
