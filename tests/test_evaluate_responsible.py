"""Responsible-AI and open-ended suites from their files to their scores, with planted models."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from flan_train.data_config import DataConfig
from flan_train.decode import Generated, Sampling
from flan_train.errors import UserError
from flan_train.evaluate import EvalConfig, evaluate_suite
from flan_train.prepare import prepare
from flan_train.prepared import PreparedDataset
from flan_train.scores import read_examples
from tests.planted_models import Planted, constant, oracle
from tests.tasks import responsible_folder

RUDE, KIND = "you idiot", "you are kind"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("responsible")
    responsible_folder.write(path / "data", rows=60)
    return path


@pytest.fixture
def scorer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A scorer of toxicity in a module of one's own."""
    (tmp_path / "scorer_for_suites.py").write_text(
        "def score(texts):\n    return [0.9 if 'idiot' in text else 0.1 for text in texts]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "scorer_for_suites:score"


def suite(folder: pathlib.Path, name: str, split: str = "all") -> PreparedDataset:
    config = DataConfig(
        mixture_or_task_name=name,
        feature_lengths={"inputs": 2048, "targets": 32},
        prepared_dir=str(folder / "prepared"),
        data_dir=str(folder / "data"),
        vocabulary="quickstart",
        num_workers=1,
    )
    return prepare(config, split, progress=False)


def evaluated(
    model: Any, name: str, prepared: PreparedDataset, out: pathlib.Path, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result and its examples."""
    result = evaluate_suite(
        model,
        name,
        prepared,
        step=1,
        checkpoint="planted",
        out_dir=out,
        settings=EvalConfig(**settings),
    )
    return result, read_examples(out / result["suite"] / "1.jsonl")


def test_an_oracle_and_a_constant_tell_comments_apart(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    name = "heldout_civil_comments"
    prepared = suite(folder, name)
    result, examples = evaluated(oracle(prepared), name, prepared, tmp_path / "right")
    assert set(result["metrics"]) == {"civil_comments_zs", "civil_comments_10shot"}
    for row in result["metrics"].values():
        assert row["auc_roc"] == 1.0
        assert row["exact_match"] == 1.0
    assert {example["shots"] for example in examples} == {0, 10}
    assert all(len(example["option_scores"]) == 2 for example in examples)
    assert all(example["options"] == ["yes", "no"] for example in examples)
    # One answer for all orders nothing.
    result, _ = evaluated(constant(prepared), name, prepared, tmp_path / "same")
    for row in result["metrics"].values():
        assert row["auc_roc"] == 0.5
        assert row["exact_match"] == pytest.approx(2 / 3)


def test_an_oracle_on_pronouns(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    name = "heldout_winogender"
    prepared = suite(folder, name)
    result, _ = evaluated(oracle(prepared), name, prepared, tmp_path)
    assert len(result["metrics"]) == 8
    assert result["mean"]["exact_match"] == 1.0
    assert result["metrics"]["winogender_fs"]["n"] == 72
    parts = ("winogender_stereotypical_fs", "winogender_gotcha_fs", "winogender_neutral_fs")
    assert sum(result["metrics"][part]["n"] for part in parts) == 72


class Drawn:
    """Gives each prompt outputs of its own: (text, log-probability) by the prompt's text."""

    parameters = 0

    def __init__(self, prepared: PreparedDataset, speak: Any) -> None:
        self._words = prepared.vocabulary
        self._speak = speak
        self.asked: list[Sampling] = []

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        *,
        max_length: int,
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, list[Generated]]]:
        for index, prompt in enumerate(prompts):
            self.asked.append(sampling)
            said = self._speak(self._words.decode([int(token) for token in prompt]))
            outputs = [
                Generated(np.array(self._words.encode_batch([text])[0], np.int32), likely, True)
                for text, likely in said
            ]
            assert len(outputs) == sampling.samples
            yield index, outputs

    score = Planted.score


def number_of(prompt: str) -> int:
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16)


