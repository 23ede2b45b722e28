from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from flan_train import tasks
from flan_train.errors import UserError
from flan_train.tasks.definitions import protocol_of
from flan_train.tasks.protocol import Protocol

TASK = "quickstart_addition_direct"


def test_a_task_says_how_it_is_evaluated() -> None:
    settings = {
        "metrics": ("accuracy",),
        "method": "rank",
        "max_output": 8,
        "chance": 0.25,
        "benchmark": "MMLU",
        "prompting": "direct",
    }
    plain = tasks.get(TASK)
    task = dataclasses.replace(plain, name="toy_protocol", **settings)
    tasks.add(task)
    try:
        assert protocol_of("toy_protocol") == Protocol(**settings)
    finally:
        tasks.remove("toy_protocol")
    # What is prepared does not depend on it.
    assert dataclasses.replace(task, name=TASK).template_hash() == plain.template_hash()


def test_a_task_that_is_not_ours_has_the_defaults() -> None:
    assert protocol_of("somebodys_task") == Protocol()
    assert Protocol().metrics == ("exact_match",)
    assert Protocol().chance is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "ranks"}, r"unknown method 'ranks'[\s\S]*did you mean rank"),
        ({"prompting": "cots"}, r"unknown prompting 'cots'[\s\S]*cot"),
        ({"chance": 25}, r"the chance of the task \S+ is 25[\s\S]*at least 0, below 1"),
        ({"chance": -0.1}, r"the chance of the task"),
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(tasks.get(TASK), **setting)
