"""What the main loop leans on: scoring a checkpoint, stopping at a blow-up, adding up the time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flan_train import checkpoints, errors, evaluate, progress, run_record, scores, select
from flan_train.batches import TrainBatches
from flan_train.evaluate import EvalConfig
from flan_train.models import t5
from flan_train.prepared import PreparedDataset
from flan_train.select import SelectConfig
from flan_train.sharding import Partitioner
from flan_train.train_step import Metrics


@dataclasses.dataclass(frozen=True)
class Pending:
    """An update whose metrics are still on the devices, and the data position before it."""

    step: int
    position: dict[str, int]
    metrics: Metrics


@dataclasses.dataclass(frozen=True)
class Run:
    """What evaluations and messages need to know of the run."""

    folder: pathlib.Path
    model: t5.T5Config
    evaluation: EvalConfig
    selection: SelectConfig
    partitioner: Partitioner
    saved: checkpoints.Checkpoints
    log: progress.RunLog
    seconds: Stopwatch
    suites: Mapping[str, PreparedDataset]
    meta: Mapping[str, Any]

    def evaluation_due(self, step: int, train_steps: int) -> bool:
        """Returns whether the suites are evaluated after this step."""
        return bool(self.suites) and (step % self.evaluation.period == 0 or step == train_steps)

    def score(
        self, params: Any, step: int, suites: Mapping[str, PreparedDataset], suffix: str = ""
    ) -> None:
        """Evaluates parameters on suites; results of the same checkpoint are reused."""
        for suite, examples in suites.items():
            name = suite + suffix
            with self.seconds.of("evaluate"):
                result = evaluate.evaluate_suite(
                    params,
                    self.model,
                    name,
                    examples,
                    step=step,
                    checkpoint=f"{checkpoints.FOLDER}/{step}",
                    out_dir=self.folder / "eval",
                    partitioner=self.partitioner,
                    batch_size=self.evaluation.batch_size,
                    max_decode_length=self.evaluation.max_decode_length,
                    config_hash=self.meta["config_hash"],
                    on_progress=lambda n, of, name=name: self.log.show_phase(f"{name} {n}/{of}"),  # type: ignore[misc]
                )
            self.log.write_scores(name, step, result["mean"])
            self.log.show_phase(None)
            metric = self.selection.metric
            self.log.say(f"step {step:,}: {name}: {metric} {result['mean'][metric]:.3f}")

    def score_suites(self, params: Any, step: int) -> None:
        """Evaluates on the validation suites, and keeps the best checkpoint so far."""
        self.score(params, step, self.suites)
        # A step is a candidate once its checkpoint is on disk.
        with self.seconds.of("save"):
            self.saved.wait()
        self.protect_best()

    def protect_best(self) -> None:
        """Keeps the checkpoint that would be chosen now from being removed by newer ones."""
        if not self.suites or not set(self.suites) <= set(scores.read_results(self.folder)):
            return
        with contextlib.suppress(errors.UserError):  # no step is complete yet: nothing to keep
            best = select.select(self.folder, self.selection, write=False)["step"]
            self.saved.protect([best])

    def agreed(self, step: int) -> int:
        """Returns host 0's number on every host."""
        if jax.process_count() == 1:
            return step
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(jnp.int32(step)))

    def check_finite(
        self, pending: Sequence[Pending], fetched: Sequence[Any], reader: TrainBatches
    ) -> None:
        """Stops the run at the first update that is not finite, before it is saved.

        Args:
          pending: the updates since the last check.
          fetched: their metrics, on the host.
          reader: tells which examples a batch held.

        Raises:
          UserError: names the step, the tasks and examples of its batch and the checkpoint before.
        """
        steps = [one.step for one in pending]
        found = progress.first_not_finite(list(zip(steps, fetched, strict=True)))
        if found is None:
            return
        bad, what = found
        position = pending[steps.index(bad)].position
        examples = reader.describe(position)
        where = run_record.describe_examples(examples)
        if jax.process_index() == 0:
            file = self.folder / run_record.NOT_FINITE
            about = {"step": bad, "what": what, "position": position, "examples": examples}
            scores.write_whole(file, json.dumps(about, indent=1) + "\n")
            where += f"; all of them in {file}"
        self.saved.wait()
        good = self.saved.latest_step()
        again = "launching again unchanged fails at the same step"
        change = "lower LEARNING_RATE or raise WARMUP_STEPS, or look at these examples"
        raise errors.UserError(
            f"{what} is not finite at step {bad}",
            where=where,
            expected="finite numbers",
            fix=f"{again}: first {change}; the last checkpoint whose update was finite is "
            f"{self.saved.path(good)}, which the next launch resumes from (should it fail at once "
            "again, remove that checkpoint or start a new MODEL_DIR)"
            if good is not None
            else f"{again}: {change}; there is no checkpoint yet",
        )


class Stopwatch:
    """Adds up wall-clock time by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to a part."""
        self.parts[name] = self.parts.get(name, 0.0) + seconds

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Adds the time that the context takes to a part."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - begun)

    def text(self) -> str:
        """Returns every part in seconds, in words."""
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.parts.items())
