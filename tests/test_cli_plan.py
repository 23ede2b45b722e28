"""`flan-train plan` from the command line, and its section in the report."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from flan_train import cli, plan, report

TINY = [
    "--gin_file=t5x_configs/recipes/quickstart.gin",
    "--gin.t5.T5Config.embed_dim=32",
    "--gin.t5.T5Config.vocab_size=896",
    "--gin.t5.T5Config.num_encoder_layers=1",
    "--gin.t5.T5Config.num_decoder_layers=1",
    "--topology=cpu:2",
]


def test_the_plan_is_printed_written_and_reported(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.gin").write_text("")
    aside = tmp_path / "plan.json"
    program = tmp_path / "program.txt"
    words = ["plan", *TINY, f"--gin.MODEL_DIR='{folder}'", f"--json={aside}", f"--hlo={program}"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "memory of a device" in said
    assert "ENTRY" in program.read_text()
    assert "all-reduce" in said
    found = plan.read(aside)
    assert found is not None
    assert found["recipe"] == "quickstart"
    # A run directory that is there gets the plan, and its report shows it.
    assert plan.read(folder / "plan.json") == found
    assert found["settings"]["attention_used"] in said
    assert found["settings"]["attention_used"].startswith("plain (the devices are no TPUs")
    page = report.write_report(folder).read_text("utf-8")
    assert '<section id="plan">' in page
    assert "MFU at most" in page
    (folder / "plan.json").unlink()
    assert '<section id="plan">' not in report.write_report(folder).read_text("utf-8")


@pytest.mark.skipif(
    not pathlib.Path(f"/proc/self/task/{os.getpid()}/children").exists(),
    reason="this kernel does not list the children of a process",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_plan_that_is_stopped_leaves_nothing(
    number: int, tmp_path: pathlib.Path, repository: pathlib.Path
) -> None:
    words = [sys.executable, "-m", "flan_train.cli", "plan", *TINY]
    variables = os.environ | {"TMPDIR": str(tmp_path)}
    asker = subprocess.Popen(words, cwd=repository, env=variables, stderr=subprocess.DEVNULL)
    children = pathlib.Path(f"/proc/{asker.pid}/task/{asker.pid}/children")
    while not (child := children.read_text().split()):
        assert asker.poll() is None
        time.sleep(0.01)
    # It has started to work on the request, or is about to.
    time.sleep(1)
    asker.send_signal(number)
    assert asker.wait() == -number
    for _ in range(6000):
        if not pathlib.Path(f"/proc/{child[0]}").exists():
            break
        time.sleep(0.01)
    assert not pathlib.Path(f"/proc/{child[0]}").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_compiles_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *TINY, "--dry_run", "--search"]) == 0
    said = capsys.readouterr().out
    assert "would compile data_parallel 1" in said
    assert "candidates" in said


def test_a_search_from_the_command_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "search.json"
    words = ["plan", *TINY, "--search", "--search_limit=1", f"--json={path}"]
    assert cli.main(words) == 0
    assert "the best of them" in capsys.readouterr().out
    assert len(json.loads(path.read_text())["ranked"]) == 1


def test_a_plan_that_could_not_be_kept_is_refused_before_compiling(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").mkdir()
    assert cli.main(["plan", *TINY, f"--gin.MODEL_DIR='{tmp_path}'"]) == 2
    assert "the plan of the run cannot be written: it is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (TINY[:-1], "was not told what to compile for"),
        (["--topology=cpu:8"], "was given no gin file"),
        ([*TINY, "--topology=v4:4x4"], "is no topology"),
        ([*TINY, "--slices=0"], "0 slices of cpu:2"),
        ([*TINY, "--gin.NUM_SLICES=2"], "the configuration is for 2 slices, the plan for 1"),
        ([*TINY, "--gin.BATCH_SIZE='x'"], "BATCH_SIZE"),
        ([*TINY, "--gin.RANDOM_SEED=-1", "--search", "--dry_run"], "RANDOM_SEED"),
        ([*TINY, "--gin.MODEL_DIR=5"], "MODEL_DIR"),
        ([*TINY, "--topology=cpu:70000"], "cpu:70000 would be 70,000 devices"),
        ([*TINY, "--hlo=/nowhere/x"], "--hlo cannot be written: there is no folder /nowhere"),
        ([*TINY, "--json=/"], "--json cannot be written: it is a folder"),
        ([*TINY, "--search", "--hlo=x"], "writes the text of none"),
        ([*TINY, "--search", "--search_seconds=inf"], "time for it"),
        (
            [*TINY, "--gin.ATTENTION='fused'"],
            "the fused attention does not apply to the decoder attention",
        ),
        ([*TINY, "--search", "--search_limit=0"], "something to try"),
        ([*TINY, "--gin.NUM_PARTITIONS=3", "--gin.SHARDING_PRESET='fsdp'"], "groups of 3"),
    ],
)
def test_mistakes_are_told(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *words]) == 2
    assert message in capsys.readouterr().err
