"""What a training launch would do, without data, weights or a run directory."""

from __future__ import annotations

import math
import multiprocessing
import os
import pathlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax
from jax.sharding import AbstractMesh
from rich.console import Console
from rich.table import Table

from flan_train import (
    attention_choice,
    errors,
    launch,
    mixtures,
    prepare,
    run_record,
    sharding,
    train_step,
)
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from flan_train.evaluate import EvalConfig
from flan_train.loss_guard import OFF, GuardConfig
from flan_train.losses import LossConfig
from flan_train.mixtures import counts, rates
from flan_train.models import t5
from flan_train.optimizers import OptimizerConfig
from flan_train.select import SelectConfig

# Compiling an unrolled model takes minutes; a scanned one, whatever its depth, seconds.
LAYERS_WORTH_COMPILING = 8
# A CPU stands in for so many devices that are not here: the XL recipe takes a quarter of a minute.
DEVICES_WORTH_IMAGINING = 16
SECONDS_TO_IMAGINE = 60.0
# A table names so many tasks, the largest ones, and sums up the rest.
MOST_TASKS = 40
_MIB, _GIB = 2.0**20, 2.0**30


def dry_run(
    model_dir: str,
    model: t5.T5Config,
    data: prepare.DataConfig,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    sharding: sharding.ShardingConfig,
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
    console: Console | None = None,
) -> dict[str, Any]:
    """Prints what `train` with the same arguments would do and returns it; writes nothing.

    What would stop the launch on this machine, such as missing data, is listed rather than raised:
    a recipe for many devices can be looked at on one. The table is of the members that are there.

    Returns:
      {"parameters", "devices", "mesh", "memory": {"parameters", "gradients", "optimizer",
      "activations", "total": bytes per device, "method"}, "steps", "tokens_per_step", "start",
      "tasks": [{"task", "rows", "share"}], "missing", "problems"}.

    Raises:
      UserError: a setting that is wrong on any machine: of another type, or out of its range.
    """
    console = console or Console()
    problems: list[str] = []

    def attempt(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except errors.UserError as error:
            if str(error) not in problems:
                problems.append(str(error))
            return None

    launch.check_scalars(
        model_dir,
        train_steps,
        batch_size,
        num_microbatches,
        seed,
        initial_checkpoint_path,
        log_period,
    )
    errors.check_number("MAX_PASSES", max_passes, above=0, optional=True)
    attempt(lambda: launch.check_settings(model, data, evaluation, selection))
    partitioner = attempt(lambda: launch.make_partitioner(sharding, batch_size, num_microbatches))
    if partitioner is not None:
        attempt(lambda: attention_choice.checked(model, data.lengths, partitioner))
    elsewhere = partitioner is None
    if elsewhere:
        partitioner = attempt(lambda: _imagined(sharding))
    start = attempt(
        lambda: launch.find_start(
            Checkpoints(pathlib.Path(model_dir), checkpoint),
            train_steps,
            initial_checkpoint_path,
            resume,
            t5.abstract_params(model),
            strict,
        )
    )
    memory = None
    if partitioner is not None:
        memory = attempt(
            lambda: _memory(
                model,
                data,
                optimizer,
                loss,
                sharding,
                partitioner,
                batch_size,
                num_microbatches,
                elsewhere,
            )
        )
    found = attempt(lambda: _mixture(data)) or {"tasks": [], "missing": {}}
    # A sequence holds one example at least: what is too often even then is so in any packing.
    passes = [
        {**task, "passes": train_steps * batch_size * task["share"] / task["rows"]}
        for task in found["tasks"]
        if task["rows"]
    ]
    attempt(lambda: launch.check_passes({"tasks": passes}, max_passes))
    result: dict[str, Any] = {
        "parameters": t5.count_params(model),
        "devices": partitioner.mesh.size if partitioner else None,
        "mesh": dict(partitioner.mesh.shape) if partitioner else None,
        "memory": memory,
        "steps": train_steps,
        "tokens_per_step": batch_size * sum(data.lengths),
        "start": start,
        **found,
        "problems": problems,
    }
    _print(console, result, data, evaluation, partitioner, elsewhere, initial_checkpoint_path)
    return result


def _imagined(config: sharding.ShardingConfig) -> sharding.Partitioner:
    """A partitioner over the fewest devices that the settings ask for, which are not here."""
    shape = sharding.mesh_shape(config, config.num_slices * config.num_partitions)
    return sharding.Partitioner(AbstractMesh(shape, sharding.MESH_AXES), config.preset)


def _mixture(data: prepare.DataConfig) -> dict[str, Any]:
    """Counts the rows of the training mixture's members that are there; nothing is rendered."""
    name = data.mixture_or_task_name
    if data.modules:  # only importing them would tell
        return {"tasks": [{"task": name, "rows": None, "share": 1.0}], "missing": {}}
    found = counts.count(mixtures.tasks_of(name), data.data_dir, "train")
    rows = {task: number for task, number in found.examples.items() if task not in found.missing}
    shares = rates.shares(mixtures.get(name), rows) if rows else {}
    return {
        "tasks": [
            {"task": task, "rows": count, "share": shares.get(task, 0.0)}
            for task, count in rows.items()
        ],
        "missing": found.missing,
    }


def _memory(
    model: t5.T5Config,
    data: prepare.DataConfig,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    layout: sharding.ShardingConfig,
    partitioner: sharding.Partitioner,
    batch_size: int,
    num_microbatches: int,
    elsewhere: bool,
) -> dict[str, Any]:
    """Bytes per device: the state by its shardings, the rest by the compiler where it is cheap."""
    state = train_step.abstract_state(model, optimizer, partitioner)
    params, moments = _bytes(state.params), _bytes(state.opt_state)
    layers = model.num_encoder_layers + model.num_decoder_layers
    if model.scan_layers or layers <= LAYERS_WORTH_COMPILING:
        lengths = dict(data.feature_lengths)
        step = (model, optimizer, loss, batch_size, num_microbatches, lengths)
        temporary = (
            _temporary_elsewhere(layout, int(partitioner.mesh.size), step)
            if elsewhere
            else _temporary_bytes(partitioner, *step)
        )
        if temporary is not None:
            # Gradients are part of the compiler's temporaries; what they leave is activations.
            activations = max(0, temporary - params)
            backend = "cpu" if elsewhere else jax.default_backend()
            return {
                "parameters": params,
                "gradients": params,
                "optimizer": moments,
                "activations": activations,
                "total": 2 * params + moments + activations,
                "method": _compiled_by(backend, model.dtype),
            }
    rows = math.ceil(batch_size / num_microbatches / partitioner.batch_parts)
    activations = activation_bytes(
        model, rows, data.lengths, tensor=int(partitioner.mesh.shape["tensor"])
    )
    return {
        "parameters": params,
        "gradients": params,
        "optimizer": moments,
        "activations": activations,
        "total": 2 * params + moments + activations,
        "method": "arithmetic, a rough estimate",
    }


def _temporary_bytes(
    partitioner: sharding.Partitioner,
    model: t5.T5Config,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    batch_size: int,
    num_microbatches: int,
    lengths: dict[str, int],
) -> int | None:
    """Compiles the update; bytes of a device besides its arguments, if the backend tells."""
    step = train_step.make_train_step(
        model, optimizer, loss, partitioner, num_microbatches=num_microbatches
    )
    state = train_step.abstract_state(model, optimizer, partitioner)
    batch = train_step.abstract_batch(batch_size, lengths, partitioner)
    analysis = step.lower(state, batch).compile().memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)


