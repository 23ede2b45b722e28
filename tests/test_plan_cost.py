"""Costs by XLA's rules: beside XLA's own totals, and with loops multiplied out beside no loops."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flan_train import plan_hlo, plan_loops
from flan_train.plan_cost import Cost, Costs, uncosted

X, W = jnp.ones((64, 128)), jnp.ones((6, 128, 128))


def totals(compiled: Any, *, once: bool) -> Cost:
    module = plan_hlo.parse(compiled.as_text())
    costs = Costs(module, tpu=False)
    total = Cost()
    for computation, one, times in plan_loops.runs(module, once=once):
        total = total.plus(costs.of(computation, one).times(times))
    return total


def layer(x: jax.Array, w: jax.Array) -> jax.Array:
    y = jax.nn.softmax(x @ w, axis=-1)
    return x + jnp.tanh(y) * jax.lax.rsqrt(1.0 + jnp.sum(y * y, -1, keepdims=True))


def scanned(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda c, wi: (layer(c, wi), None), x, w)[0].sum()


def unrolled(x: jax.Array, w: jax.Array) -> jax.Array:
    for place in range(w.shape[0]):
        x = layer(x, w[place])
    return x.sum()


def gathered(x: jax.Array, w: jax.Array) -> jax.Array:
    rows = jnp.arange(0, 64, 3)
    y = w[0].at[rows].add(x[rows])
    return jax.lax.dynamic_update_slice(y, x[:2] * 2, (3, 0))[5:, ::2].sort(axis=1)


@pytest.mark.parametrize("program", [scanned, unrolled, gathered, jax.grad(scanned, (0, 1))])
def test_totals_are_those_of_xla(program: Callable[..., Any]) -> None:
    compiled = jax.jit(program).lower(X, W).compile()
    wanted, found = compiled.cost_analysis(), totals(compiled, once=True)
    assert found.flops == pytest.approx(wanted["flops"], rel=0.01)
    assert found.transcendentals == pytest.approx(wanted.get("transcendentals", 0), rel=0.01)
    # The rows that a scatter leaves alone are counted in another way: 5 % of so small a program.
    assert found.accessed == pytest.approx(wanted["bytes accessed"], rel=0.06)


@pytest.mark.parametrize("gradient", [False, True])
def test_loops_multiplied_out_are_the_unrolled_program(gradient: bool) -> None:
    def made(program: Callable[..., Any]) -> Any:
        chosen = jax.grad(program, (0, 1)) if gradient else program
        return jax.jit(chosen).lower(X, W).compile()

    loop, plain = made(scanned), made(unrolled)
    once, full = totals(loop, once=True), totals(loop, once=False)
    assert once.flops < 0.6 * full.flops
    assert full.flops == pytest.approx(plain.cost_analysis()["flops"], rel=0.03)
    assert full.transcendentals == pytest.approx(plain.cost_analysis()["transcendentals"], rel=0.01)


def test_a_conditional_costs_its_dearer_branch() -> None:
    def program(x: jax.Array, dear: jax.Array) -> jax.Array:
        return jax.lax.cond(dear, lambda y: jnp.tanh(y @ y.T @ y), lambda y: y + 1, x)

    compiled = jax.jit(program).lower(X, jnp.array(True)).compile()
    module = plan_hlo.parse(compiled.as_text())
    costs = Costs(module, tpu=False)
    runs = plan_loops.runs(module, weight=lambda part, one: costs.of(part, one).accessed)
    flops = sum(costs.of(part, one).flops * times for part, one, times in runs)
    assert flops == pytest.approx(4 * 64 * 64 * 128, rel=0.05)


TPU = """\
%fused (p0: bf16[8,512,128], p1: s32[]) -> bf16[1,512,128] {
  %p0 = bf16[8,512,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %slice = bf16[1,512,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %zero, %zero), \
dynamic_slice_sizes={1,512,128}
}

ENTRY %main (x: bf16[8,512,128], i: s32[]) -> bf16[1,512,128] {
  %x = bf16[8,512,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %start = (bf16[8,512,128]{2,1,0:T(8,128)(2,1)S(1)}, bf16[8,512,128]{2,1,0:T(8,128)(2,1)}, \
u32[]{:S(2)}) copy-start(%x)
  %done = bf16[8,512,128]{2,1,0:T(8,128)(2,1)S(1)} copy-done(%start)
  %part = bf16[1,512,128]{2,1,0:T(8,128)(2,1)} fusion(%done, %i), kind=kLoop, calls=%fused
  %kernel = bf16[1,512,128]{2,1,0:T(8,128)(2,1)} custom-call(%part), \
custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUzv", \
"cost_estimate":{"flops":"1000","transcendentals":"10","bytes_accessed":"5000"}}}
  ROOT %sum = bf16[1,512,128]{2,1,0:T(8,128)(2,1)} add(%part, %kernel)
}
"""


def test_main_memory_is_counted_once_and_on_chip_memory_not() -> None:
    module = plan_hlo.parse(TPU)
    costs = Costs(module, tpu=True)
    part = module.computations["main"]
    found = {name: costs.of(part, one) for name, one in part.instructions.items()}
    whole, slice_ = 8 * 512 * 128 * 2, 512 * 128 * 2
    # From main memory to the chip: read there once, though XLA counts both ends at start and end.
    assert found["start"].hbm == whole
    assert found["start"].accessed == 3 * whole + 4
    assert found["done"].hbm == 0
    # What a fusion takes of an operand is a slice, here out of on-chip memory.
    assert found["part"].hbm == slice_
    assert found["part"].accessed == 2 * slice_ + 512
    assert found["kernel"] == Cost(1000, 10, 5000, 5000)
    assert found["sum"] == Cost(512 * 128, 0, 3 * slice_, 3 * slice_)


def test_a_call_without_a_stated_cost_is_named_and_a_placing_one_is_not() -> None:
    silent = re.sub(r", backend_config=.*", "", TPU)
    for target, wanted in (("tpu_custom_call",) * 2, ("AllocateBuffer", None)):
        module = plan_hlo.parse(silent.replace("tpu_custom_call", target))
        instructions = module.computations["main"].instructions
        assert uncosted(instructions["kernel"]) == wanted
        assert uncosted(instructions["part"]) is None
    stated = plan_hlo.parse(TPU).computations["main"].instructions
    assert uncosted(stated["kernel"]) is None
