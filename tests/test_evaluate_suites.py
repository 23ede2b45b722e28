"""Every suite: what always answers right scores 1, what always says the same the majority rate.

The vocabulary of these tests writes any text by its bytes. T5's own cannot: what that costs is
shown on its own.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from flan_train import evaluate, suites
from flan_train.data_config import DataConfig
from flan_train.evaluate import EvalConfig
from flan_train.prepare import prepare
from flan_train.prepared import PreparedDataset
from flan_train.tasks import answers
from tests import held_out_folder, planted_models, spiece_models

HELD_OUT = suites.expand("heldout_all")
EXAMPLES = 3
ROWS = 8
# Room for every exemplar in bytes.
LENGTHS = {"inputs": 40_000, "targets": 8_000}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("vocabulary") / "bytes.model"
    settings = {"byte_fallback": True, "normalization_rule_name": "identity"}
    settings |= {"remove_extra_whitespaces": False, "add_dummy_prefix": False}
    path.write_bytes(spiece_models.trained(500, **settings))
    return str(path)


def made(
    suite: str, data_dir: object, folder: pathlib.Path, vocabulary: str, **changes: Any
) -> PreparedDataset:
    """Returns a few examples of each task of a suite that has its data."""
    settings = {
        "feature_lengths": LENGTHS,
        "examples_per_task": EXAMPLES,
        "allow_missing": True,
        "num_workers": 1,
        **changes,
    }
    config = DataConfig(
        suite,
        vocabulary=vocabulary,
        data_dir=str(data_dir),
        prepared_dir=str(folder / "prepared"),
        **settings,
    )
    return prepare(config, "all" if suite in HELD_OUT else "validation", progress=False)


def measured(
    model: planted_models.Planted, suite: str, prepared: PreparedDataset, folder: pathlib.Path
) -> dict[str, Any]:
    model.fits = False  # in bytes no answer is short
    return evaluate.evaluate_suite(
        model, suite, prepared, step=0, checkpoint="planted", out_dir=folder, settings=EvalConfig()
    )


def constant_scores(prepared: PreparedDataset) -> dict[str, float]:
    """Returns by task what its commonest answer scores, worked out from the records."""
    found = {}
    for task, ((start, count), *_) in prepared.passes.items():
        if not count:
            continue
        rows = [prepared.record(index) for index in range(start, start + count)]
        style = rows[0]["extraction"]
        forms = [answers.form(row["answer"], style) for row in rows]
        # The first of equally common ones.
        common = rows[forms.index(max(forms, key=forms.count))]["answer"]
        ranked = "rank" in task.split("_")
        found[task] = np.mean(
            [
                answers.is_right(
                    row["options"][0] if ranked and common not in row["options"] else common,
                    row["references"] or (row["answer"],),
                    style,
                )
                for row in rows
            ]
        )
    return found


def check(suite: str, prepared: PreparedDataset, folder: pathlib.Path) -> None:
    """Checks both planted models on a suite."""
    right = measured(planted_models.oracle(prepared), suite, prepared, folder / "oracle")
    assert right["out_of_reach"] == {}
    for task, row in right["metrics"].items():
        shares = {k: v for k, v in row.items() if k in (*row["intervals"], "exact_match")}
        assert set(shares.values()) == {1.0}, task
        assert row["not_extracted"] == 0, task
    same = measured(planted_models.constant(prepared), suite, prepared, folder / "constant")
    expected = constant_scores(prepared)
    for task, row in same["metrics"].items():
        assert row["exact_match"] == pytest.approx(expected[task]), task
        # A second right answer, or an option that is not there, can only add to it.
        assert row["exact_match"] >= row["majority"] - 1e-9, task
    assert right["mean"]["exact_match"] == 1.0 > same["mean"]["exact_match"]


@pytest.mark.parametrize("suite", [*HELD_OUT, "cot_validation"])
def test_planted_models_on_every_suite_of_real_data(
    suite: str, flan_data_dir: pathlib.Path, vocabulary: str, tmp_path: pathlib.Path
) -> None:
    check(suite, made(suite, flan_data_dir, tmp_path, vocabulary), tmp_path)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data folder of made-up rows, for a machine without the real ones."""
    folder = tmp_path_factory.mktemp("made_up")
    held_out_folder.write_held_out_folder(folder, ROWS)
    return folder


# Made-up questions are the same in every language, so one language stands for all.
MADE_UP = (
    *("heldout_mmlu_direct", "heldout_bbh_cot", "heldout_bbh_rank"),
    *("tydiqa_fi_direct", "mgsm_fr_cot", "quickstart_unseen", "quickstart_held_out"),
)


@pytest.mark.parametrize("suite", MADE_UP)
def test_planted_models_on_suites_of_made_up_data(
    suite: str, made_up: pathlib.Path, vocabulary: str, tmp_path: pathlib.Path
) -> None:
    check(suite, made(suite, made_up, tmp_path, vocabulary), tmp_path)


def test_what_t5s_vocabulary_cannot_write_is_reported(
    flan_data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    lengths = {"feature_lengths": {"inputs": 2048, "targets": 512}, "examples_per_task": 20}
    for suite, wanted in (
        ("bbh_dyck_languages_zs", range(1, 20)),  # braces and angles it has not
        ("tydiqa_te_zs", range(10, 21)),
        ("tydiqa_fi_zs", range(1)),
        ("bbh_dyck_languages_cot", range(1, 20)),
    ):
        prepared = made(suite, flan_data_dir, tmp_path, "t5", **lengths)
        model = planted_models.oracle(prepared)
        result = measured(model, suite, prepared, tmp_path / "oracle")
        lost = result["out_of_reach"].get(suite, 0)
        assert lost in wanted, suite
        assert result["mean"]["exact_match"] == 1 - lost / len(prepared)
