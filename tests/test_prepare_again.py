"""Prepared data that were damaged or left half done, and scripts that prepare on their own."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from flan_train import shards
from flan_train.prepare import prepare
from tests.test_prepare import LENGTHS, config, contents, made, nothing_half_written
from tests.toy_tasks import counting, registered, toy


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*shards.FILES, "task.json"])
@pytest.mark.parametrize("how", ["torn", "flipped"])
def test_a_damaged_task_is_made_again(tmp_path: pathlib.Path, name: str, how: str) -> None:
    with registered([toy("toy_a", counting(10)), toy("toy_b", counting(5))]):
        first = made(tmp_path)
        before = contents(tmp_path)
        path = tmp_path / "tasks" / first.manifest["tasks"][0]["folder"] / name
        if how == "torn":
            path.write_bytes(path.read_bytes()[:-4])
        else:
            flip(path)
        # What is checked example by example is read whole only when asked for.
        second = prepare(config(tmp_path), progress=False, verify=name in shards.CHECKED_WHEN_READ)
    assert second.path == first.path
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["lengths.bin", "starts.bin", "manifest.json"])
def test_a_damaged_mixture_is_made_again(tmp_path: pathlib.Path, name: str) -> None:
    with registered([toy("toy_a", counting(10))]):
        first = made(tmp_path)
        before = contents(tmp_path)
        flip(first.path / name)
        assert made(tmp_path).path == first.path
        assert contents(tmp_path) == before
        (first.path / name).write_bytes(b"")
        assert made(tmp_path).path == first.path
    assert contents(tmp_path) == before


def test_killed_at_any_moment_and_run_again(
    tmp_path: pathlib.Path, repository: pathlib.Path
) -> None:
    """Killed between its tasks, within each of them, and while it writes the mixture."""
    reference = made(tmp_path / "whole", "toy_pair", modules=("tests.toy_tasks",))
    killed = tmp_path / "killed"
    code = f"""
import sys
from flan_train import rendering, shards
from flan_train.prepare import DataConfig, prepare

# Stops where it is told to, until it is killed there.
stop, seen = int(sys.argv[1]), 0
append = shards.NewFolder.append
def slow(folder, name, data):
    global seen
    append(folder, name, data)
    seen += 1
    if seen == stop:
        print("there", flush=True)
        sys.stdin.read()
shards.NewFolder.append = slow
prepare(DataConfig("toy_pair", {LENGTHS!r}, "quickstart", prepared_dir={str(killed)!r},
                   modules=("tests.toy_tasks",), num_workers=1), progress=False)
print("done", flush=True)
"""
    partial = finished = 0
    for stop in (1, 13, 14, 20, 18):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(stop)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        process.stdin.close()
        process.stdout.close()
        partial += len(list(killed.rglob(".tmp-*")))
        for folder in (killed / "tasks").glob("toy_*"):
            finished += 1
            assert {path.name for path in folder.iterdir()} == {"task.json", *shards.FILES}
    assert partial == 5
    assert finished == 3
    again = made(killed, "toy_pair", modules=("tests.toy_tasks",))
    assert again.manifest == reference.manifest
    assert contents(killed) == contents(tmp_path / "whole")
    assert not list(killed.rglob(".tmp-*"))


# --- scripts of a user's own --------------------------------------------------------------------

SCRIPT = f"""
from flan_train.prepare import DataConfig, prepare
from tests.toy_tasks import counting, toy
from flan_train import mixtures, tasks

def main(root):
    tasks.add(toy("mine_a", counting(20)))
    tasks.add(toy("mine_b", counting(30)))
    members = (mixtures.Member("mine_a"), mixtures.Member("mine_b"))
    mixtures.add(mixtures.MixtureDefinition("mine", members))
    config = DataConfig("mine", {LENGTHS!r}, "quickstart", prepared_dir=root, num_workers=2)
    print(len(prepare(config, progress=False)))
"""


def run_script(
    tmp_path: pathlib.Path, repository: pathlib.Path, end: str
) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT + end)
    return subprocess.run(
        [sys.executable, str(path), str(tmp_path / "prepared")],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_tasks_that_only_the_running_script_has(
    tmp_path: pathlib.Path, repository: pathlib.Path
) -> None:
    guarded = 'if __name__ == "__main__":\n    import sys\n    main(sys.argv[1])\n'
    result = run_script(tmp_path, repository, guarded)
    assert result.stdout == "50\n", result.stderr


def test_a_script_without_a_guard_is_told(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    result = run_script(tmp_path, repository, "import sys\nmain(sys.argv[1])\n")
    assert result.returncode == 1
    for part in ("could not start", "script.py", '__name__ == "__main__"', "`modules`"):
        assert part in result.stderr
    assert nothing_half_written(tmp_path / "prepared")


def test_preparing_imports_no_tensorflow(tmp_path: pathlib.Path) -> None:
    longer = {"inputs": 64, "targets": 128}
    code = f"""
import sys
from flan_train.prepare import DataConfig, prepare
prepare(DataConfig("quickstart_addition_cot", {longer!r}, "quickstart", examples_per_task=5,
                   prepared_dir={str(tmp_path)!r}))
print([name for name in ("tensorflow", "seqio", "jax", "grain") if name in sys.modules])
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert output.stdout.strip() == "[]"
