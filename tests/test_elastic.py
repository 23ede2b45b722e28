"""Stop anywhere, go on with any number of hosts: the same examples at every step."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flan_train.batches import FEATURES, TrainBatches
from flan_train.prepared import PreparedDataset
from tests import synthetic_store
from tests.synthetic_store import LENGTHS, examples_in, lengths_of

BATCH = 24  # 1, 2, 3, 4 and 8 hosts share it evenly
HOSTS = (1, 2, 3, 4, 8)
STEPS = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """A mixture and a run on it.

    Attributes:
      tasks: (weight, examples of each rendering) of each task.
      lengths_seed: of the examples' lengths.
      seed: of order and packing.
      stop: the step after which the first run stops, or how many steps before the end of an epoch.
    """

    tasks: tuple[tuple[int, tuple[int, ...]], ...]
    lengths_seed: int
    seed: int
    stop: int

    def store(self, root: pathlib.Path) -> PreparedDataset:
        tasks = {
            f"task{number}": [
                lengths_of(count, self.lengths_seed + 100 * number + draw)
                for draw, count in enumerate(counts)
            ]
            for number, (_, counts) in enumerate(self.tasks)
        }
        whole = sum(weight for weight, _ in self.tasks)
        shares = {f"task{n}": weight / whole for n, (weight, _) in enumerate(self.tasks)}
        return synthetic_store.write(root, tasks, shares)


cases = st.builds(
    Case,
    st.lists(
        st.tuples(
            st.integers(1, 9),
            st.lists(st.integers(1, 150), min_size=1, max_size=3).map(tuple),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
    st.integers(0, 10**6),
    st.integers(0, 2**31),
    st.integers(0, 20),
)


@pytest.fixture(scope="module")
def root() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def reader(store: PreparedDataset, seed: int, host: int = 0, hosts: int = 1) -> TrainBatches:
    return TrainBatches(
        store,
        batch_size=BATCH,
        lengths=LENGTHS,
        seed=seed,
        rows=np.array_split(np.arange(BATCH), hosts)[host],
        threads=0,
    )


def examples_of(batches: list[dict[str, np.ndarray]]) -> collections.Counter[int]:
    """The examples of a global step, read from what each host was given."""
    found: collections.Counter[int] = collections.Counter()
    for batch in batches:
        for sequence in examples_in(batch):
            found.update(sequence)
    return found


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return all(first[name].tobytes() == second[name].tobytes() for name in FEATURES)


@settings(deadline=None, max_examples=20)
@given(cases, st.sampled_from(HOSTS), st.sampled_from(HOSTS))
# One example more than fits a batch: every step crosses a border of epochs.
@example(Case(((1, (25,)),), 0, 0, 5), 8, 3)
@example(Case(((1, (1,)), (1, (2, 2, 2))), 1, 2, 7), 4, 1)
def test_stop_anywhere_and_go_on_with_other_hosts(
    root: pathlib.Path, case: Case, before: int, after: int
) -> None:
    with tempfile.TemporaryDirectory(dir=root) as folder:
        store = case.store(pathlib.Path(folder))
        undisturbed = reader(store, case.seed)
        expected = [next(undisturbed) for _ in range(case.stop + STEPS)]

        first = [reader(store, case.seed, host, before) for host in range(before)]
        for step in range(case.stop):
            batches = [next(host) for host in first]
            if step >= case.stop - 2:
                assert examples_of(batches) == examples_of([expected[step]])
        state = json.loads(json.dumps(first[-1].state()))
        assert set(state) == {"epoch", "sequence"}
        assert all(type(value) is int for value in state.values())
        assert all(host.state() == state for host in first)

        # In a new process nothing is known but the position.
        again = case.store(pathlib.Path(folder))
        for hosts in {before, after}:
            resumed = [reader(again, case.seed, host, hosts) for host in range(hosts)]
            for host in resumed:
                host.restore(state)
            for step in range(case.stop, case.stop + STEPS):
                batches = [next(host) for host in resumed]
                assert examples_of(batches) == examples_of([expected[step]])
                joined = {name: np.concatenate([b[name] for b in batches]) for name in FEATURES}
                assert same(joined, expected[step])
                if hosts == before:
                    going_on = [next(host) for host in first]
                    assert all(map(same, batches, going_on))


@settings(deadline=None, max_examples=15)
@given(cases, st.integers(-30, 30), st.sampled_from(HOSTS))
# The very end of epoch 1, and its start.
@example(Case(((1, (80,)), (2, (90, 85))), 3, 1, 1), 0, 8)
@example(Case(((1, (80,)), (2, (90, 85))), 3, 1, 0), 0, 3)
def test_stops_around_the_border_of_an_epoch(
    root: pathlib.Path, case: Case, distance: int, hosts: int
) -> None:
    """Positions near the end of epoch `stop % 3`; where one ends, the next begins."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        store = case.store(pathlib.Path(folder))
        plan = reader(store, case.seed).stream.plan
        epoch = case.stop % 3
        sequence = max(len(plan(epoch)) + min(distance, 0), 0)
        if distance > 0:
            epoch, sequence = epoch + 1, min(distance, len(plan(epoch + 1)))
        following = (
            plan(number).sequence(place).tolist()
            for number in itertools.count(epoch)
            for place in range(sequence if number == epoch else 0, len(plan(number)))
        )
        expected = list(itertools.islice(following, BATCH))
        found = []
        for host in range(hosts):
            one = reader(store, case.seed, host, hosts)
            one.restore({"epoch": epoch, "sequence": sequence})
            found += examples_in(next(one))
        assert found == expected


@pytest.fixture(scope="module")
def store(root: pathlib.Path) -> PreparedDataset:
    return synthetic_store.write(
        root / "one", {"a": [lengths_of(200, 0)], "b": [lengths_of(90, 1)]}
    )


def test_threads_that_read_ahead_stop_and_go_on_alike(store: PreparedDataset) -> None:
    plain = reader(store, 5)
    expected = [next(plain) for _ in range(12)]
    for stop in (0, 1, 4, 9):
        ahead = TrainBatches(store, batch_size=BATCH, lengths=LENGTHS, seed=5, threads=3)
        for _ in range(stop):
            next(ahead)
        state = ahead.state()
        ahead.close()
        resumed = TrainBatches(store, batch_size=BATCH, lengths=LENGTHS, seed=5, threads=2)
        resumed.restore(state)
        for step in range(stop, 12):
            assert same(next(resumed), expected[step])
        resumed.close()


def test_every_example_of_a_task_comes_once_before_any_comes_again(root: pathlib.Path) -> None:
    """Read from batches, over the border of epochs, with a second rendering of one task."""
    store = synthetic_store.write(
        root / "turns", {"a": [lengths_of(60, 0), lengths_of(55, 1)], "b": [lengths_of(40, 2)]}
    )
    # a is 0..59, b is 60..99, a's second rendering is 100..154
    stream = reader(store, 9)
    epochs = [collections.Counter(stream.stream.plan(e).examples.tolist()) for e in range(2)]
    assert epochs[0] == collections.Counter(range(100))
    second = [example for example in epochs[1] if example >= 100]
    assert sorted(second) == list(range(100, 155))
    assert sum(epochs[1][example] for example in range(60)) == 5  # the next turn has begun
    assert all(epochs[1][example] == 1 for example in range(60, 100))
    seen: collections.Counter[int] = collections.Counter()
    for _ in range(-(-sum(stream.stream.size(e) for e in range(2)) // BATCH)):
        seen += examples_of([next(stream)])
    assert not (epochs[0] + epochs[1]) - seen
