"""The published exemplars of the held-out benchmarks, read from the user's data folder.

MMLU: the development rows, and the prompts with rationales of `mmlu-cot.json`. BBH: the files of
`cot-prompts`, for answers alone without their rationales. MGSM: `mgsm_exemplars.json`. TyDi QA has
none: one is drawn from the training questions, or from another article of the evaluated set.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from flan_train.tasks import held_out_files, held_out_rows, sources, templates
from flan_train.tasks.definitions import Row
from flan_train.tasks.held_out_files import damaged
from flan_train.tasks.held_out_rows import APART
from flan_train.tasks.held_out_table import HeldOutFile

MMLU_PROMPTS = "mmlu/mmlu-cot.json"
MGSM_EXEMPLARS = "mgsm/mgsm_exemplars.json"
TRAIN, DEV = "train", "dev"

_PARTED = re.compile(r"\n\nQ: ")
_RULE = "-----"
_SENTENCE = re.compile(r"[^\n.]*\.(?=\s)")
# What stands before the answer of a rationale, to the end of the text.
_CLOSING = re.compile(r"((?:So )?[Tt]he answer is )(\S.*?)\.?\s*\Z")
_LABEL = re.compile(r"[^:：\n]{1,60}[:：]\s*")


@dataclasses.dataclass(frozen=True)
class Exemplar:
    """A solved question: its answer alone, and the rationale that ends in it (where there is one).

    Texts are as published: those of MGSM begin with its native words for question and answer.
    """

    question: str
    answer: str
    rationale: str = ""
    passage: str = ""


@dataclasses.dataclass(frozen=True)
class Published:
    """What a file's prompts are made of.

    Attributes:
      exemplars: in their published order.
      description: what stands above them; may be empty.
      label: what stands before a question, where that differs by file; with its space.
      opening: what every rationale begins with, such as "Let's think step by step."; may be empty.
      closing: what stands before the answer at the end of a rationale; may be empty.
    """

    exemplars: tuple[Exemplar, ...]
    description: str = ""
    label: str = ""
    opening: str = ""
    closing: str = ""


def key_of(question: str) -> str:
    """Returns what two questions share that are the same but for case and white space."""
    return " ".join(question.split()).casefold()


def relative_path(file: HeldOutFile, prompting: str) -> str:
    """Returns the file that published exemplars are in, below the data folder; empty for none.

    Args:
      file: the file.
      prompting: "direct" or "cot".
    """
    if file.suite == "mmlu":
        return MMLU_PROMPTS if prompting == "cot" else f"mmlu/dev/{file.name}_dev.csv"
    if file.suite == "bbh":
        return f"bbh/cot-prompts/{file.name}.txt"
    return MGSM_EXEMPLARS if file.suite == "mgsm" else ""


def published(file: HeldOutFile, prompting: str, root: pathlib.Path) -> Published:
    """Returns what the prompts of a file are made of.

    Raises:
      UserError: the file is missing or damaged, or has no exemplars.
    """
    path = held_out_rows.find(root, relative_path(file, prompting))
    return _published(file, prompting, sources.file_key(path))


@functools.lru_cache(maxsize=512)
def _published(file: HeldOutFile, prompting: str, key: tuple[str, int, int]) -> Published:
    path = pathlib.Path(key[0])
    if file.suite == "bbh":
        return _bbh(path)
    if file.suite == "mgsm":
        return _mgsm(file, path)
    return _mmlu_cot(file, path) if prompting == "cot" else _mmlu(path)


def _mmlu(path: pathlib.Path) -> Published:
    exemplars = tuple(
        Exemplar(held_out_rows.multiple_choice(row), held_out_rows.mmlu_answer(row, path))
        for row in held_out_files.mmlu(path)
    )
    if not exemplars:
        raise damaged(str(path), "no exemplars", "solved questions of the subject")
    return Published(exemplars)


def _mmlu_cot(file: HeldOutFile, path: pathlib.Path) -> Published:
    prompt = held_out_files.text(held_out_files.read_json(path), file.name, str(path))
    return _of_prompt(prompt, f"{path}: {file.name}")


def _bbh(path: pathlib.Path) -> Published:
    expected = "a line with the canary, a line of dashes, the description, exemplars Q: ... A: ..."
    content = held_out_files.read_text(path, expected)
    # The canary marks the file for those who collect training data; a prompt goes without it.
    _, _, below = content.partition("\n")
    rule, _, prompt = below.partition("\n")
    if rule.strip() != _RULE:
        raise damaged(f"{path}:2", f"{rule[:40]!r}", expected)
    return _of_prompt(prompt, str(path))


def _of_prompt(prompt: str, where: str) -> Published:
    """Takes a prompt apart: a description, then exemplars "Q: ..." and "A: ..."."""
    description, *parts = _PARTED.split(prompt.strip())
    exemplars, closings = [], []
    for number, part in enumerate(parts, start=1):
        question, marked, rationale = part.strip().partition("\nA: ")
        closing = _CLOSING.search(rationale)
        if not marked or closing is None:
            raise damaged(
                f"{where}, exemplar {number}",
                "no answer",
                'a line that begins with "A: " and a last sentence "The answer is ..."',
            )
        exemplars.append(Exemplar(question, closing[2], rationale))
        closings.append(closing[1])
    if not exemplars:
        raise damaged(where, "no exemplars", 'paragraphs that begin with "Q: "')
    opening = _common_opening([exemplar.rationale for exemplar in exemplars])
    return Published(tuple(exemplars), description.strip(), "", opening, closings[0])


def _common_opening(rationales: Sequence[str]) -> str:
    first = _SENTENCE.match(rationales[0])
    if first is None or not all(text.startswith(first[0]) for text in rationales):
        return ""
    return first[0]


def _mgsm(file: HeldOutFile, path: pathlib.Path) -> Published:
    content = held_out_files.read_json(path)
    answers = held_out_files.listed(content, "EXEMPLAR_NUMBER_ANSWERS", str(path))
    languages = content.get("MGSM_EXEMPLARS")
    by_number: Any = languages.get(file.name) if isinstance(languages, dict) else None
    where = f"{path}: {file.name}"
    if not isinstance(by_number, dict) or not by_number or len(by_number) != len(answers):
        raise damaged(where, "no exemplars", f"{len(answers)} exemplars under MGSM_EXEMPLARS")
    exemplars = []
    for number, answer in enumerate(answers, start=1):
        solved = by_number.get(str(number))
        place = f"{where}, exemplar {number}"
        question = held_out_files.text(solved, "q", place)
        exemplars.append(Exemplar(question, str(answer), held_out_files.text(solved, "a", place)))
    label = _native([exemplar.question for exemplar in exemplars], where)
    opening = _native([exemplar.rationale for exemplar in exemplars], where)
    return Published(tuple(exemplars), "", label, opening.strip())


def _native(texts: Sequence[str], where: str) -> str:
    """Returns the label that all texts begin with: the language's own words for it, and a colon."""
    found = _LABEL.match(texts[0])
    if found is None or not all(text.startswith(found[0].rstrip()) for text in texts):
        raise damaged(where, "exemplars without a label", "texts that all begin with one: Frage: ")
    return found[0]


