"""Builds run directories on disk from chosen scores, for the tests of selection and reports."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_train import checkpoint_names, scores

# (task, family, form, held out)
Task = tuple[str, str, str, bool]


def write_examples(
    run: pathlib.Path, suite: str, step: int, examples: Sequence[Mapping[str, Any]], **extra: Any
) -> dict[str, Any]:
    """Writes one finished evaluation and returns its result."""
    metrics, tasks = scores.score([dict(example) for example in examples])
    result = {
        "suite": suite,
        "step": step,
        "checkpoint": f"checkpoints/{step}",
        "metrics": metrics,
        "mean": scores.mean(metrics.values()),
        "tasks": tasks,
        **extra,
    }
    folder = run / "eval" / suite
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(example) + "\n" for example in examples)
    (folder / f"{step}.jsonl").write_text(lines, "utf-8")
    (folder / f"{step}.json").write_text(json.dumps(result), "utf-8")
    return result


def examples_of(task: Task, right: Sequence[bool]) -> list[dict[str, Any]]:
    """Returns one example for each entry of `right`."""
    name, family, form, held_out = task
    return [
        {
            "index": index,
            "task": name,
            "family": family,
            "form": form,
            "held_out": held_out,
            "example_id": f"{family}-{index}",
            "inputs": f"What is {index} + {index * 3 % 7}? Show each step.",
            "output": f"{index} + {index * 3 % 7} = {index + index * 3 % 7}.\nThe answer is "
            f"{index + index * 3 % 7 if ok else index}.",
            "extracted": str(index + index * 3 % 7 if ok else index),
            "answer": str(index + index * 3 % 7),
            "correct": bool(ok),
        }
        for index, ok in enumerate(right)
    ]


def write_suite(
    run: pathlib.Path,
    suite: str,
    tasks: Sequence[Task],
    rates: Mapping[int, float],
    *,
    count: int = 40,
    **extra: Any,
) -> None:
    """Writes one suite at the steps of `rates`; about that share of each task is right."""
    for step, rate in rates.items():
        examples = []
        for place, task in enumerate(tasks):
            share = min(1.0, max(0.0, rate * (0.55 + 0.9 * place / max(len(tasks) - 1, 1))))
            order = np.random.default_rng(place).permutation(count)
            examples += examples_of(task, list(order < round(share * count)))
        write_suite_checkpoint(run, step)
        write_examples(run, suite, step, examples, parameters=1_245_184, **extra)


def write_suite_checkpoint(run: pathlib.Path, step: int) -> None:
    """Makes a folder that looks like a complete checkpoint from outside."""
    folder = run / "checkpoints" / str(step)
    for item in checkpoint_names.ITEMS:
        (folder / item).mkdir(parents=True, exist_ok=True)
        name = "_METADATA" if item in ("params", "opt_state") else checkpoint_names.JSON_FILE
        (folder / item / name).write_text("{}", "utf-8")
    (folder / "_CHECKPOINT_METADATA").write_text("{}", "utf-8")


def write_log(run: pathlib.Path, steps: int, period: int = 10) -> None:
    """Writes a plausible log.jsonl."""
    random = np.random.default_rng(0)
    lines = []
    for step in range(period, steps + 1, period):
        loss = 0.9 + 5.5 * math.exp(-step / 180) + random.normal(0, 0.05)
        lines.append(
            {
                "step": step,
                "time": 1_700_000_000 + step * 0.25,
                "loss": loss,
                "z_loss": 1e-3,
                "accuracy": 1 - math.exp(-step / 500) * 0.9 + random.normal(0, 0.004),
                "tokens": step * 6144,
                "useful_tokens": step * 5800,
                "useful_tokens_per_second": 21_000 + random.normal(0, 700),
                "fill_encoder": 0.962 + random.normal(0, 0.004),
                "fill_decoder": 0.881 + random.normal(0, 0.01),
                "learning_rate": 5e-3,
                "grad_norm": 1.0,
                "step_seconds": 0.25,
            }
        )
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def write_mixture(run: pathlib.Path, tasks: Sequence[Task], **extra: Any) -> None:
    """Writes a plausible mixture.json."""
    rows = [
        {
            "task": name,
            "family": family,
            "form": form,
            "held_out": held_out,
            "rows": 4000 + 250 * place,
            "share": 1 / len(tasks),
            "input_tokens": 190_000 + 9_000 * place,
            "target_tokens": 42_000 + 3_100 * place,
            "drops": {"targets too long": place} if place % 4 == 0 else {},
            "passes": 0.5 + place,
            "renderings": 1 + place,
        }
        for place, (name, family, form, held_out) in enumerate(tasks)
    ]
    packing = {
        "sequences": 5210,
        "examples": 48_000,
        "fill_encoder": 0.9632,
        "fill_decoder": 0.8815,
        "lower_bound": 5177,
        "lengths": {"inputs": 256, "targets": 128},
    }
    mixture = {
        "mixture": "quickstart",
        "split": "train",
        "tasks": rows,
        "missing": {},
        "renderings": 16,
    }
    (run / "mixture.json").write_text(json.dumps({**mixture, "packing": packing, **extra}), "utf-8")


FAMILIES = [
    "addition",
    "subtraction",
    "multiplication",
    "comparison",
    "counting",
    "sorting",
    "reversal",
    "dates",
    "tracking",
    "logic",
    "rounding",
    "alphabet",
]
HELD_OUT = ("parity", "calendar", "anagrams")


def tasks_of(families: Sequence[str], held_out: bool) -> list[Task]:
    """Returns a direct and a chain-of-thought task of each family."""
    return [
        (f"quickstart_{family}_{form}", family, form, held_out)
        for family in families
        for form in ("direct", "cot")
    ]


def write_run(run: pathlib.Path) -> pathlib.Path:
    """Writes a whole run directory, selection apart."""
    run.mkdir(parents=True, exist_ok=True)
    train, apart = tasks_of(FAMILIES, False), tasks_of(HELD_OUT, True)
    steps = {step: 0.62 * (1 - math.exp(-step / 350)) for step in range(200, 1001, 200)}
    steps[1000] = steps[800] - 0.03
    write_suite(run, "quickstart_unseen", train, steps)
    write_suite(run, "quickstart_held_out", apart, {s: 0.4 * r for s, r in steps.items()})
    chosen = {800: steps[800] - 0.015}
    write_suite(run, "quickstart_unseen_test", train, chosen, split="test")
    write_suite(run, "quickstart_held_out_test", apart, {800: 0.2}, split="test")
    write_log(run, 1000)
    write_mixture(run, train)
    (run / "config.gin").write_text(
        'MODEL_DIR = "runs/quickstart"\nTRAIN_STEPS = 1000\nt5.T5Config.embed_dim = 128\n', "utf-8"
    )
    return run
