"""Answers read out of outputs as models write them; the cases stand in extraction_cases.jsonl."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train.tasks import answers, extraction

CASES = [
    json.loads(line)
    for line in (pathlib.Path(__file__).parent / "extraction_cases.jsonl")
    .read_text("utf-8")
    .splitlines()
]
LETTERS = ("(A)", "(B)", "(C)", "(D)")


def _name(case: dict[str, Any]) -> str:
    return f"{case['style']}: {case['kind']}: {case['output'][:40]!r}"


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_case(case: dict[str, Any]) -> None:
    found = answers.extract(case["output"], case["style"], case["options"])
    assert found == case["expected"]


def test_the_cases_cover_every_style_and_what_goes_wrong() -> None:
    assert len(CASES) >= 120
    assert {case["style"] for case in CASES} == set(answers.STYLES)
    kinds = {case["kind"] for case in CASES if case["style"] in ("letter", "number", "closed")}
    assert kinds >= {"empty", "cut", "loop", "several cues", "another language", "bold", "latex"}
    assert sum(case["expected"] is None for case in CASES) >= 40


def test_cues_are_read_in_every_language_of_the_table() -> None:
    assert len(extraction.cues()) == len(set(extraction.cues()))
    for cue in extraction.cues():
        assert answers.extract(f"5 + 6 = 12. {cue} 11.", "number") == "11", cue
        assert answers.extract(f"It is (A) first. {cue} (B).", "letter", LETTERS) == "(B)", cue


# ------------------------------------------------------------------------ published texts


def test_published_rationales_of_mmlu_give_their_letters(flan_data_dir: pathlib.Path) -> None:
    prompts = json.loads((flan_data_dir / "mmlu" / "mmlu-cot.json").read_text("utf-8"))
    wrong = []
    for subject, text in prompts.items():
        for solved in re.findall(r"\nA: (.*?)(?=\n\nQ:|\Z)", text, re.DOTALL):
            (marker,) = re.findall(r"answer is (\([A-Z]\))\.?\s*\Z", solved)
            if answers.extract(solved, "letter", LETTERS) != marker:
                wrong.append((subject, marker))
    # Published so: a question with four options whose answer is said to be the fifth.
    assert wrong == [("college_chemistry", "(E)")]


def test_published_rationales_of_mgsm_give_their_numbers(flan_data_dir: pathlib.Path) -> None:
    known = json.loads((flan_data_dir / "mgsm" / "mgsm_exemplars.json").read_text("utf-8"))
    wanted = [str(number) for number in known["EXEMPLAR_NUMBER_ANSWERS"]]
    assert len(known["MGSM_EXEMPLARS"]) == 11
    for language, solved in known["MGSM_EXEMPLARS"].items():
        found = [answers.extract(solved[str(i + 1)]["a"], "number") for i in range(len(wanted))]
        assert found == wanted, language


# ------------------------------------------------------------------------------ properties

# Pieces that outputs are made of, so that random texts come near to real ones.
PIECES = st.sampled_from(
    [
        *("The answer is ", "answer:", "答案是", "\n", " ", ". ", "**", "\\boxed{", "}", "$", "Q:"),
        *("(A)", "(B", "B)", "C", "option ", "or", " and ", "not ", "yes", "No", "invalid", "####"),
        *("12", ",", "000", "-", "3.5", "1/2", "২", "٣", "½", "²", "] >", "apple", "\\frac{", "{"),
    ]
)
OUTPUTS = st.one_of(
    st.text(max_size=60), st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=25).map("".join)
)
OPTIONS = st.one_of(
    st.just(()),
    st.just(LETTERS),
    st.sampled_from([("Yes", "No"), ("valid", "invalid"), ("(A) red", "(B) blue", "C. green")]),
    st.lists(st.text(max_size=8), max_size=30),
)


@settings(max_examples=400)
@given(OUTPUTS, st.sampled_from(sorted(answers.STYLES)), OPTIONS)
def test_whatever_the_output_is_there_is_an_answer_or_none(
    output: str, style: str, options: tuple[str, ...]
) -> None:
    found = answers.extract(output, style, options)
    assert found is None or found.strip()
    assert found is None or answers.is_right(found, [found], style)
    assert not answers.is_right(None, [output], style)
    if found is not None and options and style in ("letter", "closed"):
        markers = {f"({chr(ord('A') + place)})" for place in range(26)}
        assert found in markers or found in {option.strip() for option in options} | set(options)


@settings(max_examples=300)
@given(OUTPUTS, st.sampled_from(sorted(answers.STYLES)))
def test_the_form_of_comparison_is_stable(text: str, style: str) -> None:
    once = answers.form(text, style)
    assert answers.form(once, style) == once


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from(["The answer is {}.", "{}", "so 3 + 4 gives {}", "Ответ: {}", "**{}**", "${}"]),
)
def test_a_number_reads_back_however_it_is_written(value: int, sentence: str) -> None:
    native = str(value).translate({ord(str(digit)): chr(0x09E6 + digit) for digit in range(10)})
    for written in (str(value), f"{value:,}", f"{value}.0", f"{value}.", native):
        found = answers.extract(sentence.format(written), "number")
        assert found == str(value), written
        assert answers.is_right(found, [f"{value:,}"], "number")


@given(
    st.integers(0, 17),
    st.sampled_from(
        ["({})", "{}", "{})", "[{}]", "The answer is ({}).", "option {}", "**{}.**", "answer: {}"]
    ),
)
def test_a_letter_reads_back_however_it_is_written(place: int, sentence: str) -> None:
    options = [f"({chr(ord('A') + each)})" for each in range(18)]
    assert answers.extract(sentence.format(options[place][1]), "letter", options) == options[place]
