"""What T5X asks of a SeqIO task or mixture, asked of ours in the way T5X asks it."""

from __future__ import annotations

import collections
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import gin
import pytest

from flan_train import mixtures
from flan_train.errors import UserError

seqio = pytest.importorskip("seqio")
from sentencepiece import sentencepiece_model_pb2  # noqa: E402

from flan_train.mixtures.register import without_missing  # noqa: E402
from flan_train.tasks import register  # noqa: E402

LENGTHS = {"inputs": 128, "targets": 80}
ADDITION, PARITY = "quickstart_addition_direct", "quickstart_parity_cot"
MIXTURE = "t5x_toy"
EXAMPLES = 40  # of each task, in its validation split
Example = tuple[tuple[int, ...], tuple[int, ...]]


@pytest.fixture(scope="module", autouse=True)
def toy_mixture() -> Iterator[None]:
    """Two tasks of the quickstart, as a mixture of ours."""
    members = tuple(mixtures.Member(name) for name in (ADDITION, PARITY))
    mixtures.add(mixtures.MixtureDefinition(MIXTURE, members))
    yield
    mixtures.remove(MIXTURE)


def packed(name: str, lengths: dict[str, int] = LENGTHS, **named: Any) -> list[Example]:
    """The examples in the packed sequences that T5X's get_dataset would get."""
    arguments: dict[str, Any] = {"dataset_split": "validation", "shuffle": False, "seed": 42}
    dataset = seqio.get_dataset(
        name,
        lengths,
        feature_converter=seqio.EncDecFeatureConverter(pack=True, use_custom_packing_ops=False),
        use_cached=False,
        **{**arguments, **named},
    )
    found = []
    for sequence in dataset.as_numpy_iterator():
        assert sequence["encoder_input_tokens"].shape == (lengths["inputs"],)
        assert sequence["decoder_target_tokens"].shape == (lengths["targets"],)
        for segment in range(1, 1 + sequence["encoder_segment_ids"].max()):
            inputs = sequence["encoder_input_tokens"][sequence["encoder_segment_ids"] == segment]
            here = sequence["decoder_segment_ids"] == segment
            found.append((tuple(inputs), tuple(sequence["decoder_target_tokens"][here])))
            assert sequence["decoder_loss_weights"][here].all()
    return found


def plain(name: str, **named: Any) -> list[Example]:
    """The same examples, as the task itself gives them."""
    task = seqio.get_mixture_or_task(name)
    arguments: dict[str, Any] = {"split": "validation", "shuffle": False, "seed": 42}
    dataset = task.get_dataset(LENGTHS, **{**arguments, **named})
    return [
        (tuple(example["inputs"]), tuple(example["targets"]))
        for example in dataset.as_numpy_iterator()
    ]


def count(examples: list[Example]) -> collections.Counter[Example]:
    return collections.Counter(examples)


def test_a_packed_mixture_holds_every_example_once() -> None:
    mixture = seqio.get_mixture_or_task(MIXTURE)
    assert set(mixture.splits) >= {"train", "validation", "test"}
    assert mixture.num_input_examples("validation") == 2 * EXAMPLES
    found = packed(MIXTURE, num_epochs=1)
    assert len(found) == 2 * EXAMPLES
    assert count(found) == count(plain(ADDITION) + plain(PARITY))


def test_two_shards_are_disjoint_and_together_the_whole() -> None:
    shards = [
        packed(MIXTURE, num_epochs=1, shard_info=seqio.ShardInfo(index, 2)) for index in (0, 1)
    ]
    assert [len(shard) for shard in shards] == [EXAMPLES, EXAMPLES]
    assert count(shards[0] + shards[1]) == count(plain(ADDITION) + plain(PARITY))


