from __future__ import annotations

import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import packing
from flan_train.ordering import permutation
from flan_train.vocabulary import load_vocabulary

CAPACITY = (1024, 256)

pairs = st.tuples(st.integers(1, 16), st.integers(1, 9))


def long_tailed(count: int, seed: int) -> np.ndarray:
    """Lengths of a simulated mixture of zero-shot and few-shot prompts."""
    random = np.random.default_rng(seed)
    shots = np.where(random.random(count) < 0.5, random.integers(2, 7, count), 1)
    inputs = np.exp(random.normal(4.5, 0.7, count)) * shots + 2
    targets = np.exp(random.normal(2.8, 1.0, count)) + 1
    return np.stack([np.minimum(inputs, 1024), np.minimum(targets, 256)], 1).astype(np.int32)


def test_the_toy_of_the_docstring_is_filled_on_both_sides() -> None:
    lengths = np.array([[6, 1], [2, 3], [4, 2], [4, 2]])
    plan = packing.pack(lengths, (8, 4), seed=0)
    assert sorted(sorted(plan.sequence(s).tolist()) for s in range(2)) == [[0, 1], [2, 3]]
    assert packing.fill(plan, lengths, (8, 4)) == (1.0, 1.0)
    assert packing.lower_bound(lengths, (8, 4)) == 2


@settings(deadline=None, max_examples=60)
@given(st.lists(pairs, max_size=60), st.integers(0, 3))
def test_every_example_once_and_no_side_exceeded(items: list[tuple[int, int]], seed: int) -> None:
    lengths = np.array(items, np.int32).reshape(-1, 2)
    plan = packing.pack(lengths, (16, 9), seed=seed)
    assert sorted(plan.examples.tolist()) == list(range(len(items)))
    for sequence in range(len(plan)):
        members = plan.sequence(sequence)
        assert len(members) > 0
        assert (lengths[members].sum(axis=0) <= (16, 9)).all()
    assert packing.lower_bound(lengths, (16, 9)) <= len(plan) <= len(items)
    again = packing.pack(lengths, (16, 9), seed=seed)
    assert np.array_equal(plan.examples, again.examples)
    assert np.array_equal(plan.offsets, again.offsets)