def _temporary_elsewhere(
    layout: sharding.ShardingConfig, devices: int, step: tuple[Any, ...]
) -> int | None:
    """`_temporary_bytes` from a process that takes this CPU for many; None if it takes too long."""
    if devices > DEVICES_WORTH_IMAGINING:
        return None
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_imagine, args=(send, layout, devices, step), daemon=True)
    child.start()
    send.close()
    try:
        return receive.recv() if receive.poll(SECONDS_TO_IMAGINE) else None
    except EOFError:  # it ended without an answer
        return None
    finally:
        child.kill()
        child.join()
        receive.close()


def _imagine(
    send: Connection, layout: sharding.ShardingConfig, devices: int, step: tuple[Any, ...]
) -> None:
    # Read when the first device is asked for, which is below.
    flag = f"--xla_force_host_platform_device_count={devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    jax.config.update("jax_platforms", "cpu")
    try:
        partitioner = sharding.Partitioner(sharding.make_mesh(layout), layout.preset)
        send.send(_temporary_bytes(partitioner, *step))
    except (errors.UserError, MemoryError, jax.errors.JaxRuntimeError):
        send.send(None)


def _compiled_by(backend: str, dtype: str) -> str:
    text = f"the step compiled for {backend}"
    if backend == "cpu" and dtype != "float32":
        text += f" (which keeps some {dtype} as float32: accelerators need less)"
    return text


