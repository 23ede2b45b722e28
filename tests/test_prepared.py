from __future__ import annotations

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from flan_train import shards
from flan_train.errors import UserError
from flan_train.prepare import DataConfig, prepare
from flan_train.prepared import PreparedDataset, open_prepared
from flan_train.vocabulary import Vocabulary, vocabulary_path
from tests.toy_tasks import counting, registered, toy

LENGTHS = {"inputs": 64, "targets": 32}


@pytest.fixture
def made(tmp_path: pathlib.Path) -> PreparedDataset:
    """Two tasks of 30 and 20 rows."""
    with registered([toy("toy_a", counting(30)), toy("toy_b", counting(20, start=500))]):
        return prepare(
            DataConfig("toys", LENGTHS, "quickstart", prepared_dir=str(tmp_path)), progress=False
        )


def file_of(made: PreparedDataset, kind: str, name: str) -> pathlib.Path:
    if kind == "mixture":
        return made.path / name
    return made.path.parent.parent / "tasks" / made.manifest["tasks"][0]["folder"] / name


def test_tokens_and_records_by_position(made: PreparedDataset) -> None:
    assert len(made) == 50
    assert made.task_names == ["toy_a", "toy_b"]
    assert made.task_offsets.tolist() == [0, 30, 50]
    assert made.task_of(np.array([0, 29, 30, 49])).tolist() == [0, 0, 1, 1]
    rows = counting(30) + counting(20, start=500)
    for index in (0, 29, 30, 49):
        inputs, targets = made.tokens(index)
        assert inputs.dtype == targets.dtype == np.int32
        assert [len(inputs), len(targets)] == made.lengths[index].tolist()
        assert inputs[-1] == targets[-1] == 1
        assert made.vocabulary.decode(inputs) == rows[index][0]
        assert made.vocabulary.decode(targets) == rows[index][1]
    assert made.record(31) == {
        "task": "toy_b",
        "family": "toy_b",
        "form": "zs",
        "held_out": False,
        "extraction": "text",
        "template_id": "toy_0",
        "example_id": "toy:2",
        "options": ("yes", "no"),
        "answer": counting(2, start=500)[1][1],
        "shots": 0,
    }
    with pytest.raises(IndexError):
        made.record(50)
    assert "50 examples" in repr(made)


def test_many_examples_in_one_read(made: PreparedDataset) -> None:
    indices = np.array([49, 0, 30, 30])
    flat = made.read(indices)
    single = [part for index in indices for part in made.tokens(int(index))]
    assert flat.tolist() == np.concatenate(single).tolist()


def test_reopening_gives_the_same(made: PreparedDataset) -> None:
    again = open_prepared(made.path, verify=True)
    assert again.manifest == made.manifest
    assert np.array_equal(again.lengths, made.lengths)
    assert again.shares == made.shares == {"toy_a": 0.6, "toy_b": 0.4}


def test_a_moved_store_still_opens(made: PreparedDataset, tmp_path: pathlib.Path) -> None:
    root = made.path.parent.parent
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("tasks", "mixtures"):
        shutil.move(str(root / name), str(moved / name))
    again = open_prepared(moved / "mixtures" / made.path.name, verify=True)
    assert again.tokens(3)[0].tolist()[-1] == 1


DAMAGE_AT_OPEN = [
    ("mixture", "manifest.json", "missing"),
    ("mixture", "manifest.json", "truncated"),
    ("mixture", "manifest.json", "flipped"),
    ("mixture", "lengths.bin", "missing"),
    ("mixture", "lengths.bin", "truncated"),
    ("mixture", "lengths.bin", "flipped"),
    ("mixture", "starts.bin", "flipped"),
    ("mixture", "checksums.bin", "flipped"),
    ("task", "tokens.bin", "missing"),
    ("task", "tokens.bin", "truncated"),
    ("task", "records.jsonl", "truncated"),
    ("task", "record_offsets.bin", "missing"),
]


