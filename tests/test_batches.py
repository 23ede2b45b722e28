from __future__ import annotations

import itertools
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_train.batches import FEATURES, TrainBatches, assemble, unpacked
from flan_train.errors import UserError
from flan_train.prepare import DataConfig, prepare
from flan_train.prepared import PreparedDataset, open_prepared
from tests.toy_tasks import counting, registered, toy

LENGTHS = {"inputs": 48, "targets": 24}
ENCODER = tuple(name for name in FEATURES if name.startswith("encoder"))

Pair = tuple[np.ndarray, np.ndarray]
ids = st.lists(st.integers(2, 999), max_size=6).map(lambda body: np.array([*body, 1]))
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    with registered([toy("toy_a", counting(120)), toy("toy_b", counting(61, start=500))]):
        config = DataConfig(
            "toys", LENGTHS, "quickstart", prepared_dir=str(tmp_path_factory.mktemp("prepared"))
        )
        return prepare(config, progress=False)


def batches(made: PreparedDataset, **changes: Any) -> TrainBatches:
    return TrainBatches(made, **{"batch_size": 4, "lengths": LENGTHS, "seed": 3, **changes})


def test_the_toy_of_the_docstring() -> None:
    examples = [(np.array([5, 6, 1]), np.array([7, 1])), (np.array([8, 1]), np.array([9, 4, 1]))]
    batch = assemble(examples, (6, 6))
    assert {name: batch[name].tolist() for name in FEATURES} == {
        "encoder_input_tokens": [5, 6, 1, 8, 1, 0],
        "encoder_segment_ids": [1, 1, 1, 2, 2, 0],
        "encoder_positions": [0, 1, 2, 0, 1, 0],
        "decoder_input_tokens": [0, 7, 0, 9, 4, 0],
        "decoder_target_tokens": [7, 1, 9, 4, 1, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
        "decoder_segment_ids": [1, 1, 2, 2, 2, 0],
        "decoder_positions": [0, 1, 0, 1, 2, 0],
    }
    weights = batch.pop("decoder_loss_weights")
    assert weights.dtype == np.float32
    assert all(array.dtype == np.int32 for array in batch.values())


def segments(batch: dict[str, np.ndarray]) -> list[tuple[list[int], list[int]]]:
    """Reads examples back out of one sequence, checking its bookkeeping on the way."""
    found = []
    sides = ("encoder_segment_ids", "decoder_segment_ids")
    count = int(max(batch[side].max() for side in sides))
    for segment in range(1, count + 1):
        where = [np.flatnonzero(batch[side] == segment) for side in sides]
        for side, places in zip(("encoder", "decoder"), where, strict=True):
            assert places.tolist() == list(range(places[0], places[-1] + 1))  # contiguous
            assert batch[f"{side}_positions"][places].tolist() == list(range(len(places)))
        inputs = batch["encoder_input_tokens"][where[0]].tolist()
        targets = batch["decoder_target_tokens"][where[1]].tolist()
        assert batch["decoder_input_tokens"][where[1]].tolist() == [0, *targets[:-1]]
        found.append((inputs, targets))
    for side in ("encoder", "decoder"):
        padding = batch[f"{side}_segment_ids"] == 0
        names = [name for name in FEATURES if name.startswith(side)]
        assert all(not batch[name][padding].any() for name in names)
    weights = batch["decoder_loss_weights"]
    assert weights.sum() == sum(len(targets) for _, targets in found)
    assert np.array_equal(weights > 0, batch["decoder_segment_ids"] > 0)
    return found


@settings(deadline=None, max_examples=80)
@given(pairs)
def test_examples_can_be_read_back_out_of_a_sequence(examples: list[Pair]) -> None:
    expected = [(a.tolist(), b.tolist()) for a, b in examples]
    assert segments(assemble(examples, (40, 40))) == expected
    alone = unpacked(examples, {"inputs": 9, "targets": 9})
    rows = [{name: alone[name][row] for name in FEATURES} for row in range(len(examples))]
    assert [segments(row) for row in rows] == [[example] for example in expected]


def test_what_does_not_fit_is_refused() -> None:
    example = (np.array([5, 6, 1]), np.array([7, 1]))
    with pytest.raises(ValueError, match="6 encoder tokens, its side holds 5"):
        assemble([example, example], (5, 9))
    with pytest.raises(ValueError, match="2 decoder tokens, its side holds 1"):
        unpacked([example], (5, 1))


def test_nothing_gives_padding() -> None:
    batch = assemble([], (4, 3))
    assert {batch[name].shape for name in ENCODER} == {(4,)}
    assert not any(array.any() for array in batch.values())


def test_an_epoch_holds_every_example_once(made: PreparedDataset) -> None:
    stream = batches(made)
    size = stream.stream.size(0)
    rows = []
    for batch in itertools.islice(stream, -(-size // 4)):
        rows += [{name: batch[name][row] for name in FEATURES} for row in range(4)]
    found = sorted(example for row in rows[:size] for example in segments(row))
    expected = sorted(tuple(part.tolist() for part in made.tokens(i)) for i in range(len(made)))
    assert found == expected
    assert all(0.5 < part <= 1 for part in stream.fill[1:])
    stream.close()


def test_batches_run_on_into_the_next_epoch(made: PreparedDataset) -> None:
    stream = batches(made, batch_size=7)
    size = stream.stream.size(0)
    steps = size // 7 + 1
    for _ in range(steps):
        next(stream)
    if size % 7:
        assert stream.state() == {"epoch": 1, "sequence": 7 * steps - size}
    described = stream.describe({"epoch": 0, "sequence": size - 1})
    assert sorted({entry["sequence"] for entry in described}) == list(range(7))
    stream.close()


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return list(first) == list(second) and all(
        np.array_equal(first[name], second[name]) for name in first
    )


@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.integers(0, 9),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
    st.integers(0, 30),
)
def test_hosts_and_resumes_see_the_same_global_batches(
    made: PreparedDataset, seed: int, owners: list[int], stop: int
) -> None:
    """Each row belongs to one of up to four hosts, neighbours or not."""
    rows = [np.flatnonzero(np.array(owners) == host) for host in sorted(set(owners))]
    whole = batches(made, batch_size=12, seed=seed, threads=0)
    for _ in range(stop):
        next(whole)
    state = whole.state()
    parts = [batches(made, batch_size=12, seed=seed, rows=mine, threads=0) for mine in rows]
    for part in parts:
        part.restore(state)
    for _ in range(3):
        wanted = next(whole)
        got = [next(part) for part in parts]
        for batch, mine in zip(got, rows, strict=True):
            assert same(batch, {name: wanted[name][mine] for name in FEATURES})
        assert {tuple(part.state().items()) for part in parts} == {tuple(whole.state().items())}


def test_reading_ahead_changes_nothing(made: PreparedDataset) -> None:
    ahead, plain = batches(made, threads=3, read_ahead=6), batches(made, threads=0)
    for _ in range(60):
        before = plain.state()
        assert ahead.state() == before
        assert same(next(ahead), next(plain))
    ahead.restore({"epoch": 0, "sequence": 4})
    plain.restore({"epoch": 0, "sequence": 4})
    assert same(next(ahead), next(plain))
    ahead.close()


def test_a_batch_may_span_many_epochs(made: PreparedDataset) -> None:
    stream = batches(made, batch_size=3 * batches(made).stream.size(0), threads=2)
    first = next(stream)
    again = batches(made, batch_size=stream.batch_size, threads=0)
    assert same(first, next(again))
    assert same(next(stream), next(again))
    assert stream.state()["epoch"] >= 5
    stream.close()


def test_the_seed_decides_the_order(made: PreparedDataset) -> None:
    assert same(next(batches(made, threads=0)), next(batches(made, threads=0)))
    assert not same(next(batches(made, threads=0)), next(batches(made, seed=4, threads=0)))


def test_describe_names_the_examples_of_a_batch(made: PreparedDataset) -> None:
    stream = batches(made, threads=0)
    next(stream)
    described = stream.describe(stream.state())
    batch = next(stream)
    found = []
    for row in range(4):
        found += [(row, *example) for example in segments({n: batch[n][row] for n in FEATURES})]
    assert len(found) == len(described)
    for entry, (row, inputs, _) in zip(described, found, strict=True):
        record = made.record(int(entry["example"]))
        assert entry["sequence"] == row
        assert (entry["task"], entry["example_id"]) == (record["task"], record["example_id"])
        assert made.tokens(int(entry["example"]))[0].tolist() == inputs


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_a_host_reads_the_tokens_of_its_own_rows_alone(
    made: PreparedDataset, hosts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, counted = PreparedDataset.read, []

    def read(store: PreparedDataset, examples: np.ndarray) -> object:
        counted.append(len(examples))
        return real(store, examples)

    monkeypatch.setattr(PreparedDataset, "read", read)
    in_all = 0
    for mine in np.array_split(np.arange(12), hosts):
        counted.clear()
        batch = next(batches(made, batch_size=12, rows=mine, threads=0))
        assert batch["encoder_input_tokens"].shape[0] == 12 // hosts
        assert counted == [int(batch["encoder_segment_ids"].max(axis=1).sum())]
        in_all += counted[0]
    counted.clear()
    next(batches(made, batch_size=12, threads=0))
    assert counted == [in_all]


@pytest.mark.parametrize("rows", [[3, 4], [-1, 0], [1, 0], [2, 2]])
def test_rows_that_a_batch_does_not_have_are_refused(
    made: PreparedDataset, rows: list[int]
) -> None:
    with pytest.raises(ValueError, match="rows of a batch of 4"):
        batches(made, rows=rows)


def test_a_batch_holds_something(made: PreparedDataset) -> None:
    with pytest.raises(UserError, match="at least 1"):
        batches(made, batch_size=0)


def test_a_position_that_does_not_exist(made: PreparedDataset) -> None:
    for epoch, sequence in ((0, 10**6), (0, -1), (-1, 0)):
        with pytest.raises(UserError, match=f"no position of epoch {epoch}, sequence {sequence}"):
            batches(made).restore({"epoch": epoch, "sequence": sequence})


def test_a_damaged_shard_stops_the_reader(tmp_path: pathlib.Path) -> None:
    with registered([toy("toy_a", counting(40))]):
        config = DataConfig("toy_a", LENGTHS, "quickstart", prepared_dir=str(tmp_path))
        made = prepare(config, progress=False)
    path = made.path.parent.parent / "tasks" / made.manifest["tasks"][0]["folder"] / "tokens.bin"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    stream = TrainBatches(open_prepared(made.path), batch_size=2, lengths=LENGTHS, seed=0)
    with pytest.raises(UserError, match=r"tokens\.bin"):
        list(itertools.islice(stream, stream.stream.size(0)))
    stream.close()


def test_training_input_imports_neither_tensorflow_nor_seqio(made: PreparedDataset) -> None:
    code = f"""
import sys
from flan_train.batches import TrainBatches
from flan_train.prepare import DataConfig, needs_seqio
from flan_train.prepared import open_prepared
made = open_prepared({str(made.path)!r})
next(TrainBatches(made, batch_size=2, lengths={LENGTHS!r}, seed=0))
assert not needs_seqio(DataConfig("quickstart", {LENGTHS!r}))
print([name for name in ("tensorflow", "seqio") if name in sys.modules])
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert output.stdout.strip() == "[]"
    assert output.stderr == ""
