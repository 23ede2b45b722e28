"""The files of a task's folder, as they are appended to."""

from __future__ import annotations

import contextlib
import json
import pathlib
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import shards

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.one_of(TEXT, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple)),
)


@settings(deadline=None)
@given(st.tuples(TEXT, TEXT, st.lists(TEXT).map(tuple), TEXT, st.integers(0, 9)))
def test_a_record_is_one_json_line(record: tuple[Any, ...]) -> None:
    line = shards._line(record)
    assert line == json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    assert line.count(b"\n") == 1


@settings(deadline=None, max_examples=50)
@given(st.lists(VALUES))
def test_any_record(record: list[Any]) -> None:
    line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    assert shards._line(record) == line


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_ids_and_stored_ids_are_appended_alike(tmp_path: pathlib.Path, dtype: str) -> None:
    inputs, targets = [[5, 6, 1], [7, 1], [1]], [[8, 1], [9, 9, 9, 1], [1]]
    records = [["t", f"row:{number}", (), "é\n", 0] for number in range(3)]
    folders = []
    for name, stored in (("ids", False), ("stored", True)):
        with shards.NewFolder(tmp_path / name) as folder:
            writer = shards.TaskWriter(folder, np.dtype(dtype))
            for first in (0, 2):
                chosen = slice(first, first + 2)
                if stored:
                    writer.append_stored(
                        *(
                            [np.array(ids, dtype).tobytes() for ids in feature[chosen]]
                            for feature in (inputs, targets)
                        ),
                        records[chosen],
                    )
                else:
                    writer.append(inputs[chosen], targets[chosen], records[chosen])
            writer.append([], [], [])
            assert writer.examples == 3
            assert writer.tokens.tolist() == [6, 7]
            folder.finish("task.json", {"format_version": shards.FORMAT_VERSION})
        folders.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert folders[0] == folders[1]
    flat = np.frombuffer(folders[0][shards.TOKENS], dtype)
    assert flat.tolist() == [5, 6, 1, 8, 1, 7, 1, 9, 9, 9, 1, 1, 1]
    assert np.frombuffer(folders[0]["lengths.bin"], "<i4").tolist() == [3, 2, 2, 4, 1, 1]


def test_the_folder_above_may_vanish_while_one_is_made(tmp_path: pathlib.Path) -> None:
    """Another process removes what it finds empty, also between two steps of ours."""
    above, done = tmp_path / "parts", threading.Event()

    def remove() -> None:
        while not done.wait(1e-4):
            with contextlib.suppress(OSError):
                above.rmdir()

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for number in range(300):
            with shards.NewFolder(above / str(number)) as folder:
                assert folder.path.is_dir()
    finally:
        done.set()
        thread.join()
