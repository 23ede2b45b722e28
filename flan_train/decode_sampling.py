"""How the next token is chosen: the likeliest, or drawn from the likeliest.

Axis letters: P prompts, S outputs a prompt, V vocab.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt32

from flan_train.errors import UserError, check_number, unknown_name

METHODS = ("greedy", "sample", "beam")


class Dials(NamedTuple):
    """Numbers that a compiled program takes as they come.

    temperature: float32 []. penalties: float32 [M + 1], by the length of an output.
    """

    temperature: Any
    penalties: Any


@gin.register(module="flan_train.decode")
@dataclasses.dataclass(frozen=True)
class Sampling:
    """How outputs are chosen.

    Attributes:
      method: "greedy" (always the likeliest token), "sample" (tokens are drawn) or "beam" (the
        likeliest whole outputs that a search `beams` wide comes upon).
      temperature: "sample": logits are divided by it first.
      top_k: "sample": only the k likeliest tokens can be drawn (0: all).
      top_p: "sample": of those, only the likeliest that together reach this probability (1: all).
      beams: "beam": unfinished outputs that are followed at once.
      length_penalty: "beam": outputs are compared by their summed log-probability divided by their
        length to this power; above 0 favours long ones.
      samples: outputs a prompt: so many draws in "sample", the best so many in "beam".

    Raises:
      UserError: a field that its method cannot use.
    """

    method: str = "greedy"
    temperature: int | float = 1.0
    top_k: int = 0
    top_p: int | float = 1.0
    beams: int = 1
    length_penalty: int | float = 1.0
    samples: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method", str(self.method), METHODS, where="Sampling.method")
        check_number("Sampling.top_k", self.top_k, whole=True, minimum=0)
        check_number("Sampling.beams", self.beams, whole=True, minimum=1)
        check_number("Sampling.samples", self.samples, whole=True, minimum=1)
        check_number("Sampling.length_penalty", self.length_penalty)
        check_number("Sampling.temperature", self.temperature, above=0)
        check_number("Sampling.top_p", self.top_p, above=0)
        if self.top_p > 1:
            raise UserError(
                f"Sampling.top_p cannot be {self.top_p!r}",
                where="Sampling.top_p",
                expected="a probability: a number above 0 and at most 1",
            )
        most = {"greedy": 1, "beam": self.beams}.get(self.method, self.samples)
        if self.samples > most:
            raise UserError(
                f"{self.samples} outputs a prompt were asked for, and '{self.method}' gives {most}",
                where="Sampling.samples",
                expected=f"at most {most}",
                fix="use method 'sample', or as many beams as outputs",
            )

    @property
    def kind(self) -> Sampling:
        """What a program is compiled for: what it takes as it comes is at its default."""
        samples = 1 if self.method == "beam" else self.samples
        return dataclasses.replace(self, temperature=1.0, length_penalty=1.0, samples=samples)

    def dials(self, places: int) -> Dials:
        """Returns the other fields as arrays, for outputs of up to `places` tokens."""
        lengths = np.maximum(np.arange(places + 1, dtype=np.float64), 1)
        return Dials(
            np.float32(self.temperature), (lengths**self.length_penalty).astype(np.float32)
        )

    @property
    def width(self) -> int:
        """The number of outputs of a prompt that are worked on at once."""
        return self.beams if self.method == "beam" else self.samples


def likeliest(logits: Float[Array, "P S V"]) -> Int[Array, "P S"]:
    """Returns the first token of the highest logit, as argmax does.

    Two plain reductions: the compiler for CPUs runs argmax one number at a time.
    """
    vocab = logits.shape[-1]
    place = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    highest = jnp.max(logits, axis=-1, keepdims=True)
    # A row of NaN has no highest: the last token then, never one beyond the vocabulary.
    return jnp.min(jnp.where(logits == highest, place, vocab - 1), axis=-1)


def log_probability(
    logits: Float[Array, "P S V"], tokens: Int[Array, "P S"]
) -> Float[Array, "P S"]:
    """Returns the log-probability of each token."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def candidates(
    logits: Float[Array, "P S V"], sampling: Sampling
) -> tuple[Float[Array, "P S C"], Int[Array, "P S C"]]:
    """Returns what may be drawn: logits (over the temperature already) and their tokens.

    top_k first: the likeliest k, the lower number first among equals. Then top_p of what is left:
    from the likeliest down until the probabilities reach top_p, the others -inf.
    """
    vocab = logits.shape[-1]
    count = min(sampling.top_k or vocab, vocab)
    if count == vocab and sampling.top_p == 1:
        return logits, jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    ordered, tokens = jax.lax.top_k(logits, count)
    if sampling.top_p < 1:
        shares = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(shares, axis=-1) - shares
        ordered = jnp.where(before < sampling.top_p, ordered, -jnp.inf)
    return ordered, tokens


def drawn(
    logits: Float[Array, "P S V"],
    seeds: UInt32[Array, " P"],
    steps: Int[Array, " P"],
    temperature: Float[Array, ""],
    sampling: Sampling,
) -> Int[Array, "P S"]:
    """Returns one token an output, drawn by a key of (seed, number of the sample, step) alone.

    The token of the highest sum of logit and noise is a draw from the softmax (Gumbel's way). A
    token's noise follows from the key and the token, so that nothing else can change a draw.
    """
    vocab = logits.shape[-1]
    possible, tokens = candidates(logits / temperature, sampling)
    few = possible.shape[-1] < vocab

    def noise(seed: Array, step: Array, sample: Array, tokens: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), sample), step)
        if few:
            keys = jax.vmap(lambda token: jax.random.fold_in(key, token))(tokens)
            return jax.vmap(jax.random.gumbel)(keys)
        return jnp.take(jax.random.gumbel(key, (vocab,)), tokens)

    samples = jnp.arange(logits.shape[1], dtype=jnp.uint32)
    of_prompt = jax.vmap(noise, (None, None, 0, 0))
    each = jax.vmap(of_prompt, (0, 0, None, 0))(seeds, steps, samples, tokens)
    best = likeliest(possible + each)
    return jnp.take_along_axis(tokens, best[..., None], axis=-1)[..., 0]
