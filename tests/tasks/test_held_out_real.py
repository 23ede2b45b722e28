"""The held-out benchmarks on real data: as many questions as published, and whole prompts."""

from __future__ import annotations

import collections
import pathlib

import pytest

from flan_train import tasks
from flan_train.tasks import answers, held_out
from flan_train.tasks.held_out_table import BENCHMARKS, files, files_of

# Rows of each file whose prompts are looked at.
LOOKED_AT = 25


def at_hand(form: str, suite: str, data_dir: str) -> list[tasks.TaskDefinition]:
    found = [
        tasks.get(held_out.task_name(file, form))
        for file in files_of(suite)
        if form in held_out.forms_of(file)
    ]
    present = [task for task in found if task.available(data_dir) is None]
    if not present:
        pytest.skip(f"{suite} is not in {data_dir}")
    return present


def test_as_many_questions_as_published(flan_data_dir: pathlib.Path) -> None:
    folder = str(flan_data_dir)
    counted: collections.Counter[str] = collections.Counter()
    missing: collections.Counter[str] = collections.Counter()
    for file in files():
        task = tasks.get(held_out.task_name(file, "zs"))
        if task.available(folder):
            missing[file.suite] += file.examples
            continue
        sizes = {split: task.num_examples(split, folder) for split in task.splits[:3]}
        assert sizes["all"] == file.examples
        assert sizes["validation"] == -(-file.examples // 4)
        assert sizes["validation"] + sizes["test"] == sizes["all"]
        counted[file.suite] += sizes["all"]
    published = {"mmlu": 1531, "bbh": 6511, "tydiqa": 4637, "mgsm": 2500}
    assert {suite: counted[suite] + missing[suite] for suite in BENCHMARKS} == published


@pytest.mark.parametrize(
    ("suite", "form"), [(suite, form) for suite in BENCHMARKS for form in held_out.FORMS[suite]]
)
def test_prompts(suite: str, form: str, flan_data_dir: pathlib.Path) -> None:
    folder = str(flan_data_dir)
    for task in at_hand(form, suite, folder):
        for row, _ in zip(task.rows("all", folder), range(LOOKED_AT), strict=False):
            rendered = task.render(row, 0, None, folder)  # type: ignore[arg-type]
            where = f"{task.name} {rendered.example_id}"
            assert rendered.inputs == rendered.inputs.strip(), where
            # Once: it is no exemplar of itself.
            assert rendered.inputs.count(row["question"]) == 1, where  # type: ignore[index]
            assert "canary GUID" not in rendered.inputs, where
            assert "DATA SHOULD NEVER" not in rendered.inputs, where
            right = rendered.references or (rendered.answer,)
            read = answers.extract(rendered.targets, task.extraction, rendered.options)
            assert answers.is_right(read, right, task.extraction), where
            markers = [option.partition(" ")[0] for option in rendered.options]
            assert not markers or rendered.answer in {*markers, *rendered.options}, where
            # Three subjects of MMLU have four published rationales.
            assert task.max_shots - rendered.shots in (0, 1), where
            # A prompt does not depend on what is right.
            other = {**row, "answer": "?", "references": ()}  # type: ignore[dict-item]
            assert task.render(other, 0, None, folder).inputs == rendered.inputs, where


def test_the_known_oddities_of_the_published_files(flan_data_dir: pathlib.Path) -> None:
    folder = str(flan_data_dir)
    at_hand("cot", "mmlu", folder)
    at_hand("cot", "bbh", folder)

    def shots(name: str) -> set[int]:
        task = tasks.get(name)
        return {
            task.render(row, 0, None, folder).shots  # type: ignore[arg-type]
            for row in task.rows("all", folder)
        }

    few = {file.name for file in files_of("mmlu") if shots(held_out.task_name(file, "cot")) == {4}}
    assert few == {"college_chemistry", "formal_logic", "human_aging"}
    assert shots("mmlu_college_physics_direct") == {4, 5}
    unmarked = [
        row["example_id"]  # type: ignore[index]
        for file in files_of("bbh")
        if file.answers == "letter"
        for row in tasks.get(held_out.task_name(file, "zs")).rows("all", folder)
        if not row["answer"].startswith("(")  # type: ignore[index]
    ]
    assert unmarked == [
        "bbh/bbh/movie_recommendation.json:164",
        "bbh/bbh/ruin_names.json:100",
        "bbh/bbh/ruin_names.json:145",
    ]


def test_exemplars_of_languages_with_and_without_training_questions(
    flan_data_dir: pathlib.Path,
) -> None:
    folder = str(flan_data_dir)
    pools = {}
    for task in at_hand("direct", "tydiqa", folder):
        row = next(iter(task.rows("validation", folder)))
        pools[task.name] = task.render(row, 0, None, folder).template_id  # type: ignore[arg-type]
    for file in files_of("tydiqa"):
        name = f"{file.title.lower()}.json.gz"
        trained = any(flan_data_dir.glob(f"tydiqa/goldp_train*/{name}"))
        expected = "exemplar-train" if trained else "exemplar-dev"
        assert pools.get(f"tydiqa_{file.name}_direct", expected) == expected
