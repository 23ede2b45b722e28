"""The files of the held-out benchmarks in the data folder, read and checked.

`mmlu/{dev,val,test}/*.csv` and `mmlu/mmlu-cot.json`, `bbh/bbh/*.json` and `bbh/cot-prompts/*.txt`,
`tydiqa/goldp_{dev,train*}/*.json.gz`, `mgsm/mgsm_*.tsv` and `mgsm/mgsm_exemplars.json`. A held-out
set is whole or it is another set, so a damaged row is an error, never left out.
"""

from __future__ import annotations

import csv
import gzip
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flan_train.errors import UserError
from flan_train.tasks import sources

_MMLU_COLUMNS = 6
_MOST_BYTES = 2**30  # of a compressed file, unpacked; the largest of the sets has some 50 MB


class MultipleChoice(NamedTuple):
    """A row of MMLU: where it stands (from 1), what it asks, four options, the right letter."""

    number: int
    question: str
    options: tuple[str, ...]
    answer: str


class GoldPassage(NamedTuple):
    """A question of TyDi QA's gold passage task with its article, passage and right answers."""

    identity: str
    title: str
    passage: str
    question: str
    entry: dict[str, Any]

    def answers(self, where: str) -> tuple[str, ...]:
        """Returns the right answers, each once.

        Raises:
          UserError: there is none.
        """
        place = f"{where}, question {self.identity}"
        found = [text(answer, "text", place) for answer in listed(self.entry, "answers", place)]
        answers = tuple(dict.fromkeys(filter(None, (answer.strip() for answer in found))))
        if not answers:
            raise damaged(place, "no answer", "at least one answer")
        return answers


def mmlu(path: pathlib.Path) -> Iterator[MultipleChoice]:
    """Yields the rows of a subject's CSV file.

    Raises:
      UserError: it cannot be read, or a row has not six columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for number, row in enumerate(csv.reader(stream), start=1):
                if len(row) != _MMLU_COLUMNS:
                    raise damaged(
                        f"{path}:{number}", f"{len(row)} columns", "question, 4 options, answer"
                    )
                yield MultipleChoice(number, row[0], tuple(row[1:-1]), row[-1])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise damaged(str(path), str(error), "a CSV file in UTF-8") from None


def bbh(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where it stands, entry) of a task's JSON file; an entry has "input" and "target".

    Raises:
      UserError: it cannot be read, or is of another shape.
    """
    for number, entry in enumerate(listed(read_json(path), "examples", str(path)), start=1):
        text(entry, "input", f"{path}, example {number}")
        yield f"{path}, example {number}", entry


def mgsm(path: pathlib.Path) -> Iterator[tuple[int, str, str]]:
    """Yields (line number from 1, question, answer) of a language's file.

    Raises:
      UserError: it cannot be read, or a line has not two columns.
    """
    for row in sources.read_tsv(path, columns=2):
        if not isinstance(row, tuple):
            raise damaged(row.where, row.found, "question and answer")
        number, (question, answer) = row
        yield number, question, answer


def tydiqa(path: pathlib.Path) -> Iterator[GoldPassage]:
    """Yields the questions of a language's file (SQuAD 1.1 JSON, compressed).

    Raises:
      UserError: it cannot be read, or is of another shape.
    """
    for article in listed(read_gzip_json(path), "data", str(path)):
        title = article.get("title", "") if isinstance(article, dict) else ""
        for paragraph in listed(article, "paragraphs", str(path)):
            passage = text(paragraph, "context", str(path))
            for question in listed(paragraph, "qas", str(path)):
                asked = text(question, "question", str(path))
                identity = text(question, "id", str(path))
                yield GoldPassage(identity, str(title), passage, asked, question)


def read_text(path: pathlib.Path, expected: str) -> str:
    """Returns what a text file in UTF-8 holds.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(str(path), str(error), expected) from None


def read_json(path: pathlib.Path) -> Any:
    """Returns what a JSON file holds; raises UserError when it is damaged."""
    return _json(path, path.read_bytes)


def read_gzip_json(path: pathlib.Path) -> Any:
    """Returns what a compressed JSON file holds; raises UserError when it is damaged."""
    return _json(path, lambda: _unpacked(path))


def _unpacked(path: pathlib.Path) -> bytes:
    with gzip.open(path) as stream:
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes when unpacked")
    return content


def _json(path: pathlib.Path, content: Callable[[], bytes]) -> Any:
    try:
        return json.loads(content())
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise damaged(str(path), str(error), "a JSON file") from None


def listed(value: Any, key: str, where: str) -> list[Any]:
    """Returns the list under a key of an object; raises UserError when there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise damaged(where, f"no list called {key!r}", f"an object with a list {key!r}")
    return found


def text(value: Any, key: str, where: str) -> str:
    """Returns the text under a key of an object; raises UserError when there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise damaged(where, f"no text called {key!r}", f"an object with a text {key!r}")
    return found


def damaged(where: str, found: str, expected: str) -> UserError:
    """Returns the error for a file that is there and cannot be used."""
    return UserError(
        f"a file of a held-out set cannot be read: {found}",
        where=where,
        expected=expected,
        fix="fetch the file again",
    )
