"""The rows of the responsible-AI and open-ended sets: formats, groups, samples, mistakes."""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from flan_train.tasks import BadRow, Row, responsible_rows, responsible_sets
from flan_train.tasks.responsible_sets import SetSource
from tests.tasks import responsible_folder as folder_of

CIVIL = ("test",)
BOTH = ("sentences", "statistics")


def rows(
    folder: pathlib.Path, name: str, roles: tuple[str, ...], split: str = "all", *groups: str
) -> list[Row]:
    """The rows of a set, none of them bad."""
    found = everything(folder, name, roles, split, *groups)
    assert not [row for row in found if isinstance(row, BadRow)]
    return [row for row in found if not isinstance(row, BadRow)]


def everything(
    folder: pathlib.Path, name: str, roles: tuple[str, ...], split: str = "all", *groups: str
) -> list[Row | BadRow]:
    source = SetSource(responsible_rows.SETS[name], roles, frozenset(groups) or None)
    return list(source.rows(split, str(folder)))


# --- CivilComments --------------------------------------------------------------------------------


def kaggle(listed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with the columns of the Jigsaw release."""
    return [
        {"id": 7_000_000 + number, "comment_text": row["text"], "target": row["toxicity"]}
        for number, row in enumerate(listed)
    ]


def test_every_format_gives_the_same_rows_under_the_same_ids(tmp_path: pathlib.Path) -> None:
    pandas = pytest.importorskip("pandas")
    listed = folder_of.comments("test", 30)
    places = [tmp_path / name / "civil_comments" for name in ("a", "b", "c", "d", "e", "f")]
    folder_of.write_lines(places[0] / "test.jsonl", listed)
    folder_of.write_commas(places[1] / "test.csv", kaggle(listed))
    expanded = [{**row, "toxicity": row["target"]} for row in kaggle(listed)]
    folder_of.write_commas(places[2] / "test_private_expanded.csv", expanded)
    folder_of.write_commas(places[2] / "test.csv", [{"id": 1, "comment_text": "no score here"}])
    places[3].joinpath("data").mkdir(parents=True)
    for shard in (0, 1):
        part = pandas.DataFrame(listed[shard * 15 : shard * 15 + 15])
        part.to_parquet(places[3] / "data" / f"test-0000{shard}-of-00002.parquet")
    places[4].mkdir(parents=True)
    with gzip.open(places[4] / "test.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in listed)
    places[5].mkdir(parents=True)
    (places[5] / "test.json").write_text(json.dumps(listed))
    found = [rows(place.parent, "civil_comments", CIVIL) for place in places]
    assert len(found[0]) == 30
    assert [row["answer"] for row in found[0][:6]] == ["no", "yes", "no", "yes", "no", "no"]
    assert found[0][0]["text"] == 'Comment 0 of test,\n"quoted" — and on.'
    for other in found[1:]:
        assert other == found[0]


def test_ten_thousand_comments_whatever_their_order(tmp_path: pathlib.Path) -> None:
    count = responsible_rows.MOST_ROWS + 300
    listed = [{"text": f"c{number}", "toxicity": 0.1} for number in range(count)]
    for name, ordered in (("a", listed), ("b", listed[::-1])):
        folder_of.write_lines(tmp_path / name / "civil_comments" / "test.jsonl", ordered)
    first = rows(tmp_path / "a", "civil_comments", CIVIL)
    second = rows(tmp_path / "b", "civil_comments", CIVIL)
    assert len(first) == len({row["example_id"] for row in first}) == responsible_rows.MOST_ROWS
    assert {row["text"] for row in first} == {row["text"] for row in second}
    # In the order of the file, and not just its beginning.
    numbers = [int(row["text"][1:]) for row in first]
    assert numbers == sorted(numbers)
    assert numbers[-1] > count - 20


def test_the_same_comment_twice_has_two_ids(tmp_path: pathlib.Path) -> None:
    twice = [{"text": "again", "toxicity": 0.1}, {"text": "again", "toxicity": 0.7}]
    folder_of.write_lines(tmp_path / "civil_comments" / "test.jsonl", twice)
    first, second = rows(tmp_path, "civil_comments", CIVIL)
    assert second["example_id"] == first["example_id"] + "-2"
    assert (first["answer"], second["answer"]) == ("no", "yes")


@pytest.mark.parametrize(
    ("row", "reason", "found", "expected"),
    [
        (
            {"comment": "hm", "toxicity": 0.1},
            "no text in text",
            "the fields comment, toxicity",
            "text as 'comment_text' or 'text'",
        ),
        ({"text": " ", "toxicity": 0.1}, "no text in text", "' ' as 'text'", "text as"),
        (
            {"text": "hm", "toxicity": 1.5},
            "no score",
            "1.5 as 'toxicity'",
            "a number from 0 to 1 as 'toxicity' or 'target'",
        ),
        ({"text": "hm", "toxicity": None}, "no score", "the fields text, toxicity", "0 to 1"),
        ({"text": "hm", "target": "high"}, "no score", "'high' as 'target'", "0 to 1"),
        (["hm"], "not an object", "a JSON list", "a JSON object"),
    ],
)
def test_comments_that_cannot_be_used(
    tmp_path: pathlib.Path, row: Any, reason: str, found: str, expected: str
) -> None:
    path = tmp_path / "civil_comments" / "test.jsonl"
    folder_of.write_lines(path, [{"text": "good", "toxicity": 0}, row])
    _, bad = everything(tmp_path, "civil_comments", CIVIL)
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.reason) == (f"{path}:2", reason)
    assert found in bad.found
    assert expected in bad.expected


# --- Winogender -----------------------------------------------------------------------------------


def test_the_answer_is_in_the_id(tmp_path: pathlib.Path) -> None:
    folder_of.write(tmp_path)
    listed = rows(tmp_path, "winogender", ("sentences",))
    assert len(listed) == len(folder_of.sentences()) == 72
    by_id = {row["example_id"]: row for row in listed}
    assert by_id["florist.buyer.0.female"]["answer"] == "florist"
    assert by_id["florist.buyer.1.female"]["answer"] == "buyer"
    assert by_id["florist.someone.1.neutral"]["answer"] == "someone"
    assert by_id["juggler.someone.0.male"]["pronoun"] == "his"
    assert by_id["gardener.guest.1.neutral"]["pronoun"] == "they"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        # 80 % of florists are women: "she" is stereotypically the florist.
        ("florist.buyer.0.female", "stereotypical"),
        ("florist.buyer.1.female", "gotcha"),
        ("florist.buyer.0.male", "gotcha"),
        ("florist.someone.1.male", "stereotypical"),
        # 10.5 % of gardeners.
        ("gardener.guest.0.female", "gotcha"),
        ("gardener.guest.1.female", "stereotypical"),
        ("gardener.guest.0.male", "stereotypical"),
        ("gardener.someone.1.male", "gotcha"),
        # Half of jugglers: counts as an occupation of women.
        ("juggler.watcher.0.female", "stereotypical"),
        ("juggler.watcher.0.male", "gotcha"),
        ("juggler.watcher.0.neutral", "neutral"),
    ],
)
def test_stereotypical_and_gotcha(tmp_path: pathlib.Path, name: str, group: str) -> None:
    folder_of.write(tmp_path)
    groups = {row["example_id"]: row["group"] for row in rows(tmp_path, "winogender", BOTH)}
    assert groups[name] == group
    assert sorted(groups.values()).count("stereotypical") == 24
    assert sorted(groups.values()).count("gotcha") == 24


def test_the_release_as_it_is_cloned(tmp_path: pathlib.Path) -> None:
    folder_of.write(tmp_path)
    flat = rows(tmp_path, "winogender", BOTH)
    inside = tmp_path / "winogender" / "data"
    inside.mkdir()
    for name in ("all_sentences.tsv", "occupations-stats.tsv"):
        (tmp_path / "winogender" / name).rename(inside / name)
    assert rows(tmp_path, "winogender", BOTH) == flat


@pytest.mark.parametrize(
    ("identity", "sentence", "reason"),
    [
        ("nurse.patient.2.female.txt", "The nurse left her.", "an id that tells no answer"),
        ("nurse.patient.0.txt", "The nurse left her.", "an id that tells no answer"),
        ("nurse.patient.0.woman.txt", "The nurse left her.", "an id that tells no answer"),
        ("florist.buyer.0.female.txt", "The florist left.", "not one pronoun of the gender"),
        ("florist.buyer.0.female.txt", "She left her hat.", "not one pronoun of the gender"),
        ("diver.buyer.0.female.txt", "The diver left her.", "an occupation without percentage"),
        ("florist.buyer.0.female.txt", "", "no text in sentence"),
        ("", "The florist left her.", "no text in sentid"),
    ],
)
def test_sentences_that_cannot_be_used(
    tmp_path: pathlib.Path, identity: str, sentence: str, reason: str
) -> None:
    folder_of.write(tmp_path)
    path = tmp_path / "winogender" / "all_sentences.tsv"
    folder_of.write_tabs(path, ("sentid", "sentence"), [(identity, sentence)])
    [bad] = everything(tmp_path, "winogender", BOTH)
    assert isinstance(bad, BadRow)
    assert bad.reason == reason
    assert bad.found
    assert bad.expected


@pytest.mark.parametrize("share", ["", "101", "many"])
def test_a_percentage_that_is_none(tmp_path: pathlib.Path, share: str) -> None:
    folder_of.write(tmp_path)
    path = tmp_path / "winogender" / "occupations-stats.tsv"
    listed = [*folder_of.percentages(), ("diver", 1, share, 2015)]
    folder_of.write_tabs(path, ("occupation", "bergsma", "bls_pct_female", "bls_year"), listed)
    bad, *good = everything(tmp_path, "winogender", BOTH)
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.reason) == (f"{path}:8", "no percentage")
    assert len(good) == 72
    # Not needed where nobody asks for the groups.
    assert len(rows(tmp_path, "winogender", ("sentences",))) == 72


# --- prompts to continue --------------------------------------------------------------------------


def test_toxic_and_other_prompts(tmp_path: pathlib.Path) -> None:
    folder_of.write(tmp_path)
    toxic = rows(tmp_path, "realtoxicityprompts", ("prompts",), "all", "toxic")
    other = rows(tmp_path, "realtoxicityprompts", ("prompts",), "all", "nontoxic")
    assert all(row["prompt_toxicity"] >= 0.5 for row in toxic)
    assert all(row["prompt_toxicity"] < 0.5 for row in other)
    # Every seventh of the 40 has no score and is in neither.
    assert len(toxic) + len(other) == 40 - 5
    assert toxic[0]["prompt"] == "Then number 1 said"


def test_the_sample_of_prompts_is_drawn_before_they_are_parted(tmp_path: pathlib.Path) -> None:
    count = responsible_rows.MOST_ROWS + 2000
    folder_of.write_lines(
        tmp_path / "realtoxicityprompts" / "prompts.jsonl",
        [{"prompt": {"text": f"p{n}", "toxicity": (n % 4) / 4}} for n in range(count)],
    )
    toxic = rows(tmp_path, "realtoxicityprompts", ("prompts",), "all", "toxic")
    other = rows(tmp_path, "realtoxicityprompts", ("prompts",), "all", "nontoxic")
    assert len(toxic) + len(other) == responsible_rows.MOST_ROWS
    assert len(toxic) == pytest.approx(5000, abs=200)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ({"text": "", "toxicity": 0.1}, "no text in prompt.text"),
        ({"toxicity": 0.1}, "no text in prompt.text"),
        ({"text": "He said", "toxicity": 7}, "no score"),
    ],
)
def test_prompts_that_cannot_be_used(
    tmp_path: pathlib.Path, prompt: Mapping[str, Any], reason: str
) -> None:
    path = tmp_path / "realtoxicityprompts" / "prompts.jsonl"
    folder_of.write_lines(path, [{"prompt": prompt}])
    [bad] = everything(tmp_path, "realtoxicityprompts", ("prompts",))
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.reason) == (f"{path}:1", reason)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("identity_toxicity", {"group": "age", "prompt": "The old man"}, "another group"),
        ("identity_toxicity", {"group": "gender"}, "no text in prompt"),
        ("identity_toxicity", {"prompt": "The man"}, "no text in group"),
        ("open_ended", {"id": "1", "category": "poems", "prompt": "Rhyme."}, "another category"),
        ("open_ended", {"id": "a", "category": "planning", "prompt": "?"}, "an id used twice"),
    ],
)
def test_grouped_prompts_that_cannot_be_used(
    tmp_path: pathlib.Path, name: str, row: Mapping[str, Any], reason: str
) -> None:
    path = tmp_path / name / "prompts.jsonl"
    fine = {"id": "a", "category": "planning", "group": "gender", "prompt": "The man"}
    folder_of.write_lines(path, [fine, row])
    good, bad = everything(tmp_path, name, ("prompts",))
    assert not isinstance(good, BadRow)
    assert good["example_id"] == "a"
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.reason) == (f"{path}:2", reason)
    if reason.startswith("another"):
        assert bad.expected.startswith("one of ")


# --- splits and files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("civil_comments", CIVIL),
        ("winogender", BOTH),
        ("realtoxicityprompts", ("prompts",)),
        ("identity_toxicity", ("prompts",)),
        ("open_ended", ("prompts",)),
    ],
)
def test_two_parts_that_make_the_whole(
    tmp_path: pathlib.Path, name: str, roles: tuple[str, ...]
) -> None:
    folder_of.write(tmp_path)
    ids = {
        split: [row["example_id"] for row in rows(tmp_path, name, roles, split)]
        for split in responsible_sets.SPLITS
    }
    assert len(set(ids["all"])) == len(ids["all"])
    assert not set(ids["validation"]) & set(ids["test"])
    assert sorted(ids["validation"] + ids["test"]) == sorted(ids["all"])
    assert len(ids["validation"]) >= len(ids["all"]) / 4


def test_a_sentence_is_in_the_same_part_for_every_task(tmp_path: pathlib.Path) -> None:
    folder_of.write(tmp_path)
    whole = {row["example_id"] for row in rows(tmp_path, "winogender", ("sentences",), "test")}
    for group in ("stereotypical", "gotcha", "neutral"):
        part = {row["example_id"] for row in rows(tmp_path, "winogender", BOTH, "test", group)}
        assert part
        assert part <= whole


def test_a_bad_row_is_in_every_split(tmp_path: pathlib.Path) -> None:
    folder_of.write_lines(tmp_path / "civil_comments" / "test.jsonl", [{"text": "x"}])
    for split in responsible_sets.SPLITS:
        [bad] = everything(tmp_path, "civil_comments", CIVIL, split)
        assert isinstance(bad, BadRow)


def test_a_changed_file_is_read_again(tmp_path: pathlib.Path) -> None:
    folder_of.write(tmp_path, rows=12)
    source = SetSource(responsible_rows.SETS["civil_comments"], CIVIL)
    before = source.fingerprint("all", str(tmp_path))
    assert source.count("all", str(tmp_path)) == 12
    folder_of.write_lines(
        tmp_path / "civil_comments" / "test.jsonl", folder_of.comments("other", 15)
    )
    assert source.count("all", str(tmp_path)) == 15
    assert source.fingerprint("all", str(tmp_path)) != before
    assert source.fingerprint("all", str(tmp_path)) != source.fingerprint("test", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "roles", "gone", "message"),
    [
        ("civil_comments", CIVIL, "test.jsonl", "civil_comments/test_private_expanded.csv is"),
        ("civil_comments", ("test", "train"), "train.jsonl", "civil_comments/train.csv is missing"),
        ("winogender", BOTH, "occupations-stats.tsv", "winogender/occupations-stats.tsv is"),
        ("realtoxicityprompts", ("prompts",), "prompts.jsonl", "allenai/real-toxicity-prompts"),
        ("identity_toxicity", ("prompts",), "prompts.jsonl", 'prompts of your own: {"group"'),
        ("open_ended", ("prompts",), "prompts.jsonl", 'prompts of your own: {"id"'),
    ],
)
def test_files_that_are_missing(
    tmp_path: pathlib.Path, name: str, roles: tuple[str, ...], gone: str, message: str
) -> None:
    folder_of.write(tmp_path)
    source = SetSource(responsible_rows.SETS[name], roles)
    assert source.available(str(tmp_path)) is None
    assert name in source.describe(str(tmp_path))
    (tmp_path / name / gone).unlink()
    problem = source.available(str(tmp_path))
    assert problem is not None
    assert message in problem
    assert "put there" in problem
