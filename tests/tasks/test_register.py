"""The SeqIO face: registered by importing, and the same ids as the plain rendering."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sentencepiece

from flan_train import mixtures, tasks
from flan_train.errors import UserError
from flan_train.tasks import forms
from flan_train.tasks.definitions import BadRow
from tests.cot_folder import write_cot_folder
from tests.tasks import family_toys

seqio = pytest.importorskip("seqio")
from flan_train.tasks import register  # noqa: E402

QUICKSTART = "quickstart_addition_direct"


@pytest.fixture
def data_dir(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = write_cot_folder(tmp_path / "data")
    monkeypatch.setenv("FLAN_DATA_DIR", folder)
    return folder


@pytest.mark.parametrize(
    "imports",
    [
        "import seqio; import flan_train.mixtures",
        "import flan_train.mixtures; import seqio",
        pytest.param("import flan_train.mixtures.register; import seqio", marks=pytest.mark.slow),
    ],
)
def test_importing_registers_in_either_order(imports: str) -> None:
    code = (
        f"{imports}\n"
        "assert seqio.get_mixture_or_task('cot').tasks\n"
        "assert len(seqio.get_mixture_or_task('cot').tasks) == 27\n"
        "assert seqio.get_mixture_or_task('cot_gsm8k_fs').splits\n"
        "assert seqio.get_mixture_or_task('quickstart_held_out').tasks\n"
        "print('registered')"
    )
    environment = {"PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).resolve().parents[2],
        check=False,
    )
    assert result.stdout.strip().endswith("registered"), result.stderr[-2000:]


def plain_route(
    task: tasks.TaskDefinition, split: str, data_dir: str, model: pathlib.Path, limits: Any
) -> Iterator[dict[str, Any]]:
    """What prepare does: most exemplars that fit, then cut; targets that do not fit go."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for row in task.rows(split, data_dir):
        assert not isinstance(row, BadRow)
        for rendered in task.candidates(row, 0, data_dir):
            inputs = processor.encode(rendered.inputs)
            if len(inputs) < limits["inputs"]:
                break
        targets = processor.encode(rendered.targets)
        if len(targets) < limits["targets"]:
            yield {
                "inputs": [*inputs[: limits["inputs"] - 1], 1],
                "targets": [*targets, 1],
                "rendered": rendered,
            }


def check_both_routes(
    task: tasks.TaskDefinition, split: str, data_dir: str, model: pathlib.Path, limits: Any
) -> list[dict[str, Any]]:
    """Asserts that SeqIO gives the plain route's examples; returns them."""
    expected = list(plain_route(task, split, data_dir, model, limits))
    dataset = seqio.get_mixture_or_task(task.name).get_dataset(
        limits, split=split, shuffle=False, seed=0
    )
    found = list(dataset.as_numpy_iterator())
    assert len(found) == len(expected) > 20
    for ours, theirs in zip(expected, found, strict=True):
        rendered = ours["rendered"]
        np.testing.assert_array_equal(theirs["inputs"], ours["inputs"])
        np.testing.assert_array_equal(theirs["targets"], ours["targets"])
        assert theirs["inputs_pretokenized"].decode() == rendered.inputs
        assert theirs["targets_pretokenized"].decode() == rendered.targets
        assert theirs["shots"] == rendered.shots
        for key in ("task", "template_id", "form", "example_id", "answer", "target_text"):
            assert theirs[key].decode() == getattr(rendered, key)
        for key in ("options", "references"):
            assert tuple(text.decode() for text in theirs[key]) == getattr(rendered, key)
    return found


