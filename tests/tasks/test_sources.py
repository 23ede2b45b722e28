from __future__ import annotations

import os
import pathlib

import pytest

from flan_train.errors import UserError
from flan_train.tasks import sources
from flan_train.tasks.cot import CotSource
from flan_train.tasks.definitions import BadRow, Row


def put(folder: pathlib.Path, content: bytes, name: str = "gsm8k_train.tsv") -> str:
    (folder / "cot").mkdir(exist_ok=True)
    (folder / "cot" / name).write_bytes(content)
    return str(folder)


def everything(source: CotSource, data_dir: str) -> tuple[list[Row], list[BadRow]]:
    found = [
        row for split in ("train", "validation", "test") for row in source.rows(split, data_dir)
    ]
    good = [row for row in found if not isinstance(row, BadRow)]
    return good, [row for row in found if isinstance(row, BadRow)]


def test_a_row_is_decoded_and_stripped(tmp_path: pathlib.Path) -> None:
    data_dir = put(tmp_path, b' How\\nmuch? \t 7\t"Quoted" \\n\xe2\x82\xac \r\nNext?\t8\tSo.')
    good, bad = everything(CotSource("gsm8k"), data_dir)
    good.sort(key=lambda row: row["example_id"])
    assert not bad
    assert good[0] == {
        "example_id": "gsm8k_train:1",
        "question": "How\nmuch?",
        "answer": "7",
        "rationale": '"Quoted" \n€',
        "options": (),
    }
    assert good[1]["answer"] == "8"


@pytest.mark.parametrize(
    ("line", "reason", "found", "expected"),
    [
        (b"Q?\t7", "too few columns", "2 tab-separated columns", "3 tab-separated columns"),
        (b"Q?", "too few columns", "1 tab-separated column", "3 tab-separated columns"),
        (b"", "too few columns", "1 tab-separated column", "3 tab-separated columns"),
        (
            b"Q?\t7\tSo.\tmore",
            "too many columns",
            "4 tab-separated columns",
            "3 tab-separated columns",
        ),
        (
            b"Q?\t7\tSo\xff.",
            "not UTF-8",
            "byte 0xff at byte 20 of the file (byte 7 of the row)",
            "UTF-8 text",
        ),
        (
            b"Q?\t \tSo.",
            "empty target",
            "nothing in column 2, the answer",
            "the answer in column 2",
        ),
        (
            b" \t7\tSo.",
            "empty question",
            "nothing in column 1, the question",
            "the question in column 1",
        ),
        (
            b"Q?\t7\t\\n",
            "empty rationale",
            "nothing in column 3, the rationale",
            "the rationale in column 3",
        ),
    ],
)
def test_bad_rows_say_where_and_what(
    tmp_path: pathlib.Path, line: bytes, reason: str, found: str, expected: str
) -> None:
    data_dir = put(tmp_path, b"First?\t1\tSo.\n" + line + b"\nLast?\t3\tSo.\n")
    good, bad = everything(CotSource("gsm8k"), data_dir)
    assert sorted(row["answer"] for row in good) == ["1", "3"]
    assert bad == [BadRow(f"{tmp_path}/cot/gsm8k_train.tsv:2", reason, found, expected)]


def test_a_byte_order_mark_is_no_part_of_the_first_question(tmp_path: pathlib.Path) -> None:
    data_dir = put(tmp_path, b"\xef\xbb\xbfFirst?\t1\tSo.\nSecond?\t2\tSo.\n")
    good, bad = everything(CotSource("gsm8k"), data_dir)
    assert not bad
    assert {row["question"] for row in good} == {"First?", "Second?"}
    data_dir = put(tmp_path, b"\xef\xbb\xbfQ?\t7\tSo\xff.\n")
    _, (found,) = everything(CotSource("gsm8k"), data_dir)
    # Places are those of the file, mark included.
    assert "byte 10 of the file (byte 10 of the row)" in found.found


@pytest.mark.parametrize(
    ("dataset", "question", "answer", "expected"),
    [
        ("aqua", "Q?\\nOptions:\\n(A) 1\\n(B) 2", "(C)", "'(A)', '(B)'"),
        ("ecqa", "Q?\\nOptions:\\n- house\\n- hut", "tent", "'house', 'hut'"),
        ("qasc", "Q?\\nOptions:\\n- (A) ice\\n- (B) sun", "ice", "'(A)', '(B)'"),
        ("creak", "Q?\\nOptions:\\n- yes\\n- no", "perhaps", "'yes', 'no'"),
        ("creak", "Q, true?", "perhaps", "'yes', 'no'"),
        ("strategyqa", "Q?", "maybe", "'yes', 'no'"),
        ("sensemaking", "Q?\\n- Sentence A: x\\n- Sentence B: y\\n", "Sentence C", "'Sentence A'"),
    ],
)
def test_a_target_outside_its_options(
    tmp_path: pathlib.Path, dataset: str, question: str, answer: str, expected: str
) -> None:
    data_dir = put(tmp_path, f"{question}\t{answer}\tSo.\n".encode(), f"{dataset}_train.tsv")
    good, (bad,) = everything(CotSource(dataset), data_dir)
    assert not good
    assert bad.reason == "target outside its options"
    assert bad.found == f"the answer {answer!r}"
    assert bad.expected.startswith("one of ")
    assert expected in bad.expected


