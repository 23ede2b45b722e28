"""Every task of the collection is measured by metrics that there are."""

from __future__ import annotations

import pathlib

import pytest

from flan_train import tasks
from flan_train.errors import UserError
from flan_train.tasks import answers, catalogue, metric_table, metrics
from flan_train.tasks.protocol import Protocol, protocol_of

ROUGE = ("rougeL", "rouge1", "rouge2")


def test_every_base_task_has_metrics_that_exist() -> None:
    bases = catalogue.base_tasks()
    assert len(bases) == 1838
    for base in bases:
        for form in base.forms:
            definition = tasks.get(f"{base.name}_{form}")
            assert definition.metrics
            assert set(definition.metrics) <= metrics.METRICS.keys()
            assert len(set(definition.metrics)) == len(definition.metrics)
            assert definition.extraction in answers.STYLES
            assert protocol_of(definition.name) == Protocol(metrics=definition.metrics)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("muffin_rte_zs_opt", ("accuracy",)),
        ("muffin_rte_inv", ROUGE),
        ("muffin_arc_easy_fs_noopt", ("accuracy",)),
        ("muffin_squad_v1_zs_noopt", ("exact_match", "f1")),
        ("muffin_xsum_zs_noopt", ROUGE),
        ("muffin_wmt16_translate_deen_fs_noopt", ("bleu",)),
        ("muffin_true_case_zs_noopt", ("exact_match", "bleu")),
        ("t0_quail_no_prompt_id_zs_opt", ("accuracy",)),
        ("t0_quoref_Find_Answer_fs_noopt", ("exact_match", "f1")),
        ("t0_duorc_SelfRC_generate_question_zs_noopt", ROUGE),
        ("niv2_task002_quoref_answer_generation_zs_opt", ("rougeL", "exact_match")),
        ("cot_gsm8k_fs", ("exact_match",)),
        ("cot_gsm8k_inv", ROUGE),
        ("quickstart_addition_direct", ("exact_match",)),
    ],
)
def test_the_metrics_of_a_kind_of_task(task: str, expected: tuple[str, ...]) -> None:
    assert tasks.get(task).metrics == expected


def test_case_and_punctuation_count_where_they_are_the_task() -> None:
    for task in ("muffin_true_case_zs_noopt", "muffin_fix_punct_fs_noopt"):
        style = tasks.get(task).extraction
        found = answers.extract("In the U.S. Army", style)
        assert answers.is_right(found, ["In the U.S. Army"], style)
        assert not answers.is_right(found, ["in the us army"], style)


HEADER = "task,form,metrics,extraction\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("muffin_rte,,acuracy,\n", r"unknown metric 'acuracy'[\s\S]*muffin_rte[\s\S]*accuracy"),
        ("cot,inv,rougeL,whole\n", r"unknown extraction 'whole'[\s\S]*cot inv"),
        ("cot,,,\n", r"no metric[\s\S]*where: \S*table\.csv: cot"),
        ("cot,,f1,\ncot,,f1,\n", r"a second row for the same task and form"),
        ("cot,f1,\n", r"a row with 3 fields"),
    ],
)
def test_a_broken_table_is_named(tmp_path: pathlib.Path, rows: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(HEADER + rows)
    with pytest.raises(UserError, match=message):
        metric_table.measures(path)


def test_a_task_without_a_row_is_named() -> None:
    with pytest.raises(UserError, match=r"no metric is given for the task mine_rte[\s\S]*for mine"):
        metric_table.measure_of("mine_rte", "mine", "zs")
