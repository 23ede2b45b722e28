"""Our side: packed rows through the trainer's own step."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from step_time_parts import work

# Rows of a batch, microbatches, and whether the layers are one compiled loop.
CHOICES = ((8, 1, False), (16, 4, False), (32, 16, False))


class Ours:
    """The train step of flan-train on the packed rows of the file."""

    def __init__(self, asked: work.Work) -> None:
        from flan_train import host_memory

        self._work = asked
        host_memory.keep_freed()  # as `flan-train train` does on a CPU
        held = np.load(asked.data)
        self._rows = {name[5:]: held[name] for name in held.files if name.startswith("rows/")}
        self._next = 0

    def settle(self) -> work.Settled:
        """Returns the best of the settings, each timed on two warm steps."""
        choices = ((2, 1, True),) if self._work.quick else CHOICES
        tried: dict[str, float] = {}
        best, choice = 0.0, choices[0]
        for each in choices:
            self._build(*each)
            self._steps(1, float("inf"))
            useful, seconds = self._steps(2, float("inf"))
            rate = tried[_said(*each)] = useful / seconds
            if rate > best:
                best, choice = rate, each
        self._build(*choice)
        self._steps(1, float("inf"))
        return work.Settled(_said(*choice), tried)

    def round(self) -> work.Round:
        """Returns what some steps took, with the peak measured right after them."""
        before = self._taken
        useful, seconds = self._steps(self._work.steps, self._work.seconds)
        flops = work.model_flops(
            self._work.size, (self._taken - before) * self._batch, *self._work.lengths
        )
        return work.Round(useful, seconds, flops, peak())

    def _build(self, batch: int, microbatches: int, scan: bool) -> None:
        from flan_train import launch, train_step
        from flan_train.losses import LossConfig
        from flan_train.models import t5
        from flan_train.optimizers import OptimizerConfig
        from flan_train.sharding import ShardingConfig

        model = t5.T5Config(
            mlp_activation="gated-gelu",
            tie_embeddings=False,
            vocab_size=work.VOCABULARY,
            head_dim=work.HEAD_DIM,
            dropout_rate=work.DROPOUT,
            scan_layers=scan,
            **work.SIZES[self._work.size],
        )
        optimizer = OptimizerConfig(learning_rate=work.LEARNING_RATE)
        self._state: Any = None
        self._partitioner = launch.make_partitioner(ShardingConfig(), batch, microbatches)
        self._state = train_step.init_state(model, optimizer, self._partitioner, 0)
        step = train_step.make_train_step(
            model, optimizer, LossConfig(), self._partitioner, num_microbatches=microbatches
        )
        lengths = dict(zip(("inputs", "targets"), self._work.lengths, strict=True))
        shapes = train_step.abstract_batch(batch, lengths, self._partitioner)
        self._update = step.lower(self._state, shapes).compile()
        self._batch, self._taken = batch, 0
        self._batches = self._endless()

    def _endless(self) -> Iterator[dict[str, np.ndarray]]:
        for first in itertools.count(0, self._batch):
            places = range(first, first + self._batch)
            yield {
                name: np.take(value, places, axis=0, mode="wrap")
                for name, value in self._rows.items()
            }

    def _steps(self, most: int, limit: float) -> tuple[int, float]:
        """Returns the useful tokens of some steps, and the seconds that they took."""
        import jax

        from flan_train import train_step

        useful, begun = 0, time.perf_counter()
        for _ in range(most):
            rows = next(self._batches)
            useful += sum(int((rows[f"{s}_segment_ids"] > 0).sum()) for s in ("encoder", "decoder"))
            batch = train_step.put_batch(rows, self._partitioner, self._batch)
            self._state, metrics = self._update(self._state, batch)
            jax.block_until_ready(self._state)
            self._taken += 1
            if time.perf_counter() - begun > limit:
                break
        seconds = time.perf_counter() - begun
        if not np.isfinite(float(metrics["loss"])):
            raise SystemExit("our loss is not finite")
        return useful, seconds


def peak() -> float:
    """Returns the FLOP/s of jnp.matmul on square float32 matrices, the best of some sizes."""
    import jax
    import jax.numpy as jnp

    best = 0.0
    for size in (1024, 2048):
        left = jax.random.normal(jax.random.key(0), (size, size))
        multiply = jax.jit(jnp.matmul)
        jax.block_until_ready(multiply(left, left))
        for _ in range(8):
            begun = time.perf_counter()
            jax.block_until_ready(multiply(left, left))
            best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def _said(batch: int, microbatches: int, scan: bool) -> str:
    parts = f" in {microbatches} parts" if microbatches > 1 else ""
    return f"{batch} rows{parts}, layers {'in a loop' if scan else 'unrolled'}"


if __name__ == "__main__":
    work.serve(Ours(work.asked(sys.argv)))
