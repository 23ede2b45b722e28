"""Families about weekdays and months."""

from __future__ import annotations

from flan_train.tasks.procedural.draws import Draw
from flan_train.tasks.procedural.instances import Family, Instance
from flan_train.tasks.procedural.words import MONTHS, NAMES, OCCASIONS, PROJECTS, WEEKDAYS

# Long enough that there are some two hundred walks each, a fifth of them held out.
_MOST_DAYS, _MOST_MONTHS = 12, 11


def _walk(calendar: tuple[str, ...], start: int, steps: int) -> list[str]:
    """Returns the names passed on the way, the start left out and the end included."""
    sign = 1 if steps > 0 else -1
    return [calendar[(start + sign * i) % len(calendar)] for i in range(1, abs(steps) + 1)]


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _weekday_shift(draw: Draw) -> Instance:
    start, count, later = draw.below(len(WEEKDAYS)), draw.between(1, _MOST_DAYS), draw.coin()
    passed = _walk(WEEKDAYS, start, count if later else -count)
    return Instance(
        fields={
            "name": draw.pick(NAMES),
            "occasion": draw.pick(OCCASIONS),
            "weekday": WEEKDAYS[start],
            "days": _counted(count, "day"),
            "direction": "after" if later else "before",
        },
        answer=passed[-1],
        rationale=f"{'Forward' if later else 'Back'} {count}: {', '.join(passed)}.",
        options=WEEKDAYS,
        identity=(WEEKDAYS[start], str(count if later else -count)),
    )


def _month_shift(draw: Draw) -> Instance:
    start, count, later = draw.below(len(MONTHS)), draw.between(1, _MOST_MONTHS), draw.coin()
    passed = _walk(MONTHS, start, count if later else -count)
    return Instance(
        fields={
            "name": draw.pick(NAMES),
            "project": draw.pick(PROJECTS),
            "month": MONTHS[start],
            "months": _counted(count, "month"),
            "direction": "later" if later else "earlier",
        },
        answer=passed[-1],
        rationale=f"{'Forward' if later else 'Back'} {count}: {', '.join(passed)}.",
        options=MONTHS,
        identity=(MONTHS[start], str(count if later else -count)),
    )


FAMILIES = (
    Family("weekday_shift", _weekday_shift),
    Family("month_shift", _month_shift),
)
