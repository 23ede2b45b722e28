"""What the main loop leans on: saving and scoring a checkpoint, going back."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flan_train import (
    checkpoints,
    errors,
    evaluate,
    interruption,
    loss_guard,
    progress,
    scores,
    select,
    train_step,
)
from flan_train.batches import TrainBatches
from flan_train.evaluate import EvalConfig
from flan_train.goodput import Stopwatch
from flan_train.loss_guard import GuardConfig
from flan_train.loss_watch import LossWatch, Rewind
from flan_train.models import t5
from flan_train.prepared import PreparedDataset
from flan_train.select import SelectConfig
from flan_train.sharding import Partitioner
from flan_train.suites import filed_as
from flan_train.train_step import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """What saving, evaluations and messages need to know of the run."""

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
    reader: TrainBatches
    watch: LossWatch
    stop: interruption.Notice

    def save(self, step: int, state: TrainState, window: progress.Window) -> None:
        """Writes a checkpoint in the background, with all that a resumed run goes on from."""
        data: dict[str, Any] = self.reader.state()
        if kept := window.state():
            data["window"] = kept
        if state.guard is not None:
            data["guard"] = loss_guard.to_plain(state.guard)
        if kept := self.watch.state():
            data["spikes"] = kept
            self.protect_best()
        with self.seconds.of("save"):
            self.saved.save(step, state.params, state.opt_state, data, self.meta)

    def leave(self) -> None:
        """Ends the run, which was asked to stop, once all that was saved is on disk.

        Raises:
          Interruption: always.
        """
        with self.seconds.of("save"):
            self.saved.wait()
        self.log.say(self.seconds.goodput())
        self.stop.stop(self.saved.latest_step())

    def rewound(
        self, back: Rewind, abstract: TrainState, guard: GuardConfig, slots: tuple[int, int]
    ) -> tuple[TrainState, progress.Window]:
        """Returns the state and the log's open line of the checkpoint that the run goes back to.

        The data go on behind the spike.
        """
        self.log.say(
            f"loss spike at step {back.spike:,}: back to the checkpoint of step {back.step:,}, "
            f"passing over {back.spike - back.step:,} batches"
        )
        with self.seconds.of("restore"):
            restored = self.saved.restore(back.step, abstract.params, abstract.opt_state)
        self.reader.restore(back.position)
        self.log.rewind(back.step)
        found = checkpoints.Found(back.step, restored)
        return (
            restored_state(found, abstract, guard, self.partitioner),
            progress.Window.restored(slots, restored.data.get("window")),
        )

    def evaluation_due(self, step: int, train_steps: int) -> bool:
        """Returns whether the suites are evaluated after this step."""
        return bool(self.suites) and (step % self.evaluation.period == 0 or step == train_steps)

    def score(
        self,
        params: Any,
        step: int,
        suites: Mapping[str, PreparedDataset],
        settings: EvalConfig,
    ) -> None:
        """Evaluates parameters on suites; results of the same checkpoint are reused."""
        if not suites:
            return
        model = evaluate.TrainedModel(
            params, self.model, partitioner=self.partitioner, batch_size=settings.batch_size
        )
        for suite, examples in suites.items():

            def report(done: int, count: int, suite: str = suite) -> None:
                self.log.show_phase(f"{suite} {done}/{count}")
                if self.stop.reached():  # what is finished is on disk, and is not done again
                    self.leave()

            with self.seconds.of("evaluate"):
                result = evaluate.evaluate_suite(
                    model,
                    suite,
                    examples,
                    step=step,
                    checkpoint=f"{checkpoints.FOLDER}/{step}",
                    out_dir=self.folder / "eval",
                    settings=settings,
                    config_hash=self.meta["config_hash"],
                    on_progress=report,
                )
            name = result["suite"]
            self.log.write_scores(name, step, result["mean"])
            self.log.show_phase(None)
            metric, score = scores.main_mean(result)
            self.log.say(f"step {step:,}: {name}: {metric} {score:.3f}")

    def score_suites(self, params: Any, step: int) -> None:
        """Evaluates on what is selected by, and keeps the best checkpoint so far."""
        self.score(params, step, self.suites, self._without_votes())
        # A step is a candidate once its checkpoint is on disk.
        with self.seconds.of("save"):
            self.saved.wait()
        self.protect_best()
        self.log.say(self.seconds.goodput())

    def score_chosen(self, params: Any, step: int, reported: Mapping[str, PreparedDataset]) -> None:
        """Evaluates the chosen checkpoint on what is reported; with votes too where these are on.

        Args:
          params: its parameters.
          step: its step.
          reported: the part of the suites that it was not chosen by. Under the paper's protocol
            there is none: what it was chosen by is reported, and is measured already.
        """
        self.score(params, step, reported, self._without_votes())
        voted = {
            suite: examples
            for suite, examples in (reported or self.suites).items()
            if evaluate.takes_votes(examples, self.evaluation)
        }
        self.score(params, step, voted, self.evaluation)

    def _without_votes(self) -> EvalConfig:
        # Votes take many samples a prompt: the loop goes without.
        return dataclasses.replace(self.evaluation, self_consistency=0)

    def protect_best(self) -> None:
        """Keeps the checkpoints that are best now from being removed by newer ones."""
        names = {
            filed_as(suite, examples.manifest["split"]) for suite, examples in self.suites.items()
        }
        best: list[int] = []
        if names and names <= set(scores.read_results(self.folder)):
            with contextlib.suppress(errors.UserError):  # no step is complete yet: nothing to keep
                best = select.best_steps(self.folder, self.selection)
        if best or self.watch.held():
            self.saved.protect([*best[: self.saved.config.keep_best], *self.watch.held()])

    def choose(self) -> dict[str, Any]:
        """Returns the choice among the run's checkpoints and writes selected.json."""
        before = None
        with contextlib.suppress(errors.UserError):  # a damaged one is replaced
            before = select.read_selected(self.folder)
        selected = select.select(self.folder, self.selection)
        self.log.say(f"chosen: {selected['reason']}")
        if before and before["step"] != selected["step"]:
            self.log.say(f"selected.json named step {before['step']:,}, by {before['metric']}")
        return selected

    def agreed(self, step: int) -> int:
        """Returns host 0's number on every host."""
        if jax.process_count() == 1:
            return step
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(jnp.int32(step)))


def restored_state(
    found: checkpoints.Found, abstract: TrainState, guard: GuardConfig, partitioner: Partitioner
) -> TrainState:
    """Returns the train state that a checkpoint holds.

    Raises:
      UserError: what the loss-spike guard remembered cannot be read.
    """
    remembered = loss_guard.from_plain(guard, found.restored.data.get("guard"))
    return TrainState(
        jax.device_put(jnp.int32(found.step), abstract.step.sharding),
        found.restored.params,
        found.restored.opt_state,
        train_step.put_guard(remembered, partitioner),
    )
