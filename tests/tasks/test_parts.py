"""The cut into a part to choose by and a part to report."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flan_train.tasks.parts import validation_ids

IDS = st.lists(st.text(max_size=6), unique=True, max_size=60)


@given(IDS, st.randoms(use_true_random=False))
def test_a_quarter_that_depends_on_the_ids_alone(ids: list[str], random: object) -> None:
    chosen = validation_ids(ids)
    assert chosen <= set(ids)
    assert len(chosen) == (len(ids) + 3) // 4
    random.shuffle(ids)  # type: ignore[attr-defined]
    assert validation_ids(ids) == chosen


def test_it_is_the_same_everywhere() -> None:
    # With another choice here the scores of earlier runs no longer compare.
    ids = [f"mmlu/val/anatomy_val.csv:{number}" for number in range(1, 15)]
    numbers = {int(one.partition(":")[2]) for one in validation_ids(ids)}
    assert numbers == {4, 5, 10, 11}
