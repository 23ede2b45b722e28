"""Each task is asked by its own protocol; what comes back is read, voted over, ranked or scored."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from flan_train import evaluate, evaluate_ask, scores
from flan_train.data_config import DataConfig
from flan_train.decode import Generated
from flan_train.errors import UserError
from flan_train.evaluate import EvalConfig
from flan_train.models import t5
from flan_train.prepare import prepare
from flan_train.prepared import PreparedDataset
from flan_train.tasks import TaskDefinition
from flan_train.tasks.protocol import Draws, Protocol
from tests import planted_models, small_run, toy_tasks

ROWS = [(f"is {number} even", "yes" if number % 2 == 0 else "no") for number in range(12)]


def toy(name: str, **changes: Any) -> TaskDefinition:
    return dataclasses.replace(toy_tasks.toy(name, ROWS, wording=name), **changes)


TASKS = (
    toy("toy_generated", max_output=9),
    toy("toy_ranked", method="rank", metrics=("accuracy",), chance=0.5),
    toy("toy_reasoned", prompting="cot"),
    toy(
        "toy_drawn",
        method="samples",
        metrics=("any_toxic", "mean_toxicity"),
        sampling=Draws(3, 1.0, 40),
        max_output=5,
    ),
)


@contextlib.contextmanager
def suite(
    folder: pathlib.Path, *names: str, lengths: tuple[int, int] = (64, 16)
) -> Iterator[PreparedDataset]:
    """Prepares the named toys as one suite; they are registered while inside."""
    with toy_tasks.registered([task for task in TASKS if task.name in names]):
        config = DataConfig(
            "toys",
            dict(zip(("inputs", "targets"), lengths, strict=True)),
            vocabulary="quickstart",
            prepared_dir=str(folder / "prepared"),
            num_workers=1,
            allow_missing=True,
        )
        yield prepare(config, "validation", progress=False)


def evaluated(
    prepared: PreparedDataset, folder: pathlib.Path, model: Any = None, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the result and the examples of an evaluation."""
    result = evaluate.evaluate_suite(
        model or planted_models.oracle(prepared),
        "toys",
        prepared,
        step=1,
        checkpoint="checkpoints/1",
        out_dir=folder,
        settings=EvalConfig(**settings),
    )
    written = folder / result["suite"] / "1.jsonl"
    return result, scores.read_examples(written)


def toxicity(texts: list[str]) -> list[float]:
    """The scorer of these tests: "yes" is toxic."""
    return [0.75 if "yes" in text else 0.25 for text in texts]


SCORER = f"{__name__}:toxicity"


class Draws3(planted_models.Planted):
    """Draws the reply, nothing, and "no"."""

    def __init__(self, prepared: PreparedDataset) -> None:
        super().__init__(prepared, lambda index: index)
        self.no = np.array(prepared.vocabulary.encode("no"), np.int32)

    def generate(self, prompts: Any, **options: Any) -> Iterator[tuple[int, list[Generated]]]:
        for index, (one, *_) in super().generate(prompts, **options):
            texts = (one.tokens, np.zeros(0, np.int32), self.no)
            likely = (-3.0, -9.0, -4.0)
            yield index, [Generated(*pair, True) for pair in zip(texts, likely, strict=True)]


def test_every_protocol_in_one_suite_and_what_its_examples_hold(tmp_path: pathlib.Path) -> None:
    with suite(tmp_path, *(task.name for task in TASKS)) as prepared:
        result, examples = evaluated(prepared, tmp_path, toxicity_scorer=SCORER)
    longest = evaluate.OUTPUT_STEP
    assert result["decoding"] == {
        "method": "by task",
        "tasks": {
            "toy_drawn": {
                "method": "samples",
                "max_decode_length": 5,
                "samples": 3,
                "temperature": 1.0,
                "top_k": 40,
            },
            "toy_generated": {"method": "greedy", "max_decode_length": 9},
            "toy_ranked": {"method": "rank"},
            "toy_reasoned": {"method": "greedy", "max_decode_length": longest},
        },
    }
    assert result["scorer"] == SCORER
    rows = result["metrics"]
    assert rows["toy_generated"]["exact_match"] == rows["toy_ranked"]["accuracy"] == 1.0
    assert rows["toy_ranked"]["normalized"] == 1.0
    assert rows["toy_drawn"]["any_toxic"] == rows["toy_drawn"]["mean_toxicity"] * 2 - 0.5
    assert set(rows["toy_drawn"]["intervals"]) == {"any_toxic", "mean_toxicity"}
    assert result["mean"]["accuracy"] == 1.0
    for example in examples:
        own = ("index", "task", "family", "form", "held_out", "example_id", "shots", "inputs")
        assert tuple(example)[:8] == own
        assert tuple(example)[-1] == "values"
        assert example["target"] == example["answer"]
        assert example["options"] == ["yes", "no"]
        assert example["references"] == []
        if example["task"] == "toy_ranked":
            right = ["yes", "no"].index(example["answer"])
            assert example["option_scores"] == [-(right != 0), -(right != 1)]
            assert example["output"] == example["extracted"] == example["answer"]
        if example["task"] == "toy_drawn":
            assert example["outputs"] == [example["answer"]] * 3
            assert example["toxicity"] == toxicity(example["outputs"])


