"""Procedural tasks with verifiable answers and rationales: the embedded default data.

A held-out family asks something no training family asks, in words that training shows
elsewhere: a model trained from nothing else cannot know what a new word means.
"""

from __future__ import annotations

from flan_train.tasks.procedural import dates, letters, numbers, situations
from flan_train.tasks.procedural.instances import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *numbers.FAMILIES,
        *letters.FAMILIES,
        *dates.FAMILIES,
        *situations.FAMILIES,
    )
}
