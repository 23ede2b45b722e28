"""Held-out suites -> scores: put a suite to a model, read the answers out, count what is right.

A suite is a prepared dataset (one split of a mixture). Each task is evaluated by its own protocol
(`evaluate_ask`); an example's result depends neither on the batch size nor on the order. An
interrupted evaluation continues where it stopped (`evaluate_files`). `<step>.json` is written last:
where it exists, the evaluation is complete.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin
import numpy as np

from flan_train import evaluate_ask, evaluate_files, scores, suites, toxicity
from flan_train.data_config import check_lengths
from flan_train.errors import UserError, check_number, check_text
from flan_train.evaluate_ask import Model, Question, TrainedModel
from flan_train.scores import Result
from flan_train.tasks.protocol import protocol_of

if TYPE_CHECKING:
    from flan_train.prepared import PreparedDataset

__all__ = ["EvalConfig", "Model", "TrainedModel", "evaluate_suite", "fingerprint", "takes_votes"]

# Results of another layout are not reused.
FORMAT = 2
# Output lengths are rounded up, so that suites alike share one compiled program.
OUTPUT_STEP = 16
LONGEST_OUTPUT = 1024


@gin.register(module="flan_train.evaluate")
@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What is evaluated, how often and in what portions.

    Attributes:
      suites: mixture or task names, each evaluated on its own; a mixture of mixtures stands for
        its members.
      period: training steps between two evaluations.
      examples_per_task: the first N of each task (None: all).
      batch_size: prompts decoded at once; changes speed and memory, never a result.
      max_decode_length: output tokens, EOS included (None: what the task says, or else the suite's
        longest target, rounded up).
      feature_lengths: limits of the suites' prompts and targets in tokens (None: the data's).
      self_consistency: samples of each prompt of a chain-of-thought task that are put to the vote
        (0: no vote). In training it is the chosen checkpoint that is measured so.
      temperature: of samples that are voted over.
      top_k: they are drawn from the so many likeliest tokens (0: from all).
      toxicity_scorer: "module:function" that gives each of some texts its toxicity, 0 to 1.
    """

    suites: Sequence[str] = ()
    period: int = 1000
    examples_per_task: int | None = None
    batch_size: int = 32
    max_decode_length: int | None = None
    feature_lengths: Mapping[str, int] | None = None
    self_consistency: int = 0
    temperature: float = 0.7
    top_k: int = 40
    toxicity_scorer: str | None = None

    def __post_init__(self) -> None:
        listed = self.suites if isinstance(self.suites, list | tuple) else (self.suites,)
        for suite in listed:
            check_text("EVAL_SUITES", suite)
        object.__setattr__(self, "suites", suites.expand(listed))
        for name in ("period", "batch_size", "examples_per_task", "max_decode_length"):
            optional = name in ("examples_per_task", "max_decode_length")
            value = getattr(self, name)
            check_number(f"EVAL_{name.upper()}", value, whole=True, minimum=1, optional=optional)
        if self.feature_lengths is not None:
            check_lengths("EVAL_FEATURE_LENGTHS", self.feature_lengths)
        check_number("EVAL_SELF_CONSISTENCY", self.self_consistency, whole=True, minimum=0)
        check_number("EVAL_TEMPERATURE", self.temperature, above=0)
        check_number("EVAL_TOP_K", self.top_k, whole=True, minimum=0)
        check_text("EVAL_TOXICITY_SCORER", self.toxicity_scorer, optional=True)


