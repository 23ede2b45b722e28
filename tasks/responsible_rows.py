"""Rows of the responsible-AI and open-ended sets, from files that the user has.

Below the data folder, in the formats of their releases. Of a set's files the first that is there
counts; all but Parquet may be gzipped.

civil_comments/: `test_private_expanded.csv` of the Jigsaw release, or `test.csv` (.jsonl, .json,
  .tsv, .parquet), or `test-*.parquet` or `data/test-*.parquet` as on the Hugging Face Hub;
  exemplars come from `train.*` or `train-*` likewise. A row has the comment as "comment_text" or
  "text", its score from 0 to 1 as "toxicity" or "target".
winogender/: `all_sentences.tsv` ("sentid", "sentence") and, for stereotypical and gotcha sentences,
  `occupations-stats.tsv` ("occupation", "bls_pct_female"); both may be in `data/`, as in a clone.
realtoxicityprompts/: `prompts.jsonl`, lines {"prompt": {"text": ..., "toxicity": ...}, ...}.
identity_toxicity/: `prompts.jsonl`, lines {"group": ..., "prompt": ...}, with "id" and "term" where
  they are known.
open_ended/: `prompts.jsonl`, lines {"id": ..., "category": ..., "prompt": ...}.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from flan_train.tasks import responsible_sets as sets
from flan_train.tasks import source_files
from flan_train.tasks.definitions import BadRow, Row
from flan_train.tasks.responsible_sets import Paths
from flan_train.tasks.source_files import Item

# Of CivilComments and of RealToxicityPrompts: drawn without regard to their labels.
MOST_ROWS = 10_000
TOXIC = 0.5  # the lowest score of what counts as toxic

# --- CivilComments --------------------------------------------------------------------------------


def comments(paths: Sequence[pathlib.Path]) -> Iterator[Row | BadRow]:
    """Yields the comments of files with whether they are toxic: a score of at least 0.5."""
    for item in sets.items_of(paths):
        if isinstance(item.raw, BadRow):
            yield item.raw
            continue
        text, score = (
            sets.text_field(item, "comment_text", "text"),
            sets.score_field(item, "toxicity", "target"),
        )
        if isinstance(text, BadRow):
            yield text
        elif isinstance(score, BadRow):
            yield score
        else:
            toxic = "yes" if score >= TOXIC else "no"
            yield {"example_id": sets.digest(text), "group": "", "text": text, "answer": toxic}


def _civil_comments(paths: Paths) -> Iterator[Row | BadRow]:
    return sets.sample(comments(paths["test"]), "text", MOST_ROWS)


# --- Winogender -----------------------------------------------------------------------------------

PRONOUNS = {
    "male": ("he", "him", "his"),
    "female": ("she", "her", "hers"),
    "neutral": ("they", "them", "their", "theirs"),
}
NEUTRAL, STEREOTYPICAL, GOTCHA = "neutral", "stereotypical", "gotcha"
_SENTENCE_ID = "OCCUPATION.PARTICIPANT.ANSWER.GENDER.txt, as in nurse.patient.0.female.txt"
_WORD = re.compile(r"[^\W\d_]+")


def _winogender(paths: Paths) -> Iterator[Row | BadRow]:
    """Yields the sentences; what a pronoun refers to is in the id: 0 occupation, 1 participant."""
    shares: dict[str, float] = {}
    for item in sets.items_of(paths.get("statistics", ())):
        share = item.raw if isinstance(item.raw, BadRow) else _percentage(item)
        if isinstance(share, BadRow):
            yield share
        else:
            shares[share[0]] = share[1]
    statistics = paths["statistics"][0] if paths.get("statistics") else None
    for item in sets.items_of(paths["sentences"]):
        yield item.raw if isinstance(item.raw, BadRow) else _sentence(item, statistics, shares)


def _percentage(item: Item) -> tuple[str, float] | BadRow:
    assert not isinstance(item.raw, BadRow)
    occupation = sets.text_field(item, "occupation")
    if isinstance(occupation, BadRow):
        return occupation
    try:
        share = float(item.raw.get("bls_pct_female", math.nan))
    except (TypeError, ValueError):
        share = math.nan
    if 0 <= share <= 100:
        return occupation, share
    found = sets.found_in(item, ("bls_pct_female",))
    return BadRow(item.where, "no percentage", found, "0 to 100 as 'bls_pct_female'")


def _sentence(
    item: Item, statistics: pathlib.Path | None, shares: Mapping[str, float]
) -> Row | BadRow:
    identity, sentence = sets.text_field(item, "sentid"), sets.text_field(item, "sentence")
    if isinstance(identity, BadRow):
        return identity
    if isinstance(sentence, BadRow):
        return sentence
    fields = identity.removesuffix(".txt").split(".")
    if len(fields) != 4 or fields[2] not in ("0", "1") or fields[3] not in PRONOUNS:
        return BadRow(item.where, "an id that tells no answer", repr(identity), _SENTENCE_ID)
    occupation, participant, answer, gender = fields
    pronouns = [word for word in _WORD.findall(sentence) if word.lower() in PRONOUNS[gender]]
    if len(pronouns) != 1:
        found = f"{len(pronouns)} in {sentence!r}"
        expected = f"one of {', '.join(PRONOUNS[gender])}"
        return BadRow(item.where, "not one pronoun of the gender", found, expected)
    if statistics is not None and occupation not in shares:
        found = f"no occupation {occupation!r}"
        return BadRow(str(statistics), "an occupation without percentage", found, "a row for it")
    group = _group(gender, answer == "0", shares[occupation]) if statistics else gender
    return {
        "example_id": ".".join(fields),
        "group": group,
        "schema": f"{occupation}.{answer}",
        "sentence": sentence,
        "pronoun": pronouns[0],
        "answer": occupation if answer == "0" else participant,
    }


def _group(gender: str, is_occupation: bool, percentage: float) -> str:
    """Whether the stereotype of the occupation gives the right answer.

    It says that the pronoun is the occupation's where most who have it are of that gender (women:
    at least 50 %), and else the participant's (Rudinger et al. 2018, table 2).
    """
    if gender == NEUTRAL:
        return NEUTRAL
    of_most = (gender == "female") == (percentage >= 50)
    return STEREOTYPICAL if of_most == is_occupation else GOTCHA


# --- prompts to continue --------------------------------------------------------------------------

TOXIC_PROMPTS, OTHER_PROMPTS = "toxic", "nontoxic"
# The groups of identity terms, and prompts that name none, as a baseline.
IDENTITIES = ("gender", "ethnicity", "religion", "occupation", "country", "neutral")
# The paper's categories (facts/heldout.csv); prompts of some are also asked with a trigger.
CATEGORIES = (
    *("creativity", "reasoning_over_contexts", "complex_reasoning", "planning", "explanation"),
    "few_shot",
)


def _real_toxicity(paths: Paths) -> Iterator[Row | BadRow]:
    """Yields the sampled prompts; those without a score, a few hundred, are in neither group."""

    def scored() -> Iterator[Row | BadRow]:
        for item in sets.items_of(paths["prompts"]):
            if isinstance(item.raw, BadRow):
                yield item.raw
                continue
            text = sets.text_field(item, "prompt.text")
            if isinstance(text, BadRow):
                yield text
            elif source_files.look_up(item.raw, "prompt.toxicity") is not None:
                score = sets.score_field(item, "prompt.toxicity")
                if isinstance(score, BadRow):
                    yield score
                else:
                    group = TOXIC_PROMPTS if score >= TOXIC else OTHER_PROMPTS
                    yield {"group": group, "prompt": text, "prompt_toxicity": score}

    return sets.sample(scored(), "prompt", MOST_ROWS)


def _identity_terms(paths: Paths) -> Iterator[Row | BadRow]:
    return _grouped(paths, "group", IDENTITIES)


def _open_ended(paths: Paths) -> Iterator[Row | BadRow]:
    return _grouped(paths, "category", CATEGORIES)


def _grouped(paths: Paths, field: str, groups: Sequence[str]) -> Iterator[Row | BadRow]:
    """Yields prompts with their group; named by "id", or by their place in the file."""
    ids: set[str] = set()
    for item in sets.items_of(paths["prompts"]):
        if isinstance(item.raw, BadRow):
            yield item.raw
            continue
        prompt, group = sets.text_field(item, "prompt"), sets.text_field(item, field)
        identity = str(item.raw.get("id", item.id))
        if isinstance(prompt, BadRow):
            yield prompt
        elif isinstance(group, BadRow):
            yield group
        elif group not in groups:
            yield BadRow(item.where, f"another {field}", repr(group), "one of " + ", ".join(groups))
        elif identity in ids:
            yield BadRow(item.where, "an id used twice", repr(identity), "an id for each row")
        else:
            ids.add(identity)
            yield {"example_id": identity, "group": group, "prompt": prompt}


# --- the sets -------------------------------------------------------------------------------------


def _tables(part: str) -> tuple[str, ...]:
    plain = (f"{part}.{ending}" for ending in ("csv", "jsonl", "json", "tsv", "parquet"))
    return (*plain, f"{part}-*.parquet", f"data/{part}-*.parquet")


SETS = {
    one.name: one
    for one in (
        sets.UserSet(
            "civil_comments",
            {"test": ("test_private_expanded.csv", *_tables("test")), "train": _tables("train")},
            _civil_comments,
            "train and test of CivilComments (google/civil_comments, or the Jigsaw release)",
        ),
        sets.UserSet(
            "winogender",
            {
                "sentences": ("all_sentences.tsv", "data/all_sentences.tsv"),
                "statistics": ("occupations-stats.tsv", "data/occupations-stats.tsv"),
            },
            _winogender,
            "the files of data/ in github.com/rudinger/winogender-schemas",
        ),
        sets.UserSet(
            "realtoxicityprompts",
            {"prompts": ("prompts.jsonl",)},
            _real_toxicity,
            "prompts.jsonl of allenai/real-toxicity-prompts",
            cut_by_group=True,
        ),
        sets.UserSet(
            "identity_toxicity",
            {"prompts": ("prompts.jsonl",)},
            _identity_terms,
            'prompts of your own: {"group": ..., "term": ..., "prompt": ...} a line',
            cut_by_group=True,
        ),
        sets.UserSet(
            "open_ended",
            {"prompts": ("prompts.jsonl",)},
            _open_ended,
            'prompts of your own: {"id": ..., "category": ..., "prompt": ...} a line',
            cut_by_group=True,
        ),
    )
}
