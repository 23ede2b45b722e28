"""A batch of prompts in the making: the compiled programs that fill it, run it and shrink it.

Shapes are static: a batch has so many slots (P), and a slot is empty or holds a prompt. Programs
are compiled once for each shape and way of sampling, and shared by all who ask for the same.

Axis letters: P slots, E prompts that enter at once, S outputs a prompt, M places, Ls input length.
"""

from __future__ import annotations

import collections
import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from flan_train import decode_outputs
from flan_train.decode_outputs import Found, Outputs, Rules
from flan_train.decode_sampling import Dials, Sampling
from flan_train.decode_step import (
    LAYER_AXES,
    Cache,
    Weights,
    bias_by_age,
    cross_keys_values,
    layers_of,
    step,
)
from flan_train.models import t5
from flan_train.models.layers import Constrain, unconstrained
from flan_train.sharding import Partitioner

START_ID = 0  # T5 starts decoding from its padding token
# A call comes back at least so often, for the sake of progress bars and of interrupting it.
STEPS_A_CALL = 64

Tree = TypeVar("Tree")

# How often each program was compiled: a function's body runs in Python only to be compiled.
compiled: collections.Counter[str] = collections.Counter()


class Shape(NamedTuple):
    """What a batch's programs are compiled for, apart from the model."""

    slots: int
    inputs: int
    places: int
    sampling: Sampling
    eos_id: int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """The state of P slots. place: int32 [], the tokens that were written to the ring.

    steps, limits: int32 [P]. seeds: uint32 [P]. done: bool [P], True for an empty slot.
    tokens: int32 [P, S], the last ones.
    """

    place: Array
    steps: Array
    limits: Array
    seeds: Array
    done: Array
    tokens: Array
    outputs: Outputs
    cache: Cache


class News(NamedTuple):
    """What the host looks at between two calls."""

    done: Array
    found: Found


def _constrain(partitioner: Partitioner | None) -> Constrain:
    return unconstrained if partitioner is None else partitioner.constrain


def _pinned(batch: Batch, constrain: Constrain) -> Batch:
    """Returns the batch with its slots laid over the devices; the caches' heads as well."""

    def pin(x: Array) -> Array:
        # Caches are the arrays of four axes.
        rest = ("heads", None, None) if x.ndim == 4 else (None,) * (x.ndim - 1)
        return x if x.ndim == 0 else constrain(x, ("batch", *rest))

    return jax.tree.map(pin, batch)


@functools.partial(jax.jit, static_argnames=("config", "partitioner"))
def lay_out(params: t5.Params, config: t5.T5Config, partitioner: Partitioner | None) -> Any:
    """Returns the decoder's layers as `decode_step` wants them, sharded as the parameters are."""
    compiled["lay_out"] += 1
    layers = layers_of(params, config)
    if partitioner is None or partitioner.mesh.size == 1:
        return layers
    shardings = partitioner.param_shardings((LAYER_AXES,) * len(layers), layers)
    return jax.lax.with_sharding_constraint(layers, shardings)


@functools.partial(jax.jit, static_argnames=("config", "shape", "partitioner"))
def empty(config: t5.T5Config, shape: Shape, partitioner: Partitioner | None) -> Batch:
    """Returns a batch of empty slots."""
    compiled["empty"] += 1
    slots, width = shape.slots, shape.sampling.width
    searches = shape.sampling.method == "beam"
    rows, together = (slots, width) if searches else (slots * width, 1)
    own = (rows, config.num_heads, shape.places * together, config.head_dim)
    cross = (slots, config.num_heads, shape.inputs, config.head_dim)

    def caches(size: tuple[int, ...]) -> tuple[Array, ...]:
        return tuple(jnp.zeros(size, config.dtype) for _ in range(config.num_decoder_layers))

    cache = Cache(
        caches(own),
        caches(own),
        caches(cross),
        caches(cross),
        jnp.zeros((slots,), jnp.int32),
        jnp.zeros((slots, width, shape.places), jnp.int32) if searches else None,
    )
    batch = Batch(
        place=jnp.zeros((), jnp.int32),
        steps=jnp.zeros((slots,), jnp.int32),
        limits=jnp.ones((slots,), jnp.int32),
        seeds=jnp.zeros((slots,), jnp.uint32),
        done=jnp.ones((slots,), bool),
        tokens=jnp.full((slots, width), START_ID, jnp.int32),
        outputs=decode_outputs.start(shape.sampling, slots, shape.places),
        cache=cache,
    )
    return _pinned(batch, _constrain(partitioner))


class Encoded(NamedTuple):
    """What the decoder keeps of prompts: keys and values [E, H, Ls, K] of each layer."""

    keys: tuple[Array, ...]
    values: tuple[Array, ...]


@functools.partial(jax.jit, static_argnames=("config", "partitioner"))
def encode(
    params: t5.Params,
    weights: Weights,
    tokens: Any,
    lengths: Any,
    config: t5.T5Config,
    partitioner: Partitioner | None,
) -> Encoded:
    """Returns what is kept of prompts int32 [E, Ls] of the given lengths int32 [E]: their one run
    through the encoder."""
    compiled["encode"] += 1
    constrain = _constrain(partitioner)
    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    segments = (places < lengths[:, None]).astype(jnp.int32)
    encoded = t5.encode(params, config, tokens, segments, constrain=constrain)
    return Encoded(*cross_keys_values(weights, config, encoded, constrain))