def test_a_question_without_its_options(tmp_path: pathlib.Path) -> None:
    data_dir = put(tmp_path, b"Which?\t(A)\tSo.\n", "aqua_train.tsv")
    _, (bad,) = everything(CotSource("aqua"), data_dir)
    assert bad.reason == "no options"
    assert bad.found == "a question without a list of options"
    assert bad.expected == 'a list of options below "Options:"'


def test_a_missing_file_says_how_to_get_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cot").mkdir()
    source = CotSource("qasc")
    problem = source.available(str(tmp_path))
    assert problem is not None
    assert "\n" not in problem
    assert f"{tmp_path}/cot/qasc_train.tsv is missing" in problem
    assert "google-research/FLAN" in problem
    with pytest.raises(UserError, match=r"qasc_train\.tsv is missing"):
        next(source.rows("train", str(tmp_path)))


def test_a_sample_stands_in_and_says_so(tmp_path: pathlib.Path) -> None:
    data_dir = put(tmp_path, b"Q?\t7\tSo.\n", "qed_sample.tsv")
    source = CotSource("qed")
    assert source.available(data_dir) is None
    assert source.describe(data_dir) == "cot/qed_sample.tsv (a sample)"
    good, _ = everything(source, data_dir)
    assert good[0]["example_id"] == "qed_sample:1"
    before = source.fingerprint("train", data_dir)
    put(tmp_path, b"Q?\t7\tSo.\n", "qed_train.tsv")
    assert source.describe(data_dir) == "cot/qed_train.tsv"
    assert source.fingerprint("train", data_dir) != before


def test_the_fingerprint_follows_the_content(tmp_path: pathlib.Path) -> None:
    source = CotSource("gsm8k")
    data_dir = put(tmp_path, b"Q?\t7\tSo.\n")
    first = source.fingerprint("train", data_dir)
    assert first == CotSource("gsm8k").fingerprint("train", data_dir)
    assert first != source.fingerprint("test", data_dir)
    put(tmp_path, b"Q?\t8\tSo. \n")
    assert source.fingerprint("train", data_dir) != first


def test_no_data_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAN_DATA_DIR", raising=False)
    with pytest.raises(UserError, match=r"no data folder is named[\s\S]*FLAN_DATA_DIR, DATA_DIR"):
        sources.resolve_data_dir(None)
    with pytest.raises(
        UserError, match=r"absent does not exist[\s\S]*DATA_DIR in gin, or --data_dir"
    ):
        sources.resolve_data_dir(tmp_path / "absent")
    monkeypatch.setenv("FLAN_DATA_DIR", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"gone does not exist[\s\S]*where: FLAN_DATA_DIR"):
        sources.resolve_data_dir(None)
    problem = CotSource("gsm8k").available(None)
    assert problem is not None
    assert "gone does not exist" in problem
    monkeypatch.setenv("FLAN_DATA_DIR", str(tmp_path))
    assert sources.resolve_data_dir(None) == tmp_path


def test_an_unreadable_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="cannot read the file"):
        next(sources.read_tsv(tmp_path, 3))
    data_dir = put(tmp_path, b"")
    (tmp_path / "cot" / "gsm8k_train.tsv").unlink()
    # A folder where the file should be: nobody can read it, root included.
    (tmp_path / "cot" / "gsm8k_train.tsv").mkdir()
    source = CotSource("gsm8k")
    named = r"cannot read the file: Is a directory[\s\S]*gsm8k_train\.tsv"
    for read in (source.fingerprint, source.count):
        with pytest.raises(UserError, match=named):
            read("train", data_dir)
    with pytest.raises(UserError, match=named):
        next(source.rows("train", data_dir))
    with pytest.raises(UserError, match=r"cannot read the file: No such file[\s\S]*gone\.tsv"):
        sources.content_hash(tmp_path / "gone.tsv")


def test_a_file_that_may_not_be_read(tmp_path: pathlib.Path) -> None:
    data_dir = put(tmp_path, b"Q?\t7\tSo.\n")
    path = tmp_path / "cot" / "gsm8k_train.tsv"
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(UserError, match=r"Permission denied[\s\S]*gsm8k_train\.tsv"):
        CotSource("gsm8k").fingerprint("train", data_dir)
    path.parent.chmod(0)
    try:
        with pytest.raises(UserError, match=r"Permission denied[\s\S]*gsm8k_train\.tsv"):
            CotSource("gsm8k").path(data_dir)
    finally:
        path.parent.chmod(0o700)
