"""The held-out benchmarks as tasks: their rows, splits, prompts and protocols."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from flan_train import contamination, mixtures, normalized, tasks
from flan_train.errors import UserError
from flan_train.mixtures.held_out import AVERAGED
from flan_train.tasks import answers, held_out, held_out_prompts
from flan_train.tasks.definitions import BadRow, Rendered, Row
from flan_train.tasks.held_out_table import BENCHMARKS, files, files_of
from tests import held_out_folder

ROWS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return held_out_folder.write_held_out_folder(tmp_path_factory.mktemp("held_out"), ROWS)


@pytest.fixture
def own_folder(folder: str, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy that a test may damage."""
    return pathlib.Path(shutil.copytree(folder, tmp_path / "copy"))


def rows_of(name: str, folder: str, split: str = "all") -> list[Row]:
    found = list(tasks.get(name).rows(split, folder))
    assert not any(isinstance(row, BadRow) for row in found)
    return found  # type: ignore[return-value]


def first(name: str, folder: str, shots: int | None = None) -> Rendered:
    return tasks.get(name).render(rows_of(name, folder)[0], 0, shots, folder)


def benchmark_tasks() -> list[tasks.TaskDefinition]:
    return list(held_out.definitions())


# --- what there is --------------------------------------------------------------------------------


def test_the_table_has_the_published_sizes() -> None:
    sizes = {suite: [file.examples for file in files_of(suite)] for suite in BENCHMARKS}
    assert {suite: len(found) for suite, found in sizes.items()} == {
        "mmlu": 57,
        "bbh": 27,
        "tydiqa": 8,
        "mgsm": 10,
    }
    assert {suite: sum(found) for suite, found in sizes.items()} == {
        "mmlu": 1531,
        "bbh": 6511,
        "tydiqa": 4637,
        "mgsm": 2500,
    }
    assert sum(file.test_examples or 0 for file in files_of("mmlu")) == 14042
    groups = [file.group for file in files_of("bbh")]
    assert (groups.count("nlp"), groups.count("algorithmic")) == (12, 15)
    assert len({file.paper_task for file in files_of("bbh")}) == 23
    # English is in the files of both benchmarks and in neither score.
    assert [file.name for file in files_of("tydiqa")] == [
        "ar",
        "bn",
        "fi",
        "id",
        "ko",
        "ru",
        "sw",
        "te",
    ]
    languages = ["bn", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"]
    assert [file.name for file in files_of("mgsm")] == languages


def test_chance_is_that_of_the_published_averages() -> None:
    chance = {f"{file.suite}_{file.name}": file.chance for file in files()}
    assert {chance[f"mmlu_{file.name}"] for file in files_of("mmlu")} == {0.25}
    assert chance["bbh_formal_fallacies"] == 0.5
    assert chance["bbh_penguins_in_a_table"] == 0
    assert chance["bbh_date_understanding"] == 0.172
    open_ended = ("multistep_arithmetic_two", "object_counting", "word_sorting")
    assert {chance[f"bbh_{name}"] for name in open_ended} == {0}
    assert {file.chance for file in (*files_of("tydiqa"), *files_of("mgsm"))} == {0}


def test_every_task_is_registered_and_held_out() -> None:
    found = benchmark_tasks()
    assert len(found) == 57 * 6 + 27 * 4 + 23 * 2 + 8 * 3 + 10 * 4
    assert {task.name for task in found} <= set(tasks.names())
    for task in found:
        assert task.held_out
        assert not task.base
        assert task.benchmark == BENCHMARKS[task.family]
        assert task.prompting == ("cot" if task.form.endswith("cot") else "direct")
        assert task.method == ("rank" if task.form.endswith("rank") else "generate")
        assert task.extraction in answers.STYLES
        assert task.chance is not None
        assert (task.max_shots == 0) == task.form.startswith("zs")
        assert task.splits[:3] == ("all", "validation", "test")
        assert ("published_test" in task.splits) == (task.family == "mmlu")
        assert "exact_match" in task.metrics
        assert ("f1" in task.metrics) == (task.family == "tydiqa")
        # As long as its answers are, for no other length is known of spans.
        assert (task.max_output is None) == (task.family == "tydiqa" and task.prompting == "direct")
    ranked = {task.name for task in found if task.form == "rank" and task.family == "bbh"}
    for name in ("dyck_languages", "word_sorting", "object_counting", "multistep_arithmetic_two"):
        assert f"bbh_{name}_rank" not in ranked
    assert len(ranked) == 23
    assert held_out_prompts.SHOTS == {"mmlu": 5, "bbh": 3, "tydiqa": 1, "mgsm": 8}


def test_no_mixture_that_is_trained_on_has_them() -> None:
    held = {task.name for task in benchmark_tasks()}
    for name in mixtures.names():
        if not name.startswith("heldout"):
            assert not held & set(mixtures.tasks_of(name))


def test_the_suites() -> None:
    sizes = {name: len(mixtures.tasks_of(name)) for name in mixtures.names()}
    for suite, count in (("mmlu", 57), ("bbh", 27), ("tydiqa", 8), ("mgsm", 10)):
        for form in held_out.FORMS[suite]:
            expected = 23 if suite == "bbh" and form.endswith("rank") else count
            assert sizes[f"heldout_{suite}_{form}"] == expected
    assert [member.name for member in mixtures.get("heldout").members] == list(AVERAGED)
    assert normalized.SIX_SUITES == AVERAGED
    assert sizes["heldout"] == 57 * 2 + 27 * 2 + 8 + 10
    assert set(mixtures.tasks_of("heldout_all")) == {task.name for task in benchmark_tasks()}


# --- rows and splits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["mmlu_anatomy_cot", "bbh_snarks_zs", "tydiqa_fi_zs", "mgsm_de_zs"]
)
def test_validation_and_test_cut_the_published_set(name: str, folder: str) -> None:
    ids = {
        split: [row["example_id"] for row in rows_of(name, folder, split)]
        for split in ("all", "validation", "test")
    }
    assert len(ids["validation"]) == 3  # a quarter of ten, rounded up
    assert len(ids["all"]) == ROWS
    assert sorted(ids["validation"] + ids["test"]) == sorted(ids["all"])
    for part in ("validation", "test"):
        assert ids[part] == [one for one in ids["all"] if one in ids[part]]
    task = tasks.get(name)
    assert [task.num_examples(split, folder) for split in ids] == [ROWS, 3, 7]


