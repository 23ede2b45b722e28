"""What a checkpoint is chosen by: every way to write a metric, and every message about one."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train import mixtures, select_metric
from flan_train.errors import UserError
from flan_train.select_metric import (
    LOWER_IS_BETTER,
    SIX_SUITES,
    Term,
    check_metric,
    describe,
    metrics_of,
    score,
    suites_of,
    terms,
)
from flan_train.tasks.metrics import METRICS

SUITES = ("unseen", "held_out", "x-1.5b_v2")


def test_the_examples_of_the_docstring():
    assert doctest.testmod(select_metric).attempted >= 2
    assert doctest.testmod(select_metric).failed == 0


def test_a_name_is_the_mean_over_the_suites():
    assert terms("f1", ("a", "b")) == (Term(0.5, "a", "f1"), Term(0.5, "b", "f1"))
    assert terms(" f1 ", ("a",), ("a", "b", "c")) == (Term(1.0, "a", "f1"),)
    assert describe("f1", ["a", "b"]) == "mean f1 over a, b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unseen:rougeL", [(1, "unseen", "rougeL")]),
        ("2*unseen:f1+3*held_out:f1", [(2, "unseen", "f1"), (3, "held_out", "f1")]),
        (
            "  .5 * unseen : f1  -  1e-1*held_out:bleu ",
            [(0.5, "unseen", "f1"), (-0.1, "held_out", "bleu")],
        ),
        ("+1.*unseen:f1 + held_out:f1", [(1, "unseen", "f1"), (1, "held_out", "f1")]),
        ("-unseen:any_toxic", [(-1, "unseen", "any_toxic")]),
        ("0.25*x-1.5b_v2:f1-0.75*unseen:f1", [(0.25, "x-1.5b_v2", "f1"), (-0.75, "unseen", "f1")]),
        (
            "3*f1 + unseen:exact_match",
            [*((1.0, suite, "f1") for suite in SUITES), (1, "unseen", "exact_match")],
        ),
    ],
)
def test_weighted_mixes(text, expected):
    found = terms(text, SUITES)
    assert [(term.suite, term.metric) for term in found] == [one[1:] for one in expected]
    assert [term.weight for term in found] == pytest.approx([one[0] for one in expected])
    assert suites_of(found) == list(dict.fromkeys(one[1] for one in expected))
    assert describe(text, SUITES) == text


def test_the_normalized_average_is_the_mean_of_six_whatever_else_is_evaluated():
    every = [*SIX_SUITES, "unseen"]
    found = terms("normalized_average", ["unseen"], every)
    assert found == tuple(Term(1 / 6, suite, "normalized") for suite in SIX_SUITES)
    mixed = terms("0.5*normalized_average + 0.5*unseen:f1", every)
    assert [term.weight for term in mixed] == pytest.approx([1 / 12] * 6 + [0.5])
    assert describe("normalized_average", SIX_SUITES).startswith("normalized average")


@given(
    parts=st.lists(
        st.tuples(
            st.floats(1e-3, 1e3),
            st.booleans(),
            st.sampled_from(SUITES),
            st.sampled_from(sorted(set(METRICS) - LOWER_IS_BETTER)),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda part: part[2:],
    ),
    space=st.sampled_from(["", " ", "  "]),
)
def test_what_is_written_is_read_back(parts, space):
    pieces = [
        f"{'-' if minus else '+'}{space}{weight!r}{space}*{space}{suite}:{metric}"
        for weight, minus, suite, metric in parts
    ]
    found = terms(space.join(pieces), SUITES)
    assert found == tuple(
        Term(-weight if minus else weight, suite, metric) for weight, minus, suite, metric in parts
    )
    means = {suite: dict.fromkeys(METRICS, 0.5) for suite in SUITES}
    assert score(found, means) == pytest.approx(sum(term.weight for term in found) / 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exact_mach", "unknown metric 'exact_mach'.*did you mean exact_match"),
        ("normalised_average", "did you mean normalized_average"),
        ("unseen:exact_mach", "did you mean exact_match"),
        ("unsen:exact_match", "unknown evaluated suite 'unsen'.*did you mean unseen"),
        ("", "it is empty"),
        ("   ", "it is empty"),
        (None, "not a metric: None"),
        (3, "not a metric: 3"),
        ("0.5*", "no term begins at '0.5\\*'"),
        ("0.5*unseen:f1 +", "a term is missing"),
        ("0.5*unseen:f1 + + held_out:f1", "no term begins at '\\+ held_out:f1'"),
        ("0.5 unseen:f1", "no term begins at '0.5 unseen:f1'"),
        ("unseen:f1 held_out:f1", "no term begins at 'unseen:f1 held_out:f1'"),
        ("unseen:f1 * 0.5", "no term begins at 'unseen:f1 \\* 0.5'"),
        ("unseen:", "no term begins at 'unseen:'"),
        ("0*unseen:f1", "the weight 0 counts for nothing"),
        ("1e999*unseen:f1", "the weight 1e999 counts for nothing"),
        ("unseen:f1 + 2*unseen:f1", "unseen:f1 is named twice.*add up the weights"),
        ("f1 + unseen:f1", "unseen:f1 is named twice"),
        ("unseen:normalized_average", "normalized_average has suites of its own"),
        ("normalized_average", "not evaluated: heldout_mmlu_direct.*EVAL_SUITES = ..heldout"),
        ("any_toxic", "the lowest is best.*for example -1\\*unseen:any_toxic"),
        ("f1 + 2*held_out:mean_toxicity", "a negative weight for mean_toxicity"),
    ],
)
def test_what_cannot_be_read_or_is_not_there(text, said):
    with pytest.raises(UserError, match=f"(?s){said}") as caught:
        terms(text, SUITES)
    assert "SELECT_METRIC, or --metric" in str(caught.value)


def test_the_suites_that_a_normalized_average_lacks_are_named():
    with pytest.raises(UserError) as caught:
        terms("normalized_average", SIX_SUITES[:4])
    first = str(caught.value).splitlines()[0]
    assert first.endswith("not evaluated: heldout_tydiqa_direct, heldout_mgsm_cot")


def test_the_six_suites_are_there_and_have_a_normalized_score():
    check_metric("normalized_average", SIX_SUITES)
    check_metric("normalized_average", (), SIX_SUITES)
    for suite in SIX_SUITES:
        assert "normalized" in metrics_of(suite)
        assert len(mixtures.tasks_of(suite)) >= 8


def test_a_launch_is_told_of_a_metric_that_a_suite_does_not_have():
    suites = ("quickstart_unseen", "quickstart_held_out")
    check_metric("exact_match", suites)
    check_metric("0.3*quickstart_unseen:exact_match + quickstart_held_out:exact_match", suites)
    with pytest.raises(UserError) as caught:
        check_metric("exact_match + 0.1*quickstart_held_out:rougeL", suites)
    said = str(caught.value)
    assert "no task of the suite 'quickstart_held_out' has the metric 'rougeL'" in said
    assert "one of its metrics: exact_match" in said
    # What a user's own module registers is not known to this process: it is let through.
    assert metrics_of("a_mixture_of_mine") is None
    check_metric("rougeL", ["a_mixture_of_mine"])
