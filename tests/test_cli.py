"""The command line as a user meets it: verbs end to end, and one readable message per mistake."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from flan_train import cli, tasks
from tests.cot_folder import write_cot_folder

QUICKSTART = "--gin_file=t5x_configs/recipes/quickstart.gin"
# A model that compiles in a moment; sequences that hold few examples.
TINY = (
    "--gin.T5Config.embed_dim=16",
    "--gin.T5Config.num_heads=2",
    "--gin.T5Config.head_dim=8",
    "--gin.T5Config.mlp_dim=16",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=1",
    "--gin.BATCH_SIZE=8",
    "--gin.TRAIN_STEPS=2",
    "--gin.EVAL_PERIOD=2",
    "--gin.EVAL_EXAMPLES_PER_TASK=2",
    "--gin.CHECKPOINT_PERIOD=2",
    "--gin.LOG_PERIOD=1",
)


def _gin(**settings: object) -> list[str]:
    return [f"--gin.{name}={value!r}" for name, value in settings.items()]


class Job:
    """A launch of `train` in a folder of its own."""

    def __init__(self, tmp_path: pathlib.Path, **settings: object) -> None:
        self.model_dir = tmp_path / "run"
        self.prepared = tmp_path / "prepared"
        self.settings = settings

    def words(self, **more: object) -> list[str]:
        settings = {
            "MODEL_DIR": str(self.model_dir),
            "PREPARED_DIR": str(self.prepared),
            **self.settings,
            **more,
        }
        return ["train", QUICKSTART, *TINY, *_gin(**settings)]


@pytest.fixture
def cot_data(tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(write_cot_folder(tmp_path / "data"))


def _cot(tmp_path: pathlib.Path, data_dir: pathlib.Path, **settings: object) -> Job:
    lengths = {"inputs": 256, "targets": 128}
    return Job(
        tmp_path,
        MIXTURE_OR_TASK_NAME="cot_gsm8k_zs",
        DATA_DIR=str(data_dir),
        EVAL_SUITES=(),
        TASK_FEATURE_LENGTHS=lengths,
        **settings,
    )


def _refused(words: list[str], capsys: pytest.CaptureFixture[str], *said: str) -> str:
    """Runs a command line that must be refused with one message that says all of `said`."""
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("flan-train: ")
    assert "Traceback" not in message
    for part in said:
        assert part in message, message
    return message


def _nothing_written(job: Job) -> None:
    assert not job.model_dir.exists()
    leftovers = [path for path in job.prepared.rglob("*") if path.is_file()]
    assert leftovers == []


# ---- verbs, end to end ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A whole tiny run of the main job on two embedded families."""
    job = Job(
        tmp_path_factory.mktemp("job"),
        MIXTURE_OR_TASK_NAME="quickstart_addition_direct",
        EVAL_SUITES=("quickstart_parity_direct",),
    )
    assert cli.main(job.words()) == 0
    return job


def test_train_leaves_everything_the_design_names(finished: Job) -> None:
    run = finished.model_dir
    for name in ("config.gin", "log.jsonl", "selected.json", "report.html", "mixture.json"):
        assert (run / name).is_file(), name
    assert (run / "checkpoints" / "2").is_dir()
    assert list((run / "metrics").iterdir())
    result = json.loads((run / "eval" / "quickstart_parity_direct" / "2.json").read_text())
    assert result["metrics"]["quickstart_parity_direct"]["n"] == 2
    assert (run / "eval" / "quickstart_parity_direct_test" / "2.json").is_file()


def test_the_operative_config_runs_again_as_it_stands(finished: Job) -> None:
    again = ["train", f"--gin_file={finished.model_dir / 'config.gin'}"]
    assert cli.main(again) == 0
    lines = (finished.model_dir / "log.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_eval_of_a_runs_checkpoint_repeats_the_runs_own_result(
    finished: Job, tmp_path: pathlib.Path
) -> None:
    result = finished.model_dir / "eval" / "quickstart_parity_direct" / "2.json"
    before = result.read_bytes()
    checkpoint = finished.model_dir / "checkpoints" / "2"
    words = ["eval", f"--checkpoint={checkpoint}", "--suite=quickstart_parity_direct"]
    assert cli.main(words) == 0
    assert result.read_bytes() == before
    elsewhere = ["--gin.OUTPUT_DIR=" + repr(str(tmp_path))]
    assert cli.main([*words, *elsewhere]) == 0
    fresh = json.loads((tmp_path / "quickstart_parity_direct" / "2.json").read_text())
    assert fresh["metrics"] == json.loads(before)["metrics"]