def test_equally_likely_options_give_the_first(tmp_path: pathlib.Path) -> None:
    class Even(planted_models.Planted):
        def score(self, prompts: Any, options: Any) -> Iterator[tuple[int, np.ndarray]]:
            for index in range(len(prompts)):
                yield index, np.full(len(options[index]), -2.0, np.float32)

    with suite(tmp_path, "toy_ranked") as prepared:
        model = Even(prepared, lambda index: index)
        result, examples = evaluated(prepared, tmp_path, model)
    assert {example["output"] for example in examples} == {"yes"}
    assert result["mean"]["accuracy"] == 0.5
    assert result["mean"]["normalized"] == 0.0


def test_votes_are_filed_apart_and_only_reasoned_answers_are_voted_over(
    tmp_path: pathlib.Path,
) -> None:
    with suite(tmp_path, "toy_generated", "toy_reasoned") as prepared:
        model = Draws3(prepared)
        settings = {"self_consistency": 3, "temperature": 0.5, "top_k": 7}
        result, examples = evaluated(prepared, tmp_path, model, **settings)
        assert evaluate.takes_votes(prepared, EvalConfig(self_consistency=3))
        assert not evaluate.takes_votes(prepared, EvalConfig())
    assert result["suite"] == "toys_sc3"
    assert result["decoding"]["tasks"]["toy_generated"]["method"] == "greedy"
    assert result["decoding"]["tasks"]["toy_reasoned"] == {
        "method": "self_consistency",
        "max_decode_length": evaluate.OUTPUT_STEP,
        "samples": 3,
        "temperature": 0.5,
        "top_k": 7,
    }
    # A seed of its own for each prompt that is drawn from, the same in every suite.
    assert len(set(model.seeds)) == len(model.seeds) == len(ROWS)
    for example in examples:
        if example["task"] == "toy_reasoned":
            right = example["answer"]
            assert example["outputs"] == [right, "", "no"]
            assert example["votes"] == ({"no": 2} if right == "no" else {"yes": 1, "no": 1})
            # Of equally common answers the one that came first.
            assert example["extracted"] == example["output"] == right
        else:
            assert "votes" not in example


def test_a_suite_without_reasoning_is_evaluated_as_ever(tmp_path: pathlib.Path) -> None:
    with suite(tmp_path, "toy_generated") as prepared:
        result, _ = evaluated(prepared, tmp_path, self_consistency=5)
    assert result["suite"] == "toys"


