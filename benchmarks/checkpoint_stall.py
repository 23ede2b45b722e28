"""What a checkpoint costs the training loop: T5 1.1 Base, float32, on the CPU.

  python benchmarks/checkpoint_stall.py --rounds 5 --json results.json

Real updates on made up batches, and real asynchronous saves by the class that the loop uses. In
each round updates without a save and one with a save take turns: so many plain updates, then a
save right after an update, as in the loop, and updates while it is written. Told are

  the stall: how long `save` holds the loop (checksums, a copy of the arrays, what is written at
  once), as a share of the time of a plain update, which is to be under 5 %;
  how much longer the updates beside the writing take;
  both together as a share of a period of so many updates (--period).

Parameters and the optimizer's state are about 1 GB. There is no peer: "peer" and "ratio" are null.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np

LIMIT = 0.05  # of an update
BASE = {
    "vocab_size": 32128,
    "embed_dim": 768,
    "num_heads": 12,
    "head_dim": 64,
    "mlp_dim": 2048,
    "num_encoder_layers": 12,
    "num_decoder_layers": 12,
    "mlp_activation": "gated-gelu",
    "tie_embeddings": False,
}
TINY = {**BASE, "embed_dim": 64, "num_heads": 2, "mlp_dim": 128} | {
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
}


@dataclasses.dataclass
class Seconds:
    """Seconds of each update without and beside a save, and what each save took.

    Attributes:
      plain: updates with nothing written meanwhile.
      beside: updates while a checkpoint was written.
      held: how long each save held the loop.
      checksums: how much of that the checksums took.
      whole: from the call of a save until it is on disk.
    """

    plain: list[float] = dataclasses.field(default_factory=list)
    beside: list[list[float]] = dataclasses.field(default_factory=list)
    held: list[float] = dataclasses.field(default_factory=list)
    checksums: list[float] = dataclasses.field(default_factory=list)
    whole: list[float] = dataclasses.field(default_factory=list)


def measure(
    folder: pathlib.Path,
    shape: dict[str, Any],
    rounds: int,
    plain: int,
    batch_size: int,
    lengths: dict[str, int],
) -> tuple[Seconds, int, int]:
    """Returns the seconds, the number of parameters and the bytes of a checkpoint's arrays."""
    import jax

    from flan_train import checkpoint_checksums, checkpoint_files, train_step
    from flan_train.checkpoints import CheckpointConfig, Checkpoints
    from flan_train.losses import LossConfig
    from flan_train.models import t5
    from flan_train.optimizers import OptimizerConfig
    from flan_train.sharding import Partitioner, ShardingConfig, make_mesh

    model, optimizer = t5.T5Config(**shape), OptimizerConfig()
    partitioner = Partitioner(make_mesh(ShardingConfig()), "data_parallel")
    state = train_step.init_state(model, optimizer, partitioner, seed=0)
    step = train_step.make_train_step(model, optimizer, LossConfig(), partitioner)
    batch = train_step.put_batch(made_up(batch_size, lengths), partitioner, batch_size)
    saved = Checkpoints(folder, CheckpointConfig(keep=1))
    size = checkpoint_files.size((state.params, state.opt_state))
    taken = Seconds()

    def timed() -> float:
        nonlocal state
        begun = time.monotonic()
        state, metrics = step(state, batch)
        jax.device_get(metrics)
        return time.monotonic() - begun

    timed()  # compiles
    timed()
    number = 0
    for round_ in range(rounds + 1):
        updates = [timed() for _ in range(plain)]
        begun = time.monotonic()
        sums = checkpoint_checksums.checksums({"p": state.params, "o": state.opt_state})
        checksums = time.monotonic() - begun
        assert sums
        number += 1
        begun = time.monotonic()
        saved.save(number, state.params, state.opt_state, {"epoch": 0, "sequence": number}, {})
        held = time.monotonic() - begun
        beside = [timed()]
        while saved.latest_step() != number:
            beside.append(timed())
        whole = time.monotonic() - begun
        saved.wait()
        if not round_:
            continue  # the first save makes folders and threads
        taken.plain += updates
        taken.beside.append(beside)
        taken.held.append(held)
        taken.checksums.append(checksums)
        taken.whole.append(whole)
        print(
            f"round {round_}: plain {statistics.median(updates):.3f} s, save held {held:.3f} s "
            f"(checksums alone {checksums:.3f} s), beside the writing "
            f"{', '.join(f'{each:.3f}' for each in beside)} s",
            flush=True,
        )
    saved.close()
    return taken, t5.count_params(model), size