def test_shards_of_a_task_have_rows_of_their_own() -> None:
    task = seqio.get_mixture_or_task(ADDITION)
    ids = [
        {
            example["example_id"]
            for example in task.get_dataset(
                LENGTHS, "validation", shard_info=seqio.ShardInfo(index, 2)
            ).as_numpy_iterator()
        }
        for index in (0, 1)
    ]
    assert [len(each) for each in ids] == [EXAMPLES // 2] * 2
    assert not ids[0] & ids[1]


def test_a_number_of_epochs_is_exact_and_none_is_endless() -> None:
    once = count(plain(ADDITION) + plain(PARITY))
    assert count(packed(MIXTURE, num_epochs=3)) == count(list(once.elements()) * 3)
    endless = seqio.get_mixture_or_task(MIXTURE).get_dataset(LENGTHS, "validation", seed=1)
    assert len(list(endless.take(5 * EXAMPLES))) == 5 * EXAMPLES


def test_a_task_without_examples_does_not_end_the_mixture() -> None:
    short = {"inputs": 128, "targets": 8}
    task = seqio.get_mixture_or_task(PARITY)
    assert list(task.get_dataset(short, "validation", num_epochs=None)) == []
    endless = seqio.get_mixture_or_task(MIXTURE).get_dataset(short, "validation", num_epochs=None)
    assert len(list(endless.take(3 * EXAMPLES))) == 3 * EXAMPLES
    addition = sum(len(targets) <= short["targets"] for _, targets in plain(ADDITION))
    assert len(packed(MIXTURE, short, num_epochs=1)) == addition > EXAMPLES / 2


def test_a_seed_repeats_the_order_of_the_train_split() -> None:
    task = seqio.get_mixture_or_task(ADDITION)

    def order(seed: int, shuffle: bool = True) -> list[bytes]:
        dataset = task.get_dataset(LENGTHS, "train", shuffle=shuffle, seed=seed)
        return [example["example_id"] for example in dataset.take(100).as_numpy_iterator()]

    first = order(3)
    assert first == order(3)
    assert first != order(4)
    straight = order(4, shuffle=False)
    assert straight == sorted(straight)


def right(dataset: Any) -> list[tuple[int, list[int]]]:
    """Predicts the targets, padded as T5X does."""
    return [
        (int(index), example["decoder_target_tokens"].tolist())
        for index, example in dataset.as_numpy_iterator()
    ]


def constant(dataset: Any) -> list[tuple[int, list[int]]]:
    """Predicts one nonsense output for all, in the wrong order, as many hosts would."""
    return [(int(index), [5, 6, 1, 0]) for index, _ in reversed(list(dataset.as_numpy_iterator()))]


def evaluate(name: str, folder: pathlib.Path, **named: Any) -> tuple[dict[str, Any], Any]:
    """The metrics of both predictors, by `seqio.Evaluator` as T5X calls it."""
    folder.mkdir()
    evaluator = seqio.Evaluator(
        mixture_or_task_name=name,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        use_cached=False,
        seed=42,
        log_dir=str(folder),
        logger_cls=[seqio.PyLoggingLogger, seqio.JSONLogger],
        use_memory_cache=True,
        **named,
    )
    measured = {}
    for step, predict in enumerate((constant, right)):
        metrics, _ = evaluator.evaluate(compute_metrics=True, step=step, predict_fn=predict)
        measured[predict.__name__] = metrics.result()
    evaluator.close()
    return measured, evaluator


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_seqio_evaluates_a_mixture(lengths: dict[str, int] | None, tmp_path: pathlib.Path) -> None:
    measured, evaluator = evaluate(MIXTURE, tmp_path / "log", sequence_length=lengths)
    names = (ADDITION, PARITY)
    assert measured["right"] == {name: {"exact_match": 100.0} for name in names}
    assert measured["constant"] == {name: {"exact_match": 0.0} for name in names}
    shapes = evaluator.model_feature_shapes
    longest = max(len(inputs) for inputs, _ in plain(PARITY))
    assert shapes["encoder_input_tokens"] == ((lengths or {"inputs": longest})["inputs"],)
    lines = (tmp_path / "log" / f"{PARITY}-000001.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == EXAMPLES
    first = json.loads(lines[0])
    assert first["input"]["task"] == PARITY
    assert first["prediction"].rstrip(".") in first["target"]


@pytest.mark.parametrize("name", ["mgsm_de_cot", "mmlu_anatomy_direct"])
def test_seqio_evaluates_a_held_out_task(
    name: str,
    flan_data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLAN_DATA_DIR", str(flan_data_dir))
    task = seqio.get_mixture_or_task(name)
    if task.source._definition.available(str(flan_data_dir)):
        pytest.skip(f"the files of {name} are not at hand")
    lengths = {"inputs": 2048, "targets": 512}
    measured, _ = evaluate(name, tmp_path / "log", sequence_length=lengths, num_examples=8)
    assert measured["right"][name]["exact_match"] == 100.0
    assert measured["constant"][name]["exact_match"] == 0.0


def test_what_is_there_of_a_mixture_goes_by_a_name_of_its_own(
    flan_data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAN_DATA_DIR", str(flan_data_dir))
    names = ("cot_gsm8k_zs", "cot_ecqa_fs")
    wanted = (*names, "cot_qasc_zs")
    missing = [
        bool(seqio.get_mixture_or_task(name).source._definition.available(str(flan_data_dir)))
        for name in wanted
    ]
    if missing != [False, False, True]:
        pytest.skip("needs gsm8k and ecqa, and a folder without qasc")
    members = tuple(mixtures.Member(name, 1.0) for name in wanted)
    mixtures.add(mixtures.MixtureDefinition("t5x_partial", members))
    lengths = {"inputs": 512, "targets": 256}
    try:
        with pytest.raises(UserError, match="a source of the mixture 't5x_partial' is missing"):
            packed("t5x_partial", lengths)
        seqio.MixtureRegistry.add_provider("t5x_present", without_missing("t5x_partial"))
        assert {task.name for task in seqio.get_mixture_or_task("t5x_present").tasks} == set(names)
        whole = packed("t5x_present", lengths, num_epochs=1)
        assert len(whole) == sum(
            seqio.get_mixture_or_task(name).num_input_examples("validation") for name in names
        )
    finally:
        seqio.MixtureRegistry.remove("t5x_present")
        mixtures.remove("t5x_partial")


def test_vocabularies_are_equal_by_their_ids(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T5X compares a task's vocabulary with its model's by `!=`, in either order."""
    copy = tmp_path / "copy.model"
    shutil.copy(register.PACKAGED_VOCABULARY, copy)
    ours, theirs = register.LazyVocabulary("quickstart"), seqio.SentencePieceVocabulary(str(copy))
    assert ours == theirs
    assert theirs == ours
    assert ours != seqio.SentencePieceVocabulary(str(copy), extra_ids=1)
    assert ours != seqio.ByteVocabulary()
    # As T5's: ours adds the extra ids to a file of 32,000 pieces, T5X names a file that has them.
    (tmp_path / "vocab").mkdir()
    shutil.copy(copy, tmp_path / register.T5_VOCABULARY)
    monkeypatch.setenv("FLAN_DATA_DIR", str(tmp_path))
    model = sentencepiece_model_pb2.ModelProto.FromString(copy.read_bytes())
    for number in reversed(range(100)):
        model.pieces.add(
            piece=f"<extra_id_{number}>",
            score=0.0,
            type=sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED,
        )
    (tmp_path / "100extra.model").write_bytes(model.SerializeToString())
    t5 = register.LazyVocabulary("t5")
    assert t5 == seqio.SentencePieceVocabulary(str(tmp_path / "100extra.model"))
    model.pieces[300].piece += "x"
    (tmp_path / "other.model").write_bytes(model.SerializeToString())
    assert t5 != seqio.SentencePieceVocabulary(str(tmp_path / "other.model"))


def test_gin_makes_the_vocabulary_that_the_launch_files_name(repository: pathlib.Path) -> None:
    lines = (repository / "t5x_configs/t5x/finetune.gin").read_text("utf-8").splitlines()
    about = [line for line in lines if "register" in line.partition("#")[0]]
    assert len(about) == 3
    gin.clear_config()
    try:
        gin.parse_config("\n".join(["from __gin__ import dynamic_registration", *about]))
        vocabulary = gin.query_parameter("VOCABULARY/macro.value").scoped_configurable_fn()
    finally:
        gin.clear_config()
    features = seqio.get_mixture_or_task("flan2022_b").output_features
    assert vocabulary == features["inputs"].vocabulary
    assert features["targets"].vocabulary == vocabulary
