"""TensorBoard's curves: what a file holds, and that a full disk ends them and nothing else."""

from __future__ import annotations

import io
import json
import pathlib
import struct

from rich.console import Console
from tensorboardX.proto import event_pb2

from flan_train import progress
from flan_train.curves import Curves
from tests.test_full_disk import run_child
from tests.test_progress import entry


def events(folder: pathlib.Path) -> list[event_pb2.Event]:
    """Returns the events of the one file in a folder: length, checksum, bytes, checksum each."""
    (path,) = folder.iterdir()
    rest, found = path.read_bytes(), []
    while rest:
        (size,) = struct.unpack("<Q", rest[:8])
        found.append(event_pb2.Event.FromString(rest[12 : 12 + size]))
        rest = rest[16 + size :]
    return found


def points(folder: pathlib.Path) -> list[tuple[int, str, float]]:
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]


def never(text: str) -> None:
    raise AssertionError(text)


def test_points_are_in_the_file_under_their_steps(tmp_path: pathlib.Path) -> None:
    curves = Curves(tmp_path / "metrics", 4, never)
    curves.add(4, {"train/loss": 0.5, "train/z_loss": 0.25})
    curves.add(5, {"eval/suite/exact_match": 1.0})
    curves.flush()
    expected = [
        (4, "train/loss", 0.5),
        (4, "train/z_loss", 0.25),
        (5, "eval/suite/exact_match", 1.0),
    ]
    assert points(tmp_path / "metrics") == expected
    curves.add(6, {"train/loss": 0.125})
    curves.close()
    assert points(tmp_path / "metrics") == [*expected, (6, "train/loss", 0.125)]
    version, purge, *_ = events(tmp_path / "metrics")
    assert version.file_version == "brain.Event:2"
    assert (purge.step, purge.session_log.status) == (4, event_pb2.SessionLog.START)
    curves.close()
    curves.add(7, {"train/loss": 0.0})


def test_a_run_from_the_beginning_purges_nothing(tmp_path: pathlib.Path) -> None:
    Curves(tmp_path, None, never).close()
    (version,) = events(tmp_path)
    assert version.file_version == "brain.Event:2"


def test_a_folder_that_cannot_be_made_is_said_and_ends_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / progress.METRICS).write_text("")
    text = io.StringIO()
    console = Console(file=text)
    with progress.RunLog(tmp_path, first_step=0, last_step=2, console=console) as log:
        log.write(entry(1))
        log.write(entry(2))
        log.write_scores("suite", 2, {"exact_match": 0.5})
    said = " ".join(text.getvalue().split())
    assert said.count("WARNING: TensorBoard's curves end here: File exists") == 1
    assert str(tmp_path / progress.METRICS) in said
    assert len((tmp_path / progress.LOG).read_text().splitlines()) == 2


# A limit on the size of a file is what a full disk is to whoever writes one. The event file comes
# to it before the log.
FULL = """
import io, json, pathlib, resource, sys
from rich.console import Console
from flan_train import progress
from tests.test_progress import entry

resource.setrlimit(resource.RLIMIT_FSIZE, (18_000, resource.RLIM_INFINITY))
said = {}
for way in ("flushed", "buffered"):
    folder, text = pathlib.Path(json.loads(sys.argv[1])) / way, io.StringIO()
    folder.mkdir()
    console = Console(file=text, width=1000)
    with progress.RunLog(folder, first_step=0, last_step=60, console=console) as log:
        for step in range(1, 61):
            log.write(entry(step))
            if way == "flushed":
                log.write_scores("suite", step, {"exact_match": 0.5})
    said[way] = text.getvalue()
print(json.dumps(said))
"""


def test_a_full_disk_ends_the_curves_and_nothing_else(
    tmp_path: pathlib.Path, repository: pathlib.Path
) -> None:
    for way, said in run_child(repository, [], FULL, str(tmp_path)).items():
        assert said.count("WARNING: TensorBoard's curves end here: File too large") == 1
        assert "step 60/60" in said
        lines = (tmp_path / way / progress.LOG).read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 61))
        (path,) = (tmp_path / way / progress.METRICS).iterdir()
        assert path.stat().st_size <= 18_000
