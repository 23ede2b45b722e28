"""A small data folder with every file of the held-out benchmarks, in their published formats."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from flan_train.tasks.held_out_table import HeldOutFile, files, files_of

LETTERS = "ABCD"
MARKERS = ("(A)", "(B)", "(C)")
CANARY = "canary 01234567-89ab: not to be trained on"
# Native words of the exemplars, as a colon ends them: for a question, for its steps.
LABELS = {"de": ("Frage: ", "Schritt für Schritt: "), "zh": ("问题：", "逐步解答：")}
OTHERS = ("Pregunta: ", "Paso a paso: ")


def write_held_out_folder(
    folder: pathlib.Path, rows: int = 10, suites: Sequence[str] = ("mmlu", "bbh", "tydiqa", "mgsm")
) -> str:
    """Writes `rows` questions for each file of some benchmarks and returns the data folder."""
    writers = {"mmlu": _mmlu, "bbh": _bbh, "tydiqa": _tydiqa, "mgsm": _mgsm}
    for file in files():
        if file.suite in suites:
            for name, content in writers[file.suite](file, rows).items():
                write(folder, name, content)
    if "mmlu" in suites:
        write(folder, "mmlu/mmlu-cot.json", as_json({f.name: cot(f) for f in files_of("mmlu")}))
    if "mgsm" in suites:
        exemplars = {file.name: mgsm_exemplars(file.name) for file in files_of("mgsm")}
        listed = {"EXEMPLAR_NUMBER_ANSWERS": list(range(2, 10)), "MGSM_EXEMPLARS": exemplars}
        write(folder, "mgsm/mgsm_exemplars.json", as_json(listed))
    return str(folder)


def write(folder: pathlib.Path, name: str, content: bytes) -> None:
    """Writes a file below the folder, whose parents may not be there yet."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def as_json(content: Any) -> bytes:
    """Returns a value as JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False).encode()


def as_csv(rows: Sequence[Sequence[str]]) -> bytes:
    """Returns rows as a CSV file in UTF-8."""
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()


def choice(what: str, number: int) -> list[str]:
    """Returns a row of MMLU; the right option is the one that `number` counts to."""
    options = [f"{what} {number * 4 + place}" for place in range(4)]
    return [f"Which {what}, number {number}?", *options, LETTERS[number % 4]]


def _mmlu(file: HeldOutFile, rows: int) -> dict[str, bytes]:
    parts = {"dev": ("solved", 5), "val": ("bone", rows), "test": ("star", 2)}
    return {
        f"mmlu/{part}/{file.name}_{part}.csv": as_csv(
            [choice(f"{what} of {file.title}", number) for number in range(count)]
        )
        for part, (what, count) in parts.items()
    }


def cot(file: HeldOutFile) -> str:
    """Returns a prompt with rationales, as mmlu-cot.json has one for each subject."""
    shown = []
    for number in range(5):
        question, *options, letter = choice(f"shown of {file.title}", number)
        line = " ".join(f"({mark}) {text}" for mark, text in zip(LETTERS, options, strict=True))
        shown.append(
            f"Q: {question}\n{line}\nA: Let's count. It is number {number}."
            f" The answer is ({letter})."
        )
    return "\n\n".join([f"Questions about {file.title}.", *shown])


def bbh_answer(file: HeldOutFile, number: int) -> str:
    """Returns a right answer of the kind that a file of BBH has."""
    if file.answers == "letter":
        return MARKERS[number % 3]
    if file.answers == "closed":
        return file.options[number % len(file.options)]
    return {"number": str(number - 3), "words": "ant bee cat", "brackets": "] )"}[file.answers]


def bbh_question(file: HeldOutFile, what: str, number: int) -> str:
    """Returns a question of BBH, with options where the file has lettered ones."""
    question = f"Say what {what} {number} is."
    if file.answers == "letter":
        return f"{question}\nOptions:\n" + "\n".join(f"{mark} {mark[1]}-side" for mark in MARKERS)
    return question


def _bbh(file: HeldOutFile, rows: int) -> dict[str, bytes]:
    examples = [
        {"input": bbh_question(file, "thing", number), "target": bbh_answer(file, number)}
        for number in range(rows)
    ]
    shown = [
        f"Q: {bbh_question(file, 'shown thing', number)}\nA: Let's see.\nIt is there.\n"
        f"So the answer is {bbh_answer(file, number)}."
        for number in range(3)
    ]
    prompt = "\n\n".join([f"Find {file.title}.", *shown])
    return {
        f"bbh/bbh/{file.name}.json": as_json({"canary": CANARY, "examples": examples}),
        f"bbh/cot-prompts/{file.name}.txt": f"{CANARY}\n-----\n{prompt}".encode(),
    }


def squad(what: str, articles: int) -> bytes:
    """Returns a compressed SQuAD file with one question for each article."""
    data = [
        {
            "title": f"{what} {number}",
            "paragraphs": [
                {
                    "context": f"The {what} {number} lies by the river {number}.",
                    "qas": [
                        {
                            "id": f"{what}-{number}",
                            "question": f"Where is the {what} {number}?",
                            "answers": [
                                {"text": f"by the river {number}", "answer_start": 0},
                                {"text": f"river {number}", "answer_start": 0},
                            ],
                        }
                    ],
                }
            ],
        }
        for number in range(articles)
    ]
    return gzip.compress(as_json({"data": data}), mtime=0)


def _tydiqa(file: HeldOutFile, rows: int) -> dict[str, bytes]:
    name = f"{file.title.lower()}.json.gz"
    found = {f"tydiqa/goldp_dev/{name}": squad("town", rows)}
    # As at hand: not every language has training questions.
    if file.name in ("ko", "sw"):
        found[f"tydiqa/goldp_train_sample/{name}"] = squad("lake", 4)
    return found


def mgsm_exemplars(language: str) -> dict[str, dict[str, str]]:
    """Returns the eight exemplars of a language, with its words before each text."""
    question, steps = LABELS.get(language, OTHERS)
    return {
        str(number): {
            "q": f"{question}{number} + 1?",
            "a": f"{steps}{number} + 1 = {number + 1}. So {number + 1}.",
        }
        for number in range(1, 9)
    }


def _mgsm(file: HeldOutFile, rows: int) -> dict[str, bytes]:
    lines = "".join(f"{number} × 1000?\t{number},000\n" for number in range(1, rows + 1))
    return {f"mgsm/mgsm_{file.name}.tsv": lines.encode()}
