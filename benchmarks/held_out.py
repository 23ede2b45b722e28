"""A model of random weights on the held-out suites: what knows nothing must score like guessing.

  FLAN_DATA_DIR=DIR python benchmarks/held_out.py
  FLAN_DATA_DIR=DIR python benchmarks/held_out.py --all --examples 4

Makes a parameters-only folder with the shape of Flan-T5 Small and gives it to `flan-train eval`, in
a process of its own, as a user would. Direct MMLU by the likelihood of the options, all 1,531
questions, has to come within two standard errors of 25 %. `--all` puts every suite that there are
data for to the model, a few examples of each task (no output of random weights ever ends, so each
takes all the tokens that its task allows). There is no peer: "peer" and "ratio" are null.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

RANKED = "heldout_mmlu_rank"
CHANCE = 0.25
# Suites that have no split "all": what is theirs to choose a checkpoint by.
OTHERS = ("quickstart_unseen", "quickstart_held_out", "cot_validation")


def make_model(folder: pathlib.Path, seed: int) -> None:
    """Writes parameters of Flan-T5 Small's shape, drawn from a seed."""
    import jax

    from flan_train import checkpoints
    from flan_train.models import t5

    model = t5.T5Config(
        vocab_size=32128,
        embed_dim=512,
        num_heads=6,
        head_dim=64,
        mlp_dim=1024,
        num_encoder_layers=8,
        num_decoder_layers=8,
        mlp_activation="gated-gelu",
        tie_embeddings=False,
    )
    params = jax.jit(lambda key: t5.init_params(model, key))(jax.random.key(seed))
    checkpoints.save_params(folder, params, {"model": dataclasses.asdict(model)})


def evaluate(
    model: pathlib.Path, suites: list[str], split: str, folder: pathlib.Path, *more: str
) -> tuple[list[dict[str, Any]], float]:
    """Returns the results of `flan-train eval`, and the seconds that it took."""
    out = folder / "results.json"
    command = [
        *(sys.executable, "-m", "flan_train.cli", "eval"),
        *(f"--checkpoint={model}", f"--split={split}", f"--json={out}"),
        *(f"--suite={suite}" for suite in suites),
        f"--gin.OUTPUT_DIR='{folder / 'eval'}'",
        f"--gin.PREPARED_DIR='{folder / 'prepared'}'",
        "--gin.ALLOW_MISSING=True",
        *more,
    ]
    begun = time.monotonic()
    done = subprocess.run(command, check=False)
    seconds = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(f"flan-train eval ended with exit code {done.returncode}")
    return json.loads(out.read_text("utf-8")), seconds


def against_chance(result: dict[str, Any], chance: float = CHANCE) -> tuple[float, float, int]:
    """Returns the share of right answers over all examples, its standard error by chance, n."""
    rows = result["metrics"].values()
    count = sum(row["n"] for row in rows)
    right = sum(round(row["exact_match"] * row["n"]) for row in rows)
    return right / count, math.sqrt(chance * (1 - chance) / count), count


def main() -> None:
    """Reads the command line, measures, and prints or writes what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="every suite, not MMLU alone")
    parser.add_argument(
        "--examples", type=int, default=None, metavar="N", help="of each task, with --all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--folder", metavar="DIR", help="keep everything here")
    parser.add_argument("--json", metavar="PATH", help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.folder or temporary)
        rows, within = measure(folder, options)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    if not within:
        raise SystemExit("a model that knows nothing does not score like guessing")


def measure(folder: pathlib.Path, options: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Returns the figures, and whether ranked MMLU came within two standard errors of chance."""
    figures: dict[str, tuple[float, str]] = {}
    model = folder / f"random_small_{options.seed}"
    if not model.exists():
        make_model(model, options.seed)
    (ranked,), seconds = evaluate(model, [RANKED], "all", folder)
    share, error, count = against_chance(ranked)
    within = abs(share - CHANCE) <= 2 * error
    chosen: collections.Counter[str] = collections.Counter()
    path = folder / "eval" / ranked["suite"] / f"{ranked['step']}.jsonl"
    for line in path.read_text("utf-8").splitlines():
        chosen[json.loads(line)["output"]] += 1
    print(
        f"direct MMLU by rank: {share:.2%} of {count:,} right, "
        f"{(share - CHANCE) / error:+.2f} standard errors ({error:.2%}) from {CHANCE:.0%}: "
        f"{'within' if within else 'NOT within'} two; {seconds:.0f} s; options taken: "
        + ", ".join(f"{option} {number}" for option, number in sorted(chosen.items()))
    )
    figures["MMLU direct by rank, random weights"] = (100 * share, "%")
    figures["its distance from chance"] = ((share - CHANCE) / error, "standard errors")
    figures["its time"] = (seconds, "s")
    if options.all:
        more = [] if options.examples is None else [f"--examples={options.examples}"]
        apart = folder / "every"
        apart.mkdir(parents=True, exist_ok=True)
        for suites, split in ((["heldout_all"], "all"), (list(OTHERS), "validation")):
            results, seconds = evaluate(model, suites, split, apart, *more)
            examples = sum(result["examples"] for result in results)
            figures[f"{len(results)} suites, split {split}, {examples:,} examples"] = (seconds, "s")
            for result in results:
                name = f"{result['suite']}, {result['examples']:,} examples"
                figures[name] = (result["seconds"], "s")
    return [
        {"name": n, "ours": v, "peer": None, "peer_name": None, "ratio": None, "unit": u}
        for n, (v, u) in figures.items()
    ], within


if __name__ == "__main__":
    main()
