"""The log-likelihood a model gives to each of several options after a prompt.

A prompt is encoded once. Its options are packed into one row of the decoder, told apart by segment
ids, so that the keys and values of the prompt are there once, whatever the number of options:

    options "7 8 ." and "7 9 6 ."     scored tokens   7 8 . 7 9 6 . 0
    of one prompt, in a row of 8      read tokens     0 7 8 0 7 9 6 0
                                      segment ids     1 1 1 2 2 2 2 0

Prompts are padded to one of few lengths and so are the rows of options: what is compiled depends on
those two lengths and the batch size, and a second suite of the same kind compiles nothing.

Axis letters: B batch, Ls prompt length, W width of a row of options, D embed, V vocab.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from flan_train.decode import START_ID
from flan_train.models import t5
from flan_train.models.layers import Constrain, unconstrained
from flan_train.sharding import Partitioner

EOS_ID = 1

# Prompts are padded to a multiple of 64 up to 512 tokens and to one of four lengths for each
# doubling after that: at most a quarter of a long prompt's slots is padding, a tenth on average.
SHORTEST_PROMPT, PROMPTS_PER_OCTAVE = 64, 4
SHORTEST_ROW, ROWS_PER_OCTAVE = 8, 2
# Attention in a row grows with the square of its width: beyond this the options of a prompt take
# further rows. One option that is longer has a row for itself.
WIDEST_ROW = 512
# Logits of so many places of every row exist at a time; at 32,128 words they would be the largest
# array by far.
PLACES = 8


class Scored(NamedTuple):
    """What a model says of the options of one prompt.

    log_probabilities: float32 [options], the sum over the scored tokens of an option.
    greedy: bool [options], whether each of its tokens is the likeliest in its place.
    lengths: int32 [options], scored tokens.
    """

    log_probabilities: np.ndarray
    greedy: np.ndarray
    lengths: np.ndarray


def padded_length(length: int, shortest: int, per_octave: int) -> int:
    """Returns the static length that so many tokens are padded to, a multiple of `shortest`.

    >>> [padded_length(n, 64, 4) for n in (1, 64, 65, 450, 513, 1100)]
    [64, 64, 128, 512, 640, 1280]
    """
    step = max(shortest, (1 << max(length - 1, 1).bit_length() - 1) // per_octave)
    return max(1, -(-length // step)) * step


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """One prompt's work: its distinct options laid out in rows."""

    index: int
    options: list[np.ndarray]  # distinct ones, as they are scored
    of: list[int]  # given option -> distinct one
    rows: list[list[int]]  # distinct options of each row
    shape: tuple[int, int, int]  # Ls, W, number of rows


