"""What the harness's generation settings mean, with nothing of the harness."""

from __future__ import annotations

from typing import Any

import pytest

from flan_train import harness_requests
from flan_train.decode import Sampling
from flan_train.errors import UserError
from flan_train.harness_requests import Wish, batch_size, cut, seed_of, wish


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, Wish((), 256, Sampling())),
        (
            {"until": "\n", "max_gen_toks": 9, "temperature": 0.0},
            Wish(("\n",), 9, Sampling()),
        ),
        (
            {"until": ["a", "b"], "max_new_tokens": 7, "do_sample": False, "temperature": 0.7},
            Wish(("a", "b"), 7, Sampling()),
        ),
        ({"temperature": 0.7, "top_k": 40}, Wish((), 256, Sampling("sample", 0.7, top_k=40))),
        ({"do_sample": True, "top_p": 0.9}, Wish((), 256, Sampling("sample", 1.0, top_p=0.9))),
        ({"do_sample": True, "temperature": 0.0}, Wish((), 256, Sampling())),
        (
            {"do_sample": False, "num_beams": 4, "length_penalty": 0.6, "until": None},
            Wish((), 256, Sampling("beam", beams=4, length_penalty=0.6)),
        ),
    ],
)
def test_what_is_meant(given: dict[str, Any], meant: Wish) -> None:
    assert wish(given, 256) == meant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repetition_penalty": 1.2}, "'repetition_penalty'(?s:.*)max_gen_toks"),
        ({"max_length": 20}, "say max_gen_toks"),
        ({"do_sample": True, "num_beams": 2}, "samples and for 2 beams"),
        ({"max_gen_toks": 0}, "max_gen_toks cannot be 0"),
        ({"temperature": -1}, "temperature cannot be -1"),
        ({"top_p": 0}, "top_p cannot be 0"),
        ({"num_beams": 1.5}, "num_beams cannot be 1.5"),
    ],
)
def test_what_cannot_be_done_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        wish(given, 256)


def test_batch_sizes_come_as_text_too() -> None:
    assert [batch_size(given) for given in (4, "16", "auto", "auto:4")] == [
        *(4, 16),
        *[harness_requests.BATCH_SIZE] * 2,
    ]
    for wrong in (0, "many", "-1"):
        with pytest.raises(UserError, match="batch_size cannot be"):
            batch_size(wrong)


def test_texts_end_before_the_first_stop_of_any_kind() -> None:
    assert cut("one. two\n\nthree", ["\n\n", ".", ""]) == "one"
    assert cut("one two", []) == "one two"


def test_seeds_follow_from_seed_prompt_and_turn() -> None:
    seeds = {seed_of(seed, text, turn) for seed in (0, 1) for text in "ab" for turn in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(0, "a", 0) == seed_of(0, "a", 0)
