"""Run directories -> one self-contained HTML page, and a summary for the terminal."""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Sequence

from rich.console import Console

from flan_train import report_blocks, report_compare, report_html, report_summary
from flan_train.errors import UserError, not_written
from flan_train.run_directory import Run, read_run
from flan_train.scores import write_whole

TEMPLATE = pathlib.Path(__file__).with_name("report_page.html")
STYLES = (TEMPLATE.with_name("page.css"), TEMPLATE.with_name("report_page.css"))

Path = str | pathlib.Path


def write_report(model_dirs: Path | Sequence[Path], out: Path | None = None) -> pathlib.Path:
    """Writes the page of a run, or of several side by side, and returns its path.

    The page is made from the run directories' files alone and loads nothing from anywhere; what a
    run does not hold yet is said in words.

    Args:
      model_dirs: the run, or the runs.
      out: the file; None for `report.html` in the run directory, or for `comparison.html` in the
        folder that all the runs are in.

    Raises:
      UserError: one is no run directory, or is named twice; a file cannot be read or written.
    """
    runs = _read(model_dirs)
    if len(runs) == 1:
        found = report_blocks.blocks(runs[0])
        title, body = report_html.title(runs[0]), report_html.body(runs[0], found)
        path = runs[0].path / "report.html"
    else:
        title, body = report_compare.title(runs), report_compare.body(runs)
        path = _common(runs) / "comparison.html"
    # The body goes in last: its text may hold anything, a placeholder included.
    head, _, tail = TEMPLATE.read_text("utf-8").partition("<!--BODY-->")
    head = head.replace("/*STYLE*/", "".join(style.read_text("utf-8") for style in STYLES))
    head = head.replace("<!--TITLE-->", html.escape(title))
    path = path if out is None else pathlib.Path(out)
    # A path of the command line may hold bytes that are no text.
    text = (head + body + tail).encode("utf-8", "replace").decode()
    try:
        write_whole(path, text)
    except OSError as error:
        raise not_written("--out", path, error) from None
    return path


def summary(model_dirs: Path | Sequence[Path], console: Console) -> None:
    """Prints the scores of a run, or of several side by side, a line a suite.

    Raises:
      UserError: one is no run directory, or is named twice, or a file of it cannot be read.
    """
    runs = _read(model_dirs)
    if len(runs) == 1:
        report_summary.of_run(runs[0], console)
    else:
        report_summary.of_runs(runs, console)


def _read(model_dirs: Path | Sequence[Path]) -> list[Run]:
    if isinstance(model_dirs, (str, pathlib.Path)):
        model_dirs = [model_dirs]
    paths = [pathlib.Path(model_dir).resolve() for model_dir in model_dirs]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise UserError(
                "a run is named twice",
                where=str(model_dirs[place]),
                expected="each run once",
                fix="leave one of them out",
            )
    return [read_run(model_dir) for model_dir in model_dirs]


def _common(runs: Sequence[Run]) -> pathlib.Path:
    return pathlib.Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
