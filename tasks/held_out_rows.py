"""The rows of a held-out file: what is asked, what may be answered, what is right."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import re
from collections.abc import Iterator, Sequence

from flan_train.errors import UserError
from flan_train.tasks import held_out_files, parts, sources
from flan_train.tasks.definitions import Row
from flan_train.tasks.held_out_files import damaged
from flan_train.tasks.held_out_table import HeldOutFile

# Counted up whenever reading changes what rows a file gives.
READER_VERSION = 2

ALL, VALIDATION, TEST, PUBLISHED_TEST = "all", "validation", "test", "published_test"
# A key of a row: texts that no exemplar of it may share. A tuple, for the texts of a row are asked.
APART = "apart"

_LETTERS = ("(A)", "(B)", "(C)", "(D)")
_MARKER = re.compile(r"^\([A-Z]\)", re.MULTILINE)
_OPTIONS_LINE = "\nOptions:\n"


def splits(file: HeldOutFile) -> tuple[str, ...]:
    """Returns the splits of a file: the published set, our cut of it, MMLU's test set."""
    return (ALL, VALIDATION, TEST) + ((PUBLISHED_TEST,) if file.suite == "mmlu" else ())


def relative_path(file: HeldOutFile, split: str) -> str:
    """Returns where a split's questions are, below the data folder."""
    if file.suite == "mmlu":
        part = "test" if split == PUBLISHED_TEST else "val"
        return f"mmlu/{part}/{file.name}_{part}.csv"
    if file.suite == "bbh":
        return f"bbh/bbh/{file.name}.json"
    if file.suite == "tydiqa":
        return f"tydiqa/goldp_dev/{file.title.lower()}.json.gz"
    return f"mgsm/mgsm_{file.name}.tsv"


def find(root: pathlib.Path, relative: str) -> pathlib.Path:
    """Returns a file of the data folder.

    Raises:
      UserError: it is not there, or may not be looked at.
    """
    path = root / relative
    if sources.is_there(path):
        return path
    suite = relative.split("/")[0]
    # A folder that is missing as a whole is said once, not for each of its files.
    gone = path if sources.is_there(root / suite) else root / suite
    raise UserError(
        f"{gone} is missing",
        where=relative,
        expected=f"the held-out set {suite}, laid out as in docs/evaluation.md",
        fix=f"put it there, or run flan-train download --only {suite}",
    )


def rows(file: HeldOutFile, split: str, root: pathlib.Path) -> tuple[Row, ...]:
    """Returns the rows of a split in the order of the file.

    Their keys: "example_id" ("bbh/bbh/snarks.json:12"), "question" (as a prompt shows it, with its
    options), "answer", "references" (all that is right), "options" (what an output may be; empty
    where that is open), "choices" (the same with what each marker stands for, "(A) red"), "apart"
    and, for TyDi QA, "passage".

    Args:
      file: the file.
      split: one of `splits`.
      root: the data folder.

    Raises:
      UserError: the file is missing or damaged, or an answer is none of the options.
    """
    path = find(root, relative_path(file, split))
    whole, chosen = _read(file, relative_path(file, split), sources.file_key(path))
    if split == VALIDATION:
        return tuple(row for row in whole if row["example_id"] in chosen)
    if split == TEST:
        return tuple(row for row in whole if row["example_id"] not in chosen)
    return whole


def fingerprint(file: HeldOutFile, split: str, root: pathlib.Path) -> str:
    """Returns a hex sha256 that changes whenever the rows of a split could."""
    path = find(root, relative_path(file, split))
    text = f"{READER_VERSION}\x00{relative_path(file, split)}\x00{sources.content_hash(path)}"
    return hashlib.sha256(f"{text}\x00{split}".encode()).hexdigest()


@functools.lru_cache(maxsize=512)
def _read(
    file: HeldOutFile, relative: str, key: tuple[str, int, int]
) -> tuple[tuple[Row, ...], frozenset[str]]:
    """Returns all rows of a file and the ids of those that are in the validation part."""
    found = tuple(_READERS[file.suite](file, pathlib.Path(key[0]), relative))
    if not found:
        raise damaged(key[0], "nothing in it", "at least one question")
    cut_by = {_cut_key(file, row["example_id"]): row["example_id"] for row in found}
    if len(cut_by) != len(found):
        raise damaged(key[0], "an id that two questions have", "an id for each question")
    chosen = parts.validation_ids(cut_by)
    return found, frozenset(cut_by[cut_key] for cut_key in chosen)


