"""Decoding with a cache gives what decoding without one gives."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_train import decode
from flan_train.models import t5
from tests.models import seeded

CONFIG = seeded.CROSSED["t5_relu_untied"]
TIED = seeded.CROSSED["t5_gated_tied"]


@functools.cache
def prompts() -> np.ndarray:
    """Returns int32 [4, 11] prompts of different lengths; the last row is padding alone."""
    tokens = seeded.padded("decode", [(5, 1), (11, 1), (2, 1)])["encoder_input_tokens"]
    return np.concatenate([tokens, np.zeros((1, 11), np.int32)])


@pytest.mark.parametrize(
    "config", [CONFIG, dataclasses.replace(TIED, scan_layers=False)], ids=["scan", "unrolled"]
)
def test_cached_logits_equal_the_uncached_forward_pass(config: t5.T5Config) -> None:
    params = seeded.params(config)
    batch = seeded.padded("cached", [(9, 6), (4, 6)])
    whole = jax.jit(t5.apply, static_argnums=1)(params, config, batch)
    segments = batch["encoder_segment_ids"]

    @jax.jit
    def stepwise(tokens: jax.Array) -> jax.Array:
        encoded = t5.encode(params, config, batch["encoder_input_tokens"], segments)
        # Room for more steps than are taken: the rest of the cache must not be seen.
        cache = t5.init_cache(params, config, encoded, segments, max_length=8)

        def advance(cache: t5.Cache, at: tuple[jax.Array, jax.Array]) -> tuple[t5.Cache, jax.Array]:
            logits, cache = t5.decode_step(params, config, cache, at[0], at[1])
            return cache, logits

        return jax.lax.scan(advance, cache, (tokens.T, jnp.arange(tokens.shape[1])))[1]

    found = stepwise(jnp.asarray(batch["decoder_input_tokens"])).transpose(1, 0, 2)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_greedy_repeats_the_argmax_of_the_forward_pass_and_ends_rows() -> None:
    params = seeded.params(CONFIG)
    free = np.asarray(decode.greedy(params, CONFIG, prompts(), max_length=7, eos_id=-1))
    segments = (prompts() != 0).astype(np.int32)
    batch = {
        "encoder_input_tokens": prompts(),
        "encoder_segment_ids": segments,
        "decoder_input_tokens": np.pad(free, ((0, 0), (1, 0)))[:, :-1],
        "decoder_segment_ids": np.ones_like(free),
    }
    logits = jax.jit(t5.apply, static_argnums=1)(params, CONFIG, batch)
    np.testing.assert_array_equal(np.argmax(logits, -1)[:3], free[:3])
    assert (free[3] == 0).all()

    # Any token can be the end: the third one of the first row, say.
    eos = int(free[0, 2])
    ended = np.asarray(decode.greedy(params, CONFIG, prompts(), max_length=7, eos_id=eos))
    for row, full in zip(ended, free, strict=True):
        places = np.flatnonzero(full == eos)
        end = places[0] + 1 if len(places) else len(full)
        np.testing.assert_array_equal(row, np.where(np.arange(len(full)) < end, full, 0))
    assert (ended != free).any()


def test_a_second_batch_of_the_same_shape_compiles_nothing() -> None:
    params = seeded.params(CONFIG)
    decode.greedy(params, CONFIG, prompts(), max_length=7)
    compiled = decode._greedy._cache_size()
    decode.greedy(params, CONFIG, prompts()[::-1].copy(), max_length=7)
    assert decode._greedy._cache_size() == compiled


def test_rows_do_not_depend_on_their_neighbours_or_on_padding() -> None:
    params = seeded.params(CONFIG)
    together = np.asarray(decode.greedy(params, CONFIG, prompts(), max_length=7))
    alone = np.asarray(decode.greedy(params, CONFIG, prompts()[:1, :5], max_length=7))
    np.testing.assert_array_equal(alone[0], together[0])


def test_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_length"):
        decode.greedy({}, CONFIG, prompts(), max_length=0)