def damage(path: pathlib.Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-3])
    else:
        content[len(content) // 2] ^= 0x04
        path.write_bytes(content)


@pytest.mark.parametrize(("kind", "name", "how"), DAMAGE_AT_OPEN)
def test_damage_is_named_when_opening(
    made: PreparedDataset, kind: str, name: str, how: str
) -> None:
    path = file_of(made, kind, name)
    damage(path, how)
    with pytest.raises(UserError) as caught:
        open_prepared(made.path)
    assert str(path) in str(caught.value)
    assert "flan-train prepare" in caught.value.fix
    assert str(path.parent) in caught.value.fix


def test_a_flipped_byte_never_becomes_a_batch(made: PreparedDataset) -> None:
    path = file_of(made, "task", "tokens.bin")
    damage(path, "flipped")
    reopened = open_prepared(made.path)
    with pytest.raises(UserError, match="bytes changed in example"):
        reopened.read(np.arange(30))
    with pytest.raises(UserError, match="checksum differs"):
        open_prepared(made.path, verify=True)
    reopened.tokens(49)  # the other task is whole


def test_a_shard_that_vanishes_while_open(made: PreparedDataset) -> None:
    reopened = open_prepared(made.path)
    file_of(made, "task", "tokens.bin").unlink()
    with pytest.raises(UserError, match="cannot open a file"):
        reopened.tokens(0)


def test_a_shard_cut_short_while_open(made: PreparedDataset) -> None:
    reopened = open_prepared(made.path)
    reopened.tokens(0)
    os.truncate(file_of(made, "task", "tokens.bin"), 10)
    with pytest.raises(UserError, match="ends too early"):
        reopened.tokens(29)


def test_an_altered_record_is_named(made: PreparedDataset) -> None:
    path = file_of(made, "task", "records.jsonl")
    content = path.read_bytes()
    path.write_bytes(b"#" + content[1:])
    with pytest.raises(UserError, match="a record cannot be read"):
        open_prepared(made.path).record(0)


def test_another_format_version(made: PreparedDataset) -> None:
    path = made.path / "manifest.json"
    manifest = {**json.loads(path.read_text()), "format_version": 99}
    path.write_text(json.dumps(shards.sealed(manifest)))
    with pytest.raises(UserError, match="format version 99"):
        open_prepared(made.path)


def test_nothing_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no prepared dataset there"):
        open_prepared(tmp_path / "absent")


def test_the_vocabulary_must_be_the_one_used(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "own.model"
    shutil.copy(vocabulary_path("quickstart"), path)
    with registered([toy("toy_a", counting(3))]):
        config = DataConfig("toy_a", LENGTHS, str(path), prepared_dir=str(tmp_path / "prepared"))
        made = prepare(config, progress=False)
    assert open_prepared(made.path).vocabulary.sha256 == Vocabulary(path).sha256
    path.write_bytes(path.read_bytes() + b"\x78\x01")  # a field that SentencePiece skips
    with pytest.raises(UserError, match="has changed since the dataset was prepared"):
        _ = open_prepared(made.path).vocabulary


def test_large_vocabularies_are_stored_wide() -> None:
    assert shards.token_dtype(65_536) == np.dtype("<u2")
    assert shards.token_dtype(65_537) == np.dtype("<i4")


def test_more_files_than_may_be_open(tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / f"{number}.bin" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 8)
    files = shards.OpenFiles(limit=4)
    before = len(os.listdir("/proc/self/fd"))
    for path in paths + paths[::-1]:
        assert files.read(path, 2, 3) == bytes([int(path.stem)]) * 3
    assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_leftovers_of_killed_processes_go(tmp_path: pathlib.Path) -> None:
    with shards.NewFolder(tmp_path / "mine") as folder:
        dead = folder.path.with_name(folder.path.name.replace(str(os.getpid()), "999999999"))
        dead.mkdir()
        shards.remove_leftovers(tmp_path)
        assert folder.path.is_dir()
        assert not dead.exists()


def test_a_full_disk_is_explained(tmp_path: pathlib.Path) -> None:
    def fill_up() -> None:
        with (
            shards.explained_disk_errors(tmp_path),
            open("/dev/full", "wb", buffering=0) as stream,
        ):
            stream.write(b"x")

    with pytest.raises(UserError, match=r"No space left(.|\n)*make room"):
        fill_up()


def test_the_first_of_two_writers_stays(tmp_path: pathlib.Path) -> None:
    final = tmp_path / "folder"
    with shards.NewFolder(final) as first, shards.NewFolder(final) as second:
        for folder in (first, second):
            folder.append("data.bin", b"same")
        first.finish("task.json", {"format_version": shards.FORMAT_VERSION})
        inode = final.stat().st_ino
        second.finish("task.json", {"format_version": shards.FORMAT_VERSION})
        assert final.stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