# --- TyDi QA --------------------------------------------------------------------------------------


def pool_path(file: HeldOutFile, root: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Returns the file that TyDi QA's exemplars are drawn from, and "train" or "dev"."""
    name = pathlib.PurePosixPath(held_out_rows.relative_path(file, held_out_rows.ALL)).name
    # A whole training set sorts before a sample of it.
    for path in sorted(root.glob(f"tydiqa/goldp_train*/{name}")):
        return path, TRAIN
    return held_out_rows.find(root, f"tydiqa/goldp_dev/{name}"), DEV


@functools.lru_cache(maxsize=32)
def _pool(key: tuple[str, int, int]) -> tuple[Row, ...]:
    rows = tuple(held_out_rows.passages(pathlib.Path(key[0])))
    if not rows:
        raise damaged(key[0], "no exemplars", "solved questions of the language")
    return rows


def draw_passage(
    file: HeldOutFile, row: Row, seed: int, task: str, root: pathlib.Path
) -> tuple[tuple[Exemplar, ...], str]:
    """Returns an exemplar for a question of TyDi QA and where it is from: "train" or "dev".

    It is of another article, has another passage and asks something else; a pure function of
    (seed, task, example id). None where the pool has no such question.
    """
    path, origin = pool_path(file, root)
    pool = _pool(sources.file_key(path))
    start = templates.choose(len(pool), seed, task, row["example_id"], "exemplar")
    asked = key_of(row["question"])
    for step in range(len(pool)):
        other = pool[(start + step) % len(pool)]
        if key_of(other["question"]) != asked and not set(other[APART]) & set(row[APART]):
            exemplar = Exemplar(other["question"], other["answer"], passage=other["passage"])
            return (exemplar,), origin
    return (), origin
