from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import tokenize

from flan_train.tasks.word_pieces import WordPieces


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_ascii_text_is_cut_as_rouge_score_cuts_it(text: str) -> None:
    assert WordPieces().tokenize(text) == tokenize.tokenize(text, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Привет, мир!", ["привет", "мир"]),
        ("আমি ভাত খাই।", ["আমি", "ভাত", "খাই"]),
        ("答案是7。", ["答", "案", "是", "7"]),
        ("駅 de ラーメン", ["駅", "de", "ラ", "ー", "メ", "ン"]),
        ("naïve_café", ["naïve", "café"]),
        ("", []),
        ("…", []),
    ],
)
def test_other_scripts_keep_their_letters(text: str, expected: list[str]) -> None:
    assert WordPieces().tokenize(text) == expected


@given(st.text(max_size=60))
def test_no_piece_is_empty_and_cutting_again_changes_nothing(text: str) -> None:
    found = WordPieces().tokenize(text)
    assert all(found)
    assert WordPieces().tokenize(" ".join(found)) == found
