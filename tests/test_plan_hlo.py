"""Optimised programs as XLA prints them, read back."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train import plan_hlo


@pytest.mark.parametrize(
    ("text", "dims", "size", "space"),
    [
        ("f32[]", (), 4, 0),
        ("f32[8192,64]{0,1:T(8,128)}", (8192, 64), 8192 * 64 * 4, 0),
        # The minor dimension of 64 is padded to a tile of 128.
        ("bf16[4,512,64]{2,1,0:T(8,128)(2,1)S(1)}", (4, 512, 64), 4 * 512 * 128 * 2, 1),
        ("bf16[4,512,64]{1,2,0:T(8,128)(2,1)}", (4, 512, 64), 4 * 512 * 64 * 2, 0),
        ("s32[]{:T(128)S(6)}", (), 512, 6),
        ("pred[3,5]{1,0}", (3, 5), 15, 0),
        ("u4[16]{0:T(128)E(4)}", (16,), 64, 0),
        ("token[]", (), 0, 0),
        ("f32[<=7,2]{1,0}", (7, 2), 56, 0),
    ],
)
def test_shapes(text: str, dims: tuple[int, ...], size: int, space: int) -> None:
    shape = plan_hlo.parse_shape(text)
    assert (shape.dims, shape.bytes, shape.space) == (dims, size, space)


def test_a_tuple_holds_its_parts() -> None:
    shape = plan_hlo.parse_shape("(f32[4]{0}, (s32[], /*index=5*/bf16[2,2]{1,0}))")
    assert shape.is_tuple
    assert [part.dtype for part in shape.arrays()] == ["f32", "s32", "bf16"]
    assert shape.bytes == 16 + 4 + 8


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=4),
    st.sampled_from(["f32", "bf16", "s8", "pred"]),
)
def test_padding_never_takes_away(dims: list[int], dtype: str) -> None:
    order = ",".join(str(place) for place in reversed(range(len(dims))))
    plain = plan_hlo.parse_shape(f"{dtype}[{','.join(map(str, dims))}]{{{order}}}")
    tiled = plan_hlo.parse_shape(f"{dtype}[{','.join(map(str, dims))}]{{{order}:T(8,128)}}")
    assert plain.bytes == math.prod(dims) * plain.bits // 8
    assert tiled.bytes >= plain.bytes
    assert tiled.elements == plain.elements
    assert tiled.bytes * 8 // tiled.bits % 1024 == 0


def test_a_compiled_program_is_read_whole() -> None:
    def program(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, wi: (jnp.tanh(c @ wi), None), x, w)[0]

    compiled = jax.jit(program).lower(jnp.ones((8, 16)), jnp.ones((5, 16, 16))).compile()
    module = plan_hlo.parse(compiled.as_text())
    entry = module.computations[module.entry]
    assert [p.shape.dims for _, p in sorted(entry.parameters.items())] == [(8, 16), (5, 16, 16)]
    opcodes = {
        one.opcode for part in module.computations.values() for one in part.instructions.values()
    }
    assert {"while", "parameter"} <= opcodes
    for part in module.computations.values():
        assert part.root.name in part.instructions
        for one in part.instructions.values():
            assert all(name in part.instructions for name in one.operands)


def test_attributes_end_where_they_end() -> None:
    text = (
        "ENTRY %main (p: f32[4]) -> f32[4] {\n"
        "  %p = f32[4]{0} parameter(0)\n"
        '  ROOT %c = f32[4]{0} custom-call(%p), custom_call_target="a,b", window={size=1x3 '
        'pad=0_0x1_1}, dimensions={0,2}, metadata={op_name="x(\\"y, calls=%no\\")"}\n'
        "}\n"
    )
    one = plan_hlo.parse(text).computations["main"].root
    assert one.attribute("custom_call_target") == '"a,b"'
    assert one.numbers("dimensions") == (0, 2)
    assert one.attribute("window") == "{size=1x3 pad=0_0x1_1}"
    assert one.attribute("missing") == ""
    assert one.called == ()


def test_a_text_that_is_no_program_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        plan_hlo.parse("nothing")
