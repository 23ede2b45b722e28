"""Runs the main job as a user would and prints what it took and what came out.

  python benchmarks/main_job.py quickstart
  FLAN_DATA_DIR=DIR python benchmarks/main_job.py cot
  python benchmarks/main_job.py --json results.json quickstart

Each job is a process of its own in a new folder, so that its memory is its own and nothing is
reused. There is no peer in these figures: "peer" and "ratio" are null. `useful tokens/s` counts
tokens of examples, never padding, over all training steps after compilation.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

RECIPES = {
    "quickstart": "t5x_configs/recipes/quickstart.gin",
    "cot": "t5x_configs/recipes/cot_small_demo.gin",
}


def run(job: str, folder: pathlib.Path) -> dict[str, Any]:
    """Runs a job in `folder` and returns its figures by name: (value, unit)."""
    model_dir = folder / "run"
    command = [
        sys.executable,
        "-m",
        "flan_train.cli",
        "train",
        f"--gin_file={RECIPES[job]}",
        f"--gin.MODEL_DIR='{model_dir}'",
        f"--gin.PREPARED_DIR='{folder / 'prepared'}'",
    ]
    begun = time.monotonic()
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=False)
    wall = time.monotonic() - begun
    print(done.stdout)
    if done.returncode:
        raise SystemExit(f"{job} ended with exit code {done.returncode}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"whole job, wall clock": (wall, "s"), "peak memory, one process": (peak, "MiB")} | (
        figures(model_dir, done.stdout)
    )


def figures(model_dir: pathlib.Path, said: str) -> dict[str, tuple[float, str]]:
    """Returns what a finished run's files say of it."""
    log = [json.loads(line) for line in (model_dir / "log.jsonl").read_text("utf-8").splitlines()]
    log = [line for line in log if "loss" in line]
    mixture = json.loads((model_dir / "mixture.json").read_text("utf-8"))
    selected = json.loads((model_dir / "selected.json").read_text("utf-8"))
    packing = mixture["packing"]
    found: dict[str, tuple[float, str]] = {}
    parts = re.search(r"^done: step .*?; (.*); everything is in", said, re.MULTILINE)
    for name, seconds in re.findall(r"(\w+) ([\d.]+) s", parts.group(1) if parts else ""):
        found[f"time in {name}"] = (float(seconds), "s")
    useful = sum(line["useful_tokens"] for line in log)
    seconds = sum(line["useful_tokens"] / line["useful_tokens_per_second"] for line in log)
    found["training examples"] = (sum(task["rows"] for task in mixture["tasks"]), "examples")
    found["sources missing"] = (len(mixture["missing"]), "tasks")
    found["sequences of an epoch"] = (packing["sequences"], "sequences")
    found["over the lower bound"] = (100 * (packing["sequences"] / packing["lower_bound"] - 1), "%")
    found["encoder slots filled"] = (100 * packing["fill_encoder"], "%")
    found["decoder slots filled"] = (100 * packing["fill_decoder"], "%")
    found["training steps"] = (log[-1]["step"], "steps")
    found["useful tokens/s"] = (useful / seconds, "tokens/s")
    found["loss, first line of the log"] = (log[0]["loss"], "nats/token")
    found["loss, last line of the log"] = (log[-1]["loss"], "nats/token")
    found["selected step"] = (selected["step"], "step")
    for suite in sorted((model_dir / "eval").iterdir()):
        results = {
            int(path.stem): json.loads(path.read_text("utf-8")) for path in suite.glob("*.json")
        }
        first, chosen = results[min(results)], results.get(selected["step"])
        if not suite.name.endswith("_test"):
            found[f"{suite.name}: first exact match"] = (first["mean"]["exact_match"], "")
        if chosen:
            found[f"{suite.name}: chosen exact match"] = (chosen["mean"]["exact_match"], "")
            found[f"{suite.name}: majority answer"] = (chosen["mean"]["majority"], "")
    return found


def main() -> None:
    """Reads the command line, runs the jobs, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description="Time and result of the main job.")
    parser.add_argument("jobs", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--json", metavar="PATH", help="write the figures as a list")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for job in options.jobs:
        with tempfile.TemporaryDirectory() as folder:
            for name, (value, unit) in run(job, pathlib.Path(folder)).items():
                rows.append(
                    {
                        "name": f"{job}: {name}",
                        "ours": value,
                        "peer": None,
                        "peer_name": None,
                        "ratio": None,
                        "unit": unit,
                    }
                )
    print(f"on {os.cpu_count()} cores")
    for row in rows:
        print(f"{row['name']:<55} {row['ours']:>14,.3f} {row['unit']}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
