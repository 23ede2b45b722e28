"""The wordings of the nine chain-of-thought datasets keep the rules the renderer relies on."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

PATH = pathlib.Path(__file__).resolve().parents[2] / "tasks" / "prompts" / "cot.json"
DATASETS = (
    "aqua",
    "creak",
    "ecqa",
    "esnli",
    "gsm8k",
    "qasc",
    "qed",
    "sensemaking",
    "strategyqa",
)
KEYS = {
    "zs": ("id", "inputs", "targets"),
    "fs": ("id", "instruction", "exemplar", "query", "separator", "targets"),
    "inv": ("id", "inputs", "targets"),
}
PER_FORM = 10
CUES = (
    "The answer is {answer}.",
    "So the answer is {answer}.",
    "Therefore, the answer is {answer}.",
    "The final answer is {answer}.",
    "Answer: {answer}.",
)
SLOTS = {"question", "answer", "rationale"}
# What an inverted template may predict, and from what: always a full partition of the slots.
INVERSIONS = {
    frozenset({"rationale"}),
    frozenset({"question"}),
    frozenset({"question", "answer"}),
    frozenset({"question", "rationale"}),
}
# No piece of T5's vocabulary holds these; braces are legal in a slot only.
UNWANTED = set("{}~<>^\\\t")
WORN_PHRASES = ("step by step", "step-by-step", "let's think")

PROMPTS: dict[str, dict[str, list[dict[str, str]]]] = json.loads(PATH.read_text(encoding="utf-8"))
TEMPLATES = [
    (dataset, form, template)
    for dataset, forms in PROMPTS.items()
    for form, templates in forms.items()
    for template in templates
]


def slots(text: str) -> list[str]:
    """The slots of a wording in order, repeats included."""
    return re.findall(r"\{(\w+)\}", text)


def of_form(*forms: str) -> list[object]:
    return [pytest.param(t, id=t["id"]) for _, form, t in TEMPLATES if form in forms]


def visible(template: dict[str, str]) -> tuple[str, ...]:
    """What a reader sees of a template: everything but the id, runs of white space as one."""
    return tuple(" ".join(text.split()) for key, text in template.items() if key != "id")


def test_ten_templates_for_each_dataset_and_form() -> None:
    assert tuple(PROMPTS) == DATASETS
    counts = {(d, f): len(ts) for d, forms in PROMPTS.items() for f, ts in forms.items()}
    assert counts == {(d, f): PER_FORM for d in DATASETS for f in KEYS}


def test_file_is_written_in_its_one_layout() -> None:
    text = json.dumps(PROMPTS, indent=1, ensure_ascii=False) + "\n"
    assert PATH.read_text(encoding="utf-8") == text


def test_keys_and_ids() -> None:
    for dataset, forms in PROMPTS.items():
        for form, templates in forms.items():
            assert [tuple(t) for t in templates] == [KEYS[form]] * PER_FORM
            expected = [f"{dataset}_{form}_{i:02d}" for i in range(1, PER_FORM + 1)]
            assert [t["id"] for t in templates] == expected
    assert len({t["id"] for _, _, t in TEMPLATES}) == len(TEMPLATES)


def test_every_prompt_side_is_unique() -> None:
    # Across datasets too: the same ten sentences nine times over would be no variety.
    seen: dict[str, str] = {}
    for _, form, template in TEMPLATES:
        if form == "fs":
            shown = template["instruction"] + " " + template["query"]
        else:
            shown = template["inputs"]
        shown = " ".join(shown.lower().split())
        assert shown not in seen, f"{template['id']} repeats {seen.get(shown)}"
        seen[shown] = template["id"]


def test_no_two_templates_of_a_form_alike() -> None:
    for forms in PROMPTS.values():
        for templates in forms.values():
            assert len({visible(t) for t in templates}) == PER_FORM
        queries = [t["query"] for t in forms["fs"] if not t["instruction"]]
        assert len(set(queries)) == len(queries)


@pytest.mark.parametrize(("dataset", "form"), [(d, f) for d in DATASETS for f in KEYS])
def test_wordings_hold_only_characters_t5_knows(dataset: str, form: str) -> None:
    for template in PROMPTS[dataset][form]:
        for text in template.values():
            bare = re.sub(r"\{(question|answer|rationale)\}", "", text)
            assert not UNWANTED & set(bare), template["id"]
            assert bare.isascii(), template["id"]
            assert set(slots(text)) <= SLOTS, template["id"]


@pytest.mark.parametrize(("dataset", "form"), [(d, f) for d in DATASETS for f in KEYS])
def test_wordings_are_tidy_and_unworn(dataset: str, form: str) -> None:
    for template in PROMPTS[dataset][form]:
        for key, text in template.items():
            lowered = text.lower()
            assert not any(phrase in lowered for phrase in WORN_PHRASES), template["id"]
            if key != "separator":
                assert text == text.strip(), (template["id"], key)
                assert "  " not in text, (template["id"], key)


@pytest.mark.parametrize("template", of_form("zs", "fs"))
def test_question_goes_in_and_rationale_then_cue_come_out(template: dict[str, str]) -> None:
    prompt = template.get("inputs", template.get("query", ""))
    assert slots(prompt) == ["question"]
    targets = template["targets"]
    assert slots(targets) == ["rationale", "answer"]
    rest = targets.split("{rationale}")[1]
    assert rest[0].isspace()
    assert rest.strip() in CUES


@pytest.mark.parametrize("template", of_form("fs"))
def test_exemplar_is_the_query_answered(template: dict[str, str]) -> None:
    exemplar, query, targets = template["exemplar"], template["query"], template["targets"]
    assert exemplar.startswith(query)
    assert exemplar.endswith(targets)
    between = exemplar[len(query) : len(exemplar) - len(targets)]
    assert between
    assert between.isspace()
    assert slots(template["instruction"]) == []
    assert slots(template["separator"]) == []
    separator = template["separator"]
    assert separator.startswith("\n")
    assert separator.endswith("\n")


def test_few_shot_forms_vary_instruction_separator_and_cue() -> None:
    for forms in PROMPTS.values():
        without = sum(not t["instruction"] for t in forms["fs"])
        assert 3 <= without <= 7
        assert len({t["separator"] for t in forms["fs"]}) >= 4
        for form in ("zs", "fs"):
            used = {t["targets"].split("{rationale}")[1].strip() for t in forms[form]}
            assert used == set(CUES)


@pytest.mark.parametrize("template", of_form("inv"))
def test_inversion_splits_the_three_slots(template: dict[str, str]) -> None:
    given, wanted = slots(template["inputs"]), slots(template["targets"])
    assert sorted(given + wanted) == sorted(SLOTS)
    assert frozenset(wanted) in INVERSIONS


def test_every_dataset_has_every_kind_of_inversion() -> None:
    for forms in PROMPTS.values():
        kinds = {frozenset(slots(t["targets"])) for t in forms["inv"]}
        assert kinds == INVERSIONS
