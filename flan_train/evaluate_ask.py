"""How each task of a suite is put to a model, and what is made of what comes back.

A task's own protocol decides (`tasks.protocol`): "generate" takes the greedy output, "rank" the
likeliest of the example's options, "samples" draws outputs for a scorer. Chain-of-thought tasks can
be put to the vote (self-consistency): of several sampled outputs the commonest answer counts.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

from flan_train import open_ended
from flan_train.decode import Generated, Generator, Sampling
from flan_train.errors import UserError
from flan_train.likelihood import OptionScorer
from flan_train.scores import Example
from flan_train.tasks import answers, metrics, protocol

if TYPE_CHECKING:
    from flan_train.models.t5 import T5Config
    from flan_train.prepared import PreparedDataset
    from flan_train.sharding import Partitioner

ScoreTexts = Callable[[Sequence[str]], Sequence[float]]

# Log-likelihoods are kept to so many places: beyond them are sums' own rounding.
DECIMALS = 5

GREEDY, RANK, SAMPLES, VOTE = "greedy", "rank", "samples", "self_consistency"


class Settings(Protocol):
    """What of `evaluate.EvalConfig` counts here."""

    @property
    def max_decode_length(self) -> int | None: ...
    @property
    def self_consistency(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...


class Model(Protocol):
    """What a suite is put to: `TrainedModel`, or an object planted in its place.

    Attributes:
      parameters: how many there are.
    """

    parameters: int

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        *,
        max_length: int,
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, list[Generated]]]:
        """Yields (index of a prompt, its outputs) in any order; see `decode.Generator`."""
        ...

    def score(
        self, prompts: Sequence[np.ndarray], options: Sequence[Sequence[np.ndarray]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index of a prompt, log-likelihood of each of its options)."""
        ...


class TrainedModel:
    """Parameters that can be asked: one object for all suites of an evaluation.

    Args:
      params: laid out as `partitioner` says.
      config: what the parameters belong to.
      partitioner: the mesh to run on (None: the default device).
      batch_size: prompts at once; rounded up to a multiple of the batch shards.
    """

    def __init__(
        self,
        params: Any,
        config: T5Config,
        *,
        partitioner: Partitioner | None = None,
        batch_size: int = 32,
    ) -> None:
        shards = 1 if partitioner is None else partitioner.batch_parts
        size = -(-batch_size // shards) * shards
        self.parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(params))
        self.generator = Generator(params, config, partitioner=partitioner, batch_size=size)
        self.scorer = OptionScorer(params, config, partitioner=partitioner, batch_size=size)
        self.generate = self.generator.generate
        self.score = self.scorer.score


_GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Question:
    """How the examples of a task are put to the model.

    Attributes:
      method: "greedy", "rank", "samples" or "self_consistency".
      max_length: output tokens, EOS included; 0 where nothing is generated.
      sampling: how outputs are drawn; greedy where nothing is.
    """

    method: str
    max_length: int = 0
    sampling: Sampling = _GREEDY

    def describe(self) -> dict[str, Any]:
        """Returns what a result's "decoding" says of it."""
        about: dict[str, Any] = {"method": self.method}
        if self.method != RANK:
            about["max_decode_length"] = self.max_length
        if self.method in (SAMPLES, VOTE):
            drawn = ("samples", "temperature", "top_k")
            about |= {name: getattr(self.sampling, name) for name in drawn}
        return about


def is_cot(about: Mapping[str, Any], asked: protocol.Protocol) -> bool:
    """Returns whether a task's outputs reason before they answer, so that votes are of use."""
    reasons = asked.prompting == "cot" or str(about["form"]).rpartition("_")[2] == "cot"
    return reasons and asked.method == "generate"


def question_for(
    asked: protocol.Protocol,
    about: Mapping[str, Any],
    longest: int,
    settings: Settings,
) -> Question:
    """Returns how a task is put to the model.

    Args:
      asked: the task's own protocol.
      about: the task in the suite's manifest.
      longest: output tokens where neither the task nor the settings say.
      settings: of the evaluation.
    """
    if asked.method == RANK:
        return Question(RANK)
    length = settings.max_decode_length or asked.max_output or longest
    if asked.method == SAMPLES:
        assert asked.sampling is not None  # as every definition with this method has it
        drawn = Sampling("sample", **dataclasses.asdict(asked.sampling))
        return Question(SAMPLES, length, drawn)
    if settings.self_consistency and is_cot(about, asked):
        drawn = Sampling(
            "sample",
            temperature=settings.temperature,
            top_k=settings.top_k,
            samples=settings.self_consistency,
        )
        return Question(VOTE, length, drawn)
    return Question(GREEDY, length)


def describe(questions: Mapping[str, Question]) -> dict[str, Any]:
    """Returns what all questions of a suite are, or which those of each task are."""
    by_task = {task: question.describe() for task, question in questions.items()}
    first, *others = by_task.values()
    if all(other == first for other in others):
        return first
    return {"method": "by task", "tasks": by_task}