def evaluate_suite(
    model: Model,
    suite: str,
    prepared: PreparedDataset,
    *,
    step: int,
    checkpoint: str,
    out_dir: str | pathlib.Path,
    settings: EvalConfig | None = None,
    config_hash: str = "",
    replace: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Scores one checkpoint on one suite and returns the result it wrote.

    Writes `<out_dir>/<name>/<step>.json` (DESIGN section 3; `out_dir` is a run's `eval` folder)
    and, beside it, one line per example in `<step>.jsonl`; the name is that of the suite, and
    says so where it is not the validation split or where there was a vote. A finished result of
    the same checkpoint, configuration, examples and protocol is returned as it stands; a partial
    one is completed.

    Args:
      model: what is asked.
      suite: the name of the mixture or task.
      prepared: its examples.
      step: the training step of the parameters.
      checkpoint: what names the parameters, relative to the run where possible.
      settings: how long outputs may be, votes; None for the defaults.
      config_hash: tells apart two configurations in one run directory.
      replace: False refuses to take the place of a result of other examples or settings.
      on_progress: is told (examples done, examples in all) after each example.

    Raises:
      UserError: the suite has no example, or a result that may not be replaced is there.
    """
    started = time.monotonic()
    settings = settings or EvalConfig()
    count = len(prepared.lengths)
    if not count:
        raise UserError(
            f"the suite '{suite}' has no example",
            where=str(prepared.path),
            expected="at least one example in the split that is evaluated",
            fix="look at the drops in its manifest.json, or take it out of EVAL_SUITES",
        )
    split = prepared.manifest["split"]
    questions = _questions(prepared, settings)
    voted = settings.self_consistency if _is_voted(questions) else 0
    name = suites.filed_as(suite, split, voted)
    identity = {
        "format": FORMAT,
        "suite": name,
        "step": step,
        "checkpoint": checkpoint,
        "config_hash": config_hash,
        "prepared": fingerprint(prepared),
        "decoding": evaluate_ask.describe(questions),
    }
    score_texts = toxicity.scorer_for(_metrics(questions), settings.toxicity_scorer)
    if score_texts is not None:
        identity["scorer"] = settings.toxicity_scorer
    key = _digest(identity)
    folder = pathlib.Path(out_dir) / name
    finished = folder / f"{step}.json"
    there = evaluate_files.read_finished(finished)
    if there is not None and there.get("key") == key:
        return there
    if there is not None and not replace and not _same_but_older(there, identity):
        raise UserError(
            f"'{name}' already has a result for step {step}, of other examples or settings",
            where=str(finished),
            expected=f"the {there.get('examples')} examples and settings of that result",
            fix="give another folder with --gin.OUTPUT_DIR=\"'DIR'\", or leave out the settings "
            "that differ from the run's",
        )
    partial = evaluate_files.partial_path(folder, step)
    done = evaluate_files.read_partial(partial, key)
    with evaluate_files.Partial(partial, key, done) as sink:
        for example in evaluate_ask.ask(model, prepared, questions, done, score_texts):
            done[example["index"]] = example
            sink.write(example)
            if on_progress:
                on_progress(len(done), count)

    examples = [done[index] for index in range(count)]
    result: Result = {
        **identity,
        "split": split,
        **scores.summary(examples),
        "examples": count,
        **_left_out(prepared.manifest),
        "out_of_reach": evaluate_ask.out_of_reach(prepared, questions),
        "protocol": {
            "split": split,
            "decoding": identity["decoding"],
            "shots": sum(example["shots"] for example in examples) / count,
            "lengths": dict(prepared.manifest["feature_lengths"]),
        },
        "parameters": model.parameters,
        "seconds": round(time.monotonic() - started, 3),
        "key": key,
    }
    evaluate_files.write_finished(folder, step, result, examples)
    return result


def takes_votes(prepared: PreparedDataset, settings: EvalConfig) -> bool:
    """Returns whether any task of a suite is put to the vote under these settings."""
    return bool(settings.self_consistency) and _is_voted(_questions(prepared, settings))


def fingerprint(prepared: PreparedDataset) -> str:
    """Returns 16 hex digits of what the examples are: their tasks' content-addressed folders.

    Unlike the manifest it stays the same where the dataset is made again at another place.
    """
    folders = "\n".join(task["folder"] for task in prepared.manifest["tasks"])
    return hashlib.sha256(folders.encode()).hexdigest()[:16]


def output_length(target_lengths: np.ndarray) -> int:
    """Returns the output tokens that the longest target needs, rounded up to a shared shape."""
    longest = int(target_lengths.max())
    return min(-(-longest // OUTPUT_STEP) * OUTPUT_STEP, max(LONGEST_OUTPUT, longest))


def _is_voted(questions: Mapping[str, Question]) -> bool:
    return any(question.method == evaluate_ask.VOTE for question in questions.values())


def _metrics(tasks: Iterable[str]) -> set[str]:
    return {metric for task in tasks for metric in protocol_of(task).metrics}


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _same_but_older(there: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Returns whether a result is of the same work in an earlier layout, so that it may go."""
    kept = {key: there.get(key) for key in identity}
    return kept["format"] != FORMAT and {**kept, "format": FORMAT} == identity


def _questions(prepared: PreparedDataset, settings: EvalConfig) -> dict[str, Question]:
    """Returns how each task with examples is put to the model, by its name."""
    starts = prepared.task_offsets.tolist()
    filled = [
        (about, slice(start, end))
        for about, start, end in zip(prepared.manifest["tasks"], starts, starts[1:], strict=False)
        if end > start
    ]
    asked = {about["task"]: protocol_of(about["task"]) for about, _ in filled}
    # What tasks do not say follows from the targets, for all that do not alike.
    silent = [part for about, part in filled if asked[about["task"]].max_output is None]
    targets = [prepared.lengths[part, 1] for part in silent or [part for _, part in filled]]
    longest = output_length(np.concatenate(targets))
    return {
        about["task"]: evaluate_ask.question_for(asked[about["task"]], about, longest, settings)
        for about, _ in filled
    }


def _left_out(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a suite is not measured, or not as it is: by task, with the reasons."""
    dropped, shortened = {}, {}
    for task in manifest["tasks"]:
        reasons = collections.Counter(task["drops"])
        reasons.update(f"bad row: {row['reason']}" for row in task["bad_rows"])
        if reasons:
            dropped[task["task"]] = dict(reasons)
        cut = {name: task[name] for name in ("inputs_cut", "fewer_shots") if task[name]}
        if cut:
            shortened[task["task"]] = cut
    return {
        "dropped": dropped,
        "shortened": shortened,
        "missing": dict(manifest["missing"]),
        "empty": dict(manifest["empty"]),
    }
