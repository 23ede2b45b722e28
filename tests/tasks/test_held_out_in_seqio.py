"""The held-out benchmarks as SeqIO tasks: the same examples as the plain rendering gives."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from flan_train import mixtures, tasks
from flan_train.tasks.definitions import BadRow
from tests.held_out_folder import write_held_out_folder

seqio = pytest.importorskip("seqio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_held_out_folder(tmp_path_factory.mktemp("held_out"))


@pytest.mark.parametrize(
    "name", ["mmlu_anatomy_cot", "bbh_snarks_direct", "tydiqa_ko_direct", "mgsm_de_cot"]
)
def test_both_routes_give_the_same_examples(
    name: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAN_DATA_DIR", folder)
    small = dataclasses.replace(
        tasks.get(name), name=f"small_{name}", default_vocabulary="quickstart"
    )
    tasks.add(small)
    try:
        task = seqio.get_mixture_or_task(small.name)
        assert set(task.splits) == set(small.splits)
        for split in ("validation", "test", "all"):
            found = list(
                task.get_dataset(None, split=split, shuffle=False, seed=3).as_numpy_iterator()
            )
            expected = []
            for row in small.rows(split, folder):
                assert not isinstance(row, BadRow)
                expected.append(small.render(row, 3, None, folder))
            assert len(found) == len(expected) > 2
            for theirs, ours in zip(found, expected, strict=True):
                assert theirs["inputs_pretokenized"].decode() == ours.inputs
                assert theirs["targets_pretokenized"].decode() == ours.targets
                assert theirs["shots"] == ours.shots == small.max_shots
                assert theirs["example_id"].decode() == ours.example_id
                assert tuple(text.decode() for text in theirs["options"]) == ours.options
                assert tuple(text.decode() for text in theirs["references"]) == ours.references
    finally:
        tasks.remove(small.name)


def test_suites_are_seqio_mixtures() -> None:
    for name in ("heldout", "heldout_mmlu_direct", "heldout_mgsm_cot"):
        mixture = seqio.get_mixture_or_task(name)
        assert sorted(task.name for task in mixture.tasks) == mixtures.tasks_of(name)


def test_a_short_limit_leaves_fewer_exemplars(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("FLAN_DATA_DIR", folder)
    small = dataclasses.replace(
        tasks.get("bbh_snarks_direct"), name="shorter", default_vocabulary="quickstart"
    )
    tasks.add(small)
    try:
        whole = seqio.get_mixture_or_task("shorter").get_dataset(None, split="all", shuffle=False)
        longest = max(len(example["inputs"]) for example in whole.as_numpy_iterator())
        limits = {"inputs": longest - 1, "targets": 32}
        cut = seqio.get_mixture_or_task("shorter").get_dataset(limits, split="all", shuffle=False)
        assert {int(example["shots"]) for example in cut.as_numpy_iterator()} <= {2, 3}
        assert any(example["shots"] == 2 for example in cut.as_numpy_iterator())
    finally:
        tasks.remove("shorter")