class Entering(NamedTuple):
    """Where prompts go: slots int32 [E] (the number of slots and above: nowhere), lengths and
    limits int32 [E], seeds uint32 [E]."""

    slots: Any
    lengths: Any
    limits: Any
    seeds: Any


@functools.partial(jax.jit, static_argnames=("shape", "partitioner"), donate_argnames="batch")
def enter(
    batch: Batch,
    encoded: Encoded,
    entering: Entering,
    shape: Shape,
    partitioner: Partitioner | None,
) -> Batch:
    """Returns the batch with prompts put into slots."""
    compiled["enter"] += 1

    def put(old: Tree, new: Tree) -> Tree:
        def one(old: Array, new: Array) -> Array:
            return old.at[entering.slots].set(new, mode="drop")

        return jax.tree.map(one, old, new)

    count = entering.slots.shape[0]
    # The ring is left as it is: what was written before a prompt entered is too old to be seen.
    cache = replace(
        batch.cache,
        cross_keys=put(batch.cache.cross_keys, encoded.keys),
        cross_values=put(batch.cache.cross_values, encoded.values),
        lengths=put(batch.cache.lengths, entering.lengths),
    )
    entered = replace(
        batch,
        steps=put(batch.steps, jnp.zeros((count,), jnp.int32)),
        limits=put(batch.limits, entering.limits),
        seeds=put(batch.seeds, entering.seeds),
        done=put(batch.done, jnp.zeros((count,), bool)),
        tokens=put(batch.tokens, jnp.full((count, shape.sampling.width), START_ID, jnp.int32)),
        outputs=put(batch.outputs, decode_outputs.start(shape.sampling, count, shape.places)),
        cache=cache,
    )
    return _pinned(entered, _constrain(partitioner))


@functools.partial(
    jax.jit, static_argnames=("config", "shape", "partitioner"), donate_argnames="batch"
)
def advance(
    batch: Batch,
    weights: Weights,
    enough: Any,
    dials: Dials,
    config: t5.T5Config,
    shape: Shape,
    partitioner: Partitioner | None,
) -> tuple[Batch, News]:
    """Returns the batch some tokens on: until `enough` slots (int32 []) are done or empty."""
    compiled["advance"] += 1
    constrain = _constrain(partitioner)
    by_age = bias_by_age(weights, config, shape.places)
    begun = batch.place

    def going(batch: Batch) -> Array:
        within = batch.place - begun < STEPS_A_CALL
        return within & (jnp.sum(batch.done, dtype=jnp.int32) < enough)

    def once(batch: Batch) -> Batch:
        logits, cache = step(
            weights, config, batch.cache, batch.tokens, batch.place, batch.steps, by_age, constrain
        )
        rules = Rules(shape.sampling, shape.eos_id, dials, batch.steps, batch.limits, batch.seeds)
        outputs, moved = batch.outputs.extend(logits, rules)
        if moved.parents is not None and cache.ancestors is not None:
            order = moved.parents[:, :, None]
            ancestors = jnp.take_along_axis(cache.ancestors, order, axis=1)
            cache = replace(cache, ancestors=ancestors)

        def keep(old: Array, new: Array) -> Array:
            # What was found before stays; a slot that is done only waits.
            return jnp.where(batch.done.reshape(-1, *(1,) * (new.ndim - 1)), old, new)

        moving = replace(
            batch,
            place=batch.place + 1,
            steps=keep(batch.steps, batch.steps + 1),
            done=batch.done | moved.done,
            tokens=moved.tokens,
            outputs=jax.tree.map(keep, batch.outputs, outputs),
            cache=cache,
        )
        return _pinned(moving, constrain)

    batch = jax.lax.while_loop(going, once, batch)
    news = News(batch.done, batch.outputs.found)
    # Small, and every host decides by them.
    whole = jax.tree.map(lambda x: constrain(x, (None,) * x.ndim), news)
    return batch, whole


@functools.partial(jax.jit, static_argnames="partitioner")
def shrink(batch: Batch, slots: Any, partitioner: Partitioner | None) -> Batch:
    """Returns a smaller batch of the slots int32 [P'] named; numbers beyond P are empty slots."""
    compiled["shrink"] += 1
    count = batch.done.shape[0]

    def pick(x: Array) -> Array:
        if x.ndim == 0:
            return x
        groups = x.reshape(count, -1, *x.shape[1:])
        chosen = jnp.take(groups, jnp.minimum(slots, count - 1), axis=0)
        return chosen.reshape(-1, *x.shape[1:])

    small = jax.tree.map(pick, batch)
    small = replace(small, done=small.done | (slots >= count))
    return _pinned(small, _constrain(partitioner))


def compilations() -> int:
    """Returns how many programs were compiled in this process so far."""
    return compiled.total()


__all__ = [
    "START_ID",
    "Batch",
    "Encoded",
    "Entering",
    "News",
    "Shape",
    "advance",
    "compilations",
    "empty",
    "encode",
    "enter",
    "lay_out",
    "shrink",
]
