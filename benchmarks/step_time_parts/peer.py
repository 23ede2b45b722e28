"""The peer's side: transformers as its Trainer runs it, on the same examples.

The Trainer's class needs the package accelerate; what it does for a step is here with the same
parts: batches grouped by length (examples sorted by the length of their inputs, which is the best
that its sampler comes to), padding to the longest of a batch, the model's own loss, its Adafactor
as the Trainer sets it up. Its clipping of gradients is left out, in its favour.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from step_time_parts import work


class Choice(NamedTuple):
    """Settings of the peer."""

    batch: int
    threads: int
    attention: str = "eager"
    compiled: bool = False
    keeps: bool = False

    def said(self) -> str:
        """Returns the settings in words."""
        extra = ", torch.compile" if self.compiled else ""
        extra += ", freed memory kept" if self.keeps else ""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.batch} examples, {threads}, {self.attention} attention{extra}"


class Peer:
    """transformers' T5 and Adafactor on the examples of the file."""

    def __init__(self, asked: work.Work) -> None:
        self._work = asked
        held = np.load(asked.data)
        ends = {side: held[f"examples/{side}_ends"] for side in ("inputs", "targets")}
        self._examples = list(
            zip(
                *(np.split(held[f"examples/{side}"], ends[side][:-1]) for side in ends),
                strict=True,
            )
        )
        self._examples.sort(key=lambda pair: len(pair[0]))
        self._model: Any = None

    def settle(self) -> work.Settled:
        """Returns the best settings: one after another is varied, and what is best is kept."""
        cores = os.cpu_count() or 1
        tried: dict[str, float] = {}
        best = Choice(8, cores)
        self._try(best, tried)
        if not self._work.quick:
            # 32 examples of Base do not fit 24 GiB with eager attention.
            for batch in (16, 32) if self._work.size == "small" else (16,):
                best = self._better(best, best._replace(batch=batch), tried)
            best = self._better(best, best._replace(threads=1), tried)
            best = self._better(best, best._replace(attention="sdpa"), tried)
            best = self._better(best, best._replace(keeps=True), tried)
            best = self._better(best, best._replace(compiled=True), tried)
        self._build(best)
        self._steps(1, float("inf"))
        return work.Settled(best.said(), tried)

    def round(self) -> work.Round:
        """Returns what some steps took."""
        useful, seconds, flops = self._steps(self._work.steps, self._work.seconds)
        return work.Round(useful, seconds, flops)

    def _better(self, best: Choice, other: Choice, tried: dict[str, float]) -> Choice:
        try:
            self._try(other, tried)
        except (ImportError, RuntimeError, ValueError) as error:
            print(f"transformers: {other.said()}: cannot be had: {str(error).splitlines()[0]}")
            tried[other.said()] = 0.0
        return max(best, other, key=lambda each: tried[each.said()])

    def _try(self, choice: Choice, tried: dict[str, float]) -> None:
        self._build(choice)
        # A compiled model is compiled anew for the first few lengths.
        self._steps(4 if choice.compiled else 1, float("inf"))
        useful, seconds, _ = self._steps(3, float("inf"))
        tried[choice.said()] = useful / seconds

    def _build(self, choice: Choice) -> None:
        import torch
        import transformers
        from transformers.optimization import Adafactor

        from flan_train import host_memory
        from flan_train.convert.hf_config import config_to_hf
        from flan_train.models.t5 import T5Config

        torch.set_num_threads(choice.threads)
        if choice.keeps:
            host_memory.keep_freed()
        shape = T5Config(
            mlp_activation="gated-gelu",
            tie_embeddings=False,
            vocab_size=work.VOCABULARY,
            head_dim=work.HEAD_DIM,
            dropout_rate=work.DROPOUT,
            **work.SIZES[self._work.size],
        )
        config = transformers.T5Config(**config_to_hf(shape))
        config.use_cache = False
        config._attn_implementation = choice.attention
        torch.manual_seed(0)
        self._model = None
        model = transformers.T5ForConditionalGeneration(config)
        if model.config._attn_implementation != choice.attention:
            raise ValueError(f"T5 has no {choice.attention} attention")
        model.lm_head.weight = torch.nn.Parameter(
            torch.randn(work.VOCABULARY, shape.embed_dim) * shape.embed_dim**-0.5
        )
        model.train()
        self._optimizer = Adafactor(
            model.parameters(), lr=work.LEARNING_RATE, scale_parameter=False, relative_step=False
        )
        self._model = torch.compile(model, dynamic=True) if choice.compiled else model
        self._batch, self._taken = choice.batch, 0

    def _chosen(self) -> list[tuple[np.ndarray, np.ndarray]]:
        # Batches from all over the lengths: a golden-ratio walk leaves no gap and repeats none.
        count = max(len(self._examples) // self._batch, 1)
        first = int((self._taken * 0.6180339887498949 + 0.5) % 1 * count) * self._batch
        self._taken += 1
        return self._examples[first : first + self._batch]

    def _steps(self, most: int, limit: float) -> tuple[int, float, float]:
        import torch

        useful, flops, begun = 0, 0.0, time.perf_counter()
        for _ in range(most):
            examples = self._chosen()
            inputs, targets = (_padded([pair[side] for pair in examples]) for side in (0, 1))
            useful += int((inputs > 0).sum() + (targets > 0).sum())
            flops += work.model_flops(
                self._work.size, len(examples), inputs.shape[1], targets.shape[1]
            )
            labels = torch.from_numpy(np.where(targets > 0, targets, -100))
            loss = self._model(
                input_ids=torch.from_numpy(inputs),
                attention_mask=torch.from_numpy((inputs > 0).astype(np.int64)),
                labels=labels,
            ).loss
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
            if time.perf_counter() - begun > limit:
                break
        seconds = time.perf_counter() - begun
        if not np.isfinite(float(loss.detach())):
            raise SystemExit("the peer's loss is not finite")
        return useful, seconds, flops


def _padded(sequences: list[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


if __name__ == "__main__":
    work.serve(Peer(work.asked(sys.argv)))