def test_eval_does_not_replace_what_the_run_was_selected_by(
    finished: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    result = finished.model_dir / "eval" / "quickstart_parity_direct" / "2.json"
    before = result.read_bytes()
    checkpoint = finished.model_dir / "checkpoints" / "2"
    words = ["eval", f"--checkpoint={checkpoint}", "--suite=quickstart_parity_direct"]
    _refused([*words, "--gin.EVAL_EXAMPLES_PER_TASK=3"], capsys, str(result), "OUTPUT_DIR")
    assert result.read_bytes() == before


def test_eval_takes_a_recipe_as_well(finished: Job, tmp_path: pathlib.Path) -> None:
    checkpoint = finished.model_dir / "checkpoints" / "2"
    words = ["eval", QUICKSTART, f"--checkpoint={checkpoint}", "--suite=quickstart_parity_direct"]
    words += _gin(OUTPUT_DIR=str(tmp_path), PREPARED_DIR=str(tmp_path), EVAL_EXAMPLES_PER_TASK=2)
    assert cli.main(words) == 0
    assert (tmp_path / "quickstart_parity_direct" / "2.json").is_file()


def test_eval_dry_run_knows_a_misspelt_suite(
    finished: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = finished.model_dir / "checkpoints" / "2"
    words = ["eval", f"--checkpoint={checkpoint}", "--suite=quickstart_hold_out", "--dry_run"]
    _refused(words, capsys, "quickstart_held_out")


def test_eval_needs_no_gin_file_for_a_runs_checkpoint(
    finished: Job, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = finished.model_dir / "checkpoints" / "2"
    out = tmp_path / "scores.json"
    words = ["eval", f"--checkpoint={checkpoint}", "--suite=quickstart_boolean_direct"]
    words += [f"--json={out}", f"--gin.OUTPUT_DIR='{tmp_path}'", "--gin.EVAL_EXAMPLES_PER_TASK=3"]
    assert cli.main(words) == 0
    (result,) = json.loads(out.read_text())
    assert result["suite"] == "quickstart_boolean_direct"
    assert result["metrics"]["quickstart_boolean_direct"]["n"] == 3
    assert "quickstart_boolean_direct" in capsys.readouterr().out


def test_select_and_report_work_on_the_run_alone(
    finished: Job, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tmp_path / "chosen.json"
    words = ["select", str(finished.model_dir)]  # by what the run itself chose by
    assert cli.main([*words, f"--json={chosen}"]) == 0
    assert json.loads(chosen.read_text())["step"] == 2
    assert "step 2" in capsys.readouterr().out
    (finished.model_dir / "report.html").unlink()
    assert cli.main(["report", str(finished.model_dir)]) == 0
    assert (finished.model_dir / "report.html").is_file()


def test_convert_takes_a_runs_checkpoint_to_hugging_face_and_back(
    finished: Job, tmp_path: pathlib.Path
) -> None:
    there, back = tmp_path / "hf", tmp_path / "flan"
    checkpoint = finished.model_dir / "checkpoints" / "2"
    assert cli.main(["convert", "flan-to-hf", f"--from={checkpoint}", f"--to={there}"]) == 0
    assert cli.main(["convert", "hf-to-flan", f"--from={there}", f"--to={back}"]) == 0
    assert (there / "config.json").is_file()
    assert (back / "params").is_dir()


def test_the_selected_checkpoint_goes_by_its_name(
    finished: Job, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selected = finished.model_dir / "checkpoints" / "selected"
    result = finished.model_dir / "eval" / "quickstart_parity_direct" / "2.json"
    before = result.read_bytes()
    assert cli.main(["eval", f"--checkpoint={selected}", "--suite=quickstart_parity_direct"]) == 0
    assert result.read_bytes() == before  # filed with the run, as of step 2
    short = finished.model_dir / "selected"
    there = tmp_path / "hf"
    assert cli.main(["convert", "flan-to-hf", f"--from={short}", f"--to={there}"]) == 0
    assert (there / "config.json").is_file()
    other = Job(tmp_path / "other", INITIAL_CHECKPOINT_PATH=str(selected))
    capsys.readouterr()
    assert cli.main([*other.words(), "--dry_run"]) == 0
    assert "A launch on this machine would stop" not in capsys.readouterr().out
    nowhere = tmp_path / "checkpoints" / "selected"
    nowhere.parent.mkdir()
    other = Job(tmp_path / "third", INITIAL_CHECKPOINT_PATH=str(nowhere))
    _refused(other.words(), capsys, "no checkpoint of the run has been selected yet")
    _nothing_written(other)


def test_prepare_with_a_recipe_prepares_what_training_will_read(
    finished: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(finished.prepared.rglob("*"))
    assert cli.main(["prepare", *finished.words()[1:]]) == 0
    assert sorted(finished.prepared.rglob("*")) == before
    assert "quickstart_addition_direct (train)" in capsys.readouterr().out


def test_prepare_with_its_own_gin_file(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "--gin_file=t5x_configs/runs/prepare.gin"]
    words += _gin(
        MIXTURE_OR_TASK_NAME="quickstart_parity_direct",
        TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 32},
        VOCABULARY="quickstart",
        PREPARED_DIR=str(tmp_path),
        SPLIT="test",
    )
    assert cli.main(words) == 0
    assert "quickstart_parity_direct (test)" in capsys.readouterr().out


def test_prepare_says_what_a_mixture_is_without(
    tmp_path: pathlib.Path, cot_data: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cot_data / "cot" / "gsm8k_train.tsv").unlink()
    words = ["prepare", "--gin_file=t5x_configs/runs/prepare.gin"]
    words += _gin(
        MIXTURE_OR_TASK_NAME="cot",
        TASK_FEATURE_LENGTHS={"inputs": 256, "targets": 128},
        VOCABULARY="quickstart",
        DATA_DIR=str(cot_data),
        PREPARED_DIR=str(tmp_path / "prepared"),
        ALLOW_MISSING=True,
    )
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "left out: cot_gsm8k_" in said
    assert "gsm8k_train.tsv is missing" in said


def test_dry_run_prints_settings_parameters_memory_and_data_and_writes_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path, MIXTURE_OR_TASK_NAME="quickstart_parity_direct")
    assert cli.main([*job.words(), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "model.embed_dim = 16" in said
    assert "parameters" in said
    assert "per device" in said
    assert "quickstart_parity_direct" in said
    _nothing_written(job)


@pytest.mark.parametrize(
    "verb", ["train", "prepare", "inspect", "eval", "select", "convert", "report"]
)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "example:" in said
    assert f"flan-train {verb}" in said
    assert "--dry_run" in said


def test_the_module_is_the_command(repository: pathlib.Path) -> None:
    for command in ([sys.executable, "-m", "flan_train.cli"], [_script()]):
        done = subprocess.run(
            [*command, "inspect", "no_such_mixture"], capture_output=True, text=True, cwd=repository
        )
        assert done.returncode == 2
        assert "unknown mixture" in done.stderr
        assert "Traceback" not in done.stderr


def _script() -> str:
    found = pathlib.Path(sys.executable).with_name("flan-train")
    return str(found) if found.is_file() else str(shutil.which("flan-train"))


# ---- one message per mistake ---------------------------------------------------------------------


def test_a_missing_data_folder(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = _cot(tmp_path, tmp_path / "nowhere")
    _refused(job.words(), capsys, str(tmp_path / "nowhere"), "to do")
    _nothing_written(job)


def test_a_missing_file(
    tmp_path: pathlib.Path, cot_data: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cot_data / "cot" / "gsm8k_train.tsv").unlink()
    job = _cot(tmp_path, cot_data)
    _refused(job.words(), capsys, "gsm8k_train.tsv")
    _nothing_written(job)


@pytest.mark.parametrize(
    ("dataset", "line", "said"),
    [
        ("gsm8k", b"only a question\n", "too few columns"),
        ("gsm8k", b"caf\xe9\t4\t2 + 2 = 4\n", "UTF-8"),
        ("gsm8k", b"What is 2 + 2?\t\t2 + 2 = 4\n", "empty"),
        (
            "creak",
            b"Claim: cats bark. True?\\nOptions:\\n- yes\\n- no\tmaybe\tNobody knows.\n",
            "outside",
        ),
    ],
)
def test_a_bad_row(
    dataset: str,
    line: bytes,
    said: str,
    tmp_path: pathlib.Path,
    cot_data: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = cot_data / "cot" / f"{dataset}_train.tsv"
    number = path.read_bytes().count(b"\n") + 1
    path.write_bytes(path.read_bytes() + line)
    job = _cot(tmp_path, cot_data)
    words = job.words(MIXTURE_OR_TASK_NAME=f"cot_{dataset}_zs")
    message = _refused(words, capsys, path.name, str(number), "MAX_BAD_ROWS")
    assert said in message
    _nothing_written(job)


def test_bad_rows_within_the_limit_are_left_out_and_listed(
    tmp_path: pathlib.Path, cot_data: pathlib.Path
) -> None:
    path = cot_data / "cot" / "gsm8k_train.tsv"
    path.write_bytes(path.read_bytes() + b"only a question\n")
    job = _cot(tmp_path, cot_data)
    assert cli.main(job.words(MAX_BAD_ROWS=1)) == 0
    mixture = (job.model_dir / "mixture.json").read_text("utf-8")
    assert "too few columns" in mixture


def test_a_vocabulary_of_the_wrong_size(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path, MIXTURE_OR_TASK_NAME="quickstart_parity_direct")
    words = [*job.words(), "--gin.T5Config.vocab_size=300"]
    _refused(words, capsys, "300", "896")
    _nothing_written(job)


def test_a_misspelt_binding(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path)
    _refused([*job.words(), "--gin.DROPUT_RATE=0.1"], capsys, "DROPUT_RATE", "DROPOUT_RATE")
    _nothing_written(job)


def test_an_unknown_mixture(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path, MIXTURE_OR_TASK_NAME="quickstrat")
    _refused(job.words(), capsys, "unknown mixture", "quickstart")
    _nothing_written(job)


def test_a_mixture_without_members(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "cot").mkdir(parents=True)
    job = _cot(tmp_path, tmp_path / "data")
    words = job.words(MIXTURE_OR_TASK_NAME="cot", ALLOW_MISSING=True)
    _refused(words, capsys, "cot", "gsm8k_train.tsv")
    _nothing_written(job)


def test_train_steps_below_the_checkpoints_step(
    finished: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished.model_dir / "log.jsonl").read_bytes()
    _refused(finished.words(TRAIN_STEPS=1), capsys, "TRAIN_STEPS", "2")
    assert (finished.model_dir / "log.jsonl").read_bytes() == before


def test_a_checkpoint_of_another_model(
    finished: Job, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path, MIXTURE_OR_TASK_NAME="quickstart_parity_direct")
    words = job.words(INITIAL_CHECKPOINT_PATH=str(finished.model_dir / "checkpoints" / "2"))
    _refused([*words, "--gin.T5Config.embed_dim=32"], capsys, "another model", "[16]", "[32]")
    _nothing_written(job)


def test_a_checkpoint_that_is_not_there(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path, MIXTURE_OR_TASK_NAME="quickstart_parity_direct")
    words = job.words(INITIAL_CHECKPOINT_PATH=str(tmp_path / "nowhere"))
    _refused(words, capsys, str(tmp_path / "nowhere"))
    _nothing_written(job)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "--gin_file=PATH"),
        (["train", QUICKSTART, "--gin.MODEL_DIR"], "has no value"),
        (["eval"], "--checkpoint"),
        (["eval", "--checkpoint=nowhere/checkpoints/3", "--suite=x"], "nowhere"),
        (["select", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["convert", "hf-to-flan", "--from=nowhere", "--to=out"], "nowhere"),
        (["inspect", "cott"], "cot"),
        (["inspect", "cot", "--gin.X=1"], "reads no gin settings"),
    ],
)
def test_other_mistakes(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLAN_DATA_DIR", raising=False)
    _refused(words, capsys, said)


def test_no_resume_refuses_a_run_that_has_a_checkpoint(
    finished: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    _refused([*finished.words(), "--no-resume"], capsys, str(finished.model_dir))


def test_strict_refuses_a_damaged_checkpoint(
    finished: Job, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    run = shutil.copytree(finished.model_dir, tmp_path / "run")
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    (newest / "meta" / "metadata").write_text("{")
    words = [*finished.words(MODEL_DIR=str(run)), "--strict"]
    _refused(words, capsys, "cannot be read")
    assert newest.is_dir()
    assert cli.main([*words, "--dry_run"]) == 0
    assert "A launch on this machine would stop" in capsys.readouterr().out


def test_names_of_tasks_are_known_without_data() -> None:
    assert "cot_gsm8k_zs" in tasks.names()
