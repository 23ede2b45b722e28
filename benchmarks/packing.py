"""Packs simulated long-tailed lengths and prints the time and the distance from the lower bound.

  python benchmarks/packing.py --examples 1000000 --json results.json

There is no peer in these figures: "peer" and "ratio" are null.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import numpy as np

from flan_train import packing

CAPACITY = (1024, 256)


def lengths(number: int, seed: int = 0) -> np.ndarray:
    """Returns int64 [number, 2]: log-normal input and target tokens, within CAPACITY."""
    random = np.random.default_rng(seed)
    inputs = random.lognormal(4.6, 0.9, number)
    targets = random.lognormal(2.6, 1.1, number)
    drawn = np.stack([inputs, targets], axis=1).astype(np.int64) + 2
    return np.minimum(drawn, CAPACITY)


def main() -> None:
    """Reads the command line, packs once after compiling, prints and writes the figures."""
    parser = argparse.ArgumentParser(description="Time and quality of packing.")
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--json", metavar="PATH", help="write the figures as a list")
    options = parser.parse_args()
    drawn = lengths(options.examples)
    packing.pack(drawn[:100], CAPACITY, seed=0)  # numba compiles here
    begun = time.process_time()
    plan = packing.pack(drawn, CAPACITY, seed=0)
    seconds = time.process_time() - begun
    bound = packing.lower_bound(drawn, CAPACITY)
    encoder, decoder = packing.fill(plan, drawn, CAPACITY)
    figures = {
        "examples": (options.examples, "examples"),
        "processor time": (seconds, "s"),
        "over the lower bound": (100 * (len(plan) / bound - 1), "%"),
        "encoder slots filled": (100 * encoder, "%"),
        "decoder slots filled": (100 * decoder, "%"),
    }
    rows = [
        {
            "name": f"packing: {name}",
            "ours": value,
            "peer": None,
            "peer_name": None,
            "ratio": None,
            "unit": unit,
        }
        for name, (value, unit) in figures.items()
    ]
    for row in rows:
        print(f"{row['name']:<32} {row['ours']:>14,.3f} {row['unit']}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