class OptionScorer:
    """Scores the options of prompts with one model; compiled programs are kept between calls.

    A score depends on the parameters, the prompt and the option alone: on the order or the other
    prompts never, on batch size and sharding only by the rounding of float sums.

    Args:
      params: the model's parameters, laid out as `partitioner` says.
      config: what the parameters belong to.
      partitioner: the mesh to run on (None: the default device).
      batch_size: prompts scored at once, rounded up to a multiple of the batch shards.
      eos_id: the token that ends every option, added where an option lacks it; None scores the
        tokens of an option as they stand.
    """

    def __init__(
        self,
        params: t5.Params,
        config: t5.T5Config,
        *,
        partitioner: Partitioner | None = None,
        batch_size: int = 32,
        eos_id: int | None = EOS_ID,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: at least 1 is needed")
        self.params = params
        self.config = config
        self.partitioner = partitioner
        self.eos_id = eos_id
        shards = 1
        self._constrain: Constrain = unconstrained
        if partitioner is not None:
            shards, self._constrain = partitioner.batch_parts, partitioner.constrain
        sizes = (-(-batch_size // 4), batch_size)
        self._sizes = tuple(-(-size // shards) * shards for size in sizes)
        self._programs: set[tuple[int, ...]] = set()

    @property
    def compilations(self) -> int:
        """The number of different programs that were needed so far."""
        return len(self._programs)

    def score(
        self, prompts: Sequence[np.ndarray], options: Sequence[Sequence[np.ndarray]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index of a prompt, float32 [options] summed log-likelihoods), in any order.

        Args:
          prompts: int32 [n] tokens of each prompt as the model was trained on them, EOS included.
          options: for each prompt its options, int32 [m] tokens each.

        Raises:
          ValueError: another number of prompts than of lists of options, or an empty prompt.
        """
        for index, scored in self.details(prompts, options):
            yield index, scored.log_probabilities

    def details(
        self, prompts: Sequence[np.ndarray], options: Sequence[Sequence[np.ndarray]]
    ) -> Iterator[tuple[int, Scored]]:
        """Yields (index of a prompt, what the model says of its options); as `score` otherwise."""
        if len(prompts) != len(options):
            raise ValueError(f"{len(prompts)} prompts with {len(options)} lists of options")
        groups: dict[tuple[int, int, int], list[_Prompt]] = {}
        for index, (prompt, given) in enumerate(zip(prompts, options, strict=True)):
            work = self._plan(index, prompt, given)
            if work.rows:
                groups.setdefault(work.shape, []).append(work)
            else:  # nothing to score: no options, or options of no token
                yield index, _gathered(work, [], [])
        waiting: tuple[list[_Prompt], list[tuple[Array, Array]]] | None = None
        for _, members in sorted(groups.items()):
            for batch, size in self._batches(members):
                running = (batch, self._run([prompts[work.index] for work in batch], batch, size))
                # The next batch is under way while this one's numbers are fetched and handed on.
                if waiting is not None:
                    yield from self._results(*waiting)
                waiting = running
        if waiting is not None:
            yield from self._results(*waiting)

    # -------------------------------------------------------------------------- laying out

    def _plan(self, index: int, prompt: np.ndarray, given: Sequence[np.ndarray]) -> _Prompt:
        if len(prompt) < 1:
            raise ValueError(f"prompt {index} has no token; EOS at least is needed")
        distinct: dict[tuple[int, ...], int] = {}
        of = []
        for option in given:
            tokens = tuple(int(token) for token in option)
            if self.eos_id is not None and (not tokens or tokens[-1] != self.eos_id):
                tokens = (*tokens, self.eos_id)
            # Equal options share a place, so that their scores are equal to the last bit.
            of.append(distinct.setdefault(tokens, len(distinct)))
        listed = [np.array(tokens, np.int32) for tokens in distinct]
        rows: list[list[int]] = []
        room = 0
        for number, tokens_of in enumerate(listed):
            if not len(tokens_of):
                continue
            if not rows or len(tokens_of) > room:
                rows.append([])
                room = WIDEST_ROW
            rows[-1].append(number)
            room -= len(tokens_of)
        widest = max((sum(len(listed[number]) for number in row) for row in rows), default=0)
        shape = (
            padded_length(len(prompt), SHORTEST_PROMPT, PROMPTS_PER_OCTAVE),
            padded_length(widest, SHORTEST_ROW, ROWS_PER_OCTAVE),
            len(rows),
        )
        return _Prompt(index, listed, of, rows, shape)

    def _batches(self, members: list[_Prompt]) -> Iterator[tuple[list[_Prompt], int]]:
        """Yields batches and the rows they are padded to: full ones, then quarters of one."""
        quarter, full = self._sizes
        if members[0].shape[1] > WIDEST_ROW:
            full = quarter  # the attention of such a row takes as much memory as several rows'
        start = 0
        while start < len(members):
            left = len(members) - start
            size = full if left >= full or left > full - quarter else quarter
            yield members[start : start + size], size
            start += size

    # --------------------------------------------------------------------------- computing

    def _run(
        self, prompts: list[np.ndarray], batch: list[_Prompt], size: int
    ) -> list[tuple[Array, Array]]:
        length, width, rounds = batch[0].shape
        self._programs |= {(size, length), (size, length, width)}
        encoder_tokens = np.zeros((size, length), np.int32)
        for place, prompt in enumerate(prompts):
            encoder_tokens[place, : len(prompt)] = prompt
        placed = self._place(encoder_tokens)
        encoded = _encode(self.params, self.config, placed, self._constrain)
        found = []
        for turn in range(rounds):
            read = np.zeros((size, width), np.int32)
            scored, segments = np.zeros_like(read), np.zeros_like(read)
            for place, work in enumerate(batch):
                start = 0
                for segment, number in enumerate(work.rows[turn], 1):
                    tokens = work.options[number]
                    stop = start + len(tokens)
                    scored[place, start:stop] = tokens
                    read[place, start] = START_ID
                    read[place, start + 1 : stop] = tokens[:-1]
                    segments[place, start:stop] = segment
                    start = stop
            rows = (self._place(array) for array in (read, scored, segments))
            found.append(_score(self.params, self.config, encoded, placed, *rows, self._constrain))
        return found

    def _place(self, array: np.ndarray) -> Array | np.ndarray:
        if self.partitioner is None:
            return array
        # Every host holds the whole batch and gives its devices their rows.
        return jax.make_array_from_callback(
            array.shape, self.partitioner.batch_sharding(), lambda rows: array[rows]
        )

    def _results(
        self, batch: list[_Prompt], found: list[tuple[Array, Array]]
    ) -> Iterator[tuple[int, Scored]]:
        fetched = [tuple(_fetched(array) for array in turn) for turn in found]
        for place, work in enumerate(batch):
            yield (
                work.index,
                _gathered(
                    work,
                    [values[place] for values, _ in fetched],
                    [best[place] for _, best in fetched],
                ),
            )


def _gathered(work: _Prompt, values: list[np.ndarray], best: list[np.ndarray]) -> Scored:
    """Returns one prompt's result from float32 [W] log-probabilities and bool [W] of each row."""
    # No token is certain to come and the likeliest: an option without any.
    sums = np.zeros(len(work.options), np.float32)
    greedy = np.ones(len(work.options), bool)
    for row, row_values, row_best in zip(work.rows, values, best, strict=True):
        start = 0
        for number in row:
            stop = start + len(work.options[number])
            sums[number] = row_values[start:stop].sum(dtype=np.float64)
            greedy[number] = row_best[start:stop].all()
            start = stop
    lengths = np.array([len(tokens) for tokens in work.options], np.int32)
    of = np.array(work.of, np.int64)
    return Scored(sums[of], greedy[of], lengths[of])


def _fetched(array: Array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


@functools.partial(jax.jit, static_argnames=("config", "constrain"))
def _encode(params: t5.Params, config: t5.T5Config, tokens: Array, constrain: Constrain) -> Array:
    segments = (tokens != 0).astype(jnp.int32)
    return t5.encode(params, config, tokens, segments, constrain=constrain)


@functools.partial(jax.jit, static_argnames=("config", "constrain"))
def _score(
    params: t5.Params,
    config: t5.T5Config,
    encoded: Array,
    encoder_tokens: Array,
    read: Array,
    scored: Array,
    segments: Array,
    constrain: Constrain,
) -> tuple[Array, Array]:
    """Returns float32 [B, W] log-probabilities of the scored tokens, and whether they are best."""
    encoder_segments = (encoder_tokens != 0).astype(jnp.int32)
    states = t5.decode_alternatives(
        params, config, encoded, encoder_segments, read, segments, constrain=constrain
    )
    batch, width = scored.shape
    blocks = width // PLACES

    def block(at: tuple[Array, Array]) -> tuple[Array, Array]:
        logits = t5.logits(params, config, at[0], constrain=constrain)
        words = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
        # Picked by comparison: a gather would bring the whole vocabulary axis to every device.
        chosen = jnp.sum(jnp.where(words == at[1][..., None], logits, 0.0), axis=-1)
        total = jax.nn.logsumexp(logits, axis=-1)
        return chosen - total, jnp.argmax(logits, axis=-1) == at[1]

    def divided(array: Array) -> Array:
        return jnp.moveaxis(array.reshape(batch, blocks, PLACES, *array.shape[2:]), 1, 0)

    def joined(array: Array) -> Array:
        return jnp.moveaxis(array, 0, 1).reshape(batch, width)

    values, best = jax.lax.map(block, (divided(states), divided(scored)))
    return joined(values), joined(best)
