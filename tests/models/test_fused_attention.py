"""The fused attention, interpreted, against the plain one: results, gradients, cost."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from flan_train.models import fused_attention_blocks as cut
from flan_train.models.config import FUSED_RESULTS
from flan_train.models.fused_attention import applies, fused_attention, obstacle
from flan_train.models.fused_attention_blocks import SEES_NOTHING, Blocks
from tests.models.fused_cases import (
    BUCKETS,
    MAX_DISTANCE,
    Case,
    fused,
    in_runs,
    kernels_in,
    plain,
    with_gradients,
)

# Six examples and padding; short ones within a block, long ones over several.
PACKED = [(1, 5), (2, 130), (3, 1), (4, 90), (5, 100), (6, 40)]
# Segments 2 and 9 have no keys, and neither has padding: those queries see nothing.
UNSEEING = [(1, 40), (2, 30), (3, 20), (9, 28)]

CASES = {
    "encoder": (Case(384, 384, dropped=True), in_runs(384, PACKED), None),
    "decoder": (
        Case(256, 256, heads=4, causal=True, block_q=128, block_k=128),
        in_runs(256, [(1, 3), (2, 150), (3, 60)]),
        None,
    ),
    # Logits up to about 100: where nothing is seen, they do not all round to one number.
    "cross": (
        Case(128, 384, batch=2, biased=False, dropped=True, spread=3.0),
        in_runs(128, UNSEEING, [(1, 128)]),
        in_runs(384, [(1, 150), (3, 234)], [(1, 384)]),
    ),
    "cross_biased": (
        Case(256, 1024),
        in_runs(256, [(1, 100), (7, 56), (3, 60)]),
        in_runs(1024, [(1, 400), (2, 300), (3, 324)]),
    ),
}


def worst(found: jax.Array, expected: jax.Array) -> float:
    """Returns the largest difference, relative to the largest number expected."""
    wide, right = (np.asarray(x, np.float32) for x in (found, expected))
    assert np.isfinite(wide).all()
    return float(np.abs(wide - right).max() / max(np.abs(right).max(), 1e-30))


def by_norm(found: jax.Array, expected: jax.Array) -> float:
    """Returns the length of the difference, relative to that of what is expected."""
    wide, right = (np.asarray(x, np.float32) for x in (found, expected))
    assert np.isfinite(wide).all()
    return float(np.linalg.norm(wide - right) / np.linalg.norm(right))


@pytest.mark.parametrize("name", CASES)
def test_float32_equals_the_plain_attention(name: str) -> None:
    case, queries, keys = CASES[name]
    segments = (queries, queries if keys is None else keys)
    found = with_gradients(fused, case)(case.operands(), *segments)
    expected = with_gradients(plain, case)(case.operands(), *segments)
    if not case.biased:
        assert not np.asarray(found.pop("table")).any()
        del expected["table"]
    errors = {key: worst(found[key], expected[key]) for key in expected}
    assert max(errors.values()) < 1e-5, errors


# With logits up to about 100, as T5's are without a division by 8.
SHARP = {
    "sharp_encoder": (
        Case(256, 256, dropped=True, spread=3.0),
        in_runs(256, [(1, 100), (2, 120)]),
        None,
    ),
    "sharp_decoder": (
        Case(256, 256, causal=True, spread=3.0, block_q=128, block_k=128),
        in_runs(256, [(1, 3), (2, 150), (3, 60)]),
        None,
    ),
}


# Each is compiled three times over: the others are checked behind the marker.
QUICK = ("encoder", "cross", "sharp_encoder")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in (*CASES, *SHARP)
    ],
)
def test_bfloat16_is_as_close_to_float32_as_its_numbers_allow(name: str) -> None:
    case, queries, keys = (CASES | SHARP)[name]
    segments = (queries, queries if keys is None else keys)
    operands = case.operands("bfloat16")
    found = with_gradients(fused, case)(operands, *segments)
    beside = with_gradients(plain, case)(operands, *segments)
    rounded = tuple(x.astype(jnp.float32) for x in operands)
    expected = with_gradients(plain, case)(rounded, *segments)
    assert found["out"].dtype == jnp.bfloat16
    if not case.biased:
        del expected["table"]
    errors = {key: by_norm(found[key], expected[key]) for key in expected}
    others = {key: by_norm(beside[key], expected[key]) for key in expected}
    # One rounding to bfloat16 makes up to 1.7e-3. The float32 table has none of its own; query,
    # key and value have two, of what the last product takes and of what it gives: 2.4e-3. The
    # rounded weights of the forward pass add a little where few of them are large.
    for key, error in errors.items():
        limit = 2e-3 if key in ("out", "table") else 2.7e-3
        if key == "query" and name in SHARP:
            limit = 2.9e-3
        assert error < limit, (key, errors, others)
        assert error < 1.3 * others[key], (key, errors, others)


SMALL = Case(256, 256, block_q=128, block_k=128)
SMALL_FUNCTIONS = [with_gradients(attention, SMALL) for attention in (fused, plain)]
RUNS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 150)), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(queries=RUNS, keys=RUNS)
def test_any_segments_give_the_plain_result(
    queries: list[tuple[int, int]], keys: list[tuple[int, int]]
) -> None:
    segments = in_runs(256, queries), in_runs(256, keys)
    found, expected = (f(SMALL.operands(), *segments) for f in SMALL_FUNCTIONS)
    errors = {key: worst(found[key], expected[key]) for key in expected}
    assert max(errors.values()) < 1e-5, errors


def test_split_over_devices_it_gives_what_one_device_gives() -> None:
    case = Case(128, 128, heads=4, batch=2)
    segments = in_runs(128, [(1, 50), (2, 30)], [(1, 128)])
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("rows", "heads"))
    joined, rows = P("rows", None, "heads"), P("rows", None)

    def split(
        case: Case, q: jax.Array, k: jax.Array, v: jax.Array, table: jax.Array, *seg: jax.Array
    ) -> jax.Array:
        half = Case(128, 128, heads=2)
        return jax.shard_map(
            partial(fused, half),
            mesh=mesh,
            in_specs=(joined, joined, joined, P("heads", None), rows, rows),
            out_specs=joined,
            check_vma=False,
        )(q, k, v, table, *seg)

    found = with_gradients(split, case)(case.operands(), segments, segments)
    expected = with_gradients(plain, case)(case.operands(), segments, segments)
    errors = {key: worst(found[key], expected[key]) for key in expected}
    assert max(errors.values()) < 1e-5, errors


def test_a_remat_policy_can_keep_its_results(capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(128, 128)
    segments = in_runs(128, [(1, 100)])

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(*FUSED_RESULTS))
    def layer(operands: tuple[jax.Array, ...]) -> jax.Array:
        found = fused(case, *operands, segments, segments)
        return jnp.sum(jnp.sin(found.astype(jnp.float32)))

    def named(dtype: str) -> list[str]:
        jax.ad_checkpoint.print_saved_residuals(layer, case.operands(dtype))
        kept = capsys.readouterr().out
        return [name for name in FUSED_RESULTS if f"named '{name}'" in kept]

    assert named("bfloat16") == list(FUSED_RESULTS)
    # Nothing is rounded in float32, so that nothing is left of it to keep.
    assert named("float32") == [name for name in FUSED_RESULTS if name != "attention_rest"]


def test_only_blocks_in_which_something_is_seen_are_visited() -> None:
    blocks = Blocks(512, 512, 128, 128, causal=False, bias=None, scaled=False)
    packed = jnp.asarray(in_runs(512, [(1, 128), (2, 128), (3, 100), (4, 28)]))
    np.testing.assert_array_equal(cut.blocks_seen(blocks, packed, packed)[0], np.eye(4, dtype=bool))
    np.testing.assert_array_equal(
        cut.ranges(cut.blocks_seen(blocks, packed, packed)), [0, 1, 2, 3, 1, 2, 3, 4]
    )
    one = jnp.ones((1, 512), jnp.int32)
    causal = Blocks(512, 512, 128, 128, causal=True, bias=None, scaled=False)
    np.testing.assert_array_equal(
        cut.blocks_seen(causal, one, one)[0], np.tril(np.ones((4, 4), bool))
    )
    # A query that sees nothing attends to all keys alike.
    marked = cut.mark_unseeing(packed, jnp.where(packed == 2, 7, packed), causal=False)
    assert set(np.asarray(marked[0, 128:256]).tolist()) == {SEES_NOTHING}
    seen = np.asarray(cut.blocks_seen(blocks, marked, packed)[0])
    assert seen.sum(axis=1).tolist() == [1, 4, 1, 1]
    nothing = jnp.zeros((1, 2, 3), bool)
    np.testing.assert_array_equal(cut.ranges(nothing), [0, 0, 0, 0])


def test_a_query_hidden_by_its_place_alone_is_marked() -> None:
    queries, keys = jnp.asarray([[1, 2, 2]]), jnp.asarray([[2, 1, 2]])
    marked = cut.mark_unseeing(queries, keys, causal=True)
    np.testing.assert_array_equal(marked, [[SEES_NOTHING, 2, 2]])


def stated(
    case: Case, batch: int, *, differentiated: bool = True, dtype: str = "bfloat16"
) -> dict[str, tuple[int, int, int]]:
    """Returns the flops, exponentials and bytes that each kernel of a call states."""
    shape = jax.ShapeDtypeStruct

    def call(
        q: jax.Array, k: jax.Array, v: jax.Array, table: jax.Array, *seg: jax.Array
    ) -> jax.Array:
        return jnp.sum(fused_attention(q, k, v, *seg, table, **case.static).astype(jnp.float32))

    width = case.heads * 64
    traced = jax.grad(call, argnums=(0, 1, 2, 3)) if differentiated else call
    jaxpr = jax.make_jaxpr(traced)(
        *(shape((batch, length, width), dtype) for length in (case.lq, case.lk, case.lk)),
        shape((case.heads, BUCKETS), jnp.float32),
        *(shape((batch, length), jnp.int32) for length in (case.lq, case.lk)),
    ).jaxpr
    costs = {str(e.params["name"]): e.params["cost_estimate"] for e in kernels_in(jaxpr)}
    return {k: (c.flops, c.transcendentals, c.bytes_accessed) for k, c in costs.items()}


def test_the_stated_cost_is_what_moves() -> None:
    # A v4 chip's part of an encoder layer of T5 1.1 XXL over 4 chips: 4 rows, 16 heads.
    found = stated(Case(1024, 1024, heads=16), batch=4)
    logits = 4 * 16 * 1024 * 1024
    array = 4 * 1024 * 1024 * 2
    per_query = 4 * 16 * 1024 * 4
    table = 16 * 32 * 4
    # Segments of queries once for every pair of heads, those of keys once for every row.
    segments = 4 * 8 * 1024 * 4 + 4 * 1024 * 4
    others = per_query + segments + table + 2 * 4 * 4 * 4
    forward = 5 * array + others
    assert found["fused_attention_forward"] == (logits * (2 * 128 + 6), logits, forward)
    # Segments the other way round; sums of 512 offsets for every head.
    backward = 9 * array + per_query + segments + table + 4 * 16 * 512 * 4 + 2 * 4 * 2 * 4
    assert found["fused_attention_backward"] == (logits * (5 * 128 + 8), logits, backward)
    # What rounding took from the result moves only where a gradient follows and rounding was.
    alone = stated(Case(1024, 1024, heads=16), batch=4, differentiated=False)
    assert alone == {
        "fused_attention_forward": (*found["fused_attention_forward"][:2], forward - array)
    }
    wide = stated(Case(1024, 1024, heads=16), batch=4, dtype="float32")
    assert wide["fused_attention_forward"][2] == 4 * 2 * array + others


def test_a_causal_call_counts_the_blocks_up_to_the_diagonal() -> None:
    found = stated(Case(512, 512, causal=True), batch=1)
    assert found["fused_attention_forward"][1] == 2 * 3 * 256 * 256
    assert found["fused_attention_backward"][1] == 2 * 4 * 128 * 512


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ((1000, 1024, 16, 64), "length 1000 is not a multiple of 128 up to 4096"),
        ((1024, 8192, 16, 64), "length 8192 is not a multiple of 128 up to 4096"),
        ((1024, 1024, 16, 128), "heads are 128 wide, not 64"),
        ((1024, 1024, 3, 64), "3 heads on a device are not an even number"),
        ((1024, 4096, 16, 64, "float32"), "length 4096 is not a multiple of 128 up to 2048"),
        ((128, 128, 2, 64, "float16"), "numbers are float16, not one of bfloat16, float32"),
    ],
)
def test_it_says_where_it_does_not_apply(call: tuple[int, int, int, int], reason: str) -> None:
    assert obstacle(*call) == reason
    assert not applies(*call)


def test_it_applies_to_the_recipes_lengths() -> None:
    for lengths in ((1024, 1024), (256, 256), (256, 1024), (4096, 4096), (640, 1152)):
        assert applies(*lengths, 16, 64)


def test_shapes_that_do_not_fit_are_refused() -> None:
    q, k, v, table = Case(128, 256).operands()
    segments = in_runs(128, [(1, 128)]), in_runs(256, [(1, 256)])
    static = {"causal": False, "bidirectional": True, "max_distance": MAX_DISTANCE}
    with pytest.raises(ValueError, match="heads are 128 wide, not 64"):
        fused_attention(q, k, v, *segments, table, heads=1, **static)
    with pytest.raises(ValueError, match="a block of 192 is no multiple of 128 that divides 256"):
        fused_attention(q, k, v, *segments, table, heads=2, block_k=192, **static)
