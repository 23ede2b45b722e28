"""The normalised average gives what the paper prints, from the scores by file that it prints."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train import normalized
from flan_train.errors import UserError
from flan_train.normalized import AVERAGE, SIX, SIX_SUITES, ReferenceRow

SIZES = ("Small", "Base", "Large", "XL", "XXL")
MODELS = [f"{name}-{size}" for name in ("T5", "Flan-T5") for size in SIZES]
# Cells of table 19 that cannot be read in any copy: (model, prompting) -> file.
UNREADABLE = {
    ("T5-Base", "cot"): "temporal_sequences",
    ("Flan-T5-Base", "cot"): "temporal_sequences",
    ("T5-XL", "direct"): "tracking_shuffled_objects_five_objects",
    ("Flan-T5-XL", "direct"): "tracking_shuffled_objects_five_objects",
}
BY_FILE = ("17", "18", "19", "20", "21")


def _published(model: str, benchmark: str, prompting: str, *tables: str) -> dict[str, float]:
    return {
        row.subset: row.score
        for row in normalized.reference_rows()
        if (row.model, row.benchmark, row.prompting) == (model, benchmark, prompting)
        and row.table in tables
    }


def _scores(model: str) -> dict[tuple[str, str], dict[str, float]]:
    """What the paper prints by file; of MMLU it prints the mean alone."""
    found = {}
    for benchmark, prompting in SIX:
        mean = _published(model, benchmark, prompting, "5")[AVERAGE]
        files = _published(model, benchmark, prompting, *BY_FILE)
        files.pop(AVERAGE, None)
        if benchmark == "MMLU":
            files = {AVERAGE: mean}
        elif benchmark == "BBH" and (model, prompting) in UNREADABLE:
            # The mean over all 27 is printed, so the one that is missing is known too.
            files[UNREADABLE[model, prompting]] = 27 * mean - sum(files.values())
        found[benchmark, prompting] = files
    return found


@pytest.mark.parametrize("model", MODELS)
def test_published_scores_give_the_published_average(model: str) -> None:
    scores = _scores(model)
    assert len(scores["BBH", "direct"]) == len(scores["BBH", "cot"]) == 27
    assert len(scores["TyDiQA", "direct"]) == 8
    assert len(scores["MGSM", "cot"]) == 10
    wanted = _published(model, "normalized_average", "", "5")[AVERAGE]
    assert f"{100 * normalized.normalized_average(scores):.1f}" == f"{100 * wanted:.1f}"


@pytest.mark.parametrize("model", MODELS)
def test_published_scores_by_file_give_the_published_means(model: str) -> None:
    for benchmark, prompting in SIX[2:]:
        if (model, prompting) in UNREADABLE and benchmark == "BBH":
            continue
        files = _scores(model)[benchmark, prompting].values()
        mean = _published(model, benchmark, prompting, "5")[AVERAGE]
        # Each is rounded to a thousandth.
        assert sum(files) / len(files) == pytest.approx(mean, abs=0.00101)


def test_chances_are_those_of_every_file() -> None:
    chances = normalized.chances()
    assert {name: len(files) for name, files in chances.items()} == {
        "MMLU": 57,
        "BBH": 27,
        "TyDiQA": 8,
        "MGSM": 10,
    }
    assert set(chances["MMLU"].values()) == {0.25}
    assert chances["BBH"]["formal_fallacies"] == 0.5
    assert chances["BBH"]["penguins_in_a_table"] == 0
    assert set(chances["MGSM"].values()) == set(chances["TyDiQA"].values()) == {0}


def test_per_file_correction_is_not_that_of_the_mean() -> None:
    scores = {pair: {AVERAGE: 0.25} for pair in SIX}
    scores["BBH", "direct"] = {"easy": 0.5, "hard": 0.5}
    scores["BBH", "cot"] = {"easy": 0.0, "hard": 1.0}
    chances = {"MMLU": {"x": 0.25}, "BBH": {"easy": 0.5, "hard": 0.0}}
    chances |= {"TyDiQA": {"x": 0.0}, "MGSM": {"x": 0.0}}
    # MMLU 0 and 0; BBH (0 + 0.5) / 2 and (-1 + 1) / 2; TyDiQA and MGSM 0.25.
    average = normalized.normalized_average(scores, chances)
    assert average == pytest.approx((0.25 + 0.25 + 0.25) / 6)


@given(st.floats(0, 0.9), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_guessing_is_0_and_all_right_is_1(chance: float, shares: list[float]) -> None:
    files = {str(place): share for place, share in enumerate(shares)}
    chances = {name: dict.fromkeys(files, chance) for name, _ in SIX}

    def average(of: dict[str, float]) -> float:
        return normalized.normalized_average(dict.fromkeys(SIX, of), chances)

    assert average(dict.fromkeys(files, chance)) == pytest.approx(0)
    assert average(dict.fromkeys(files, 1.0)) == pytest.approx(1)
    assert average(files) <= 1 + 1e-12


def test_a_missing_benchmark_or_chance_is_named() -> None:
    scores = {pair: {AVERAGE: 0.5} for pair in SIX if pair != ("MGSM", "cot")}
    with pytest.raises(UserError, match=r"no score for MGSM cot[\s\S]*heldout_mgsm_cot"):
        normalized.normalized_average(scores)
    with pytest.raises(UserError, match=r"no chance is known of BBH, average"):
        normalized.normalized_average(scores | {("MGSM", "cot"): {AVERAGE: 0.5}})


# --------------------------------------------------------------------------- of results


def _result(score: float | None) -> dict[str, dict[str, float]]:
    return {"mean": {"exact_match": 0.5} | ({} if score is None else {"normalized": score})}


@pytest.mark.parametrize("ending", ["", "_test", "_all"])
def test_results_of_the_six_suites_have_an_average(ending: str) -> None:
    results = {f"{suite}{ending}": _result(n / 10) for n, suite in enumerate(SIX_SUITES)}
    assert normalized.of_results(results) == pytest.approx(0.25)
    assert normalized.of_results(results | {"other": _result(9.0)}) == pytest.approx(0.25)


def test_results_without_all_six_or_of_several_splits_have_none() -> None:
    results = {suite: _result(0.1) for suite in SIX_SUITES}
    assert normalized.of_results({}) is None
    assert normalized.of_results(dict(list(results.items())[1:])) is None
    moved = dict(results)
    moved["heldout_bbh_cot_test"] = moved.pop("heldout_bbh_cot")
    assert normalized.of_results(moved) is None
    assert normalized.of_results(results | {SIX_SUITES[0]: _result(None)}) is None


# ------------------------------------------------------------------- the published scores


def test_reference_rows_are_shares_of_known_tables() -> None:
    rows = normalized.reference_rows()
    assert all(isinstance(row, ReferenceRow) for row in rows)
    assert {row.table for row in rows} == {"3", "4", "5", "6", "7", *BY_FILE}
    keys = [(row.table, row.model, row.benchmark, row.prompting, row.subset) for row in rows]
    assert len(set(keys)) == len(keys)
    (best,) = (
        row
        for row in rows
        if row.table == "5"
        and row.model == "Flan-T5-XXL"
        and (row.benchmark, row.prompting) == ("MMLU", "direct")
    )
    assert (best.score, best.split, best.params) == (0.551, "validation", "11B")
    (toxic,) = (
        row
        for row in rows
        if (row.table, row.model, row.subset) == ("6", "PaLM-8B", "toxic prompts")
    )
    assert toxic.score == 0.8


@pytest.mark.parametrize("score", ["", "26.7", "high"])
def test_a_broken_reference_table_is_named(tmp_path: pathlib.Path, score: str) -> None:
    path = tmp_path / "reference.csv"
    header = ",".join(normalized.REFERENCE_COLUMNS)
    path.write_text(f"{header}\n5,T5-Small,80M,MMLU,direct,average,validation,{score}\n")
    with pytest.raises(UserError, match=r"a score of '.*'[\s\S]*T5-Small, MMLU, average"):
        normalized.reference_rows(path)