@pytest.mark.parametrize("dataset", ["gsm8k", "ecqa"])
@pytest.mark.parametrize("form", ["zs", "fs", "inv"])
def test_both_routes_give_the_same_ids(
    dataset: str, form: str, flan_data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = flan_data_dir / register.T5_VOCABULARY
    task = tasks.get(f"cot_{dataset}_{form}")
    if not model.is_file() or task.available(str(flan_data_dir)):
        pytest.skip("the real rows or T5's vocabulary are not at hand")
    monkeypatch.setenv("FLAN_DATA_DIR", str(flan_data_dir))
    # Tight enough that exemplars fall away, prompts are cut and targets are dropped.
    limits = {"inputs": 60 if form != "fs" else 130, "targets": 80}
    found = check_both_routes(task, "validation", str(flan_data_dir), model, limits)
    if form == "fs":
        assert {int(example["shots"]) for example in found} >= {0, 1}
    else:
        assert any(len(example["inputs"]) == limits["inputs"] for example in found)
    if form != "inv" and dataset == "gsm8k":
        assert len(found) < task.num_examples("validation", str(flan_data_dir))


@pytest.mark.parametrize("dataset", ["gsm8k", "ecqa", "sensemaking"])
@pytest.mark.parametrize("form", ["zs", "fs", "inv"])
def test_both_routes_give_the_same_ids_without_real_data(
    dataset: str, form: str, data_dir: str
) -> None:
    """The synthetic folder in the quickstart's vocabulary, through a task added after SeqIO."""
    task = dataclasses.replace(
        tasks.get(f"cot_{dataset}_{form}"),
        name=f"small_{dataset}_{form}",
        default_vocabulary="quickstart",
    )
    model = register.PACKAGED_VOCABULARY
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    lengths: dict[str, list[int]] = {"inputs": [], "targets": []}
    for row in task.rows("train", data_dir):
        assert not isinstance(row, BadRow)
        rendered = task.render(row, 0, None, data_dir)
        lengths["inputs"].append(len(processor.encode(rendered.inputs)) + 1)
        lengths["targets"].append(len(processor.encode(rendered.targets)) + 1)
    # Limits below most prompts and some targets.
    limits = {
        "inputs": sorted(lengths["inputs"])[len(lengths["inputs"]) // 10] - 1,
        "targets": sorted(lengths["targets"])[-8] - 1,
    }
    tasks.add(task)
    try:
        found = check_both_routes(task, "train", data_dir, model, limits)
    finally:
        tasks.remove(task.name)
    assert len(found) < len(lengths["inputs"])
    if form == "fs":
        # The fewest that are ever drawn are 2.
        assert {int(example["shots"]) for example in found} >= {1, 2}
    else:
        assert any(len(example["inputs"]) == limits["inputs"] for example in found)


@pytest.mark.parametrize("form", forms.FORMS)
def test_both_routes_give_the_same_ids_in_forms_of_the_collection(
    form: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAN_DATA_DIR", str(tmp_path))
    rows = [{**row, "references": (row["answer"], "so")} for row in family_toys.rows(60)]
    task = family_toys.task(family_toys.write(tmp_path), form, rows)
    tasks.add(task)
    # The shortest few-shot prompts fit with all their exemplars, the longest with hardly any.
    limits = {"inputs": 240 if form in forms.FEW_SHOT else 25, "targets": 40}
    try:
        found = check_both_routes(
            task, "train", str(tmp_path), register.PACKAGED_VOCABULARY, limits
        )
        registered = seqio.get_mixture_or_task(task.name)
    finally:
        tasks.remove(task.name)
    assert len(found) == 60
    shots = {int(example["shots"]) for example in found}
    assert len(shots) > 2 if form in forms.FEW_SHOT else shots == {0}
    if form not in forms.FEW_SHOT:
        assert any(len(example["inputs"]) == limits["inputs"] for example in found)
    # Every right answer counts, a marker only itself.
    for example in found:
        wanted = registered.postprocess_fn("", example=example, is_target=True)
        said = registered.postprocess_fn("So.", example=example, is_target=False)
        own = registered.postprocess_fn(
            example["targets_pretokenized"].decode(), example=example, is_target=False
        )
        (metric,) = registered.metric_fns
        assert metric([wanted], [own]) == {"exact_match": 100.0}
        right = form != "inv" and not example["target_text"]
        assert metric([wanted], [said]) == {"exact_match": 100.0 * right}


def test_what_is_added_later_is_registered_and_taken_out_again() -> None:
    task = dataclasses.replace(tasks.get(QUICKSTART), name="late_task")
    mixture = mixtures.MixtureDefinition("late_mixture", (mixtures.Member("late_task"),))
    tasks.add(task)
    mixtures.add(mixture)
    try:
        registered = seqio.get_mixture_or_task("late_mixture")
        assert [inner.name for inner in registered.tasks] == ["late_task"]
        assert seqio.TaskRegistry.get("late_task").num_input_examples("test") == 100
    finally:
        mixtures.remove("late_mixture")
        tasks.remove("late_task")
    assert "late_task" not in seqio.TaskRegistry.names()
    assert "late_mixture" not in seqio.MixtureRegistry.names()


def test_a_name_that_seqio_does_not_take() -> None:
    with pytest.raises(ValueError, match="late task"):
        tasks.add(dataclasses.replace(tasks.get(QUICKSTART), name="late task"))
    assert "late task" not in tasks.names()


def test_a_quickstart_task_needs_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAN_DATA_DIR", raising=False)
    task = tasks.get(QUICKSTART)
    limits = {"inputs": 512, "targets": 512}
    expected = list(plain_route(task, "validation", "", register.PACKAGED_VOCABULARY, limits))
    registered = seqio.get_mixture_or_task(QUICKSTART)
    found = list(
        registered.get_dataset(limits, "validation", shuffle=False, seed=0).as_numpy_iterator()
    )
    assert len(found) == registered.num_input_examples("validation") == len(expected) > 0
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_array_equal(theirs["inputs"], ours["inputs"])
        np.testing.assert_array_equal(theirs["targets"], ours["targets"])


def test_a_mixture_feeds_a_seqio_model() -> None:
    """The way T5X asks for batches: mixture, feature converter, padded to the lengths."""
    names = (QUICKSTART, QUICKSTART.replace("direct", "cot"))
    mixture = seqio.Mixture("pair", [(name, 1.0) for name in names])
    dataset = seqio.get_dataset(
        mixture,
        {"inputs": 256, "targets": 128},
        dataset_split="validation",
        shuffle=False,
        num_epochs=1,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
    )
    for example in dataset.take(3).as_numpy_iterator():
        assert example["encoder_input_tokens"].shape == (256,)
        assert example["decoder_target_tokens"].shape == (128,)
        assert 1 in example["encoder_input_tokens"]
        assert 1 in example["decoder_target_tokens"]


def test_counts_and_rates(data_dir: str) -> None:
    from flan_train.mixtures import rates

    registered = seqio.get_mixture_or_task("cot")
    counts = {task.name: task.num_input_examples("train") for task in registered.tasks}
    assert registered.num_input_examples("train") == sum(counts.values())
    ours = rates.shares(mixtures.get("cot"), counts)
    total = sum(registered.get_rate(task) for task in registered.tasks)
    for task in registered.tasks:
        assert registered.get_rate(task) / total == pytest.approx(ours[task.name], rel=1e-12)


def test_answers_are_read_and_compared(data_dir: str) -> None:
    task = seqio.get_mixture_or_task("cot_aqua_zs")
    example = {"answer": b"(C)"}
    target = task.postprocess_fn("ignored", example=example, is_target=True)
    outputs = ["2 + 2 = 4.\nThe answer is (C).", "The answer is (B)", "no idea"]
    read = [task.postprocess_fn(text, example=example, is_target=False) for text in outputs]
    assert target == ("(C)",)
    assert read == ["(C).", "(B)", None]
    (metric,) = task.metric_fns
    assert metric([target] * 3, read) == {"exact_match": pytest.approx(100 / 3)}


@pytest.mark.parametrize(
    ("task", "right", "outputs", "expected"),
    [
        ("muffin_wmt14_enfr_zs_noopt", "a b c d e", ["a b c d e"], {"bleu": 100}),
        ("muffin_xsum_zs_noopt", "a red car", ["the red car"], {"rougeL": 200 / 3, "rouge2": 50}),
        ("muffin_squad_v1_zs_noopt", "Nile", ["the Nile", "Nile"], {"exact_match": 50, "f1": 100}),
        ("muffin_rte_zs_opt", "(b).", ["(b)", "no"], {"accuracy": 50, "exact_match": 50}),
    ],
)
def test_a_task_is_measured_by_its_own_metrics_in_percent(
    task: str, right: str, outputs: list[str], expected: dict[str, float]
) -> None:
    registered = seqio.get_mixture_or_task(task)
    example = {"answer": right.encode(), "references": [], "options": []}
    targets = [registered.postprocess_fn("", example=example, is_target=True)] * len(outputs)
    read = [registered.postprocess_fn(text, example=example, is_target=False) for text in outputs]
    (metric,) = registered.predict_metric_fns
    measured = metric(targets, read)
    assert {name: measured[name] for name in expected} == pytest.approx(expected)
    assert next(iter(measured)) == tasks.get(task).metrics[0]
    assert metric([], []) == {}


def test_options_of_an_example_are_known_where_an_answer_is_read() -> None:
    read = register.ReadAnswer("letter")
    example = {"answer": b"(B)", "options": [b"(A)", b"(B)"]}
    assert read("The answer is B.", example=example) == "(B)"
    assert read("The answer is C.", example=example) is None


def test_a_missing_vocabulary_is_named(data_dir: str) -> None:
    vocabulary = register.LazyVocabulary("t5")
    with pytest.raises(UserError, match=r"the vocabulary file is missing[\s\S]*t5_cc_all\.32000"):
        vocabulary.encode("text")
    assert vocabulary == register.LazyVocabulary("t5")
    assert vocabulary != register.LazyVocabulary("quickstart")
    with pytest.raises(UserError, match=r"unknown vocabulary 't6'"):
        register.LazyVocabulary("t6")


def test_a_missing_source_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAN_DATA_DIR", write_cot_folder(tmp_path / "d", leave_out=("qasc",)))
    with pytest.raises(UserError, match=r"cot_qasc_zs has no data[\s\S]*qasc_train\.tsv"):
        seqio.get_mixture_or_task("cot_qasc_zs").get_dataset(None, "train")


def test_a_bad_row_stops_the_dataset(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pathlib.Path(write_cot_folder(tmp_path / "d"))
    with (folder / "cot" / "gsm8k_train.tsv").open("ab") as stream:
        stream.write(b"only one column\n")
    monkeypatch.setenv("FLAN_DATA_DIR", str(folder))
    source = register.RenderedSource(tasks.get("cot_gsm8k_zs"))
    with pytest.raises(Exception, match=r"too few columns[\s\S]*gsm8k_train\.tsv:61"):
        list(source.get_dataset("train", shuffle=False).as_numpy_iterator())
    with pytest.raises(ValueError, match="one shard"):
        source.get_dataset("train", shard_info=seqio.ShardInfo(0, 2))
