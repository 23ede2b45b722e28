"""What is shown while suites are evaluated."""

from __future__ import annotations

import io

from rich.console import Console

from flan_train.evaluate_progress import Pace, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_counts_what_was_evaluated_now() -> None:
    clock = Clock()
    pace = Pace(1_500, clock)
    assert pace.text() == "0 of 1,500 examples"
    pace.reach(1_001)  # a thousand of them an earlier launch had done
    assert pace.rate() is None
    clock.now = 2.0
    pace.reach(1_020)
    assert pace.rate() == 10.0
    assert pace.text() == "1,020 of 1,500 examples, 10.0/s, 0:00:48 left"


def shown(terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=160, height=10)
    suites = {"easy": (2, 3), "hard": (1, 1)}
    with Progress(suites, console=console, period=0.0) as progress:
        for suite, (_, examples) in suites.items():
            progress.start(suite)
            for done in range(1, examples + 1):
                progress.reach(done)
            progress.finish()
    return text.getvalue()


def test_in_a_file_lines_say_suite_and_examples() -> None:
    assert shown(terminal=False).splitlines() == [
        "evaluating easy (0 of 2 suites): 1 of 3 examples",
        "evaluating easy (0 of 2 suites): 2 of 3 examples",
        "evaluating easy (0 of 2 suites): 3 of 3 examples",
        "evaluating hard (1 of 2 suites): 1 of 1 examples",
    ]


def test_on_a_terminal_there_is_a_bar_for_all_and_one_for_the_suite() -> None:
    text = shown(terminal=True)
    for part in ("evaluating", "hard (1 task)", "1 of 1 examples", "2 of 2 suites"):
        assert part in text