def made_up(batch_size: int, lengths: dict[str, int]) -> dict[str, np.ndarray]:
    """Returns a batch of sequences that each hold one example of random tokens."""
    from flan_train.train_step import DECODER_FEATURES, ENCODER_FEATURES

    draw = np.random.default_rng(0)
    batch = {}
    for name in (*ENCODER_FEATURES, *DECODER_FEATURES):
        length = lengths["inputs" if name in ENCODER_FEATURES else "targets"]
        values = np.ones((batch_size, length), np.int32)  # one segment, all of it counts
        if name.endswith("tokens"):
            values = draw.integers(2, 32000, values.shape, np.int32)
        elif name.endswith("positions"):
            values = values * np.arange(length, dtype=np.int32)
        batch[name] = values.astype(np.float32) if name.endswith("weights") else values
    return batch


def main() -> None:
    """Reads the command line, measures, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description="How long a checkpoint holds the training loop.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", type=int, default=3, help="updates without a save, a round")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=256, help="encoder places of a sequence")
    parser.add_argument("--targets", type=int, default=64, help="decoder places of a sequence")
    parser.add_argument("--period", type=int, default=1000, help="updates between checkpoints")
    parser.add_argument("--folder", help="where to write (default: the temporary folder)")
    parser.add_argument("--quick", action="store_true", help="a tiny model: shows that it works")
    parser.add_argument("--json", metavar="PATH", help="write the figures as a list")
    options = parser.parse_args()
    lengths = {"inputs": options.inputs, "targets": options.targets}
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        taken, parameters, size = measure(
            pathlib.Path(place),
            TINY if options.quick else BASE,
            options.rounds,
            options.plain,
            options.batch_size,
            lengths,
        )
    update, held = statistics.median(taken.plain), statistics.median(taken.held)
    longer = statistics.median(sum(each) - len(each) * update for each in taken.beside)
    rows: list[tuple[str, float, str]] = [
        ("parameters", parameters, "numbers"),
        ("arrays of a checkpoint", size / 2**20, "MiB"),
        ("tokens of a batch", options.batch_size * sum(lengths.values()), "places"),
        ("update without a save", update, "s"),
        ("save holds the loop", held, "s"),
        ("of which checksums (measured alone)", statistics.median(taken.checksums), "s"),
        ("share of an update that it holds the loop", 100 * held / update, "%"),
        ("updates beside the writing take longer, in all", longer, "s"),
        ("from the call until it is on disk", statistics.median(taken.whole), "s"),
        (
            f"share of a period of {options.period:,} updates",
            100 * (held + max(longer, 0.0)) / (options.period * update),
            "%",
        ),
    ]
    print(f"on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, value, unit in rows:
        print(f"{name:<50} {value:>16,.3f} {unit}")
    reached = held < LIMIT * update
    print(f"the loop stalls under {LIMIT:.0%} of an update: {'yes' if reached else 'NO'}")
    if options.json:
        written = [
            {
                "name": f"checkpoint stall: {name}",
                "ours": value,
                "peer": None,
                "peer_name": None,
                "ratio": None,
                "unit": unit,
            }
            for name, value, unit in rows
        ]
        pathlib.Path(options.json).write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    sys.exit(0 if reached or options.quick else 1)


if __name__ == "__main__":
    main()
