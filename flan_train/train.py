"""The main job, from top to bottom: check, prepare, train, evaluate, select."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import gin
import jax
from rich.console import Console

from flan_train import (
    agreement,
    attention_choice,
    checkpoint_mirror,
    checkpoint_names,
    checkpoints,
    errors,
    goodput,
    hosts,
    interruption,
    launch,
    progress,
    run_record,
    select,
    step_trace,
    train_step,
)
from flan_train.batches import TrainBatches
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from flan_train.dry_run import dry_run
from flan_train.evaluate import EvalConfig
from flan_train.loss_guard import OFF, GuardConfig
from flan_train.loss_watch import LossWatch, Pending
from flan_train.losses import LossConfig
from flan_train.models import t5
from flan_train.optimizers import OptimizerConfig
from flan_train.prepare import DataConfig
from flan_train.select import SelectConfig
from flan_train.sharding import ShardingConfig
from flan_train.suites import SPLITS_OF
from flan_train.train_run import Run, restored_state

__all__ = ["TrainResult", "dry_run", "train"]

# Updates that the host may be ahead of the devices: enough to hide its own work.
STEPS_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a finished run comes to.

    Attributes:
      steps: updates made, those before a resume included.
      final_loss: loss per target token in the log's last line; None if this launch wrote none.
      selected: what selected.json holds; None without suites.
      seconds: wall-clock time of each part of this launch.
    """

    steps: int
    final_loss: float | None
    selected: dict[str, Any] | None
    seconds: dict[str, float]


