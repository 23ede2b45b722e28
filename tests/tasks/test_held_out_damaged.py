"""Held-out files that are missing or damaged: what the message names."""

from __future__ import annotations

import gzip
import pathlib
import shutil

import pytest

from flan_train import mixtures, tasks
from flan_train.errors import UserError
from flan_train.tasks import held_out_table
from tests import held_out_folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    return held_out_folder.write_held_out_folder(tmp_path_factory.mktemp("whole"), 4)


@pytest.fixture
def folder(whole: str, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy that a test may damage."""
    return pathlib.Path(shutil.copytree(whole, tmp_path / "copy"))


def render_all(name: str, folder: pathlib.Path) -> None:
    task = tasks.get(name)
    for row in task.rows("all", str(folder)):
        task.render(row, 0, None, str(folder))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("mmlu_anatomy_zs", "mmlu/val/anatomy_val.csv"),
        ("mmlu_anatomy_direct", "mmlu/dev/anatomy_dev.csv"),
        ("mmlu_anatomy_cot", "mmlu/mmlu-cot.json"),
        ("bbh_snarks_zs", "bbh/bbh/snarks.json"),
        ("bbh_snarks_zs", "bbh/cot-prompts/snarks.txt"),
        ("tydiqa_fi_direct", "tydiqa/goldp_dev/finnish.json.gz"),
        ("mgsm_de_zs", "mgsm/mgsm_de.tsv"),
        ("mgsm_de_zs", "mgsm/mgsm_exemplars.json"),
    ],
)
def test_missing_files(name: str, path: str, folder: pathlib.Path) -> None:
    assert tasks.get(name).available(str(folder)) is None
    (folder / path).unlink()
    problem = tasks.get(name).available(str(folder))
    suite = path.split("/")[0]
    assert problem is not None
    assert problem.startswith(f"{folder / path} is missing; ")
    assert f"flan-train download --only {suite}" in problem
    with pytest.raises(UserError, match=f"{pathlib.Path(path).name} is missing"):
        render_all(name, folder)


def test_what_exemplars_need_is_missed_by_those_who_show_them(folder: pathlib.Path) -> None:
    (folder / "mmlu/mmlu-cot.json").unlink()
    for form in ("direct", "zs", "zs_cot", "rank"):
        assert tasks.get(f"mmlu_anatomy_{form}").available(str(folder)) is None
    # TyDi QA has an exemplar without training questions.
    shutil.rmtree(folder / "tydiqa/goldp_train_sample")
    assert tasks.get("tydiqa_ko_direct").available(str(folder)) is None


def test_a_suite_goes_on_without_what_is_missing(folder: pathlib.Path) -> None:
    (folder / "mgsm/mgsm_sw.tsv").unlink()
    with pytest.raises(UserError, match=r"a source of the mixture[\s\S]*mgsm_sw.tsv[\s\S]*ALLOW_M"):
        mixtures.check_sources("heldout_mgsm_cot", str(folder))
    found = mixtures.check_sources("heldout_mgsm_cot", str(folder), allow_missing=True)
    assert (len(found.present), list(found.missing)) == (9, ["mgsm_sw_cot"])


def test_a_benchmark_that_is_missing_is_said_once(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "mmlu")
    with pytest.raises(UserError) as caught:
        mixtures.check_sources("heldout", str(folder))
    assert f"{folder / 'mmlu'} is missing" in str(caught.value)
    assert str(caught.value).count("is missing") == 2  # the mixture's source, and the folder


BBH = "bbh/bbh/snarks.json"
PROMPT = "bbh/cot-prompts/snarks.txt"
KOREAN = "tydiqa/goldp_dev/korean.json.gz"
EXEMPLARS = "mgsm/mgsm_exemplars.json"


def bbh(**entry: object) -> bytes:
    return held_out_folder.as_json({"examples": [entry]})


@pytest.mark.parametrize(
    ("name", "path", "content", "words"),
    [
        ("mmlu_anatomy_zs", "mmlu/val/anatomy_val.csv", b"a,b\n", r"2 columns\n.*_val.csv:1"),
        ("mmlu_anatomy_zs", "mmlu/val/anatomy_val.csv", b"", r"nothing in it\n.*_val.csv"),
        ("mmlu_anatomy_zs", "mmlu/val/anatomy_val.csv", b"\xff,,,,,\n", "anatomy_val.csv"),
        ("mmlu_anatomy_zs", "mmlu/val/anatomy_val.csv", b"a,b,c,d,e,F\n", "the answer 'F'"),
        ("mmlu_anatomy_direct", "mmlu/dev/anatomy_dev.csv", b"", r"no exemplars\n.*_dev.csv"),
        ("mmlu_anatomy_cot", "mmlu/mmlu-cot.json", b"{", "mmlu-cot.json"),
        ("mmlu_anatomy_cot", "mmlu/mmlu-cot.json", b"{}", "no text called 'anatomy'"),
        ("mmlu_anatomy_cot", "mmlu/mmlu-cot.json", b'{"anatomy": "About."}', "no exemplars"),
        (
            "mmlu_anatomy_cot",
            "mmlu/mmlu-cot.json",
            b'{"anatomy": "About.\\n\\nQ: What?\\nA: That."}',
            r"no answer\n.*anatomy, exemplar 1",
        ),
        ("bbh_snarks_zs", BBH, b'{"examples": [', "snarks.json"),
        ("bbh_snarks_zs", BBH, b'{"examples": []}', "nothing in it"),
        ("bbh_snarks_zs", BBH, bbh(input="Q"), r"no text called 'target'\n.*example 1"),
        ("bbh_snarks_zs", BBH, bbh(input="Q", target="(A)"), r"no options\n.*example 1"),
        (
            "bbh_navigate_zs",
            "bbh/bbh/navigate.json",
            bbh(input="Q", target="Maybe"),
            r"the target 'Maybe'[\s\S]*Yes or No",
        ),
        ("bbh_word_sorting_zs", "bbh/bbh/word_sorting.json", bbh(input="Q", target=""), "''"),
        ("bbh_snarks_cot", PROMPT, b"no rule\nabove\n", r"'above'\n.*snarks.txt:2"),
        ("bbh_snarks_cot", PROMPT, b"\xff", "snarks.txt"),
        ("bbh_snarks_cot", PROMPT, b"c\n-----\nAbout.", r"no exemplars\n.*snarks.txt"),
        ("bbh_snarks_direct", PROMPT, b"c\n-----\nB.\n\nQ: x\nA: y", r"no answer\n.*exemplar 1"),
        ("tydiqa_ko_zs", KOREAN, b"\x1f\x8b\x08", "korean.json.gz"),
        (
            "tydiqa_ko_zs",
            KOREAN,
            held_out_folder.squad("x", 1)[:-9],
            "korean.json.gz",
        ),
        ("tydiqa_ko_direct", "tydiqa/goldp_train_sample/korean.json.gz", b"no", "goldp_train"),
        ("mgsm_de_zs", "mgsm/mgsm_de.tsv", b"only a question\n", r"1 tab-separated column\n.*:1"),
        ("mgsm_de_zs", "mgsm/mgsm_de.tsv", b"How many?\tmany\n", r"the answer 'many'\n.*:1"),
        ("mgsm_de_cot", EXEMPLARS, b"[]", "no list called 'EXEMPLAR_NUMBER_ANSWERS'"),
        (
            "mgsm_de_cot",
            EXEMPLARS,
            b'{"EXEMPLAR_NUMBER_ANSWERS": [2], "MGSM_EXEMPLARS": {}}',
            r"no exemplars\n.*: de",
        ),
        (
            "mgsm_de_cot",
            EXEMPLARS,
            b'{"EXEMPLAR_NUMBER_ANSWERS": [2], "MGSM_EXEMPLARS": {"de": {"1": {"q": "x: 1"}}}}',
            r"no text called 'a'\n.*de, exemplar 1",
        ),
        (
            "mgsm_de_cot",
            EXEMPLARS,
            b'{"EXEMPLAR_NUMBER_ANSWERS": [2], "MGSM_EXEMPLARS":'
            b' {"de": {"1": {"q": "x", "a": "y: 2"}}}}',
            r"without a label\n.*: de",
        ),
    ],
)
def test_damaged_files(
    name: str, path: str, content: bytes, words: str, folder: pathlib.Path
) -> None:
    held_out_folder.write(folder, path, content)
    with pytest.raises(UserError, match=words):
        render_all(name, folder)


def test_an_id_that_two_questions_have(folder: pathlib.Path) -> None:
    question = {"id": "same", "question": "q", "answers": [{"text": "c"}]}
    article = {"title": "t", "paragraphs": [{"context": "c", "qas": [question, question]}]}
    content = gzip.compress(held_out_folder.as_json({"data": [article]}))
    held_out_folder.write(folder, KOREAN, content)
    with pytest.raises(UserError, match="an id that two questions have"):
        render_all("tydiqa_ko_zs", folder)


def test_no_data_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAN_DATA_DIR", raising=False)
    assert "no data folder is named" in (tasks.get("bbh_snarks_zs").available() or "")
    with pytest.raises(UserError, match="does not exist"):
        render_all("bbh_snarks_zs", tmp_path / "absent")


HEADER = ",".join(held_out_table.COLUMNS)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("mmlo,a,A,,,1,,0.25,letter,,16,64", "a suite 'mmlo'"),
        ("mmlu,a,A,,,1,,0.25,letters,,16,64", "answers 'letters'"),
        ("mmlu,a,A,,,1,,25,letter,,16,64", "a chance of '25'"),
        ("mmlu,a,A,,,1,,,letter,,16,64", "a chance of ''"),
        ("mmlu,a,A,,,,,0.25,letter,,16,64", "nothing in the column examples"),
        ("mmlu,a,A,,,one,,0.25,letter,,16,64", "not a whole number: 'one'"),
        ("bbh,a,A,,,1,,0.5,closed,,16,64", "options where answers are not closed, or none"),
        ("bbh,a,A,,,1,,0,number,,16,64\nbbh,a,A,,,1,,0,number,,16,64", "listed twice: bbh_a"),
    ],
)
def test_broken_tables(row: str, words: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{HEADER}\n{row}\n", "utf-8")
    with pytest.raises(UserError, match=words):
        held_out_table.files(path)
