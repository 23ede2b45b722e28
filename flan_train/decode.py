"""Generation: prompts in, outputs out, each as soon as it is finished.

Prompts are grouped by length into a few static shapes. A batch of slots is filled from the queue of
one group; the compiled loop runs until enough slots are done; their outputs are handed out and the
slots refilled. When the queue is empty and few slots are at work, these move into a smaller batch.
What an output is depends on the parameters, its prompt, `max_length`, the way of sampling and its
seed alone, not on what else is asked for, nor on how the work is divided over devices.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from flan_train import decode_batch
from flan_train.decode_batch import START_ID, Batch, Entering, Shape
from flan_train.decode_outputs import Found
from flan_train.decode_sampling import METHODS, Sampling
from flan_train.decode_step import Weights
from flan_train.models import t5
from flan_train.models.layers import AnyArray
from flan_train.sharding import Partitioner

__all__ = ["METHODS", "START_ID", "Generated", "Generator", "Sampling", "bucket", "greedy"]

# Prompts shorter than this share one shape: below it a saved place costs more compiling than it
# gains. Each further shape doubles.
SHORTEST_INPUTS = 64
SHORTEST_OUTPUTS = 16
# Of a batch's slots, how many are refilled at once, and how much smaller the next smaller batch is.
REFILLED = 8
SHRINKING = 4
# A batch of fewer slots than this a device is not worth the compiling of a smaller one.
WORTH_SHRINKING = 8


class Generated(NamedTuple):
    """One output.

    Attributes:
      tokens: int32 [n], up to and without the end.
      log_probability: the sum over its tokens, the end included, of their log-probabilities by the
        model itself: without temperature, top_k, top_p.
      ended: whether it came to an end within the length allowed.
    """

    tokens: np.ndarray
    log_probability: float
    ended: bool


class Generator:
    """Generates from one set of parameters; compiled programs outlive it."""

    def __init__(
        self,
        params: t5.Params,
        config: t5.T5Config,
        *,
        partitioner: Partitioner | None = None,
        batch_size: int = 32,
        eos_id: int = 1,
    ) -> None:
        """Lays the decoder's parameters out for single steps: a copy in the activation dtype.

        Args:
          params: as `t5.init_params` returns them, laid out as `partitioner` says.
          config: what they belong to.
          partitioner: the mesh to run on (None: the default device).
          batch_size: outputs worked on at once; changes speed and memory, never a result.
          eos_id: the token that ends an output (-1: none does).

        Raises:
          ValueError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: at least 1 is needed")
        # On a device once, not at every call.
        self._params = jax.tree.map(jnp.asarray, params)
        self._config = config
        self._partitioner = partitioner
        self._parts = 1 if partitioner is None else partitioner.batch_parts
        self._batch_size = batch_size
        self._eos_id = eos_id
        self._weights: Weights | None = None
        self._compilations = 0

    @property
    def compilations(self) -> int:
        """How many programs had to be compiled for what this generator was asked."""
        return self._compilations

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        *,
        max_length: int,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, list[Generated]]]:
        """Yields (index of a prompt, its outputs) as prompts are finished, in any order.

        Args:
          prompts: int32 [n] each, the end of the prompt included, as a prepared dataset has them.
          max_length: tokens an output may have, its end included.
          sampling: how outputs are chosen (None: greedy). The best beams first.
          seeds: one whole number a prompt, from 0 up to 2**32 - 1; 0 where not given.

        Raises:
          ValueError: `max_length` is below 1, a prompt is empty, or there are more or fewer seeds
            than prompts.
        """
        sampling = sampling or Sampling()
        if max_length < 1:
            raise ValueError(f"max_length = {max_length}: at least 1 is needed")
        if seeds is not None and len(seeds) != len(prompts):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        groups: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"prompt {index} has no token")
            groups.setdefault(bucket(len(prompt)), []).append(index)
        places = max(SHORTEST_OUTPUTS, 1 << (max_length - 1).bit_length())
        for inputs, indices in sorted(groups.items()):
            shape = Shape(0, inputs, places, sampling.kind, self._eos_id)
            run = _Run(self, shape, sampling, prompts, indices, max_length, seeds)
            yield from run.results()

    # What runs ask of it. ----------------------------------------------------------------------

    def sizes(self, outputs: int) -> list[int]:
        """Returns the numbers of slots of batches, ascending, where a prompt has so many outputs.

        Each is a multiple of what the devices divide a batch into.
        """
        unit = self._parts
        most = -(-max(1, self._batch_size // outputs) // unit) * unit
        smaller = -(-most // (SHRINKING * unit)) * unit
        return [smaller, most] if most >= WORTH_SHRINKING * unit else [most]

    def call(self, program: Any, *arguments: Any, **static: Any) -> Any:
        """Returns what a program of `decode_batch` returns, and counts what was compiled for it."""
        before = decode_batch.compilations()
        try:
            return program(*arguments, **static, partitioner=self._partitioner)
        finally:
            self._compilations += decode_batch.compilations() - before

    @property
    def config(self) -> t5.T5Config:
        """What the parameters belong to."""
        return self._config

    @property
    def parts(self) -> int:
        """What a number of slots is a multiple of."""
        return self._parts

    @property
    def params(self) -> t5.Params:
        """The parameters as given."""
        return self._params

    @property
    def weights(self) -> Weights:
        """The decoder's parameters, laid out for single steps when they are first asked for."""
        if self._weights is None:
            decoder, table = self._params["decoder"], self._params["token_embedder"]["embedding"]
            untied = None if self._config.tie_embeddings else decoder["logits_dense"]["kernel"]
            dtype = jnp.dtype(self._config.dtype)

            self._weights = Weights(
                embedding=table.astype(dtype),
                layers=self.call(decode_batch.lay_out, self._params, config=self._config),
                norm=decoder["decoder_norm"]["scale"],
                logits=None if untied is None else untied.astype(dtype),
                position_bias=decoder["relpos_bias"]["rel_embedding"],
            )
        return self._weights


def bucket(length: int) -> int:
    """Returns the padded length of a prompt: 64, 128, 256, ...

    >>> [bucket(n) for n in (1, 64, 65, 1000)]
    [64, 64, 128, 1024]
    """
    return max(SHORTEST_INPUTS, 1 << (length - 1).bit_length())


def greedy(
    params: t5.Params,
    config: t5.T5Config,
    encoder_tokens: Int[AnyArray, "B Ls"],
    *,
    max_length: int,
    eos_id: int = 1,
    partitioner: Partitioner | None = None,
) -> Int[np.ndarray, "B M"]:
    """Returns the greedy outputs of 0-padded prompts: int32 [B, max_length].

    A row ends with `eos_id` and is 0 after it. A row of padding alone yields zeros.
    """
    rows = np.asarray(encoder_tokens)
    ends = [int(np.flatnonzero(row)[-1]) + 1 if row.any() else 0 for row in rows]
    real = [i for i, end in enumerate(ends) if end]
    generator = Generator(
        params, config, partitioner=partitioner, batch_size=max(1, len(real)), eos_id=eos_id
    )
    outputs = np.zeros((len(rows), max_length), np.int32)
    prompts = [rows[i, : ends[i]] for i in real]
    for index, (output,) in generator.generate(prompts, max_length=max_length):
        count = len(output.tokens)
        outputs[real[index], :count] = output.tokens
        if output.ended:
            outputs[real[index], count] = eos_id
    return outputs


class _Run:
    """The prompts of one group on their way through a batch of slots."""

    def __init__(
        self,
        generator: Generator,
        shape: Shape,
        sampling: Sampling,
        prompts: Sequence[np.ndarray],
        indices: Sequence[int],
        max_length: int,
        seeds: Sequence[int] | None,
    ) -> None:
        self._generator = generator
        self._prompts = prompts
        self._dials = sampling.dials(shape.places)
        self._wanted = sampling.samples
        self._queue = collections.deque(indices)
        self._max_length = max_length
        self._seeds = seeds
        self._sizes = generator.sizes(shape.sampling.width)
        self._shape = shape._replace(slots=self._fitting(len(indices)))
        # Prompts that go through the encoder at once: a power of two, so that few shapes occur.
        share = max(1, self._shape.slots // (REFILLED * generator.parts))
        self._entering = generator.parts << (share.bit_length() - 1)
        self._slots: list[int | None] = [None] * self._shape.slots

    def results(self) -> Iterator[tuple[int, list[Generated]]]:
        """Yields (index, outputs) until the queue and the slots are empty."""
        call, config = self._generator.call, self._generator.config
        batch = call(decode_batch.empty, config=config, shape=self._shape)
        while True:
            batch = self._fill(batch)
            batch = self._shrunk(batch)
            if not self._at_work():
                return
            batch, news = call(
                decode_batch.advance,
                batch,
                self._generator.weights,
                np.int32(self._enough()),
                self._dials,
                config=config,
                shape=self._shape,
            )
            yield from self._finished(np.asarray(news.done), jax.tree.map(np.asarray, news.found))

    def _at_work(self) -> int:
        return sum(index is not None for index in self._slots)

    def _fitting(self, count: int) -> int:
        return next((size for size in self._sizes if size >= count), self._sizes[-1])

    def _fill(self, batch: Batch) -> Batch:
        """Returns the batch with prompts of the queue in its empty slots."""
        while self._queue:
            free = [slot for slot, index in enumerate(self._slots) if index is None]
            count = min(self._entering, len(self._queue))
            if len(free) < count:
                break
            tokens = np.zeros((self._entering, self._shape.inputs), np.int32)
            # Rows without a prompt go to slots that are not there.
            slots = self._shape.slots + np.arange(self._entering, dtype=np.int32)
            lengths = np.zeros((self._entering,), np.int32)
            limits = np.full((self._entering,), self._max_length, np.int32)
            seeds = np.zeros((self._entering,), np.uint32)
            for row, slot in enumerate(free[:count]):
                index = self._queue.popleft()
                prompt = self._prompts[index]
                tokens[row, : len(prompt)] = prompt
                lengths[row] = len(prompt)
                slots[row] = slot
                seeds[row] = 0 if self._seeds is None else self._seeds[index]
                self._slots[slot] = index
            generator = self._generator
            encoded = generator.call(
                decode_batch.encode,
                generator.params,
                generator.weights,
                tokens,
                lengths,
                config=generator.config,
            )
            entering = Entering(slots, lengths, limits, seeds)
            batch = generator.call(decode_batch.enter, batch, encoded, entering, shape=self._shape)
        return batch

    def _shrunk(self, batch: Batch) -> Batch:
        """Returns a smaller batch where one holds all that is at work and the queue is empty."""
        size = self._fitting(self._at_work())
        if self._queue or size == self._shape.slots or not self._at_work():
            return batch
        kept = [slot for slot, index in enumerate(self._slots) if index is not None]
        chosen = np.full((size,), self._shape.slots, np.int32)
        chosen[: len(kept)] = kept
        self._slots = [self._slots[slot] for slot in kept] + [None] * (size - len(kept))
        self._shape = self._shape._replace(slots=size)
        return self._generator.call(decode_batch.shrink, batch, chosen)

    def _enough(self) -> int:
        """Returns how many slots must be done or empty for something to be done about it."""
        if self._queue:
            return min(self._entering, len(self._queue))
        smaller = [size for size in self._sizes if size < self._shape.slots]
        return self._shape.slots - (smaller[-1] if smaller else 0)

    def _finished(self, done: np.ndarray, found: Found) -> Iterator[tuple[int, list[Generated]]]:
        for slot, index in enumerate(self._slots):
            if index is None or not done[slot]:
                continue
            self._slots[slot] = None
            outputs = []
            for sample in range(self._wanted):
                ended = bool(found.ended[slot, sample])
                count = int(found.lengths[slot, sample]) - ended
                outputs.append(
                    Generated(
                        np.array(found.tokens[slot, sample, :count]),
                        float(found.log_probability[slot, sample]),
                        ended,
                    )
                )
            yield index, outputs
