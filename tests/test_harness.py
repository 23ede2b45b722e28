"""lm-evaluation-harness asks our models what we ask them ourselves, and gets the same answers."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

# Before the harness imports the library of data sets: nothing may ask for the network.
os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra eval)")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from flan_train import checkpoints, evaluate, harness, scores
from flan_train.decode import Generator
from flan_train.errors import UserError
from flan_train.likelihood import OptionScorer
from flan_train.models import t5
from flan_train.prepare import DataConfig, prepare
from flan_train.vocabulary import load_vocabulary
from tests.held_out_folder import write_held_out_folder

VOCABULARY = load_vocabulary("quickstart")
TINY = t5.T5Config(
    vocab_size=896,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
)
ROWS = 12
ASKED = [f"Which of these is number {n}?\n\nA: one B: two C: three" for n in range(ROWS)]
CHOICES = [["one", "two", "three"], ["yes", "it is not"]]

MULTIPLE_CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{inputs}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{number}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
GENERATE = """
task: local_output
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{inputs}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def params() -> t5.Params:
    # Sharper than fresh ones, so that outputs end, differ and are not all of one token.
    fresh = jax.jit(lambda key: t5.init_params(TINY, key))(jax.random.key(4))
    return jax.tree.map(lambda leaf: 2 * leaf, fresh)


@pytest.fixture(scope="module")
def model(params: t5.Params) -> harness.FlanTrainLM:
    return harness.FlanTrainLM(params, TINY, VOCABULARY, batch_size=4)


@pytest.fixture(autouse=True)
def data_sets(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what the library of data sets writes in the test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "data_sets"))


def tokens(text: str) -> np.ndarray:
    return np.array([*VOCABULARY.encode(text), 1], np.int32)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=given, idx=place)
        for place, given in enumerate(arguments)
    ]