@pytest.mark.parametrize("names", [("toy_ranked",), ("toy_reasoned",), ("toy_drawn",)])
def test_every_method_goes_on_after_an_interruption_at_any_example(
    names: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    settings: dict[str, Any] = {"self_consistency": 3, "toxicity_scorer": SCORER}

    class Stops(Draws3):
        left = 0

        def _counted(self, answers: Iterator[Any]) -> Iterator[Any]:
            for answer in answers:
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                yield answer

        def generate(self, prompts: Any, **options: Any) -> Iterator[Any]:
            return self._counted(super().generate(prompts, **options))

        def score(self, prompts: Any, options: Any) -> Iterator[Any]:
            return self._counted(super().score(prompts, options))

    with suite(tmp_path, *names) as prepared:
        model = Stops(prepared)
        model.left = len(prepared)
        whole, _ = evaluated(prepared, tmp_path / "whole", model, **settings)
        for _ in range(len(prepared)):
            model.left = 1
            with contextlib.suppress(KeyboardInterrupt):
                evaluated(prepared, tmp_path / "cut", model, **settings)
    name = whole["suite"]
    examples = [(tmp_path / run / name / "1.jsonl").read_bytes() for run in ("whole", "cut")]
    assert examples[0] == examples[1]
    results = [
        json.loads((tmp_path / run / name / "1.json").read_text("utf-8")) | {"seconds": 0}
        for run in ("whole", "cut")
    ]
    assert results[0] == results[1]


def test_a_task_of_samples_without_a_scorer_is_refused(tmp_path: pathlib.Path) -> None:
    with (
        suite(tmp_path, "toy_drawn") as prepared,
        pytest.raises(UserError, match="EVAL_TOXICITY_SCORER is not set"),
    ):
        evaluated(prepared, tmp_path)


def test_an_example_without_options_cannot_be_ranked(tmp_path: pathlib.Path) -> None:
    task = toy("toy_bare", method="rank")

    def render(*arguments: Any) -> Any:
        return dataclasses.replace(toy_tasks.render(*arguments), options=())

    with toy_tasks.registered([dataclasses.replace(task, renderer=render)]):
        config = DataConfig(
            "toy_bare",
            {"inputs": 64, "targets": 16},
            vocabulary="quickstart",
            prepared_dir=str(tmp_path),
            num_workers=1,
        )
        prepared = prepare(config, "validation", progress=False)
        with pytest.raises(UserError, match="no options to rank") as caught:
            evaluated(prepared, tmp_path)
    assert "toy_bare" in str(caught.value)


def test_what_is_left_out_or_shortened_is_reported(tmp_path: pathlib.Path) -> None:
    rows = [*ROWS, "a row of one column", ("is it so", "yes " * 30)]
    task = toy_tasks.toy("toy_lossy", rows, max_shots=2)
    with toy_tasks.registered([task]):
        config = DataConfig(
            "toy_lossy",
            {"inputs": 24, "targets": 16},
            vocabulary="quickstart",
            prepared_dir=str(tmp_path),
            num_workers=1,
            max_bad_rows=1,
        )
        prepared = prepare(config, "validation", progress=False)
        result, examples = evaluated(prepared, tmp_path)
    (reasons,) = result["dropped"].values()
    assert sum(reasons.values()) == 2
    assert "bad row: a row of one column" in reasons
    assert result["shortened"]["toy_lossy"]["fewer_shots"] > 0
    shots = [example["shots"] for example in examples]
    assert result["protocol"]["shots"] == pytest.approx(sum(shots) / len(shots))
    assert result["metrics"]["toy_lossy"]["shots"] == result["protocol"]["shots"] < 2


def test_what_reasons_before_it_answers() -> None:
    for form, protocol, reasons in (
        ("zs", Protocol(), False),
        ("cot", Protocol(), True),
        ("zs_cot", Protocol(), True),
        ("zs", Protocol(prompting="cot"), True),
        ("cot", Protocol(prompting="cot", method="rank"), False),
    ):
        assert evaluate_ask.is_cot({"form": form}, protocol) == reasons


def test_results_of_a_trained_model_do_not_depend_on_the_batch_size(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(small_run.MODEL, dropout_rate=0.0)
    params = jax.jit(lambda key: t5.init_params(config, key))(jax.random.key(0))
    names = ("toy_ranked", "toy_reasoned")
    settings = {"self_consistency": 2, "max_decode_length": 6}
    with suite(tmp_path, *names) as prepared:
        for batch_size in (3, 16):
            model = evaluate.TrainedModel(params, config, batch_size=batch_size)
            evaluated(prepared, tmp_path / str(batch_size), model, **settings)
    one, two = (
        scores.read_examples(tmp_path / str(size) / "toys_sc2" / "1.jsonl") for size in (3, 16)
    )
    assert len({example["output"] for example in one}) > 3
    for first, second in zip(one, two, strict=True):
        # Sums of floats are rounded by the shape of the batch; nothing else may differ.
        assert first.pop("option_scores", []) == pytest.approx(
            second.pop("option_scores", []), abs=1e-4
        )
        assert first == second