def _cut_key(file: HeldOutFile, example_id: str) -> str:
    # MGSM asks the same in every language: a problem that chooses a checkpoint in one language
    # is not reported on in another.
    return f"mgsm:{example_id.rpartition(':')[2]}" if file.suite == "mgsm" else example_id


# --- the benchmarks -------------------------------------------------------------------------------


def multiple_choice(row: held_out_files.MultipleChoice) -> str:
    """Returns a question of MMLU with its options in one line, as the published prompts have it."""
    options = " ".join(
        f"{letter} {text.strip()}" for letter, text in zip(_LETTERS, row.options, strict=True)
    )
    return f"{row.question.strip()}\n{options}"


def _mmlu(file: HeldOutFile, path: pathlib.Path, name: str) -> Iterator[Row]:
    for row in held_out_files.mmlu(path):
        answer = mmlu_answer(row, path)
        found = _row(f"{name}:{row.number}", multiple_choice(row), answer, _LETTERS)
        yield {**found, "choices": _choices(_LETTERS, row.options)}


def mmlu_answer(row: held_out_files.MultipleChoice, path: pathlib.Path) -> str:
    """Returns the right option's marker, such as "(C)"; raises UserError when there is none."""
    answer = f"({row.answer.strip()})"
    if answer not in _LETTERS:
        raise damaged(f"{path}:{row.number}", f"the answer {row.answer!r}", "A, B, C or D")
    return answer


def _bbh(file: HeldOutFile, path: pathlib.Path, name: str) -> Iterator[Row]:
    for number, (where, entry) in enumerate(held_out_files.bbh(path), start=1):
        question = entry["input"].strip()
        answer = held_out_files.text(entry, "target", where).strip()
        options = choices = file.options
        if file.answers == "letter":
            listed = question.rpartition(_OPTIONS_LINE)[2]
            found = _MARKER.findall(listed)
            if not found:
                raise damaged(where, "no options", "options (A), (B), ... below a line Options:")
            # Three published rows have garbled options and a text in place of the marker.
            options = tuple(dict.fromkeys([*found, answer]))
            choices = _choices(found, _MARKER.split(listed)[1:]) + options[len(set(found)) :]
        if not answer or (options and answer not in options):
            raise damaged(where, f"the target {answer!r}", " or ".join(options) or "an answer")
        yield {**_row(f"{name}:{number}", question, answer, options), "choices": choices}


def _choices(markers: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{marker} {text.strip()}".rstrip() for marker, text in zip(markers, texts, strict=True)
    )


def _tydiqa(file: HeldOutFile, path: pathlib.Path, name: str) -> Iterator[Row]:
    for row in passages(path):
        yield {**row, "example_id": f"{name}:{row['example_id']}"}


def passages(path: pathlib.Path) -> Iterator[Row]:
    """Yields the questions of a file of TyDi QA; the shortest right answer is the target."""
    for found in held_out_files.tydiqa(path):
        right = found.answers(str(path))
        passage = found.passage.strip()
        row = _row(found.identity, found.question.strip(), min(right, key=len), references=right)
        yield {**row, "passage": passage, APART: (found.title, passage)}


def _mgsm(file: HeldOutFile, path: pathlib.Path, name: str) -> Iterator[Row]:
    for number, question, answer in held_out_files.mgsm(path):
        if not re.fullmatch(r"-?\d[\d,]*(\.\d+)?", answer):
            raise damaged(f"{path}:{number}", f"the answer {answer!r}", "a number")
        yield _row(f"{name}:{number}", question, answer.replace(",", ""))


def _row(
    example_id: str,
    question: str,
    answer: str,
    options: tuple[str, ...] = (),
    references: tuple[str, ...] = (),
) -> Row:
    return {
        "example_id": example_id,
        "question": question,
        "answer": answer,
        "references": references,
        "options": options,
        "choices": options,
        APART: (),
    }


_READERS = {"mmlu": _mmlu, "bbh": _bbh, "tydiqa": _tydiqa, "mgsm": _mgsm}
