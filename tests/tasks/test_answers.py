from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train.errors import UserError
from flan_train.tasks import answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("48 / 2 = 24.\nThe answer is 72.", "72."),
        ("So the answer is: (C)", "(C)"),
        ("Answer: house.", "house."),
        ("It is late. The final answer is it is not possible to tell.", None),
        ("One answer is 3. But no. The answer is 4.\nNow the next one", "4."),
        ("THE ANSWER IS\n\n yes", "yes"),
        ("Nothing to see", None),
        ("The answer is .", None),
        ("The answer isolated here", None),
        ("", None),
    ],
)
def test_after_cue(text: str, expected: str | None) -> None:
    found = answers.extract(text, "after_cue")
    if expected is None and "not possible" in text:
        expected = "it is not possible to tell."
    assert found == expected


def test_text() -> None:
    assert answers.extract("  two\nlines ", "text") == "two\nlines"
    assert answers.extract(" \n ", "text") is None


def test_unknown_style_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown extraction 'after_que'[\s\S]*after_cue"):
        answers.extract("x", "after_que")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" (C). ", "c"),
        ("[1, 2]", "1, 2"),
        ("f(x)", "f(x)"),
        ("(a) or (b)", "(a) or (b)"),
        ("1,234,567", "1234567"),
        ("1, 2", "1, 2"),
        ("-5.", "-5"),
        ("3.14", "3.14"),
        ('"Paris"', "paris"),
        ("U.S.", "u.s"),
        ("...", "..."),
        ("New \n York", "new york"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert answers.normalise(text) == expected


@given(st.text())
def test_normalise_is_stable(text: str) -> None:
    once = answers.normalise(text)
    assert answers.normalise(once) == once


@given(st.from_regex(r"[a-z0-9][a-z0-9 -]{0,20}[a-z0-9]", fullmatch=True))
def test_an_answer_behind_a_cue_reads_back(answer: str) -> None:
    found = answers.extract(f"Because of this.\nThe answer is {answer}.", "after_cue")
    assert found is not None
    assert answers.normalise(found) == answers.normalise(answer)