def test_the_seed_decides_which_equal_examples_meet() -> None:
    lengths = np.tile([[100, 20], [300, 60]], (50, 1))
    first, second = (packing.pack(lengths, CAPACITY, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.examples, second.examples)
    assert len(first) == len(second)


def test_empty() -> None:
    plan = packing.pack(np.zeros((0, 2), np.int32), CAPACITY, seed=0)
    assert len(plan) == 0
    assert packing.fill(plan, np.zeros((0, 2), np.int32), CAPACITY) == (0.0, 0.0)


@pytest.mark.parametrize("wrong", [[1025, 5], [5, 257], [-1, 5]])
def test_an_example_longer_than_a_side_is_refused(wrong: list[int]) -> None:
    lengths = np.array([[3, 3], wrong])
    with pytest.raises(ValueError, match="example 1 has"):
        packing.pack(lengths, CAPACITY, seed=0)


def test_shapes_and_capacities_are_checked() -> None:
    with pytest.raises(ValueError, match="shape"):
        packing.pack(np.zeros(4), CAPACITY, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        packing.pack(np.ones((4, 2)), (0, 4), seed=0)


def test_long_capacities_are_packed_on_a_coarser_grid() -> None:
    random = np.random.default_rng(0)
    capacity = (32_769, 8_191)
    lengths = np.stack([random.integers(1, c + 1, 2000) // 4 + 1 for c in capacity], 1)
    lengths[0] = capacity
    plan = packing.pack(lengths, capacity, seed=0)
    assert sorted(plan.examples.tolist()) == list(range(2000))
    sums = np.add.reduceat(lengths[plan.examples], plan.offsets[:-1])
    assert (sums <= capacity).all()
    assert len(plan) <= 1.05 * packing.lower_bound(lengths, capacity)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
def test_the_bound_is_a_bound(items: list[int]) -> None:
    """Against the best of all partitions, found by trying."""
    lengths = np.array([(item, max(1, 12 - item)) for item in items])
    best = fewest(lengths.tolist(), (12, 12), [])
    assert packing.lower_bound(lengths, (12, 12)) <= best
    assert len(packing.pack(lengths, (12, 12), seed=0)) >= best


def fewest(left: list[list[int]], capacity: tuple[int, int], bins: list[list[int]]) -> int:
    if not left:
        return len(bins)
    (e, d), rest = left[0], left[1:]
    best = fewest(rest, capacity, [*bins, [e, d]])
    for index, (used_e, used_d) in enumerate(bins):
        if used_e + e <= capacity[0] and used_d + d <= capacity[1]:
            grown = [*bins[:index], [used_e + e, used_d + d], *bins[index + 1 :]]
            best = min(best, fewest(rest, capacity, grown))
    return best


def test_bound_counts_what_must_stand_alone() -> None:
    # Three fill the decoder, two the encoder; no two of them fit together.
    lengths = np.array([[9, 256]] * 3 + [[1024, 2]] * 2)
    assert packing.lower_bound(lengths, CAPACITY) == 5


@pytest.mark.parametrize("seed", [0, 1])
def test_long_tailed_lengths_pack_within_1_5_percent(seed: int) -> None:
    lengths = long_tailed(50_000, seed)
    plan = packing.pack(lengths, CAPACITY, seed=0)
    assert len(plan) <= 1.015 * packing.lower_bound(lengths, CAPACITY)


def test_real_chain_of_thought_rows_pack_within_1_5_percent(flan_data_dir: pathlib.Path) -> None:
    vocabulary = load_vocabulary("t5", str(flan_data_dir))
    rows = []
    for path in sorted((flan_data_dir / "cot").glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            fields = line.split("\t")
            if len(fields) == 3:
                rows.append((fields[0], f"{fields[2]}\nThe answer is {fields[1]}."))
    inputs = [len(ids) + 1 for ids in vocabulary.encode_batch([row[0] for row in rows])]
    targets = [len(ids) + 1 for ids in vocabulary.encode_batch([row[1] for row in rows])]
    lengths = np.minimum(np.stack([inputs, targets], axis=1), CAPACITY)
    # The rows as they are (targets scarce), and with the two sides nearly in balance.
    few_shot = lengths[::2] * [6, 1] + [30, 0]
    for name, kind in (
        ("zero-shot", lengths),
        ("both", np.concatenate([lengths, few_shot[few_shot[:, 0] <= 1024]])),
    ):
        plan = packing.pack(kind, CAPACITY, seed=0)
        bound = packing.lower_bound(kind, CAPACITY)
        assert len(plan) <= 1.015 * bound, name


def test_a_large_mixture_is_packed_whole_and_near_the_bound() -> None:
    # How long it takes: benchmarks/packing.py.
    lengths = long_tailed(200_000, 0)
    plan = packing.pack(lengths, CAPACITY, seed=0)
    assert np.array_equal(np.sort(plan.examples), np.arange(200_000))
    assert len(plan) <= 1.015 * packing.lower_bound(lengths, CAPACITY)


# --- epochs -------------------------------------------------------------------------------------


def dataset(rows: list[int], shares: list[float]) -> types.SimpleNamespace:
    names = [f"task{i}" for i in range(len(rows))]
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    random = np.random.default_rng(7)
    lengths = np.stack([random.integers(2, 100, offsets[-1]), random.integers(2, 30, offsets[-1])])
    return types.SimpleNamespace(
        task_names=names,
        task_offsets=offsets,
        shares=dict(zip(names, shares, strict=True)),
        lengths=lengths.T.astype(np.int32),
    )


def test_an_epoch_is_one_capped_pass() -> None:
    quotas = packing.epoch_quotas({"a": 10_000, "b": 500}, {"a": 0.9, "b": 0.1})
    assert quotas == {"a": 4500, "b": 500}
    natural = packing.epoch_quotas({"a": 3, "b": 4}, {"a": 3 / 7, "b": 4 / 7})
    assert natural == {"a": 3, "b": 4}
    assert packing.epoch_quotas({"a": 3}, {"a": 0.0}) == {}


def test_a_tiny_task_with_a_large_share_does_not_make_a_tiny_epoch() -> None:
    quotas = packing.epoch_quotas({"a": 100_000, "b": 10}, {"a": 0.5, "b": 0.5})
    assert sum(quotas.values()) == int(packing.MIN_EPOCH_FRACTION * 100_010)
    assert abs(quotas["a"] - quotas["b"]) <= 1


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_no_example_repeats_before_its_task_is_exhausted(
    tasks: list[tuple[int, int]], seed: int
) -> None:
    rows = [count for count, _ in tasks]
    weights = [weight / sum(w for _, w in tasks) for _, weight in tasks]
    data = dataset(rows, weights)
    sizes = dict(zip(data.task_names, rows, strict=True))
    drawn: dict[int, list[int]] = {t: [] for t in range(len(rows))}
    for epoch in range(4):
        examples = packing.epoch_examples(
            data.task_offsets, data.shares, data.task_names, seed=seed, epoch=epoch
        )
        quotas = packing.epoch_quotas(sizes, data.shares, epoch)
        owner = np.searchsorted(data.task_offsets, examples, side="right") - 1
        for t, name in enumerate(data.task_names):
            mine = examples[owner == t].tolist()
            assert len(mine) == quotas[name]
            drawn[t] += mine
    for t, sequence in drawn.items():
        for start in range(0, len(sequence), rows[t]):
            turn = sequence[start : start + rows[t]]
            assert len(set(turn)) == len(turn)
            if len(turn) == rows[t]:
                start_of_task = int(data.task_offsets[t])
                assert sorted(turn) == list(range(start_of_task, start_of_task + rows[t]))


parts_of_epochs = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(1, 10**6)), min_size=1, max_size=9
)


@settings(deadline=None, max_examples=80)
@given(parts_of_epochs, st.integers(0, 400))
def test_every_task_gets_its_share_in_the_long_run(
    tasks: list[tuple[int, int]], epoch: int
) -> None:
    weight = sum(w for _, w in tasks)
    rows = {f"task{i}": count for i, (count, _) in enumerate(tasks)}
    shares = {f"task{i}": w / weight for i, (_, w) in enumerate(tasks)}
    quotas = packing.epoch_quotas(rows, shares, epoch)
    size = sum(quotas.values())
    assert size == sum(packing.epoch_quotas(rows, shares).values())
    assert min(quotas.values()) >= 0
    through = packing.quotas_through(rows, shares, epoch + 1)
    before = packing.quotas_through(rows, shares, epoch)
    assert {name: through[name] - before[name] for name in rows} == quotas
    assert sum(through.values()) == (epoch + 1) * size
    for name, share in shares.items():
        ideal = share * (epoch + 1) * size
        assert abs(through[name] - ideal) <= 0.5 + share * len(rows) / 2 + 1e-6


def test_a_tiny_share_is_not_rounded_to_nothing_for_ever() -> None:
    rows, shares = {"a": 1000, "b": 1000}, {"a": 0.9998, "b": 0.0002}
    quotas = [packing.epoch_quotas(rows, shares, epoch)["b"] for epoch in range(10)]
    assert sum(quotas) == 2
    assert set(quotas) == {0, 1}


def test_thousands_of_tasks_get_their_natural_counts_in_a_late_epoch() -> None:
    rows = {f"task{i}": 1 + i % 700 for i in range(2000)}
    shares = {name: count / sum(rows.values()) for name, count in rows.items()}
    assert packing.epoch_quotas(rows, shares, 10**6) == rows


def test_a_floor_under_the_epoch_is_told() -> None:
    note = packing.epoch_note({"a": 100_000, "b": 10}, {"a": 0.5, "b": 0.5})
    assert note
    for part in ("5,000 examples", "make it 20", "b (10 rows, 250.0 times)"):
        assert part in note
    assert packing.epoch_note({"a": 10_000, "b": 500}, {"a": 0.9, "b": 0.1}) is None
    assert packing.epoch_note({"a": 0}, {"a": 0.0}) is None


def test_a_planned_epoch_holds_its_examples_shuffled() -> None:
    data = dataset([300, 200], [0.6, 0.4])
    plan = packing.plan_epoch(data, (128, 32), seed=5, epoch=0)
    assert sorted(plan.examples.tolist()) == list(range(500))
    sums = np.add.reduceat(data.lengths[plan.examples], plan.offsets[:-1])
    assert (sums <= (128, 32)).all()
    again = packing.plan_epoch(data, (128, 32), seed=5, epoch=0)
    assert np.array_equal(plan.examples, again.examples)
    other = packing.plan_epoch(data, (128, 32), seed=5, epoch=1)
    assert not np.array_equal(plan.examples[:50], other.examples[:50])


def test_shares_of_windows_stay_near_the_plan() -> None:
    data = dataset([6000, 3000], [0.75, 0.25])
    plan = packing.plan_epoch(data, (256, 64), seed=0, epoch=0)
    for first in range(0, len(plan) - 1000, 1000):
        window = plan.examples[plan.offsets[first] : plan.offsets[first + 1000]]
        part = (window < 6000).mean()
        assert abs(part - 0.75) < 4 * np.sqrt(0.75 * 0.25 / len(window))


def test_permutations_are_fixed_for_ever() -> None:
    assert permutation(8, "key", 1).tolist() == FIXED
    assert sorted(permutation(1000, 3).tolist()) == list(range(1000))
    assert permutation(0, 3).tolist() == []


FIXED = [3, 5, 2, 6, 0, 1, 4, 7]


def test_planning_imports_neither_tensorflow_nor_jax() -> None:
    code = (
        "import sys, numpy as np; from flan_train import packing;"
        "assert 'numba' not in sys.modules;"
        "packing.pack(np.ones((3, 2), int), (2, 2), seed=0);"
        "print([m for m in ('tensorflow', 'seqio', 'jax') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert output.stdout.strip() == "[]"
