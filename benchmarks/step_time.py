"""Useful tokens per second of a training step on the CPU, beside transformers: one run.

  FLAN_DATA_DIR=DIR python benchmarks/step_time.py --json results.json
  FLAN_DATA_DIR=DIR python benchmarks/step_time.py --sizes small --rounds 3
  python benchmarks/step_time.py --compile
  python benchmarks/step_time.py --quick

T5 1.1 Small and Base in float32 on chain-of-thought rows of at most 512 + 128 tokens. Ours are
packed by `flan-train`'s own packing and go through the trainer's own step; transformers gets the
same examples one a row, in batches grouped by length and padded to their longest, with its own
Adafactor, as its Trainer runs it. Dropout of 0.05 is on for both. A useful token is one of an
example, on either side; padding does not count. Each side first tries settings and keeps the best
(printed); then the sides, each in a process of its own, take turns, and the median of the rounds
counts. Compiling is not counted.

The share of the peak is that of the model's FLOPs (three times the forward pass's products, over
all places that are computed; work.model_flops) in what jnp.matmul reaches on square matrices,
measured after every round of ours.

--compile measures lowering and compiling at the depth of XXL, 24 + 24 layers in a loop, as well.
--quick uses a tiny model on the embedded tasks, to show that every part works: its figures mean
nothing. Needs PyTorch and transformers. Takes some twenty minutes where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np
from input_pipeline_parts import figures
from step_time_parts import compile_time, work

LENGTHS, QUICK_LENGTHS = (512, 128), (128, 64)
# Rows of the pool, from which the other side's examples come too: enough to group by length.
POOL, QUICK_POOL = 256, 8


def write_data(path: pathlib.Path, folder: pathlib.Path, quick: bool) -> dict[str, float]:
    """Writes the packed rows and their examples; returns how many there are and how full."""
    from flan_train import launch
    from flan_train.batches import TrainBatches
    from flan_train.prepare import DataConfig

    if not quick and not os.environ.get("FLAN_DATA_DIR"):
        raise SystemExit(
            "step_time needs real rows: set FLAN_DATA_DIR to the data folder, which has cot/ "
            "(flan-train download --only=cot,vocab), or give --quick"
        )
    lengths = dict(zip(("inputs", "targets"), QUICK_LENGTHS if quick else LENGTHS, strict=True))
    data = DataConfig(
        "quickstart" if quick else "cot",
        lengths,
        "quickstart" if quick else "t5",
        prepared_dir=str(folder),
        allow_missing=True,
        examples_per_task=50 if quick else None,
        renderings=1,
    )
    prepared = launch.prepared_split(data, "train")
    pool = QUICK_POOL if quick else POOL
    reader = TrainBatches(prepared, batch_size=pool, lengths=lengths, seed=0, threads=0)
    rows = next(reader)
    reader.close()
    held: dict[str, np.ndarray] = {f"rows/{name}": value for name, value in rows.items()}
    sides = {"inputs": "encoder_input_tokens", "targets": "decoder_target_tokens"}
    for side, name in sides.items():
        segments = rows[name.split("_")[0] + "_segment_ids"]
        parts = [
            tokens[of_row == number]
            for tokens, of_row in zip(rows[name], segments, strict=True)
            for number in range(1, int(of_row.max()) + 1)
        ]
        held[f"examples/{side}"] = np.concatenate(parts)
        held[f"examples/{side}_ends"] = np.cumsum([len(part) for part in parts])
    np.savez(path, **held)
    return {
        "rows": pool,
        "examples": len(held["examples/inputs_ends"]),
        "fill": float((rows["encoder_segment_ids"] > 0).mean()),
        "fill of targets": float((rows["decoder_segment_ids"] > 0).mean()),
        "longest": max(
            len(part)
            for part in np.split(held["examples/inputs"], held["examples/inputs_ends"][:-1])
        ),
    }


def measure(
    size: str, data: str, rounds: int, quick: bool
) -> tuple[list[figures.Figure], list[figures.Bar]]:
    """Returns the figures of one size, both sides taking turns."""
    import torch
    import transformers

    lengths = QUICK_LENGTHS if quick else LENGTHS
    asked = work.Work(size, data, lengths, 2 if quick else 8, 30.0, quick)
    sides = {"ours": work.Side("ours", asked), "peer": work.Side("peer", asked)}
    settled = {name: work.Settled(**side.ask("settle")) for name, side in sides.items()}
    for name, one in settled.items():
        print(f"{size}, {name}: useful tokens/s of what was tried:")
        for said, rate in one.tried.items():
            mark = "  <- taken" if said == one.settings else ""
            print(f"  {said}: {rate:,.0f}{mark}" if rate else f"  {said}: cannot be had")
    done: dict[str, list[work.Round]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            one = work.Round(**side.ask("round"))
            done[name].append(one)
            print(
                f"{size}, round {number + 1}, {name}: {one.useful / one.seconds:,.0f} useful "
                f"tokens/s, {one.flops / one.seconds / 1e9:,.0f} GFLOP/s"
                + (f", matmul peak {one.peak / 1e9:,.0f}" if one.peak else "")
                + f", load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    for side in sides.values():
        side.close()
    rates = {
        name: statistics.median(one.useful / one.seconds for one in each)
        for name, each in done.items()
    }
    speed = statistics.median(one.flops / one.seconds for one in done["ours"])
    peak = statistics.median(one.peak for one in done["ours"])
    share = statistics.median(one.flops / one.seconds / one.peak for one in done["ours"])
    step = work.model_flops(size, 1, *lengths)
    print(f"{size}: {step / 1e9:,.1f} GFLOP for a row of {lengths[0]} + {lengths[1]}, forward x 3")
    peer = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"
    name = f"T5 1.1 {size.title()}, float32, {lengths[0]} + {lengths[1]}"
    first = figures.Figure(
        f"{name}: useful tokens of a training step",
        rates["ours"],
        "tokens/s",
        rates["peer"],
        f"{peer}, {settled['peer'].settings}",
        note=settled["ours"].settings,
    )
    found = [
        first,
        figures.Figure(f"{name}: model FLOP/s", speed / 1e9, "GFLOP/s"),
        figures.Figure(f"{name}: jnp.matmul's peak", peak / 1e9, "GFLOP/s"),
        figures.Figure(f"{name}: share of the peak", 100 * share, "%"),
    ]
    bars = [
        figures.Bar(f"{size}: times transformers", first.ratio, 1.5, "x"),
        figures.Bar(f"{size}: share of the matmul peak", 100 * share, 70, "%"),
    ]
    return found, bars


def compiling(quick: bool) -> tuple[list[figures.Figure], list[figures.Bar]]:
    """Returns the figures of compile times."""
    found, bars = [], []
    for width in ("small",) if quick else compile_time.WIDTHS:
        depth = 2 if quick else compile_time.DEPTH
        lowering, compiling = compile_time.seconds(width, depth)
        name = f"compile {depth} + {depth} layers of {width} width"
        found.append(
            figures.Figure(name, lowering + compiling, "s", note=f"lowering {lowering:.1f} s")
        )
        bars.append(figures.Bar(name, lowering + compiling, 30.0, "s", at_most=True))
    return found, bars


def as_figure(bar: figures.Bar) -> figures.Figure:
    """Returns a bar as it stands among the figures: reached where its ratio is 1 or more."""
    name = f"{bar.name}: bar"
    return figures.Figure(name, bar.found, bar.unit, bar.limit, "the bar", bar.at_most)


def main() -> int:
    """Prints the table and writes the JSON of what is asked for; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--json", metavar="PATH", help="write the figures as a list")
    parser.add_argument("--sizes", default="small,base", help="comma-separated; none to skip them")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--compile", action="store_true", help="measure compile times alone")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round")
    arguments = parser.parse_args()
    sizes = ["tiny"] if arguments.quick else [s for s in arguments.sizes.split(",") if s]
    unknown = [size for size in sizes if size not in work.SIZES]
    if unknown:
        parser.error(f"unknown sizes {', '.join(unknown)}; there are {', '.join(work.SIZES)}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    found: list[figures.Figure] = []
    bars: list[figures.Bar] = []

    def add(more: tuple[list[figures.Figure], list[figures.Bar]]) -> None:
        found.extend(more[0])
        bars.extend(more[1])

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if not arguments.compile:
            about = write_data(folder / "data.npz", folder / "prepared", arguments.quick)
            print(
                f"{about['examples']:,.0f} examples in {about['rows']:,.0f} rows, filled "
                f"{about['fill']:.1%} and {about['fill of targets']:.1%}; the longest has "
                f"{about['longest']:,.0f} tokens",
                flush=True,
            )
            rounds = 1 if arguments.quick else arguments.rounds
            for size in sizes:
                add(measure(size, str(folder / "data.npz"), rounds, arguments.quick))
    if arguments.compile or arguments.quick:
        add(compiling(arguments.quick))
    print(f"\n{figures.table(found)}\n\nbars\n{figures.bars_table(bars)}")
    print(f"load {os.getloadavg()[0]:.1f} at the end, {time.strftime('%H:%M')}")
    if arguments.json:
        rows: list[dict[str, Any]] = [figure.row() for figure in found]
        rows += [as_figure(bar).row() for bar in bars]
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    # A tiny model is no measure of anything.
    return int(not arguments.quick and not all(bar.reached for bar in bars))


if __name__ == "__main__":
    sys.exit(main())
