"""Generation with a key-value cache. Axis letters: B batch, Ls input length, V vocab."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from flan_train.models import t5
from flan_train.models.layers import AnyArray, Constrain, unconstrained

START_ID = 0  # T5 starts decoding from its padding token


class _State(NamedTuple):
    step: Array  # int32 []
    tokens: Array  # int32 [B], the last ones
    ended: Array  # bool [B]
    output: Array  # int32 [B, max_length]
    cache: t5.Cache


def greedy(
    params: t5.Params,
    config: t5.T5Config,
    encoder_tokens: Int[AnyArray, "B Ls"],
    *,
    max_length: int,
    eos_id: int = 1,
    constrain: Constrain = unconstrained,
) -> Int[Array, "B M"]:
    """Returns the likeliest next token again and again: int32 [B, max_length].

    A row ends with `eos_id` and is 0 after it. A row of padding alone yields zeros. It stops when
    every row has ended. Compiled once for each shape of `encoder_tokens` (0-padded) and
    `max_length`: pad prompts to few lengths, and the last batch to the size of the others.

    Raises:
      ValueError: `max_length` is below 1.
    """
    if max_length < 1:
        raise ValueError(f"max_length = {max_length}: at least 1 is needed")
    return _greedy(params, config, jnp.asarray(encoder_tokens), max_length, eos_id, constrain)


@functools.partial(jax.jit, static_argnames=("config", "max_length", "eos_id", "constrain"))
def _greedy(
    params: t5.Params,
    config: t5.T5Config,
    encoder_tokens: Array,
    max_length: int,
    eos_id: int,
    constrain: Constrain,
) -> Array:
    segments = (encoder_tokens != 0).astype(jnp.int32)
    encoded = t5.encode(params, config, encoder_tokens, segments, constrain=constrain)
    cache = t5.init_cache(params, config, encoded, segments, max_length, constrain=constrain)
    batch = encoder_tokens.shape[0]

    def unfinished(state: _State) -> Array:
        return (state.step < max_length) & ~jnp.all(state.ended)

    def advance(state: _State) -> _State:
        logits, cache = t5.decode_step(
            params, config, state.cache, state.tokens, state.step, constrain=constrain
        )
        tokens = jnp.where(state.ended, 0, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        output = jax.lax.dynamic_update_slice(state.output, tokens[:, None], (0, state.step))
        return _State(state.step + 1, tokens, state.ended | (tokens == eos_id), output, cache)

    start = _State(
        step=jnp.zeros((), jnp.int32),
        tokens=jnp.full((batch,), START_ID, jnp.int32),
        # Rows that only fill up a batch must not keep the others waiting.
        ended=jnp.all(encoder_tokens == 0, axis=-1),
        output=jnp.zeros((batch, max_length), jnp.int32),
        cache=cache,
    )
    return jax.lax.while_loop(unfinished, advance, start).output
