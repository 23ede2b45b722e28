"""The responsible-AI and open-ended tasks: what is asked, with which exemplars, how it counts."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib

import pytest

from flan_train import check, mixtures, tasks
from flan_train.data_config import DataConfig
from flan_train.errors import UserError
from flan_train.prepare import prepare
from flan_train.tasks import BadRow, Row, answers, metrics, responsible, templates
from flan_train.tasks.definitions import NOT_SHOWN
from flan_train.tasks.protocol import Draws, protocol_of
from tests.tasks import responsible_folder as folder_of

NAMES = [*mixtures.tasks_of("heldout_rai"), *mixtures.tasks_of("heldout_open_ended")]
CONTINUED = [name for name in NAMES if tasks.get(name).method == "samples"]
SHOWN = [name for name in NAMES if tasks.get(name).max_shots]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folder_of.write(tmp_path_factory.mktemp("responsible"), rows=80)


def rows(name: str, data_dir: str) -> list[Row]:
    found = list(tasks.get(name).rows("all", data_dir))
    assert not [row for row in found if isinstance(row, BadRow)]
    return [row for row in found if not isinstance(row, BadRow)]


def test_the_tasks_and_suites() -> None:
    assert len(NAMES) == len(set(NAMES)) == 25
    for name in NAMES:
        task = tasks.get(name)
        assert task.held_out
        assert task.splits == ("all", "validation", "test")
        assert not task.collection
        assert task.benchmark
        assert set(task.metrics) <= set(metrics.METRICS)
        assert len(task.template_ids()) == 1
    assert sorted(mixtures.tasks_of("heldout_civil_comments")) == [
        "civil_comments_10shot",
        "civil_comments_zs",
    ]
    assert len(mixtures.tasks_of("heldout_winogender")) == 8
    for mixture in mixtures.names():
        if mixture not in ("heldout_rai", *(f"heldout_{tasks.get(n).family}" for n in NAMES)):
            assert not set(mixtures.tasks_of(mixture)) & set(NAMES)


@pytest.mark.parametrize(
    ("name", "method", "counted", "sampling"),
    [
        ("civil_comments_10shot", "rank", ("auc_roc",), None),
        ("winogender_gotcha_fs", "generate", ("exact_match",), None),
        (
            "realtoxicityprompts_toxic",
            "samples",
            ("any_toxic", "mean_toxicity"),
            Draws(25, 1.0, 40),
        ),
        (
            "identity_toxicity_religion",
            "samples",
            ("toxic_share", "mean_toxicity"),
            Draws(50, 1.0, 40),
        ),
        ("open_ended_planning", "samples", ("kept",), Draws(5, 0.7, 0)),
    ],
)
def test_protocols(
    name: str, method: str, counted: tuple[str, ...], sampling: Draws | None
) -> None:
    protocol = protocol_of(name)
    assert (protocol.method, protocol.metrics, protocol.sampling) == (method, counted, sampling)
    assert protocol.chance is None


def test_sampling_goes_with_its_method() -> None:
    task = tasks.get("open_ended_planning")
    with pytest.raises(UserError, match="has the method 'samples' and sampling None"):
        dataclasses.replace(task, sampling=None)
    with pytest.raises(UserError, match="has the method 'generate' and sampling Draws"):
        dataclasses.replace(task, method="generate")


@pytest.mark.parametrize("name", NAMES)
def test_a_rendering_shows_what_it_is_about(name: str, data_dir: str) -> None:
    task = tasks.get(name)
    for row in rows(name, data_dir)[:6]:
        rendered = task.render(row, 0, None, data_dir)
        assert rendered == task.render(row, 0, None, data_dir)
        assert "".join(rendered.input_pieces) == rendered.inputs
        assert row.get("text", row.get("sentence", row.get("prompt"))) in rendered.inputs
        assert rendered.shots == task.max_shots
        assert rendered.answer == row.get("answer", "")
        assert rendered.options == (("yes", "no") if "civil" in name else ())
        assert rendered.targets == (rendered.answer or responsible.NO_REFERENCE)
        shots = [one.shots for one in task.candidates(row, 0, data_dir)]
        assert shots == list(range(task.max_shots, -1, -1))


@pytest.mark.parametrize("name", CONTINUED)
def test_prompts_to_continue_are_shown_as_they_are(name: str, data_dir: str) -> None:
    task = tasks.get(name)
    row = rows(name, data_dir)[0]
    inputs = task.render(row, 0, None, data_dir).inputs
    if name == "open_ended_cot":
        assert inputs.startswith(row["prompt"])
        assert "step by step" in inputs
    else:
        assert inputs == row["prompt"]


@pytest.mark.parametrize("name", SHOWN)
def test_exemplars_are_drawn_by_the_example(name: str, data_dir: str) -> None:
    task = tasks.get(name)
    listed = rows(name, data_dir)
    first, again, other = (task.render(listed[0], seed, None, data_dir) for seed in (0, 0, 1))
    assert first == again
    assert first.inputs != other.inputs
    fewer = task.render(listed[0], 0, 2, data_dir)
    assert fewer.shots == 2
    shown = first.inputs.split("\n\n")[1:3]
    assert all(one in fewer.inputs for one in shown)


def test_as_many_toxic_comments_as_others(data_dir: str) -> None:
    task = tasks.get("civil_comments_10shot")
    patterns = set()
    for row in rows(task.name, data_dir):
        for shots in (10, 6, 2):
            rendered = task.render(row, 0, shots, data_dir)
            shown = rendered.inputs.split("\n\n")[1:-1]
            labels = [one.rpartition("toxic? ")[2] for one in shown]
            assert collections.Counter(labels) == {"yes": shots // 2, "no": shots // 2}
            assert all("of train" in one for one in shown)
            assert len(set(shown)) == shots
        patterns.add(tuple(one.rpartition("toxic? ")[2] for one in shown))
    # Which of a pair comes first is drawn.
    assert patterns == {("yes", "no"), ("no", "yes")}


def test_a_comment_that_is_in_the_train_split_too_is_no_exemplar(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "civil_comments"
    train = [{"text": f"Comment {n}", "toxicity": n % 2} for n in range(40)]
    folder_of.write_lines(folder / "train.jsonl", train)
    folder_of.write_lines(folder / "test.jsonl", [{"text": "comment  7!", "toxicity": 1}])
    task = tasks.get("civil_comments_10shot")
    [row] = rows(task.name, str(tmp_path))
    for seed in range(30):
        rendered = task.render(row, seed, None, str(tmp_path))
        assert rendered.shots == 10
        assert "Comment 7\n" not in rendered.inputs


def test_exemplars_of_one_kind_only(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "civil_comments"
    folder_of.write_lines(folder / "train.jsonl", [{"text": "fine", "toxicity": 0.0}])
    folder_of.write_lines(folder / "test.jsonl", [{"text": "fine too", "toxicity": 0.0}])
    task = tasks.get("civil_comments_10shot")
    [row] = rows(task.name, str(tmp_path))
    with pytest.raises(UserError, match=r"no comment of the train split has the answer 'yes'"):
        task.render(row, 0, None, str(tmp_path))
    assert task.render(row, 0, 0, str(tmp_path)).shots == 0
    (folder / "train.jsonl").unlink()
    assert "train.csv is missing" in (task.available(str(tmp_path)) or "")
    assert tasks.get("civil_comments_zs").available(str(tmp_path)) is None


def test_no_variant_of_the_query_is_an_exemplar(data_dir: str) -> None:
    task = tasks.get("winogender_fs")
    listed = rows(task.name, data_dir)
    schemas = {row["sentence"]: row["schema"] for row in listed}
    for row in listed:
        rendered = task.render(row, 0, None, data_dir)
        shown = [
            schemas[line.removeprefix("Sentence: ")]
            for line in rendered.inputs.splitlines()
            if line.startswith("Sentence: ")
        ]
        assert shown[-1] == row["schema"]
        assert len(set(shown)) == len(shown) == 6


def test_rows_that_are_left_out_are_not_shown(data_dir: str) -> None:
    task = tasks.get("winogender_zs")
    few_shot = tasks.get("winogender_fs")
    listed = rows(task.name, data_dir)
    hidden = {row["example_id"] for row in listed if row["schema"].startswith("weaver")}
    row = {**listed[0], NOT_SHOWN: hidden}
    for seed in range(20):
        assert "weaver" not in few_shot.render(row, seed, None, data_dir).inputs


@pytest.mark.parametrize(
    "output", ["florist", "The florist.", "the florist", "a florist", ' "Florist" \nSentence: more']
)
def test_a_leading_article_does_not_count(output: str) -> None:
    task = tasks.get("winogender_zs")
    read = answers.extract(output, task.extraction)
    assert answers.is_right(read, ["florist"], task.extraction)


@pytest.mark.parametrize("output", ["buyer", "the florist and the buyer", "", "the", "theflorist"])
def test_what_is_no_right_answer(output: str) -> None:
    task = tasks.get("winogender_zs")
    read = answers.extract(output, task.extraction)
    assert not answers.is_right(read, ["florist"], task.extraction)


def test_one_wording_for_all(tmp_path: pathlib.Path) -> None:
    content = templates.load_prompts(responsible.PROMPTS)
    several = content["winogender"]["zs"] * 2
    path = tmp_path / "responsible.json"
    several = [{**entry, "id": f"w{number}"} for number, entry in enumerate(several)]
    path.write_text(json.dumps({"winogender": {"zs": several}}))
    with pytest.raises(UserError, match=r"2 wordings[\s\S]*winogender.zs[\s\S]*do not compare"):
        responsible.load_wording("winogender", "zs", path)


def test_nothing_is_wrong_with_the_prompts(data_dir: str) -> None:
    for name in NAMES:
        found = check.check_task(tasks.get(name), check.Settings(data_dir=data_dir))
        assert found.rows > 0
        assert not found.failures, (name, found.failures)


def test_suites_are_prepared(data_dir: str, tmp_path: pathlib.Path) -> None:
    counts = {}
    for suite in ("heldout_civil_comments", "heldout_open_ended"):
        config = DataConfig(
            mixture_or_task_name=suite,
            feature_lengths={"inputs": 2048, "targets": 32},
            prepared_dir=str(tmp_path),
            data_dir=data_dir,
            vocabulary="quickstart",
            num_workers=1,
        )
        for split in ("all", "validation", "test"):
            prepared = prepare(config, split, progress=False)
            counts[suite, split] = len(prepared.lengths)
            record = prepared.record(0)
            assert record["held_out"] is True
            if suite == "heldout_civil_comments":
                assert tuple(record["options"]) == ("yes", "no")
                assert record["shots"] == 10
            else:
                assert record["answer"] == ""
    for suite in ("heldout_civil_comments", "heldout_open_ended"):
        whole, chosen, reported = (counts[suite, split] for split in ("all", "validation", "test"))
        assert whole == chosen + reported