def test_continuations_are_scored_by_a_function_of_ones_own(
    folder: pathlib.Path, tmp_path: pathlib.Path, scorer: str
) -> None:
    name = "heldout_realtoxicityprompts"
    prepared = suite(folder, name)

    def speak(prompt: str) -> list[tuple[str, float]]:
        # None, one or two of 25 are rude; another one is empty.
        rude = number_of(prompt) % 3
        return [(RUDE, -2.0)] * rude + [("", -1.0)] + [(KIND, -3.0)] * (24 - rude)

    model = Drawn(prepared, speak)
    result, examples = evaluated(model, name, prepared, tmp_path, toxicity_scorer=scorer)
    assert result["scorer"] == scorer
    assert {(one.method, one.samples, one.temperature, one.top_k) for one in model.asked} == {
        ("sample", 25, 1.0, 40)
    }
    for task, row in result["metrics"].items():
        mine = [example for example in examples if example["task"] == task]
        rude = [number_of(example["inputs"]) % 3 for example in mine]
        assert row["any_toxic"] == pytest.approx(sum(map(bool, rude)) / len(mine))
        means = [(0.9 * many + 0.1 * (24 - many)) / 25 for many in rude]
        assert row["mean_toxicity"] == pytest.approx(sum(means) / len(means))
        assert row["n"] == len(mine)
        assert "majority" not in row
        assert row["not_extracted"] == 0
    assert all(len(example["outputs"]) == 25 for example in examples)
    # An empty continuation is not toxic.
    assert all(min(example["toxicity"]) == 0.0 for example in examples)


def test_identity_terms_have_the_share_of_toxic_continuations(
    folder: pathlib.Path, tmp_path: pathlib.Path, scorer: str
) -> None:
    name = "identity_toxicity_religion"
    prepared = suite(folder, name)
    model = Drawn(prepared, lambda prompt: [(RUDE, -2.0)] * 10 + [(KIND, -3.0)] * 40)
    result, _ = evaluated(model, name, prepared, tmp_path, toxicity_scorer=scorer)
    row = result["metrics"][name]
    assert row["toxic_share"] == pytest.approx(0.2)
    assert row["mean_toxicity"] == pytest.approx(0.2 * 0.9 + 0.8 * 0.1)
    assert row["n"] == 5


def test_without_a_scorer_the_suite_is_refused(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    name = "heldout_realtoxicityprompts"
    prepared = suite(folder, name)
    model = Drawn(prepared, lambda prompt: [])
    with pytest.raises(UserError, match=r"EVAL_TOXICITY_SCORER is not set, and any_toxic and mean"):
        evaluated(model, name, prepared, tmp_path)
    assert not model.asked
    assert not list(tmp_path.rglob("*.json"))


def test_open_ended_outputs_are_ranked_and_filtered(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    name = "heldout_open_ended"
    prepared = suite(folder, name)
    said = [("long", -30.0), ("la la la", -4.0), ("good", -22.0), ("fair", -26.0), ("best", -11.0)]
    model = Drawn(prepared, lambda prompt: said)
    result, examples = evaluated(model, name, prepared, tmp_path)
    assert {(one.samples, one.temperature, one.top_k) for one in model.asked} == {(5, 0.7, 0)}
    assert len(examples) == 6 * 5 + 3 * 5
    for example in examples:
        assert example["output"] == "best"
        assert example["kept"] == [4, 2, 3, 0]
        assert example["outputs"] == [text for text, _ in said]
        assert example["log_probabilities"] == [likely for _, likely in said]
    assert all(row["kept"] == pytest.approx(0.8) for row in result["metrics"].values())
    assert result["mean"].keys() == {"kept", "not_extracted"}


def test_validation_and_test_make_the_whole(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    name = "winogender_zs"
    counts = {}
    for split in ("validation", "test", "all"):
        prepared = suite(folder, name, split)
        result, _ = evaluated(oracle(prepared), name, prepared, tmp_path)
        counts[split] = result["examples"]
    assert counts == {"validation": 18, "test": 54, "all": 72}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        name,
        f"{name}_all",
        f"{name}_test",
    ]
