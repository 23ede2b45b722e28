"""A small data folder of the responsible-AI and open-ended sets, in their releases' formats."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SCORES = (0.0, 0.9, 0.2, 0.5, 0.49, 0.1)
# Occupation, participant, sentence for the answer 0, sentence for 1, share of women in percent.
SCHEMAS = (
    ("gardener", "guest", "showed {p} that {n} had pruned the hedge", "{n} was lost", 10.5),
    ("florist", "buyer", "told {p} that {n} would tie the bouquet", "{n} must pay first", 80.0),
    ("juggler", "watcher", "asked {p} to hold {s} last ball", "{s} seat was wet", 50.0),
    ("ferryman", "rower", "warned {p} that {n} could not turn", "{n} should turn", 3.0),
    ("weaver", "pupil", "lent {p} the loom that {n} had built", "{n} had wished for", 61.0),
    ("cobbler", "hiker", "met {p} after {n} closed the shop", "{n} lost a heel", 22.0),
)
GENDERS = {"male": ("he", "his"), "female": ("she", "her"), "neutral": ("they", "their")}
GROUPS = ("gender", "ethnicity", "religion", "occupation", "country", "neutral")
CATEGORIES = (
    *("creativity", "reasoning_over_contexts", "complex_reasoning", "planning", "explanation"),
    "few_shot",
)


def write_lines(path: pathlib.Path, rows: Iterable[Any]) -> None:
    """Writes JSON Lines, with the folders above them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_tabs(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes tab-separated lines below a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, row)) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_commas(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes CSV with a header, quoted where it has to be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def comments(part: str, count: int) -> list[dict[str, Any]]:
    """Rows of CivilComments as the Hugging Face Hub has them; every third is toxic."""
    return [
        {
            "text": f'Comment {number} of {part},\n"quoted" — and on.',
            "toxicity": SCORES[number % len(SCORES)],
            "severe_toxicity": 0.0,
        }
        for number in range(count)
    ]


def sentences() -> list[tuple[str, str]]:
    """(sentid, sentence): every schema with both answers and both kinds of participant."""
    found = []
    for occupation, participant, of_occupation, ending, _ in SCHEMAS:
        of_participant = of_occupation.split("{n}")[0].split("{s}")[0] + ending
        for answer, text in enumerate((of_occupation, of_participant)):
            for other in (participant, "someone"):
                for gender, (nominative, possessive) in GENDERS.items():
                    shown = "someone" if other == "someone" else f"the {other}"
                    filled = text.format(p=shown, n=nominative, s=possessive)
                    identity = f"{occupation}.{other}.{answer}.{gender}.txt"
                    found.append((identity, f"The {occupation} {filled}."))
    return found


def percentages() -> list[tuple[str, float, float, int]]:
    """Rows of occupations-stats.tsv."""
    return [(schema[0], 1.0, schema[4], 2015) for schema in SCHEMAS]


def toxicity_prompts(count: int) -> list[dict[str, Any]]:
    """Rows of prompts.jsonl; every seventh has no score."""
    return [
        {
            "filename": "0001.txt",
            "challenging": False,
            "prompt": {
                "text": f"Then number {number} said",
                "toxicity": None if number % 7 == 6 else SCORES[number % len(SCORES)],
            },
            "continuation": {"text": " nothing.", "toxicity": 0.1},
        }
        for number in range(count)
    ]


def write(folder: pathlib.Path, rows: int = 40) -> str:
    """Writes all sets and returns the folder's path."""
    for part in ("train", "test"):
        write_lines(folder / "civil_comments" / f"{part}.jsonl", comments(part, rows))
    header = ("sentid", "sentence")
    write_tabs(folder / "winogender" / "all_sentences.tsv", header, sentences())
    header = ("occupation", "bergsma_pct_female", "bls_pct_female", "bls_year")
    write_tabs(folder / "winogender" / "occupations-stats.tsv", header, percentages())
    write_lines(folder / "realtoxicityprompts" / "prompts.jsonl", toxicity_prompts(rows))
    identities = [
        {"group": group, "term": f"term {number}", "prompt": f"The {group} person {number} was"}
        for group in GROUPS
        for number in range(5)
    ]
    write_lines(folder / "identity_toxicity" / "prompts.jsonl", identities)
    asked = [
        {"id": f"{category}-{number}", "category": category, "prompt": f"{category}? {number}"}
        for category in CATEGORIES
        for number in range(5)
    ]
    write_lines(folder / "open_ended" / "prompts.jsonl", asked)
    return str(folder)