def test_every_form_and_language_is_cut_alike(folder: str) -> None:
    def numbers(name: str) -> list[str]:
        return [row["example_id"].split(":")[1] for row in rows_of(name, folder, "validation")]

    assert numbers("mgsm_de_cot") == numbers("mgsm_zh_zs") == numbers("mgsm_te_direct")
    assert numbers("bbh_snarks_cot") == numbers("bbh_snarks_zs_rank")
    assert numbers("bbh_snarks_cot") != numbers("bbh_navigate_cot")


def test_rows(folder: str) -> None:
    row = rows_of("mmlu_anatomy_direct", folder)[1]
    assert row["example_id"] == "mmlu/val/anatomy_val.csv:2"
    assert row["question"] == (
        "Which bone of anatomy, number 1?\n(A) bone of anatomy 4 (B) bone of anatomy 5"
        " (C) bone of anatomy 6 (D) bone of anatomy 7"
    )
    assert (row["answer"], row["options"]) == ("(B)", ("(A)", "(B)", "(C)", "(D)"))
    row = rows_of("bbh_snarks_direct", folder)[4]
    assert (row["answer"], row["options"]) == ("(B)", ("(A)", "(B)", "(C)"))
    assert row["choices"][1].startswith("(B) ")
    assert rows_of("bbh_navigate_zs", folder)[0]["options"] == ("Yes", "No")
    assert rows_of("bbh_word_sorting_zs", folder)[0]["options"] == ()
    row = rows_of("tydiqa_ar_direct", folder)[3]
    assert row["example_id"] == "tydiqa/goldp_dev/arabic.json.gz:town-3"
    assert (row["answer"], row["references"]) == ("river 3", ("by the river 3", "river 3"))
    assert rows_of("mgsm_de_cot", folder)[2]["answer"] == "3000"


