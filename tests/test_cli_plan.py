"""`flan-train plan` from the command line, and its section in the report."""

from __future__ import annotations

import json
import pathlib

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
    page = report.write_report(folder).read_text("utf-8")
    assert '<section id="plan">' in page
    assert "MFU at most" in page
    (folder / "plan.json").unlink()
    assert '<section id="plan">' not in report.write_report(folder).read_text("utf-8")


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (TINY[:-1], "was not told what to compile for"),
        (["--topology=cpu:8"], "was given no gin file"),
        ([*TINY, "--topology=v4:4x4"], "is no topology"),
        ([*TINY, "--slices=0"], "0 slices of cpu:2"),
        ([*TINY, "--search", "--search_limit=0"], "something to try"),
        ([*TINY, "--gin.NUM_PARTITIONS=3", "--gin.SHARDING_PRESET='fsdp'"], "groups of 3"),
    ],
)
def test_mistakes_are_told(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *words]) == 2
    assert message in capsys.readouterr().err