# Registered, not wrapped: gin would add its own line to every message a user reads.
@gin.register(module="flan_train.train")
def train(
    model_dir: str,
    model: t5.T5Config,
    data: DataConfig,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    sharding: ShardingConfig,
    checkpoint: CheckpointConfig,
    evaluation: EvalConfig,
    selection: SelectConfig,
    train_steps: int,
    batch_size: int,
    num_microbatches: int = 1,
    seed: int = 0,
    initial_checkpoint_path: str | None = None,
    log_period: int = 10,
    max_passes: float | None = None,
    resume: bool = True,
    strict: bool = False,
    guard: GuardConfig = OFF,
    profile: bool = False,
    launched: float | None = None,
) -> TrainResult:
    """Trains, evaluates and selects; goes on where MODEL_DIR's newest checkpoint is.

    Inside of `interruption.handled()` it can be stopped: it saves first, and loses nothing.

    Args:
      model_dir: the run directory.
      model: shape of the model.
      data: the training mixture; suites are prepared with the same settings.
      optimizer: Adafactor and its learning rate.
      loss: z-loss, label smoothing.
      sharding: the mesh and its preset.
      checkpoint: when to save, what to keep.
      evaluation: suites, and when.
      selection: what the chosen checkpoint is chosen by.
      train_steps: updates in all, those before a resume included.
      batch_size: packed sequences of a global batch.
      num_microbatches: parts of a batch, one after another; the gradient is the same.
      seed: of parameters, dropout, order and packing.
      initial_checkpoint_path: parameters to start from; None for random ones.
      log_period: updates between lines of the log.
      max_passes: how often the run may go through a task; a task that comes round more often is
        refused. None for no limit.
      resume: False refuses a MODEL_DIR that has a checkpoint.
      strict: refuse a damaged newest checkpoint instead of going on from an earlier one.
      guard: what is done about loss spikes.
      profile: whether some updates are traced (`step_trace`), into MODEL_DIR/profile.
      launched: when this launch began, on `time.monotonic`'s clock, for the shares of its time
        that the log tells; None: now.

    Raises:
      UserError: a setting, a file or a checkpoint that cannot be used; a loss that is not finite.
      Interruption: the run was asked to stop, and has.
    """
    # ---- 1. What can be wrong --------------------------------------------------------------------
    launch.check_scalars(
        model_dir,
        train_steps,
        batch_size,
        num_microbatches,
        seed,
        initial_checkpoint_path,
        log_period,
    )
    folder, seconds = pathlib.Path(model_dir), goodput.Stopwatch(launched)
    first_host, console = jax.process_index() == 0, Console()
    stop = interruption.current()
    launch.check_settings(model, data, evaluation, selection)
    errors.check_writable("MODEL_DIR", folder)
    errors.check_number("MAX_PASSES", max_passes, above=0, optional=True)
    partitioner = launch.make_partitioner(sharding, batch_size, num_microbatches)
    attention = attention_choice.checked(model, data.lengths, partitioner)
    abstract = train_step.abstract_state(model, optimizer, partitioner, guard)
    saved = Checkpoints(folder, checkpoint)
    newest = launch.find_start(
        saved, train_steps, initial_checkpoint_path, resume, abstract.params, strict
    )
    found = None
    if newest is not None:
        # Read now: with what it holds the data are prepared, and it could be another than the
        # newest.
        with seconds.of("restore"):
            found = saved.newest_restorable(abstract.params, abstract.opt_state, strict=strict)
    resumed = found.step if found else None

    # ---- 2. Data ---------------------------------------------------------------------------------
    first = hosts.first_before_others("prepare")
    with seconds.of("prepare"), stop.at_once(resumed), first:
        onward = launch.rest_of_run(found, train_steps, batch_size) if found else None
        sequences = batch_size * train_steps
        training_data = launch.prepared_split(data, "train", sequences=sequences, resumed=onward)
        chosen_by, reported = SPLITS_OF[selection.protocol]
        suites, reported_suites = (
            launch.prepared_suites(data, evaluation, split) for split in (chosen_by, reported)
        )
        reader = TrainBatches(
            training_data,
            batch_size=batch_size,
            lengths=data.feature_lengths,
            seed=seed,
            rows=partitioner.host_rows(batch_size),
        )
        plan = reader.stream.plan(0)
        summary = run_record.mixture_summary(training_data, plan, data.lengths, sequences)
        launch.check_passes(summary, max_passes)

    # ---- 3. State: restored, loaded or drawn; and the compiled update ----------------------------
    settings = {
        "model": model,
        "data": data,
        "optimizer": optimizer,
        "loss": loss,
        "batch_size": batch_size,
        "num_microbatches": num_microbatches,
        "seed": seed,
        "initial_checkpoint_path": initial_checkpoint_path,
        **({"guard": guard} if guard.is_on else {}),
    }
    meta = run_record.checkpoint_meta(settings, training_data, evaluation, selection)
    changed = launch.check_same_run(saved, found, meta, seed) if found else []
    start = resumed or 0
    with seconds.of("restore" if resumed else "initialise"):
        data_item: dict[str, Any] = found.restored.data if found else {}
        if found:
            state = restored_state(found, abstract, guard, partitioner)
            reader.restore(data_item)
        else:
            given = None
            if initial_checkpoint_path:
                given, _ = checkpoints.load_params(initial_checkpoint_path, abstract.params)
            state = train_step.init_state(model, optimizer, partitioner, seed, given, guard)
            del given
    del found  # or its arrays would outlive the first update

    if start < train_steps:
        if first_host:
            console.print("compiling the training step", highlight=False)
        with seconds.of("compile"):
            step = train_step.make_train_step(
                model,
                optimizer,
                loss,
                partitioner,
                num_microbatches=num_microbatches,
                seed=seed,
                guard=guard,
                cut_products=sharding.cut_products,
            )
            shapes = train_step.abstract_batch(batch_size, data.feature_lengths, partitioner)
            update = step.lower(abstract, shapes).compile()
            hosts.wait_for_all("compile")
    stop.stop(resumed)

    # ---- 4. The run directory: nothing was written before ----------------------------------------
    try:
        if first_host:
            folder.mkdir(parents=True, exist_ok=True)
            if resumed is not None:
                checkpoint_mirror.bring_results(folder, checkpoint.copied_to)
            run_record.write_config(folder, settings | {"train_steps": train_steps})
            run_record.write_mixture(folder, summary)
        log = progress.RunLog(
            folder, first_step=start, last_step=train_steps, console=console, writes=first_host
        )
        watch = LossWatch(
            folder, guard, saved, reader, first_step=start, state=data_item.get("spikes")
        )
    except OSError as error:
        raise errors.not_written("MODEL_DIR", folder, error) from error
    run = Run(
        folder,
        model,
        evaluation,
        selection,
        partitioner,
        saved,
        log,
        seconds,
        suites,
        meta,
        reader,
        watch,
        stop,
    )

    trace = step_trace.StepTrace(
        folder / step_trace.FOLDER if profile else None, start, train_steps
    )
    with log, contextlib.closing(saved), contextlib.closing(reader), trace:
        log.say(f"{t5.count_params(model):,} parameters on {partitioner.describe()}")
        log.say(f"attention: {attention}")
        for line in run_record.describe_data(summary):
            log.say(line)
        for suite, examples in suites.items():
            for line in run_record.describe_absent(examples.manifest):
                log.say(f"{suite}: {line}")
        for note in changed:
            log.say(f"other than before: {note}")
        if resumed is None and initial_checkpoint_path:
            log.say(f"starting from {checkpoint_names.find(initial_checkpoint_path)}")
        if resumed is not None:
            rest = "" if start < train_steps else "; nothing is left to train"
            log.say(f"resuming from the checkpoint of step {start:,}{rest}")
            run.protect_best()
            # A run that was ended between a save and its evaluation makes up for it.
            if run.evaluation_due(start, train_steps):
                run.score_suites(state.params, start)

        # ---- 5. The loop -------------------------------------------------------------------------
        final_loss = None
        slots = (batch_size * data.lengths[0], batch_size * data.lengths[1])
        # The line of the log that is open: a checkpoint may lie in the middle of it.
        window = progress.Window.restored(slots, data_item.get("window"))
        number = start
        pending: list[Pending] = []
        in_flight: collections.deque[jax.Array] = collections.deque()
        clock, waited = time.monotonic(), 0.0
        while number < train_steps:
            number += 1
            position = reader.state()
            asked = time.monotonic()
            rows = next(reader)
            waited += time.monotonic() - asked
            batch = train_step.put_batch(rows, partitioner, batch_size)
            with trace.step(number, state):
                state, metrics = update(state, batch)
            if said := trace.ended(number, metrics):
                log.say(said)
            pending.append(Pending(number, position, metrics))
            in_flight.append(metrics["loss"])
            if len(in_flight) > STEPS_IN_FLIGHT:
                in_flight.popleft().block_until_ready()
            log.show_step(number - len(in_flight))

            last = number == train_steps
            scored = run.evaluation_due(number, train_steps)
            stored = scored or last or number % checkpoint.period == 0
            logged = stored or number % log_period == 0
            stopping = stop.reached()
            if not (logged or stopping):
                continue

            # Nothing is fetched from the devices between two lines of the log.
            fetched = jax.device_get([one.metrics for one in pending])
            back = watch.look(pending, fetched)
            pending.clear()
            in_flight.clear()
            if back is not None:
                del state, metrics, fetched  # two states at once may be more than there is room for
                state, window = run.rewound(back, abstract, guard, slots)
                number = back.step
                clock, waited = time.monotonic(), 0.0
                continue
            elapsed = time.monotonic() - clock
            seconds.add("train", elapsed - waited)
            seconds.add("input", waited)
            window.seconds += elapsed
            window.waited += waited
            for one in fetched:
                window.add(one)
            if logged and window.applied:
                entry = window.entry(number) | {"goodput": seconds.shares()}
                log.write(entry)
                final_loss = entry["loss"]
                window = progress.Window(slots)

            # ---- 6. Checkpoints and evaluation -------------------------------------------------
            if stored:
                watch.anchor = number
            if stored or stopping:
                run.save(number, state, window)
            if stopping:
                run.leave()
            if scored:
                run.score_suites(state.params, number)
            clock, waited = time.monotonic(), 0.0

        # ---- 7. Selection, and the chosen checkpoint's score on what it was not chosen by --------
        with seconds.of("save"):
            saved.wait()
        # Once more, should the last one have been removed under the run; else nothing happens.
        run.save(train_steps, state, window)
        with seconds.of("save"):
            saved.wait()
        selected = None
        if suites:
            params, chosen = state.params, train_steps
            selected = agreement.together(run.choose if first_host else lambda: None)
            chosen = run.agreed(selected["step"] if selected else 0)
            if chosen != train_steps:
                del state, params
                params, _ = checkpoints.load_params(saved.path(chosen), abstract.params)
            run.score_chosen(params, chosen, reported_suites)
            if selected:
                selected = select.with_reported(folder, selected)

        # ---- 8. Summary --------------------------------------------------------------------------
        log.say(seconds.goodput())
        log.say(f"done: step {train_steps:,}; {seconds.text()}; everything is in {folder}")
    return TrainResult(train_steps, final_loss, selected, dict(seconds.parts))