def test_mmlus_own_test_set(folder: str, own_folder: pathlib.Path) -> None:
    name = "mmlu_anatomy_direct"
    found = rows_of(name, folder, "published_test")
    assert [row["example_id"] for row in found] == [
        f"mmlu/test/anatomy_test.csv:{number}" for number in (1, 2)
    ]
    (own_folder / "mmlu/test/anatomy_test.csv").unlink()
    assert tasks.get(name).available(str(own_folder)) is None
    with pytest.raises(UserError, match=r"anatomy_test\.csv is missing[\s\S]*--only mmlu"):
        rows_of(name, str(own_folder), "published_test")
    with pytest.raises(UserError, match="unknown split 'published_test'"):
        tasks.get("bbh_snarks_cot").num_examples("published_test", folder)


def test_garbled_options_keep_their_published_target(own_folder: pathlib.Path) -> None:
    """Three rows of BBH have the right text in place of its marker."""
    question = "Which?\nOptions:\n(A) Monsters\n(B) Inc\n(C) Other"
    content = {"canary": "", "examples": [{"input": question, "target": "Monsters, Inc"}]}
    path = "bbh/bbh/movie_recommendation.json"
    held_out_folder.write(own_folder, path, held_out_folder.as_json(content))
    rendered = first("bbh_movie_recommendation_direct", str(own_folder))
    assert rendered.answer == "Monsters, Inc"
    assert rendered.options == ("(A) Monsters", "(B) Inc", "(C) Other", "Monsters, Inc")
    ranked = first("bbh_movie_recommendation_rank", str(own_folder))
    assert ranked.options == ("(A)", "(B)", "(C)", "Monsters, Inc")
    assert answers.extract("Monsters, Inc", "letter", rendered.options) == "Monsters, Inc"
    assert answers.extract("(B)", "letter", rendered.options) == "(B)"


@pytest.mark.parametrize("name", ["mmlu_anatomy_direct", "bbh_snarks_cot"])
def test_the_text_of_an_option_is_read_as_its_marker(name: str, folder: str) -> None:
    """A model may say what the right option says in place of its marker."""
    rendered = first(name, folder)
    said = [option.partition(" ")[2] for option in rendered.options]
    assert len(said) > 1
    for option, text in zip(rendered.options, said, strict=True):
        assert text in rendered.inputs
        marker = option.partition(" ")[0]
        assert answers.extract(f"{text}.", "letter", rendered.options) == marker
        assert answers.extract(f"So the answer is {text}.", "letter", rendered.options) == marker


# --- prompts --------------------------------------------------------------------------------------


def test_prompts_of_mmlu(folder: str) -> None:
    query = (
        "Q: Which bone of anatomy, number 0?\n(A) bone of anatomy 0 (B) bone of anatomy 1"
        " (C) bone of anatomy 2 (D) bone of anatomy 3\nA:"
    )
    direct = first("mmlu_anatomy_direct", folder)
    assert direct.inputs.startswith(
        "Here are multiple-choice questions about anatomy, each with the letter of its right"
        " answer.\n\nQ: Which solved of anatomy, number 0?\n(A) solved of anatomy 0"
    )
    assert "(D) solved of anatomy 7\nA: (B)\n\nQ: " in direct.inputs
    assert direct.inputs.endswith(f"A: (A)\n\n{query}")
    assert (direct.shots, direct.targets, direct.answer) == (5, "(A)", "(A)")
    assert first("mmlu_anatomy_rank", folder).inputs == direct.inputs
    cot = first("mmlu_anatomy_cot", folder)
    assert cot.inputs.startswith("Questions about anatomy.\n\nQ: Which shown of anatomy, number 0?")
    assert "\nA: Let's count. It is number 1. The answer is (B).\n\nQ: " in cot.inputs
    assert cot.inputs.endswith(f"{query} Let's count.")
    assert (cot.shots, cot.targets) == (5, "The answer is (A).")
    alone = first("mmlu_anatomy_zs", folder)
    assert alone.inputs == (
        "Answer this multiple-choice question about anatomy with the letter of the right option."
        f"\n\n{query}"
    )
    assert first("mmlu_anatomy_zs_rank", folder).inputs == alone.inputs
    steps = first("mmlu_anatomy_zs_cot", folder)
    assert steps.inputs == alone.inputs + " Let me work this out one step at a time."
    assert steps.targets == "The answer is (A)."


