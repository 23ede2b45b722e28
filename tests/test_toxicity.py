"""Scorers of toxicity: a function of one's own, a local classifier, and what is wrong with them."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from flan_train import toxicity
from flan_train.errors import UserError

TEXTS = ["you are kind", "you idiot", "", "  \n"]


@pytest.fixture
def module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder on the path with a module of one's own."""
    (tmp_path / "own_scorer_for_tests.py").write_text(
        "seen = []\n"
        "def score(texts):\n"
        "    seen.append(list(texts))\n"
        "    return [1.0 if 'idiot' in text else 0.25 for text in texts]\n"
        "def fails(texts):\n"
        "    raise KeyError('the cause')\n"
        "number = 3\n"
    )
    (tmp_path / "broken_scorer_for_tests.py").write_text("def score(texts:\n")
    (tmp_path / "needs_more_for_tests.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_function_of_ones_own(module: pathlib.Path) -> None:
    scorer = toxicity.load("own_scorer_for_tests:score")
    assert scorer(TEXTS) == [0.25, 1.0, 0.0, 0.0]
    assert scorer(["", " "]) == [0.0, 0.0]
    assert scorer([]) == []
    # Blank texts are not shown to it.
    assert sys.modules["own_scorer_for_tests"].seen == [["you are kind", "you idiot"]]


def test_what_it_raises_itself_is_passed_on(module: pathlib.Path) -> None:
    with pytest.raises(KeyError, match="the cause"):
        toxicity.load("own_scorer_for_tests:fails")(["text"])


def test_a_module_beside_the_command(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    (tmp_path / "beside.py").write_text("def score(texts):\n    return [0.5] * len(texts)\n")
    code = "from flan_train import toxicity; print(toxicity.load('beside:score')(['a', 'b']))"
    # -P: as in the console script, the folder one is in is not on the path.
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[0.5, 0.5]"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("score", r"'score' names no scorer[\s\S]*\"module:function\", or \"classifier:FOLDER\""),
        ("own_scorer_for_tests:", "names no scorer"),
        (":score", "names no scorer"),
        (7, "7 names no scorer"),
        (
            "no_such_module_at_all:score",
            r"cannot be imported: ModuleNotFoundError[\s\S]*PYTHONPATH",
        ),
        ("needs_more_for_tests:score", "cannot be imported.*no_such_module_anywhere"),
        ("broken_scorer_for_tests:score", "cannot be imported: SyntaxError"),
        ("own_scorer_for_tests:skore", "has no 'skore'"),
        ("own_scorer_for_tests:number", "has something that cannot be called as 'number'"),
    ],
)
def test_names_that_name_no_scorer(module: pathlib.Path, name: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        toxicity.load(name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.5], "gave 1 scores for 2 texts"),
        ([0.5, 1.5], "gave the score 1.5 for 'two'"),
        ([0.5, -0.1], "gave the score -0.1 for 'two'"),
        ([0.5, float("nan")], "gave the score nan for 'two'"),
        (["0.5", 0.1], "gave '0.5' of type str for 'one'"),
        ([True, 0.1], "gave True of type bool"),
        ([None, 0.1], "gave None of type NoneType"),
        (None, "gave NoneType in place of a list"),
        ("ab", "gave str in place of a list"),
    ],
)
def test_results_that_are_none(given: Any, message: str) -> None:
    def score(texts: Sequence[str]) -> Any:
        return given

    with pytest.raises(UserError, match=message) as caught:
        toxicity.Checked("mine:score", score)(["one", "two"])
    assert caught.value.where == "mine:score"
    assert "at least 0 and at most 1" in caught.value.expected


def test_numbers_of_numpy_and_generators_are_fine() -> None:
    def score(texts: Sequence[str]) -> Any:
        return np.linspace(0, 1, len(texts), dtype=np.float32)

    found = toxicity.Checked("mine:score", score)(["one", "two", "three"])
    assert found == [0.0, 0.5, 1.0]
    assert all(type(one) is float for one in found)
    assert toxicity.Checked("mine:lazy", lambda texts: (0.5 for _ in texts))(["a"]) == [0.5]


def test_only_metrics_on_toxicity_need_a_scorer(module: pathlib.Path) -> None:
    assert toxicity.scorer_for(["exact_match", "kept"], None) is None
    assert toxicity.scorer_for(["exact_match"], "no_such_module_at_all:score") is None
    for unset in (None, ""):
        with pytest.raises(UserError, match="EVAL_TOXICITY_SCORER is not set, and any_toxic need"):
            toxicity.scorer_for(["any_toxic"], unset)
    scorer = toxicity.scorer_for(["toxic_share"], "own_scorer_for_tests:score")
    assert scorer is not None
    assert scorer(["you idiot"]) == [1.0]


# --- a classifier in a folder ---------------------------------------------------------------------