def activation_bytes(
    model: t5.T5Config, rows: int, lengths: tuple[int, int], *, tensor: int = 1
) -> int:
    """Returns roughly what the forward pass keeps for the backward pass on one device.

    Per layer and token, in the activation dtype: the residual stream always; without
    rematerialisation also every projection, norm and activation, and the attention weights; with
    "dots" the projections alone. One layer is worked on at a time under "full". The logits and
    their gradient are float32.

    Args:
      model: whose layers.
      rows: sequences of a microbatch on the device.
      lengths: tokens of inputs and targets of a sequence.
      tensor: devices that share each layer's width.
    """
    size = 4 if model.dtype == "float32" else 2
    inputs, targets = lengths
    d, f = model.embed_dim, model.mlp_dim / tensor * (2 if model.gated else 1)
    hk = model.num_heads * model.head_dim / tensor
    heads = model.num_heads / tensor

    def layer(length: int, attention: int, seen: list[int]) -> tuple[float, float, float]:
        projections = length * (attention * (3 * hk + hk + d) + f + d)
        everything = projections + length * ((attention + 1) * 2 * d + 2 * f)
        everything += 2 * sum(heads * length * other for other in seen)
        return length * d, projections, everything

    kept = {"full": 0, "dots": 1, "none": 2}[model.remat_policy]
    total = 0.0
    for count, parts in (
        (model.num_encoder_layers, layer(inputs, 1, [inputs])),
        (model.num_decoder_layers, layer(targets, 2, [targets, inputs])),
    ):
        total += count * (parts[0] + (parts[kept] if kept else 0.0))
        if kept < 2:
            total += parts[2]
    return int(rows * (total * size + 3 * 4 * targets * model.vocab_size / tensor))


def _size(count: int) -> str:
    return f"{count / _GIB:.2f} GiB" if count >= _GIB / 10 else f"{count / _MIB:.1f} MiB"


def _bytes(tree: Any) -> int:
    """Bytes of one device's part."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _print(
    console: Console,
    result: dict[str, Any],
    data: prepare.DataConfig,
    evaluation: EvalConfig,
    partitioner: sharding.Partitioner | None,
    elsewhere: bool,
    initial_checkpoint_path: str | None,
) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say("")
    say(f"parameters         {result['parameters']:,}")
    if partitioner is not None:
        note = f" (assumed; this machine has {jax.device_count()})" if elsewhere else ""
        say(f"devices            {partitioner.describe()}{note}")
    if memory := result["memory"]:
        parts = ", ".join(
            f"{name} {_size(memory[name])}"
            for name in ("parameters", "gradients", "optimizer", "activations")
        )
        say(f"memory per device  {_size(memory['total'])} by {memory['method']}: {parts}")
    say(f"steps              {result['steps']:,}, of {result['tokens_per_step']:,} places each")
    begin = (
        f"the checkpoint of step {result['start']:,}"
        if result["start"] is not None
        else (
            f"the parameters of {initial_checkpoint_path}"
            if initial_checkpoint_path
            else "random parameters"
        )
    )
    say(f"starts from        {begin}")
    say(f"evaluates          {', '.join(evaluation.suites) or 'nothing'}")
    table = Table(title=f"{data.mixture_or_task_name} (train)", title_justify="left")
    table.add_column("task")
    for name in ("rows", "share"):
        table.add_column(name, justify="right")
    listed = sorted(result["tasks"], key=lambda task: -task["share"])
    if len(listed) <= MOST_TASKS:
        listed = result["tasks"]
    for task in listed[:MOST_TASKS]:
        rows = "?" if task["rows"] is None else f"{task['rows']:,}"
        table.add_row(task["task"], rows, f"{task['share']:.4f}")
    if len(listed) > MOST_TASKS:
        rest = listed[MOST_TASKS:]
        share = sum(task["share"] for task in rest)
        table.add_row(
            f"and {len(rest):,} more", f"{sum(t['rows'] for t in rest):,}", f"{share:.4f}"
        )
    if result["tasks"]:
        console.print(table)
    for line in run_record.describe_absent(result):
        say(line)
    if result["missing"] and result["tasks"] and not data.allow_missing:
        say("the shares above hold without them, with ALLOW_MISSING = True")
    for problem in result["problems"]:
        say(f"\nA launch on this machine would stop: {problem}")
