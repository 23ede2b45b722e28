"""The files of the held-out benchmarks as a table: sizes, chance, the form of their answers.

Facts of arXiv 2210.11416, section 2.3 and its appendix (facts/heldout.csv).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from flan_train.errors import UserError
from flan_train.tasks import catalogue

TABLE = catalogue.TABLES / "held_out.csv"
COLUMNS = (
    *("suite", "file", "title", "group", "paper_task", "examples", "test_examples"),
    *("chance", "answers", "options", "direct_tokens", "cot_tokens"),
)
# What names begin with -> the benchmark's own name.
BENCHMARKS = {"mmlu": "MMLU", "bbh": "BBH", "tydiqa": "TyDiQA", "mgsm": "MGSM"}
ANSWERS = ("letter", "closed", "number", "words", "brackets", "span")


@dataclasses.dataclass(frozen=True)
class HeldOutFile:
    """One subject, task or language of a benchmark.

    Attributes:
      suite: "mmlu", "bbh", "tydiqa" or "mgsm".
      name: as in task names: "anatomy", "snarks", "ko", "de".
      title: in words: "high school US history", "Korean".
      group: what the paper groups it by, such as "stem" or "nlp"; may be empty.
      paper_task: which of the paper's 23 BBH tasks a file belongs to; else empty.
      examples: how many the published evaluation has.
      test_examples: of MMLU's test set; None elsewhere.
      chance: share of right answers that guessing gets, as the normalised average takes it.
      answers: "letter" of an option shown, "closed" (one of `options`), "number", "words" (in
        order), "brackets" or "span" (of the passage); how they are read, a key of `answers.STYLES`.
      options: every possible answer of a closed file.
      direct_tokens: the most output tokens of an answer alone, EOS included; None: as many as the
        longest answer has.
      cot_tokens: the same of a rationale with its answer. For MMLU and BBH a quarter more than the
        longest published rationale of the file, in T5's vocabulary.
    """

    suite: str
    name: str
    title: str
    group: str
    paper_task: str
    examples: int
    test_examples: int | None
    chance: float
    answers: str
    options: tuple[str, ...]
    direct_tokens: int | None
    cot_tokens: int


@functools.cache
def files(path: pathlib.Path = TABLE) -> tuple[HeldOutFile, ...]:
    """Returns the files of all benchmarks in the order of the table.

    Raises:
      UserError: the table is missing or broken.
    """
    found = tuple(_file(row, path) for row in catalogue.read_table(path, COLUMNS))
    names = [(file.suite, file.name) for file in found]
    twice = sorted({"_".join(name) for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"a file that is listed twice: {', '.join(twice)}", where=str(path))
    return found


def files_of(suite: str) -> tuple[HeldOutFile, ...]:
    """Returns the files of a benchmark, such as the 27 of "bbh"."""
    return tuple(file for file in files() if file.suite == suite)


def _file(row: dict[str, str], path: pathlib.Path) -> HeldOutFile:
    where = f"{path}: {row['suite']}_{row['file']}"
    for column, known in (("suite", BENCHMARKS), ("answers", ANSWERS)):
        if row[column] not in known:
            raise UserError(f"a {column} {row[column]!r}", where=where, expected=" or ".join(known))
    if (row["answers"] == "closed") != bool(row["options"]):
        raise UserError(
            "options where answers are not closed, or none where they are",
            where=where,
            expected="every possible answer of a closed file, with | between them",
        )
    return HeldOutFile(
        suite=row["suite"],
        name=row["file"],
        title=row["title"],
        group=row["group"],
        paper_task=row["paper_task"],
        examples=_needed(row, "examples", where),
        test_examples=catalogue.whole_number(row["test_examples"], where),
        chance=_share(row["chance"], where),
        answers=row["answers"],
        options=tuple(filter(None, row["options"].split("|"))),
        direct_tokens=catalogue.whole_number(row["direct_tokens"], where),
        cot_tokens=_needed(row, "cot_tokens", where),
    )


def _needed(row: dict[str, str], column: str, where: str) -> int:
    number = catalogue.whole_number(row[column], where)
    if number is None:
        raise UserError(f"nothing in the column {column}", where=where, expected="a whole number")
    return number


def _share(text: str, where: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UserError(f"a chance of {text!r}", where=where, expected="a share from 0 to below 1")
    return share