def test_prompts_of_bbh(folder: str) -> None:
    direct = first("bbh_navigate_direct", folder)
    assert direct.inputs == (
        "Find navigate.\n\nQ: Say what shown thing 0 is.\nA: Yes"
        "\n\nQ: Say what shown thing 1 is.\nA: No\n\nQ: Say what shown thing 2 is.\nA: Yes"
        "\n\nQ: Say what thing 0 is.\nA:"
    )
    assert (direct.shots, direct.targets, direct.options) == (3, "Yes", ("Yes", "No"))
    cot = first("bbh_navigate_cot", folder)
    assert "\nA: Let's see.\nIt is there.\nSo the answer is No.\n\nQ: " in cot.inputs
    assert cot.inputs.endswith("Q: Say what thing 0 is.\nA: Let's see.")
    assert cot.targets == "So the answer is Yes."
    alone = first("bbh_navigate_zs", folder)
    assert alone.inputs == "Find navigate.\n\nQ: Say what thing 0 is.\nA:"
    steps = first("bbh_navigate_zs_cot", folder)
    assert steps.inputs == f"{alone.inputs} Let me work this out one step at a time."
    assert steps.targets == "The answer is Yes."
    assert first("bbh_navigate_zs_rank", folder).inputs == alone.inputs
    assert held_out_folder.CANARY not in direct.inputs + cot.inputs + steps.inputs


def test_prompts_of_mgsm_use_native_words(folder: str) -> None:
    cot = first("mgsm_de_cot", folder)
    assert cot.inputs.startswith("Frage: 1 + 1?\nSchritt für Schritt: 1 + 1 = 2. So 2.\n\nFrage: ")
    assert cot.inputs.endswith("\n\nFrage: 1 × 1000?\nSchritt für Schritt:")
    assert (cot.shots, cot.targets) == (8, "1000")
    direct = first("mgsm_de_direct", folder)
    assert direct.inputs.startswith("Frage: 1 + 1?\nAntwort: 2\n\nFrage: 2 + 1?\nAntwort: 3\n\n")
    assert direct.inputs.endswith("\n\nFrage: 1 × 1000?\nAntwort:")
    assert first("mgsm_zh_direct", folder).inputs.endswith("\n\n问题：1 × 1000?\n答案：")
    assert first("mgsm_zh_zs", folder).inputs == "问题：1 × 1000?\n答案："
    assert first("mgsm_de_zs_cot", folder).inputs == "Frage: 1 × 1000?\nSchritt für Schritt:"


def test_prompts_of_tydiqa(folder: str) -> None:
    query = "Question: Where is the town 0?\nPassage: The town 0 lies by the river 0."
    alone = first("tydiqa_fi_zs", folder)
    assert alone.inputs == (
        f"Answer the question with a few words copied from the passage.\n\n{query}\nAnswer:"
    )
    steps = first("tydiqa_fi_zs_cot", folder)
    assert steps.inputs.endswith(f"{query}\nLet me work this out one step at a time.")
    assert steps.targets == "The answer is river 0."
    direct = first("tydiqa_fi_direct", folder)
    assert direct.shots == 1
    assert direct.inputs.endswith(f"\n\n{query}\nAnswer:")
    assert direct.references == ("by the river 0", "river 0")


def test_the_exemplar_of_tydiqa_is_of_another_article(folder: str, tmp_path: pathlib.Path) -> None:
    for language, pool, what in (("fi", "dev", "town"), ("ko", "train", "lake")):
        task = tasks.get(f"tydiqa_{language}_direct")
        shown = set()
        for number, row in enumerate(rows_of(task.name, folder)):
            rendered = task.render(row, 0, None, folder)
            assert rendered.template_id == f"exemplar-{pool}"
            exemplar, query = rendered.inputs.split("\n\n")[1:]
            assert f"the {what} " in exemplar
            assert f"town {number}?" in query
            assert f"town {number}?" not in exemplar
            assert rendered == task.render(row, 0, None, folder)
            shown.add(exemplar)
        assert len(shown) > 2
    # A language of one article has nothing to show.
    lonely = held_out_folder.write_held_out_folder(tmp_path, 1, ("tydiqa",))
    assert first("tydiqa_fi_direct", lonely).shots == 0