def write_classifier(folder: pathlib.Path, **settings: Any) -> pathlib.Path:
    """Saves a tiny classifier with random weights, and a tokeniser of a few words."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "you", "are", "kind", "idiot", "a"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokeniser = transformers.BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        initializer_range=1.0,
        **settings,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokeniser.save_pretrained(folder)
    return folder


SETTINGS = [
    pytest.param({"id2label": {0: "fine", 1: "Toxic"}}, "", "Toxic", id="two labels"),
    pytest.param(
        {
            "id2label": {0: "toxicity", 1: "insult", 2: "threat"},
            "problem_type": "multi_label_classification",
        },
        "",
        "toxicity",
        id="labels that do not exclude each other",
    ),
    pytest.param({"id2label": {0: "score"}}, "", "score", id="one label"),
    pytest.param({"id2label": {0: "hate", 1: "none"}}, "#hate", "hate", id="a label that is named"),
    pytest.param({}, "#LABEL_1", "LABEL_1", id="labels without names"),
]


@pytest.mark.torch
@pytest.mark.parametrize(("settings", "ending", "label"), SETTINGS)
def test_a_local_classifier_gives_what_its_pipeline_gives(
    tmp_path: pathlib.Path, settings: dict[str, Any], ending: str, label: str
) -> None:
    folder = write_classifier(tmp_path / "classifier", **settings)
    transformers = pytest.importorskip("transformers")
    texts = ["you are kind", "you idiot", "a a a a a a a a a a a a a a a a a", "you", ""]
    found = toxicity.load(f"classifier:{folder}{ending}")(texts)
    pipeline = transformers.pipeline(
        "text-classification", model=str(folder), tokenizer=str(folder), top_k=None
    )
    for text, score in zip(texts[:4], found, strict=False):
        # Texts are cut at the 12 positions that the model has.
        [listed] = pipeline([text], truncation=True, max_length=12)
        [expected] = [one["score"] for one in listed if one["label"] == label]
        assert score == pytest.approx(expected, abs=1e-5)
    assert found[4] == 0.0
    assert len(set(found[:4])) > 1
    batched = toxicity.Classifier(str(folder), ending[1:] or None, batch_size=2)(texts[:4])
    assert batched == pytest.approx(found[:4], abs=1e-5)


@pytest.mark.torch
def test_a_regression_gives_its_number(tmp_path: pathlib.Path) -> None:
    folder = write_classifier(tmp_path / "c", id2label={0: "toxicity"}, problem_type="regression")
    transformers = pytest.importorskip("transformers")
    pipeline = transformers.pipeline("text-classification", model=str(folder))
    [expected] = pipeline(["you idiot"])
    found = toxicity.Classifier(str(folder))(["you idiot"])
    assert found == pytest.approx([expected["score"]], abs=1e-5)


@pytest.mark.torch
def test_a_classifier_that_does_not_say_what_is_toxic(tmp_path: pathlib.Path) -> None:
    folder = write_classifier(tmp_path / "c", id2label={0: "good", 1: "bad"})
    with pytest.raises(UserError, match=r"no single label for toxic[\s\S]*good, bad[\s\S]*#LABEL"):
        toxicity.load(f"classifier:{folder}")
    with pytest.raises(UserError, match=r"no label called 'toxic'[\s\S]*good, bad"):
        toxicity.load(f"classifier:{folder}#toxic")


@pytest.mark.torch
def test_a_folder_without_weights(tmp_path: pathlib.Path) -> None:
    folder = write_classifier(tmp_path / "c", id2label={0: "toxic"})
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(UserError, match="the toxicity classifier cannot be loaded"):
        toxicity.load(f"classifier:{folder}")(["you"])


def test_a_folder_that_holds_no_classifier(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"classifier does not exist[\s\S]*absent"):
        toxicity.load(f"classifier:{tmp_path / 'absent'}")
    with pytest.raises(UserError, match=r"classifier has no config.json[\s\S]*save_pretrained"):
        toxicity.load(f"classifier:{tmp_path}")


@pytest.mark.torch
def test_a_config_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="of the toxicity classifier cannot be read"):
        toxicity.load(f"classifier:{tmp_path}")


@pytest.mark.parametrize("missing", ["transformers", "torch"])
def test_without_the_packages(
    tmp_path: pathlib.Path, repository: pathlib.Path, missing: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "toxic"}}))
    if missing == "torch":
        (tmp_path / "transformers.py").touch()
    code = (
        "from flan_train import errors, toxicity\n"
        "try:\n"
        f"    toxicity.load({f'classifier:{tmp_path}'!r})\n"
        "except errors.UserError as error:\n"
        "    print(error)\n"
    )
    # -S: nothing that is installed can be found.
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],
        env={"PYTHONPATH": f"{repository}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"needs {missing}, which is not installed" in done.stdout
    assert "pip install 'flan-train[hf]' torch" in done.stdout


def test_importing_loads_no_torch() -> None:
    code = (
        "import sys; from flan_train import toxicity;"
        "print({'torch', 'transformers', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
