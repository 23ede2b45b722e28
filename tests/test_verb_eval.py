"""`flan-train eval` on parameters that no run has written: suites, splits, votes, tables."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator

import jax
import pytest

from flan_train import checkpoints, cli, mixtures
from flan_train.mixtures import Member, MixtureDefinition
from flan_train.models import t5
from tests import small_run

DIRECT, REASONED = "quickstart_parity_direct", "quickstart_parity_cot"


def saved(folder: pathlib.Path, **changes: object) -> str:
    """Writes parameters of a small random model, as `convert` does, and returns their folder."""
    model = dataclasses.replace(small_run.MODEL, **changes)
    params = jax.jit(lambda key: t5.init_params(model, key))(jax.random.key(0))
    checkpoints.save_params(folder / "model", params, {"model": dataclasses.asdict(model)})
    return str(folder / "model")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def both() -> Iterator[str]:
    """A mixture of two mixtures."""
    names = ("toy_directs", "toy_reasoned")
    for name, task in zip(names, (DIRECT, REASONED), strict=True):
        mixtures.add(MixtureDefinition(name, (Member(task),)))
    members = tuple(Member(name, 1.0) for name in names)
    mixtures.add(MixtureDefinition("toy_both", members))
    yield "toy_both"
    for name in ("toy_both", *names):
        mixtures.remove(name)


def evaluate(model: str, prepared_dir: str, out: pathlib.Path, *words: str) -> int:
    """Runs the verb on few examples and short outputs, and returns its exit code."""
    settings = {
        "VOCABULARY": "quickstart",
        "PREPARED_DIR": prepared_dir,
        "OUTPUT_DIR": str(out),
        "EVAL_MAX_DECODE_LENGTH": 4,
    }
    gin = [f"--gin.{name}={value!r}" for name, value in settings.items()]
    return cli.main(["eval", f"--checkpoint={model}", *words, "--examples=3", *gin])


def test_a_mixture_of_mixtures_is_filed_suite_by_suite(
    model: str,
    prepared_dir: str,
    both: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "all.json"
    words = (f"--suite={both}", "--split=test", f"--json={out}")
    assert evaluate(model, prepared_dir, tmp_path / "eval", *words) == 0
    results = json.loads(out.read_text("utf-8"))
    assert [result["suite"] for result in results] == ["toy_directs_test", "toy_reasoned_test"]
    for result in results:
        file = tmp_path / "eval" / result["suite"] / "0.json"
        assert json.loads(file.read_text("utf-8")) == result
        assert result["examples"] == 3
        assert result["split"] == "test"
        assert result["checkpoint"] == model
    said = capsys.readouterr().out
    assert f"{DIRECT} " in said
    assert "all suites, in percent" in said
    assert "95 % interval" in said


def test_without_a_gin_file_results_lie_beside_converted_parameters(
    flan_data_dir: pathlib.Path, prepared_dir: str, tmp_path: pathlib.Path
) -> None:
    model = saved(tmp_path, vocab_size=32128)
    words = ["eval", f"--checkpoint={model}", "--suite=bbh_navigate_rank", "--split=all"]
    words += ["--examples=2", f"--data_dir={flan_data_dir}"]
    assert cli.main([*words, f"--gin.PREPARED_DIR={prepared_dir!r}"]) == 0
    path = pathlib.Path(model) / "eval" / "bbh_navigate_rank_all" / "0.json"
    result = json.loads(path.read_text("utf-8"))
    assert result["protocol"]["lengths"] == {"inputs": 2048, "targets": 512}
    assert result["decoding"] == {"method": "rank"}
    assert result["metrics"]["bbh_navigate_rank"]["n"] == 2


def test_votes_are_filed_apart(model: str, prepared_dir: str, tmp_path: pathlib.Path) -> None:
    words = (f"--suite={REASONED}", f"--suite={DIRECT}", "--self_consistency=2")
    assert evaluate(model, prepared_dir, tmp_path, *words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{REASONED}_sc2", DIRECT]
    lines = (tmp_path / f"{REASONED}_sc2" / "0.jsonl").read_text("utf-8").splitlines()
    assert {len(json.loads(line)["outputs"]) for line in lines} == {2}


def test_other_parameters_in_the_same_folder_are_evaluated_anew(
    prepared_dir: str, tmp_path: pathlib.Path
) -> None:
    counts = []
    for mlp_dim in (32, 48):
        model = saved(tmp_path, mlp_dim=mlp_dim)
        assert evaluate(model, prepared_dir, tmp_path / "eval", f"--suite={DIRECT}") == 0
        result = json.loads((tmp_path / "eval" / DIRECT / "0.json").read_text("utf-8"))
        counts.append(result["parameters"])
        shutil.rmtree(model)
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--suite=" + DIRECT, "--self_consistency=2"), "nothing can be put to the vote"),
        (("--suite=" + DIRECT, "--self_consistency=-1"), "EVAL_SELF_CONSISTENCY cannot be -1"),
        (("--suite=" + DIRECT, "--split=all"), f"the suite '{DIRECT}' has no split 'all'"),
        (("--suite=" + DIRECT, "--split=all", "--dry_run"), "has no split 'all'"),
        ((), "EVAL_SUITES is not set"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    words: tuple[str, ...],
    said: str,
    model: str,
    prepared_dir: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate(model, prepared_dir, tmp_path / "eval", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()