def test_a_question_is_no_exemplar_of_itself(own_folder: pathlib.Path) -> None:
    """As in the published files: a row of MMLU's validation set is in its development set."""
    path = own_folder / "mmlu/val/anatomy_val.csv"
    solved = held_out_folder.choice("solved of anatomy", 2)
    path.write_bytes(held_out_folder.as_csv([solved, held_out_folder.choice("bone", 1)]))
    task = tasks.get("mmlu_anatomy_direct")
    twice, other = (
        task.render(row, 0, None, str(own_folder)) for row in rows_of(task.name, str(own_folder))
    )
    assert (twice.shots, other.shots) == (4, 5)
    assert twice.inputs.count(solved[0]) == 1
    assert twice.inputs.endswith("A:")


@pytest.mark.parametrize(
    ("name", "shots"),
    [
        ("mmlu_anatomy_cot", 5),
        ("bbh_snarks_direct", 3),
        ("tydiqa_ko_direct", 1),
        ("mgsm_de_cot", 8),
    ],
)
def test_prompts_that_are_too_long_lose_their_last_exemplars(
    name: str, shots: int, folder: str
) -> None:
    task = tasks.get(name)
    found = list(task.candidates(rows_of(name, folder)[1], 0, folder))
    assert [rendered.shots for rendered in found] == list(range(shots, -1, -1))
    whole = found[0].inputs.split("\n\n")
    for rendered in found:
        parts = rendered.inputs.split("\n\n")
        kept = len(parts) - 1
        assert parts == whole[:kept] + whole[-1:]
        assert rendered.targets == found[0].targets
    assert len({rendered.template_id for rendered in found}) == 1


def test_all_prompts_of_a_small_folder(folder: str) -> None:
    """Every task renders; the target gives the right answer back, and is not shown."""
    for task in benchmark_tasks():
        for row in rows_of(task.name, folder)[:2]:
            rendered = task.render(row, 0, None, folder)
            right = rendered.references or (rendered.answer,)
            read = answers.extract(rendered.targets, task.extraction, rendered.options)
            assert answers.is_right(read, right, task.extraction)
            assert rendered.inputs.count(row["question"]) == 1
            assert rendered.shots == task.max_shots
            assert rendered.form == task.form
            ranked = task.method == "rank"
            assert rendered.options == row["options" if ranked else "choices"]
            if ids := task.template_ids():
                assert rendered.template_id in ids


def test_training_examples_are_compared_with_what_a_suite_asks(folder: str) -> None:
    asked = {found.id: found for found in contamination.suite_texts("heldout_bbh_direct", folder)}
    assert len(asked) == 27 * ROWS
    assert asked["bbh/bbh/navigate.json:1"].asked == (("Say what thing 0 is.",),)


def test_fingerprints_and_hashes(folder: str, own_folder: pathlib.Path) -> None:
    def prints(where: str) -> dict[str, str]:
        names = ("mmlu_anatomy_direct", "mmlu_anatomy_zs", "tydiqa_ko_direct", "tydiqa_ko_zs")
        return {name: tasks.get(name).source_fingerprint("all", where) for name in names}

    before = prints(folder)
    assert prints(str(own_folder)) == before
    held_out_folder.write(
        own_folder, "mmlu/dev/anatomy_dev.csv", held_out_folder.as_csv([["?", *"abcd", "A"]])
    )
    held_out_folder.write(
        own_folder, "tydiqa/goldp_train/korean.json.gz", held_out_folder.squad("sea", 3)
    )
    after = prints(str(own_folder))
    assert {name for name in before if before[name] != after[name]} == {
        "mmlu_anatomy_direct",
        "tydiqa_ko_direct",
    }
    # A whole training set goes before a sample of it.
    assert "the sea " in first("tydiqa_ko_direct", str(own_folder)).inputs
    task = tasks.get("mmlu_anatomy_direct")
    parts = [task.source_fingerprint(split, folder) for split in task.splits]
    assert len(set(parts)) == len(parts)
    hashes = {task.template_hash() for task in benchmark_tasks()}
    assert len(hashes) == len(benchmark_tasks())
