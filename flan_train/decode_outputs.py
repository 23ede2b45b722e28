"""What generation has found so far, and how one more token changes it: draws, and beams.

Both are trees of arrays with the prompts on axis 0, with three functions: `start`, `extend` (takes
the logits of a step) and `found` (what is to be handed out).

Axis letters: P prompts, S outputs a prompt (draws, or beams), C candidates, M places, V vocab.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from flan_train.decode_sampling import Dials, Sampling, drawn, likeliest, log_probability

# Below any summed log-probability; what an empty place in a list of the best holds.
LOWEST = -1e9


class Rules(NamedTuple):
    """What one more token depends on besides the logits: static, but for the arrays."""

    sampling: Sampling
    eos_id: int
    dials: Dials
    steps: Array  # int32 [P], of each prompt
    limits: Array  # int32 [P], tokens an output may have, the end included
    seeds: Array  # uint32 [P]


class Found(NamedTuple):
    """tokens int32 [P, S, M], lengths int32 [P, S] (the end included), log_probability float32
    [P, S], ended bool [P, S]; the best first where there is an order."""

    tokens: Array
    lengths: Array
    log_probability: Array
    ended: Array


class Moved(NamedTuple):
    """tokens int32 [P, S] to go on with, done bool [P], and the beams that they continue."""

    tokens: Array
    done: Array
    parents: Array | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Draws:
    """Outputs that know nothing of each other; greedy decoding has one of them."""

    found: Found
    over: Array  # bool [P, S]

    @classmethod
    def start(cls, prompts: int, outputs: int, places: int) -> Draws:
        """Returns no token yet."""
        shape = (prompts, outputs)
        return cls(
            Found(
                jnp.zeros((*shape, places), jnp.int32),
                jnp.zeros(shape, jnp.int32),
                jnp.zeros(shape, jnp.float32),
                jnp.zeros(shape, bool),
            ),
            jnp.zeros(shape, bool),
        )

    def extend(self, logits: Float[Array, "P S V"], rules: Rules) -> tuple[Draws, Moved]:
        """Returns the outputs with a token more each; those that are over stay as they are."""
        if rules.sampling.method == "sample":
            tokens = drawn(
                logits, rules.seeds, rules.steps, rules.dials.temperature, rules.sampling
            )
        else:
            tokens = likeliest(logits)
        tokens = jnp.where(self.over, 0, tokens)
        going = ~self.over
        ended = self.found.ended | (going & (tokens == rules.eos_id))
        last = (rules.steps + 1 >= rules.limits)[:, None]
        found = Found(
            _put(self.found.tokens, tokens, rules.steps),
            self.found.lengths + going,
            self.found.log_probability + jnp.where(going, log_probability(logits, tokens), 0.0),
            ended,
        )
        over = self.over | ended | last
        return Draws(found, over), Moved(tokens, jnp.all(over, axis=1), None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beams:
    """Beam search: the S likeliest unfinished outputs, and the S best finished ones.

    It gives what transformers' beam search gives with early_stopping=False: 2 S continuations of
    all beams are looked at; of the first S those that end are finished; the S likeliest that do
    not end go on; and a prompt is done when its likeliest beam, penalised by its present length,
    is no better than the worst of S finished ones.
    """

    going: Array  # int32 [P, S, M]
    sums: Array  # float32 [P, S], summed log-probabilities of `going`
    best: Found
    scores: Array  # float32 [P, S], what `best` is ordered by

    @classmethod
    def start(cls, prompts: int, outputs: int, places: int) -> Beams:
        """Returns one empty beam a prompt; the others are too unlikely to be continued."""
        shape = (prompts, outputs)
        first = jnp.arange(outputs) == 0
        empty = jnp.zeros((*shape, places), jnp.int32)
        nothing = Found(
            empty,
            jnp.zeros(shape, jnp.int32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros(shape, bool),
        )
        return cls(
            empty,
            jnp.broadcast_to(jnp.where(first, 0.0, LOWEST), shape).astype(jnp.float32),
            nothing,
            jnp.full(shape, LOWEST, jnp.float32),
        )

    @property
    def found(self) -> Found:
        """The finished outputs, the best first."""
        return self.best

    def extend(self, logits: Float[Array, "P S V"], rules: Rules) -> tuple[Beams, Moved]:
        """Returns the search a token on."""
        prompts, width, vocab = logits.shape
        sums = jax.nn.log_softmax(logits, axis=-1) + self.sums[:, :, None]
        sums, chosen = jax.lax.top_k(sums.reshape(prompts, width * vocab), 2 * width)
        parents, tokens = chosen // vocab, chosen % vocab
        texts = _put(_take(self.going, parents), tokens, rules.steps)
        at_end = tokens == rules.eos_id
        stops = at_end | (rules.steps + 1 >= rules.limits)[:, None]

        length = rules.steps + 1
        penalty = jnp.take(rules.dials.penalties, length)
        finished = stops & (jnp.arange(2 * width) < width)
        scores = jnp.where(finished, sums / penalty[:, None], LOWEST)
        fresh = Found(texts, jnp.broadcast_to(length[:, None], tokens.shape), sums, at_end)
        both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], 1), self.best, fresh)
        scores, order = jax.lax.top_k(jnp.concatenate([self.scores, scores], axis=1), width)
        best = jax.tree.map(lambda x: _take(x, order), both)

        sums, order = jax.lax.top_k(jnp.where(stops, sums + LOWEST, sums), width)
        hopeful = jnp.any(sums[:, :1] / penalty[:, None] > scores, axis=1)
        done = ~hopeful | (length >= rules.limits)
        moved = Moved(_take(tokens, order), done, _take(parents, order))
        return Beams(_take(texts, order), sums, best, scores), moved


Outputs = Draws | Beams


def start(sampling: Sampling, prompts: int, places: int) -> Outputs:
    """Returns the outputs of prompts that have none yet."""
    kind = Beams if sampling.method == "beam" else Draws
    return kind.start(prompts, sampling.width, places)


def _put(
    texts: Int[Array, "P C M"], tokens: Int[Array, "P C"], steps: Int[Array, " P"]
) -> Int[Array, "P C M"]:
    here = jnp.arange(texts.shape[2], dtype=jnp.int32) == steps[:, None, None]
    return jnp.where(here, tokens[:, :, None], texts)


def _take(x: Array, order: Int[Array, "P C"]) -> Array:
    """Returns x [P, .., ...] with its axis 1 in another order, a prompt by itself."""
    return jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)