def ask(
    model: Model,
    prepared: PreparedDataset,
    questions: Mapping[str, Question],
    done: Mapping[int, Example],
    score_texts: ScoreTexts | None = None,
) -> Iterator[Example]:
    """Yields the evaluated examples that are still to do, in any order.

    Args:
      model: what is asked.
      prepared: the suite's examples.
      questions: by task.
      done: what is finished already, by index.
      score_texts: gives a number for each of the outputs that are drawn; only "samples" needs it.

    Raises:
      UserError: an example without options where they are ranked.
    """
    groups: dict[Question, list[int]] = {}
    for index in range(len(prepared.lengths)):
        if index not in done:
            task = prepared.task_names[int(prepared.task_of(index))]
            groups.setdefault(questions[task], []).append(index)
    for question, indices in groups.items():
        prompts = [prepared.tokens(index)[0] for index in indices]
        if question.method == RANK:
            options = [_options(prepared, index) for index in indices]
            for position, scores in model.score(prompts, options):
                yield _ranked(prepared, indices[position], scores)
            continue
        seeds = None
        if question.method in (SAMPLES, VOTE):
            seeds = [_seed(prepared.record(index)) for index in indices]
        generated = model.generate(
            prompts, max_length=question.max_length, sampling=question.sampling, seeds=seeds
        )
        for position, outputs in generated:
            index = indices[position]
            yield _generated(prepared, index, question.method, outputs, score_texts)


def out_of_reach(prepared: PreparedDataset, questions: Mapping[str, Question]) -> dict[str, int]:
    """Returns for how many examples of a task even their own target would count as wrong.

    The vocabulary cannot write it: T5's has no braces and knows few scripts, so that no model with
    it can close every bracket of dyck_languages or answer in Telugu. Tasks without such examples,
    and those whose outputs are ranked or drawn, are left out.
    """
    found: collections.Counter[str] = collections.Counter()
    for index in range(len(prepared.lengths)):
        record = prepared.record(index)
        if questions[record["task"]].method in (GREEDY, VOTE):
            text = prepared.vocabulary.decode(prepared.tokens(index)[1])
            style = record["extraction"]
            read = answers.extract(text, style, record["options"])
            accepted = record["references"] or (record["answer"],)
            found[record["task"]] += not answers.is_right(read, accepted, style)
    return {task: count for task, count in found.items() if count}


def vote(given: Sequence[str | None], style: str) -> tuple[int, dict[str, int]]:
    """Returns which output to take, and how often each answer was given, most often first.

    Answers that differ in spelling alone are one (`answers.form`). Of equally common ones the one
    that came first is taken, and its first output. Without any answer that is output 0.

    >>> vote([None, "4", "5", "5.0", "4"], "number")
    (1, {'4': 2, '5': 2})

    Args:
      given: the answer in each output, None where none could be read out of it.
      style: how answers are compared; a key of `answers.STYLES`.
    """
    first: dict[str, int] = {}
    counts: collections.Counter[str] = collections.Counter()
    for number, answer in enumerate(given):
        if answer is not None:
            form = answers.form(answer, style)
            first.setdefault(form, number)
            counts[form] += 1
    # `most_common` keeps the order of first appearance among equals.
    common = counts.most_common()
    return (first[common[0][0]] if common else 0), dict(common)


def _seed(record: Mapping[str, Any]) -> int:
    """Returns a number in 31 bits that is the example's own, in whatever suite it is."""
    text = f"{record['task']}\x1f{record['example_id']}"
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFF_FFFF


def _options(prepared: PreparedDataset, index: int) -> list[np.ndarray]:
    """Returns the tokens of an example's options, with the end that a target has."""
    record = prepared.record(index)
    if not record["options"]:
        raise UserError(
            "an example has no options to rank",
            where=f"task {record['task']}, example {record['example_id']}",
            expected="the options of each row, of a task whose method is 'rank'",
            fix="give the task another method, or its rows options",
        )
    words = prepared.vocabulary
    encoded = words.encode_batch(list(record["options"]))
    return [np.array([*ids, words.eos_id], np.int32) for ids in encoded]


def _ranked(prepared: PreparedDataset, index: int, scores: np.ndarray) -> Example:
    record = prepared.record(index)
    # The first of equal ones.
    chosen = record["options"][int(np.argmax(scores))]
    kept = [round(float(score), DECIMALS) for score in scores]
    return _judged(_example(prepared, index, record, chosen, chosen) | {"option_scores": kept})


def _generated(
    prepared: PreparedDataset,
    index: int,
    method: str,
    outputs: Sequence[Generated],
    score_texts: ScoreTexts | None,
) -> Example:
    record = prepared.record(index)
    texts = [prepared.vocabulary.decode(output.tokens) for output in outputs]
    style, options = record["extraction"], record["options"]
    read = [answers.extract(text, style, options) for text in texts]
    chosen = 0
    more: Example = {}
    if method == VOTE:
        chosen, votes = vote(read, style)
        more = {"outputs": texts, "votes": votes}
    elif method == SAMPLES:
        likely = [round(float(output.log_probability), DECIMALS) for output in outputs]
        # Which output stands for the others, where one has to: see `open_ended`.
        order = open_ended.kept_order(likely)
        chosen = order[0]
        more = {"outputs": texts, "log_probabilities": likely, "kept": order}
        if score_texts is not None:
            more["toxicity"] = [round(float(score), DECIMALS) for score in score_texts(texts)]
    return _judged(_example(prepared, index, record, texts[chosen], read[chosen]) | more)


def _example(
    prepared: PreparedDataset,
    index: int,
    record: Mapping[str, Any],
    output: str,
    extracted: str | None,
) -> Example:
    accepted = record["references"] or (record["answer"],)
    prompt = prepared.tokens(index)[0]
    return {
        "index": index,
        **{name: record[name] for name in ("task", "family", "form", "held_out", "example_id")},
        "shots": record["shots"],
        "inputs": prepared.vocabulary.decode([int(token) for token in prompt]),
        "output": output,
        "extracted": extracted,
        "answer": record["answer"],
        "target": record["answer"],
        "references": list(record["references"]),
        "options": list(record["options"]),
        "correct": answers.is_right(extracted, accepted, record["extraction"]),
    }


def _judged(example: Example) -> Example:
    """Adds the sufficient statistics of the example's metrics."""
    example["values"] = metrics.values_of(example)
    return example
