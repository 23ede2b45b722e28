"""Evaluation: planted models get the scores they must; nothing depends on batches or on breaks."""

from __future__ import annotations

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import evaluate, scores, sharding
from flan_train.decode import Generated
from flan_train.errors import UserError
from flan_train.models import t5
from flan_train.prepare import DataConfig, prepare
from flan_train.prepared import PreparedDataset
from tests import planted_models
from tests.tasks import family_toys
from tests.toy_tasks import registered

SUITE = "quickstart_held_out"
TINY = t5.T5Config(
    vocab_size=1024,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    config = DataConfig(
        SUITE,
        {"inputs": 128, "targets": 64},
        vocabulary="quickstart",
        prepared_dir=str(tmp_path_factory.mktemp("prepared")),
        examples_per_task=7,
    )
    return prepare(config, "validation", progress=False)


@pytest.fixture(scope="module")
def params() -> t5.Params:
    return jax.jit(lambda key: t5.init_params(TINY, key))(jax.random.key(0))


def run(prepared, out_dir, model, **options):
    settings = evaluate.EvalConfig(
        batch_size=options.pop("batch_size", 32),
        max_decode_length=options.pop("max_decode_length", None),
    )
    options = {"step": 5, "checkpoint": "checkpoints/5", "settings": settings, **options}
    return evaluate.evaluate_suite(model, SUITE, prepared, out_dir=out_dir, **options)


def trained(params, **options):
    return evaluate.TrainedModel(params, TINY, **options)


class Says:
    """Says the same whatever it is asked, and counts how often."""

    parameters = 0

    def __init__(self, ids=()) -> None:
        self.ids = np.array(ids, np.int32)
        self.asked = 0

    def generate(self, prompts, *, max_length, sampling, seeds=None):
        for index in range(len(prompts)):
            self.asked += 1
            yield index, [Generated(self.ids, 0.0, True)]


def test_an_oracle_scores_one_and_the_files_have_the_agreed_shape(prepared, tmp_path):
    result = run(prepared, tmp_path, planted_models.oracle(prepared))
    assert result["mean"]["exact_match"] == 1.0
    assert result["mean"]["not_extracted"] == 0
    written = json.loads((tmp_path / SUITE / "5.json").read_text("utf-8"))
    assert written == result
    assert {"suite", "step", "checkpoint", "metrics", "mean"} <= written.keys()
    assert (written["suite"], written["step"]) == (SUITE, 5)
    assert written["split"] == "validation"
    assert set(written["metrics"]) == set(prepared.task_names)
    for row in written["metrics"].values():
        assert set(row) == {
            *("exact_match", "majority", "not_extracted", "n"),
            *("shots", "intervals"),
        }
        assert row["n"] == 7
        assert row["intervals"] == {"exact_match": [1.0, 1.0]}
    assert written["mean_intervals"] == {"exact_match": [1.0, 1.0]}
    longest = int(prepared.lengths[:, 1].max())
    assert written["protocol"] == {
        "split": "validation",
        "decoding": {"method": "greedy", "max_decode_length": -(-longest // 16) * 16},
        "shots": 0.0,
        "lengths": {"inputs": 128, "targets": 64},
    }
    assert [written[name] for name in ("dropped", "shortened", "missing", "empty")] == [{}] * 4
    assert all(family["held_out"] for family in written["families"].values())
    examples = scores.read_examples(tmp_path / SUITE / "5.jsonl")
    assert [example["index"] for example in examples] == list(range(len(prepared)))
    for index, example in enumerate(examples):
        record = prepared.record(index)
        assert example["example_id"] == record["example_id"]
        assert example["answer"] == record["answer"]
        assert example["inputs"] == prepared.vocabulary.decode(prepared.tokens(index)[0].tolist())
    assert sorted(path.name for path in (tmp_path / SUITE).iterdir()) == ["5.json", "5.jsonl"]


def test_a_constant_model_scores_the_majority_rate_of_every_task(prepared, tmp_path):
    result = run(prepared, tmp_path, planted_models.constant(prepared))
    for row in result["metrics"].values():
        assert row["exact_match"] == row["majority"]
    assert result["mean"]["exact_match"] < 0.8


def test_outputs_without_an_answer_are_counted_and_wrong(prepared, tmp_path):
    result = run(prepared, tmp_path, Says())
    for row in result["metrics"].values():
        assert row["exact_match"] == 0
        assert row["not_extracted"] == row["n"]


def test_every_answer_that_is_right_counts(tmp_path):
    rows = [{**row, "references": (row["answer"], "so")} for row in family_toys.rows(20)]
    task = family_toys.task(family_toys.write(tmp_path), "zs_opt", rows)
    with registered([task]):
        config = DataConfig(
            task.name,
            {"inputs": 200, "targets": 20},
            vocabulary="quickstart",
            prepared_dir=str(tmp_path / "prepared"),
            num_workers=1,
        )
        made = prepare(config, "validation", progress=False)
    records = [made.record(index) for index in range(len(made))]
    assert {record["references"] for record in records} == {(), ("yes", "so"), ("no", "so")}
    for said, right in (("So.", True), ("Never.", False)):
        result = evaluate.evaluate_suite(
            Says(made.vocabulary.encode(said)),
            task.name,
            made,
            out_dir=tmp_path / said,
            step=5,
            checkpoint="checkpoints/5",
        )
        # Where options are enumerated the target is a marker, and nothing else is right.
        open_ones = sum(bool(record["references"]) for record in records)
        assert result["mean"]["exact_match"] == pytest.approx(right * open_ones / len(records))


def test_results_do_not_depend_on_batch_size_or_mesh(prepared, params, tmp_path):
    mesh = sharding.make_mesh(sharding.ShardingConfig(), jax.devices()[:2])
    partitioner = sharding.Partitioner(mesh, "data_parallel")
    for name, options in (
        ("a", {"batch_size": 16}),
        ("b", {"batch_size": 5}),
        ("c", {"batch_size": 15, "partitioner": partitioner}),
    ):
        run(prepared, tmp_path / name, trained(params, **options), max_decode_length=12)
    files = [(tmp_path / name / SUITE / "5.jsonl").read_bytes() for name in "abc"]
    assert files[0] == files[1] == files[2]
    # A random model that says something, or this would show nothing.
    assert len({example["output"] for example in _lines(tmp_path / "a")}) > 3


def test_a_second_evaluation_compiles_nothing(prepared, params, tmp_path):
    model = trained(params, batch_size=24)
    run(prepared, tmp_path, model, step=1, max_decode_length=9)
    before = model.generator.compilations
    assert before > 0
    run(prepared, tmp_path, model, step=2, max_decode_length=9)
    assert model.generator.compilations == before


class Breaks(planted_models.Planted):
    """Is interrupted after so many answers."""

    def __init__(self, prepared, choose, after):
        super().__init__(prepared, choose)
        self.after = after

    def generate(self, prompts, **options):
        for number, answer in enumerate(super().generate(prompts, **options)):
            if number == self.after:
                raise KeyboardInterrupt
            yield answer


def test_an_interrupted_evaluation_goes_on_where_it_stopped(prepared, tmp_path):
    def choose(index):
        return index - index % 2

    whole = run(prepared, tmp_path / "whole", planted_models.Planted(prepared, choose))
    with pytest.raises(KeyboardInterrupt):
        run(prepared, tmp_path / "cut", Breaks(prepared, choose, 24))
    folder = tmp_path / "cut" / SUITE
    assert [path.name for path in folder.iterdir()] == ["5.jsonl.partial"]
    # The break came in the middle of a line.
    with (folder / "5.jsonl.partial").open("a", encoding="utf-8") as partial:
        partial.write('{"index": 70, "tas')
    model = planted_models.Planted(prepared, choose)
    seen = []
    resumed = run(
        prepared,
        tmp_path / "cut",
        model,
        on_progress=lambda done, count: seen.append((done, count)),
    )
    assert model.asked == len(prepared) - 24
    assert seen == [(done, len(prepared)) for done in range(25, len(prepared) + 1)]
    assert resumed["metrics"] == whole["metrics"]
    for name in ("5.jsonl", "5.json"):
        ours, theirs = ((tmp_path / run / SUITE / name).read_text() for run in ("cut", "whole"))
        if name == "5.json":
            ours, theirs = (re.sub(r'"seconds": [\d.]+', "", text) for text in (ours, theirs))
        assert ours == theirs
    assert not (folder / "5.jsonl.partial").exists()


def test_a_finished_result_is_reused_only_for_the_same_work(prepared, tmp_path):
    def work(**options) -> int:
        model = Says()
        run(prepared, tmp_path, model, **options)
        return model.asked

    assert work() == len(prepared)
    assert work() == 0
    with pytest.raises(UserError, match="already has a result for step"):
        work(replace=False, max_decode_length=3)
    assert work(config_hash="other") > 0
    assert work(checkpoint="elsewhere/5") > 0
    assert work(max_decode_length=3) > 0
    assert work(max_decode_length=3) == 0
    # A file that is not a whole result is no result.
    (tmp_path / SUITE / "5.json").write_text('{"key":', "utf-8")
    assert work(max_decode_length=3) > 0


def test_a_result_of_the_same_work_in_an_earlier_layout_is_made_again(prepared, tmp_path):
    run(prepared, tmp_path, Says())
    path = tmp_path / SUITE / "5.json"
    older = {**json.loads(path.read_text("utf-8")), "format": 1, "key": "older"}
    path.write_text(json.dumps(older), "utf-8")
    model = Says()
    run(prepared, tmp_path, model, replace=False)
    assert model.asked == len(prepared)
    path.write_text(json.dumps({**older, "prepared": "other"}), "utf-8")
    with pytest.raises(UserError, match="already has a result"):
        run(prepared, tmp_path, model, replace=False)


def test_a_partial_result_of_other_work_is_not_continued(prepared, tmp_path):
    folder = tmp_path / SUITE
    folder.mkdir()
    (folder / "5.jsonl.partial").write_text('{"key": "other"}\n{"index": 0}\n', "utf-8")
    result = run(prepared, tmp_path, planted_models.oracle(prepared))
    assert result["mean"]["exact_match"] == 1.0


def test_a_suite_without_examples_is_a_readable_error(prepared, tmp_path):
    empty = PreparedDataset(prepared.path, {**prepared.manifest, "tasks": []})
    with pytest.raises(UserError, match="has no example"):
        run(empty, tmp_path, Says())
    assert not (tmp_path / SUITE).exists()


@pytest.mark.parametrize("name", ["period", "batch_size", "examples_per_task", "max_decode_length"])
@pytest.mark.parametrize("value", [0, 1.5, "8", True])
def test_settings_that_count_are_whole_numbers_from_one(name, value):
    with pytest.raises(UserError, match=f"EVAL_{name.upper()} cannot be {value!r}"):
        evaluate.EvalConfig(**{name: value})


@pytest.mark.parametrize("value", [5, None, ("a", 3)])
def test_suites_that_are_no_text_are_refused(value):
    with pytest.raises(UserError, match="EVAL_SUITES cannot be"):
        evaluate.EvalConfig(suites=value)


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [
        ("feature_lengths", {"inputs": 2048}, "EVAL_FEATURE_LENGTHS"),
        ("self_consistency", -1, "EVAL_SELF_CONSISTENCY"),
        ("temperature", 0.0, "EVAL_TEMPERATURE"),
        ("top_k", 0.5, "EVAL_TOP_K"),
        ("toxicity_scorer", "", "EVAL_TOXICITY_SCORER"),
    ],
)
def test_other_settings_out_of_range_are_refused_by_their_gin_name(setting, value, name):
    with pytest.raises(UserError, match=name):
        evaluate.EvalConfig(**{setting: value})


def test_one_suite_may_be_given_as_text():
    assert evaluate.EvalConfig(suites="a").suites == ("a",)
    assert hash(evaluate.EvalConfig(suites=["a", "b"])) == hash(evaluate.EvalConfig(("a", "b")))


def test_a_result_file_that_is_none_is_named(tmp_path):
    path = tmp_path / "eval" / "s" / "3.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}", "utf-8")
    with pytest.raises(UserError, match=r"3\.json"):
        scores.read_results(tmp_path)


def test_output_lengths_share_shapes_and_cover_the_longest_target():
    assert evaluate.output_length(np.array([3, 28])) == 32
    assert evaluate.output_length(np.array([32])) == 32
    assert evaluate.output_length(np.array([1023])) == 1024
    assert evaluate.output_length(np.array([3000])) == 3000


Outcome = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.booleans())


@settings(max_examples=50)
@given(st.lists(Outcome, min_size=1, max_size=30), st.randoms())
def test_scores_are_means_over_tasks_whatever_the_order(outcomes, random):
    examples = [
        {
            "task": task,
            "family": task.upper(),
            "form": "direct",
            "held_out": False,
            "answer": answer,
            "extracted": answer if right else None,
            "correct": right,
        }
        for task, answer, right in outcomes
    ]
    metrics, _ = scores.score(examples)
    shuffled = random.sample(examples, len(examples))
    assert scores.score(shuffled)[0] == metrics
    for task, row in metrics.items():
        own = [example for example in examples if example["task"] == task]
        assert row["n"] == len(own)
        assert row["exact_match"] == sum(example["correct"] for example in own) / len(own)
        assert row["not_extracted"] == sum(not example["correct"] for example in own)
        assert 1 / 3 - 1e-9 <= row["majority"] <= 1
    total = scores.mean(metrics.values())
    assert total["exact_match"] == pytest.approx(
        np.mean([row["exact_match"] for row in metrics.values()])
    )
    assert "n" not in total


def _lines(out_dir: pathlib.Path) -> list[dict]:
    return scores.read_examples(out_dir / SUITE / "5.jsonl")