def evaluated(folder: pathlib.Path, task: str, rows: list[dict[str, Any]], model, **options):
    """Returns (mean of the task's metric, its samples in the order of the rows)."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / "local.yaml").write_text(task.format(data=data))
    name = "local_choice" if task is MULTIPLE_CHOICE else "local_output"
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    found = simple_evaluate(
        model, tasks=[name], task_manager=manager, bootstrap_iters=0, verbosity=None, **options
    )
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    metric = "acc" if name == "local_choice" else "exact_match"
    return found["results"][name][f"{metric},none"], samples


def values(sample: dict[str, Any]) -> list[float]:
    """Returns the log-likelihoods that a sample was judged by."""
    return [float(response[0]) for response in sample["filtered_resps"]]


# --------------------------------------------------------------------------- whole evaluations


def test_scores_by_rank_are_those_of_our_own_evaluation(params, tmp_path) -> None:
    suite = "mmlu_abstract_algebra_zs_rank"
    config = DataConfig(
        suite,
        {"inputs": 256, "targets": 32},
        vocabulary="quickstart",
        data_dir=write_held_out_folder(tmp_path / "data", suites=("mmlu",)),
        prepared_dir=str(tmp_path / "prepared"),
        num_workers=1,
    )
    prepared = prepare(config, "all", progress=False)
    ours = evaluate.evaluate_suite(
        evaluate.TrainedModel(params, TINY, batch_size=4),
        suite,
        prepared,
        step=1,
        checkpoint="checkpoints/1",
        out_dir=tmp_path / "eval",
        settings=evaluate.EvalConfig(batch_size=4),
    )
    (path,) = (tmp_path / "eval").rglob("1.jsonl")
    examples = list(scores.read_examples(path))
    for example in examples:
        example["number"] = example["options"].index(example["answer"])
    ending = harness.FlanTrainLM(params, TINY, VOCABULARY, batch_size=4, score_eos=True)
    mean, samples = evaluated(tmp_path, MULTIPLE_CHOICE, examples, ending)
    assert mean == ours["mean"]["accuracy"]
    assert 0 < mean < 1
    for example, sample in zip(examples, samples, strict=True):
        np.testing.assert_allclose(values(sample), example["option_scores"], atol=2e-5)
        assert sample["acc"] == example["correct"]


def test_choices_and_outputs_agree_with_direct_use(params, model, tmp_path) -> None:
    rows = [
        {"inputs": text, "options": CHOICES[n % 2], "number": n % 2, "answer": ""}
        for n, text in enumerate(ASKED)
    ]
    mean, samples = evaluated(tmp_path, MULTIPLE_CHOICE, rows, model)
    prompts = [tokens(text) for text in ASKED]
    options = [[tokens(option)[:-1] for option in row["options"]] for row in rows]
    found = dict(OptionScorer(params, TINY, batch_size=4, eos_id=None).score(prompts, options))
    for n, sample in enumerate(samples):
        assert values(sample) == [float(value) for value in found[n]]
    assert mean == np.mean([found[n].argmax() == rows[n]["number"] for n in range(ROWS)])

    generated = dict(Generator(params, TINY, batch_size=4).generate(prompts, max_length=6))
    said = [VOCABULARY.decode(generated[n][0].tokens).partition("\n\n")[0] for n in range(ROWS)]
    # Of every third row the right answer is what the model does not say.
    for n, row in enumerate(rows):
        row["answer"] = said[n] if n % 3 else said[n] + "!"
    mean, samples = evaluated(tmp_path, GENERATE, rows, model)
    assert [sample["filtered_resps"][0] for sample in samples] == said
    assert mean == pytest.approx(2 / 3)
    assert len(set(said)) > 1


def test_a_model_by_name_is_that_of_the_checkpoint(params, model, tmp_path) -> None:
    meta = {
        "step": 3,
        "model": dataclasses.asdict(TINY),
        "data": {"vocabulary": "quickstart", "data_dir": None},
    }
    checkpoints.save_params(tmp_path / "saved", params, meta)
    rows = [{"inputs": text, "answer": "one", "options": [], "number": 0} for text in ASKED[:3]]
    options = {"model_args": f"checkpoint={tmp_path / 'saved'},preset=fsdp", "device": "cuda:0"}
    _, samples = evaluated(tmp_path, GENERATE, rows, "flan_train", batch_size="8", **options)
    asked = [(row["inputs"], {"max_gen_toks": 6, "until": ["\n\n"]}) for row in rows]
    said = model.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert [sample["filtered_resps"][0] for sample in samples] == said
    given = {"checkpoint": str(tmp_path / "saved"), "max_length": 512, "score_eos": True}
    found = harness.FlanTrainLM.create_from_arg_obj(given, {"batch_size": "auto", "device": None})
    assert (found.max_length, found.batch_size, found.max_gen_toks) == (512, 32, 256)


@pytest.mark.slow
def test_the_harness_has_our_model_on_its_own_command_line(params, tmp_path) -> None:
    meta = {"step": 3, "model": dataclasses.asdict(TINY), "data": {"vocabulary": "quickstart"}}
    checkpoints.save_params(tmp_path / "saved", params, meta)
    rows = [{"inputs": text, "answer": "one"} for text in ASKED[:3]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(GENERATE.format(data=tmp_path / "rows.jsonl"))
    command = [
        *(sys.executable, "-m", "flan_train.harness", "run", "--model", "flan_train"),
        *("--include_path", str(tmp_path / "tasks"), "--tasks", "local_output"),
        *("--output_path", str(tmp_path / "out"), "--batch_size", "4", "--model_args"),
    ]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [*command, f"checkpoint={tmp_path / 'saved'}"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(result.read_text("utf-8"))
    assert found["results"]["local_output"]["exact_match,none"] == 0.0
    assert found["config"]["model_num_parameters"] == t5.count_params(TINY)


# ------------------------------------------------------------------------------- its requests


def test_loglikelihood_follows_the_harness_for_an_encoder_decoder(params, model) -> None:
    # Spaces at the end of a context belong to the continuation; an empty one is EOS alone.
    pairs = [("Is it?", " yes"), ("Is it? ", "yes"), ("", "one two"), ("Is it?", " no")]
    found = model.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    assert found[0] == found[1]
    scorer = OptionScorer(params, TINY, batch_size=4, eos_id=None)
    options = [[tokens(text)[:-1] for text in (" yes", " no")], [tokens("one two")[:-1]]]
    direct = dict(scorer.score([tokens("Is it?"), np.array([1], np.int32)], options))
    assert [value for value, _ in found] == pytest.approx(
        [*direct[0][[0, 0]], *direct[1], direct[0][1]]
    )

    outputs = Generator(params, TINY, batch_size=4).generate([tokens("Is it?")], max_length=6)
    ((_, (said,)),) = outputs
    text = VOCABULARY.decode(said.tokens)
    assert VOCABULARY.encode(text) == said.tokens.tolist()
    ((_, greedy), (_, other)) = model.loglikelihood(
        requests("loglikelihood", [("Is it?", text), ("Is it?", text + " and more")]), True
    )
    assert (greedy, other) == (True, False)


def test_whole_texts_are_the_decoders_and_may_take_several_windows(params, model) -> None:
    text = "one two three four five six seven eight nine ten"
    ids = tokens(text)
    (whole,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]), True)
    scorer = OptionScorer(params, TINY, batch_size=4, eos_id=None)
    end = np.array([1], np.int32)
    assert whole == pytest.approx(dict(scorer.score([end], [[ids]]))[0][0])

    narrow = harness.FlanTrainLM(params, TINY, VOCABULARY, batch_size=4, max_length=8)
    (found,) = narrow.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]), True)
    parts = [ids[start : start + 8] for start in range(0, len(ids), 8)]
    # The last window is short, and the encoder reads as much more.
    before = [end, *(ids[min(start + 8, len(ids)) - 9 : start] for start in range(8, len(ids), 8))]
    sums = dict(scorer.score(before, [[part] for part in parts]))
    assert len(parts) > 1
    assert found == pytest.approx(sum(float(value[0]) for value in sums.values()))


def test_long_prompts_lose_their_beginning_and_it_is_said(params, caplog) -> None:
    narrow = harness.FlanTrainLM(params, TINY, VOCABULARY, batch_size=4, max_length=8)
    long = requests("generate_until", [(text, {"max_gen_toks": 6}) for text in ASKED[:2]])
    with caplog.at_level("WARNING"):
        found = narrow.generate_until(long, disable_tqdm=True)
    assert "2 of 2 prompts are longer than max_length = 8" in caplog.text
    ends = [tokens(text)[-8:] for text in ASKED[:2]]
    outputs = dict(Generator(params, TINY, batch_size=4).generate(ends, max_length=6))
    assert found == [VOCABULARY.decode(outputs[n][0].tokens) for n in range(2)]


def test_samples_differ_from_draw_to_draw_and_come_again(params, model) -> None:
    kwargs = {"do_sample": True, "temperature": 0.9, "top_k": 40, "max_gen_toks": 6, "until": []}
    asked = requests("generate_until", [(ASKED[0], kwargs)] * 6)
    found = model.generate_until(asked, disable_tqdm=True)
    assert len(set(found)) > 1
    assert model.generate_until(asked, disable_tqdm=True) == found
    other = harness.FlanTrainLM(params, TINY, VOCABULARY, batch_size=4, seed=1)
    assert other.generate_until(asked, disable_tqdm=True) != found


# ------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no checkpoint for the harness"),
        ({"checkpoint": "x", "max_lenght": 3}, "'max_lenght' is no setting"),
        ({"checkpoint": "/nothing/there"}, "/nothing/there"),
    ],
)
def test_settings_that_are_wrong_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        harness.FlanTrainLM.create_from_arg_obj(given, {"batch_size": 1})


def test_without_the_harness_all_but_it_works_and_it_says_how_to_install_it() -> None:
    program = (
        "import sys\n"
        "import flan_train, flan_train.cli, flan_train.evaluate, flan_train.harness_requests\n"
        "assert 'lm_eval' not in sys.modules\n"
        "sys.modules['lm_eval'] = None\n"
        "try:\n"
        "    import flan_train.harness\n"
        "except flan_train.errors.UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "pip install 'flan-train[eval]'" in done.stdout, done.stderr
