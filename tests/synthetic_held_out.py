"""A run with held-out suites on disk, in the form that evaluation and selection write them.

What the model answers is drawn, so that scores rise with the steps and differ by task; everything
else (values, scores, intervals, the choice) is computed by the code that really computes it.
"""

from __future__ import annotations

import json
import math
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_train import scores, suites
from flan_train.normalized import SIX_SUITES
from flan_train.select import SelectConfig, select
from flan_train.tasks import metrics
from flan_train.tasks.held_out_table import HeldOutFile, files_of
from tests import synthetic_run

STEPS = (500, 1000, 1500, 2000)
PARAMETERS = 76_961_152
_EXTRA = "Solve the following problem and give one answer. "


def answers_of(file: HeldOutFile) -> tuple[str, ...]:
    """Returns what an answer of a file may be."""
    if file.answers == "letter":
        return ("(A)", "(B)", "(C)", "(D)")
    return file.options or tuple(str(number) for number in range(3, 40))


def example(
    file: HeldOutFile, form: str, index: int, *, right: bool, read: bool, length: int, kind: str
) -> dict[str, Any]:
    """Returns one evaluated example (kind: "greedy", "rank" or "vote") with its values."""
    possible = answers_of(file)
    wanted = possible[zlib.crc32(f"{file.name}{index}".encode()) % len(possible)]
    given = wanted if right else possible[(possible.index(wanted) + 1) % len(possible)]
    steps = "Let us count. There are three and then two more. " if "cot" in form else ""
    question = f"Q: {file.title}, question {index}: which of {', '.join(possible[:4])} is it?\nA:"
    shown = f"{_EXTRA}Q: an exemplar about {file.title} <b>&amp; co</b>?\nA: {possible[0]}\n\n"
    prompt = (shown * (length // len(shown)) + question).lstrip()
    found: dict[str, Any] = {
        "index": index,
        "task": f"{file.suite}_{file.name}_{form}",
        "family": file.suite,
        "form": form,
        "held_out": True,
        "example_id": f"{file.name}-{index}",
        "shots": 5 if index % 7 else 4,
        "inputs": prompt,
        "output": f"{steps}So the answer is {given}." if read else f"{steps}It is hard to say",
        "extracted": given if read else None,
        "answer": wanted,
        "target": wanted,
        "references": [],
        "options": list(possible) if file.answers in ("letter", "closed") else [],
        "correct": right and read,
    }
    if kind == "rank":
        marks = [-4.0 - place for place in range(len(possible))]
        marks[possible.index(given)] = -1.25
        found |= {"output": given, "option_scores": marks}
    if kind == "vote":
        found |= {"outputs": [found["output"]] * 2 + ["I am not sure"], "votes": {given: 2}}
    return found | {"values": metrics.values_of(found)}


def write_suite(
    run: pathlib.Path,
    suite: str,
    files: Sequence[HeldOutFile],
    form: str,
    rates: Mapping[int, float],
    *,
    split: str = "validation",
    count: int = 6,
    length: int = 400,
    kind: str = "greedy",
    lines: Sequence[int] | None = None,
) -> None:
    """Writes a suite's results at the steps of `rates`: about that share of a task is right.

    Args:
      run: the run directory.
      suite: its name, without the split.
      files: one task each.
      form: of the prompts.
      rates: by step.
      split: what is measured.
      count: examples of each task.
      length: characters of a prompt, about.
      kind: "greedy", "rank" or "vote".
      lines: the steps whose examples are kept (None: all).
    """
    filed = suites.filed_as(suite, split, 3 if kind == "vote" else 0)
    for step, rate in rates.items():
        examples = []
        for file in files:
            seed = zlib.crc32(f"{filed}{file.name}".encode())
            luck = np.random.default_rng(seed).random((2, count))
            hard = 0.6 + 0.8 * (seed % 97) / 97
            examples += [
                example(
                    file,
                    form,
                    len(examples) + place,
                    right=bool(luck[0, place] < rate * hard),
                    read=bool(luck[1, place] > 0.08),
                    length=length,
                    kind=kind,
                )
                for place in range(count)
            ]
        lengths = {"inputs": 2048, "targets": 512}
        method = {"greedy": "greedy", "rank": "rank", "vote": "self_consistency"}[kind]
        decoding: dict[str, Any] = {"method": method}
        if method != "rank":
            decoding["max_decode_length"] = 16
        if method == "self_consistency":
            decoding |= {"samples": 3, "temperature": 0.7, "top_k": 40}
        result = {
            "format": 2,
            "suite": filed,
            "step": step,
            "checkpoint": f"checkpoints/{step}",
            "decoding": decoding,
            "split": split,
            **scores.summary(examples),
            "dropped": {examples[0]["task"]: {"inputs too long": 2}},
            "shortened": {examples[-1]["task"]: {"fewer_shots": 3}},
            "missing": {},
            "empty": {},
            "protocol": {"split": split, "decoding": decoding, "shots": 4.8, "lengths": lengths},
            "examples": len(examples),
            "parameters": PARAMETERS,
        }
        synthetic_run.write_suite_checkpoint(run, step)
        folder = run / "eval" / filed
        folder.mkdir(parents=True, exist_ok=True)
        if lines is None or step in lines:
            text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in examples)
            (folder / f"{step}.jsonl").write_text(text, "utf-8")
        (folder / f"{step}.json").write_text(json.dumps(result, indent=1), "utf-8")


def write_run(
    run: pathlib.Path,
    *,
    best: float = 0.5,
    files: int = 3,
    protocol: str = "apart",
    steps: Sequence[int] = STEPS,
    extra: bool = True,
    setting: str = "5e-4",
) -> pathlib.Path:
    """Writes a run that evaluated the six suites, and chooses its checkpoint.

    Args:
      run: the run directory.
      best: the share that is right in the end, about.
      files: of each benchmark the first so many.
      protocol: of the selection.
      steps: where it was evaluated.
      extra: whether there are ranked options and votes too.
      setting: the learning rate in its configuration.
    """
    run.mkdir(parents=True, exist_ok=True)
    chosen_on, reported_on = suites.SPLITS_OF[protocol]
    rates = {step: best * (1 - math.exp(-step / 700)) for step in steps}
    weights = {"mmlu": 1.0, "bbh": 1.0, "tydiqa": 0.5, "mgsm": 0.2}

    def of(suite: str, at: Sequence[int]) -> dict[int, float]:
        return {step: rates[step] * weights[suite.split("_")[1]] for step in at}

    for suite in SIX_SUITES:
        _, benchmark, form = suite.split("_")
        group = files_of(benchmark)[:files]
        write_suite(run, suite, group, form, of(suite, steps), split=chosen_on, count=24)
    if extra:
        group = files_of("mmlu")[:files]
        ranked = of("heldout_mmlu_rank", steps)
        write_suite(run, "heldout_mmlu_rank", group, "rank", ranked, split=chosen_on, kind="rank")
    config = SelectConfig(metric="normalized_average", protocol=protocol)
    step = int(select(run, config)["step"])
    for suite in SIX_SUITES if reported_on else ():
        _, benchmark, form = suite.split("_")
        group = files_of(benchmark)[:files]
        write_suite(run, suite, group, form, of(suite, [step]), split=reported_on, count=60)
    if extra and reported_on:
        group = files_of("mgsm")[:files]
        voted = of("heldout_mgsm_cot", [step])
        write_suite(run, "heldout_mgsm_cot", group, "cot", voted, split=reported_on, kind="vote")
    if reported_on:
        select(run, config)
    synthetic_run.write_log(run, max(steps))
    synthetic_run.write_mixture(run, synthetic_run.tasks_of(synthetic_run.FAMILIES, False))
    (run / "config.gin").write_text(
        f'MODEL_DIR = "{run.name}"\nLEARNING_RATE = {setting}\nTRAIN_STEPS = {max(steps)}\n'
        "EVAL_SUITES = \\\n    ('heldout_mmlu_direct',\n     'heldout_bbh_direct')\n",
        "utf-8",
    )
    return run
