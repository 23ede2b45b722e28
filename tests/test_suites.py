"""What a suite's name stands for, its splits, and the name that its results go under."""

from __future__ import annotations

import dataclasses

import pytest

from flan_train import mixtures, suites
from flan_train.errors import UserError
from flan_train.mixtures import Member, MixtureDefinition
from tests.toy_tasks import registered, toy


def test_a_mixture_of_mixtures_stands_for_its_members() -> None:
    inner = MixtureDefinition("toy_inner", (Member("toy_a"),))
    outer = MixtureDefinition("toy_outer", (Member("toys", 1.0), Member("toy_inner", 1.0)))
    whole = MixtureDefinition("toy_whole", (Member("toy_outer", 1.0), Member("toy_inner", 2.0)))
    mixed = MixtureDefinition("toy_mixed", (Member("toys", 1.0), Member("toy_b", 1.0)))
    tasks = [toy("toy_a", [("a", "b")]), toy("toy_b", [("a", "b")])]
    with registered(tasks, inner, outer, whole, mixed):
        assert suites.expand("toys") == ("toys",)
        assert suites.expand("toy_a") == ("toy_a",)
        assert suites.expand(["toy_outer"]) == ("toys", "toy_inner")
        assert suites.expand(["toy_inner", "toy_whole"]) == ("toy_inner", "toys")
        assert suites.expand(["toy_mixed"]) == ("toy_mixed",)
    assert suites.expand(["of_a_users_module"]) == ("of_a_users_module",)
    assert suites.expand(()) == ()


def test_forms_of_one_task_stay_together() -> None:
    forms = (Member("toy_a", 1.0), Member("toy_b", 1.0))
    one = MixtureDefinition("toy_forms", forms, one_task=True)
    many = MixtureDefinition("toy_collection", (Member("toy_forms"),))
    with registered([toy("toy_a", [("a", "b")]), toy("toy_b", [("a", "b")])], one, many):
        assert suites.expand("toy_collection") == ("toy_collection",)


def test_the_suites_of_the_normalised_average() -> None:
    assert suites.expand("heldout") == (
        *("heldout_mmlu_direct", "heldout_mmlu_cot", "heldout_bbh_direct", "heldout_bbh_cot"),
        *("heldout_tydiqa_direct", "heldout_mgsm_cot"),
    )
    every = suites.expand("heldout_all")
    assert set(suites.expand("heldout")) < set(every)
    assert all(mixtures.tasks_of(suite) for suite in every)
    suites.check_splits(every, ["all", "validation", "test"], "here")


@pytest.mark.parametrize(
    ("split", "samples", "name"),
    [
        ("validation", 0, "s"),
        ("test", 0, "s_test"),
        ("all", 0, "s_all"),
        ("published_test", 0, "s_published_test"),
        ("validation", 8, "s_sc8"),
        ("all", 8, "s_sc8_all"),
    ],
)
def test_the_name_says_what_was_measured(split: str, samples: int, name: str) -> None:
    assert suites.filed_as("s", split, samples) == name


def test_a_suite_that_lacks_a_split_is_refused_by_name() -> None:
    whole = dataclasses.replace(toy("toy_a", [("a", "b")]), splits=("all", "validation", "test"))
    with registered([whole, toy("toy_b", [("a", "b")])]):
        suites.check_splits(["toy_a"], ["all"], "here")
        suites.check_splits(["toys", "of_a_users_module"], ["validation", "test"], "here")
        with pytest.raises(UserError, match="the suite 'toys' has no split 'all'") as caught:
            suites.check_splits(["toy_a", "toys"], ["all"], "SELECT_PROTOCOL")
    for part in ("SELECT_PROTOCOL; 1 of its tasks lack it: toy_b", "validation, test"):
        assert part in str(caught.value)
