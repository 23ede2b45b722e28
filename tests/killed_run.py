"""A training process that is killed again and again, and what its run must be in the end.

The process is the real command on a tiny model and an embedded task. It gets SIGKILL, with every
process that it has started, and the same command is given again until it ends by itself.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from flan_train import checkpoints

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TASK = "quickstart_parity_direct"
CLOCK = ("time", "useful_tokens_per_second", "step_seconds", "input_wait", "goodput")
SETTINGS = """
include "t5x_configs/models/t5_1_1.gin"
include "t5x_configs/runs/finetune.gin"

MIXTURE_OR_TASK_NAME = {task!r}
VOCABULARY = "quickstart"
TASK_FEATURE_LENGTHS = {{"inputs": 64, "targets": 16}}
BATCH_SIZE = 32
LEARNING_RATE = 1e-2
MAX_PASSES = None
LOG_PERIOD = 1
CHECKPOINT_PERIOD = 4
CHECKPOINT_KEEP_EVERY = 8
EVAL_SUITES = ({task!r},)
EVAL_EXAMPLES_PER_TASK = 24
EVAL_BATCH_SIZE = 4

prepare.DataConfig.examples_per_task = 1000

t5.T5Config:
    vocab_size = 896
    embed_dim = 16
    num_heads = 2
    head_dim = 8
    mlp_dim = 32
    num_encoder_layers = 1
    num_decoder_layers = 1
    dropout_rate = 0.1
"""
# What the command says when it begins to train, and when it is through.
TRAINS, CHOOSES = "parameters on", "chosen: "
PHASES = ("starting", "prepare", "step", "save", "evaluation", "ending")
# A kill in each of these is what the test is about.
REQUIRED = ("prepare", "step", "save", "evaluation")
UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
SECONDS = 600.0  # a launch that takes longer hangs


@dataclasses.dataclass
class Job:
    """One run: its command, and the folders that it writes to.

    Attributes:
      folder: gets the run, the prepared data, the gin file and what each launch says.
      programs: where compiled programs are kept from launch to launch.
      steps: updates.
      period: of evaluations.
      quick: whether programs are compiled without optimising, which is quicker for tiny ones.
    """

    folder: pathlib.Path
    programs: pathlib.Path
    steps: int = 40
    period: int = 8
    quick: bool = False

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run, self.store = self.folder / "run", self.folder / "prepared"
        self._gin = self.folder / "tiny.gin"
        self._gin.write_text(SETTINGS.format(task=TASK))
        self._launches = 0

    def command(self) -> list[str]:
        settings = {
            "MODEL_DIR": str(self.run),
            "PREPARED_DIR": str(self.store),
            "TRAIN_STEPS": self.steps,
            "EVAL_PERIOD": self.period,
        }
        command = [sys.executable, "-m", "flan_train.cli", "train", f"--gin_file={self._gin}"]
        return [*command, *(f"--gin.{k}={v!r}" for k, v in settings.items())]

    def start(self) -> Launch:
        """Starts the command in a process group of its own."""
        self._launches += 1
        said = self.folder / f"said-{self._launches}.txt"
        return Launch(self, self.command(), environment(self.programs, self.quick), said)

    def finish(self) -> str:
        """Runs the command to its end, which must be a good one, and returns what it said."""
        launch = self.start()
        code = launch.wait()
        assert code == 0, f"exit code {code}: {launch.said()}"
        return launch.said()

    def newest(self) -> int:
        """The newest complete checkpoint's step; 0 where there is none."""
        return max(complete(self.run), default=0)


def environment(programs: pathlib.Path, quick: bool) -> dict[str, str]:
    """One device, and compiled programs that are kept: compiling is the most of a launch."""
    return os.environ | {
        "XLA_FLAGS": UNOPTIMISED if quick else "",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def complete(run: pathlib.Path) -> list[int]:
    """The steps of a run that have a whole checkpoint; nothing is warned of."""
    from flan_train import checkpoint_names

    return checkpoint_names.complete_steps(run / checkpoints.FOLDER)


class Launch:
    """One process of a run, watched from outside through the files that it writes."""

    def __init__(
        self, job: Job, command: list[str], env: dict[str, str], said: pathlib.Path
    ) -> None:
        self.job = job
        self._before = self._marks()
        self._said = said
        with said.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.begun = time.monotonic()

    def said(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int:
        """Returns the exit code."""
        return self.process.wait(timeout=SECONDS)

    def kill(self) -> list[str]:
        """Ends the process and all that it has started; returns what was under way."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=SECONDS)
        return self.phases()

    def phases(self) -> list[str]:
        """What is under way, of PHASES: a save goes on beside steps and evaluations."""
        said = self.said()
        new = {kind: marks - self._before[kind] for kind, marks in self._marks().items()}
        found = [name for name in ("save", "evaluation") if new[name]]
        if CHOOSES in said:
            return [*found, "ending"]
        if TRAINS in said:
            return found or ["step"]
        return ["prepare"] if new["prepare"] else ["starting"]

    def reaches(self, phase: str) -> bool:
        """Waits until something is under way; False when the process ends before."""
        while not self.ended():
            if phase in self.phases():
                return True
            if time.monotonic() - self.begun > SECONDS:
                raise TimeoutError(f"no {phase} within {SECONDS} seconds: {self.said()}")
            time.sleep(0.003)
        return False

    def logs(self, step: int) -> bool:
        """Waits until it trains and the log has come to a step; False when it ends before."""
        while not self.ended():
            if TRAINS not in self.said():
                time.sleep(0.01)
                continue
            # A line that is being written counts from its end on.
            text = (self.job.run / "log.jsonl").read_text("utf-8").rpartition("\n")[0]
            if step == 0 or (text and json.loads(text.splitlines()[-1])["step"] >= step):
                return True
            time.sleep(0.002)
        return False

    def outlives(self, seconds: float) -> bool:
        """Waits so long; False when the process ends before."""
        try:
            self.process.wait(timeout=max(seconds, 0.001))
        except subprocess.TimeoutExpired:
            return True
        return False

    def _marks(self) -> dict[str, set[tuple[str, int]]]:
        """The unfinished files and folders there are, by what makes them."""
        run, store = self.job.run, self.job.store
        kinds = {
            "prepare": store.rglob(".tmp-*"),
            "save": (run / checkpoints.FOLDER).glob("*.orbax-checkpoint-tmp*"),
            "evaluation": (run / "eval").glob("*/*.partial"),
        }
        found: dict[str, set[tuple[str, int]]] = {}
        for kind, paths in kinds.items():
            marks = found[kind] = set()
            # What is looked at comes and goes meanwhile.
            try:
                for path in paths:
                    marks.add((str(path), path.stat().st_ino))
            except FileNotFoundError:
                continue
        return found


@dataclasses.dataclass
class Tally:
    """What came of killing runs.

    Attributes:
      kills: how many there were, all survived.
      phases: how many of them there were in each of PHASES; one may count in two.
      runs: how many runs they fell on.
      launches: processes started for these runs.
      further: launches that were killed, but left a newer checkpoint than they began with.
      required: phases of which each is to have a kill.
    """

    kills: int = 0
    phases: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    runs: int = 0
    launches: int = 0
    further: int = 0
    required: tuple[str, ...] = REQUIRED

    def missing(self) -> list[str]:
        """The required phases that have had no kill yet."""
        return [phase for phase in self.required if not self.phases[phase]]


@dataclasses.dataclass(frozen=True)
class Typical:
    """Seconds that an undisturbed launch takes: in all, and in its loop."""

    whole: float
    loop: float


def undisturbed(job: Job) -> Typical:
    """Runs a job to its end without a kill."""
    launch = job.start()
    assert launch.logs(0), launch.said()
    trains = time.monotonic()
    assert launch.wait() == 0, launch.said()
    end = time.monotonic()
    return Typical(end - launch.begun, end - trains)


def kill_at_random(
    job: Job,
    draw: random.Random,
    typical: Typical,
    kills: int,
    tally: Tally,
    aims: tuple[str, ...] = ("any", "prepare", "step", "save", "evaluation"),
) -> None:
    """Kills a run `kills` times, or until it is through, and lets it go on to its end.

    Args:
      job: the run.
      draw: what is random.
      typical: how long things take.
      kills: the most that this run gets.
      tally: is added to.
      aims: what a kill may wait for; "any" is any moment of the whole launch. What has had no
        kill yet goes first.
    """
    tally.runs += 1
    for _ in range(kills):
        before = job.newest()
        # With a checkpoint nothing is left to prepare.
        possible = [aim for aim in aims if not (before and aim == "prepare")]
        first = [aim for aim in tally.missing() if aim in possible]
        aim = first[0] if first else draw.choice(possible)
        launch = job.start()
        tally.launches += 1
        if not _wait(launch, aim, draw, typical, before):
            assert launch.wait() == 0, launch.said()
            return
        tally.phases.update(launch.kill())
        tally.kills += 1
        assert "Traceback" not in launch.said(), launch.said()
        after = job.newest()
        assert after >= before, f"step {before} was there, step {after} is: {launch.said()}"
        tally.further += after > before
    tally.launches += 1
    job.finish()


def _wait(launch: Launch, aim: str, draw: random.Random, typical: Typical, before: int) -> bool:
    """Waits for the moment of a kill; False when the process ends before."""
    steps = launch.job.steps
    if aim == "any":
        return launch.outlives(draw.uniform(0, typical.whole - typical.loop * before / steps))
    if aim == "prepare":
        return launch.reaches(aim) and launch.outlives(draw.uniform(0, 0.5))
    # By steps, not by time: how long they take depends on what else the machine does.
    some = draw.randint(before, max(before, 4 * steps // 5))
    delay = draw.uniform(0, 0.005 if aim == "step" else 0.03)
    return launch.logs(some) and launch.reaches(aim) and launch.outlives(delay)


def content(run: pathlib.Path, store: pathlib.Path | None = None) -> dict[str, bytes]:
    """Everything that a run has come to, by name, without what depends on the clock or the place.

    Every array and the position of every checkpoint that is kept, every line of the log, every
    evaluation with its examples, the selection, and the prepared data where these are named.
    """
    found: dict[str, bytes] = {}
    for step in complete(run):
        path = run / checkpoints.FOLDER / str(step)
        arrays = {
            "params": checkpoints.load_params(path)[0],
            "opt_state": checkpoints.load_opt_state(path),
        }
        for item, tree in arrays.items():
            for name, array in _leaves(tree):
                found[f"checkpoint {step}, {item} {name}"] = np.asarray(array).tobytes()
        meta = checkpoints.read_meta(path)
        meta["data"] = {k: v for k, v in meta["data"].items() if k != "prepared_dir"}
        found[f"checkpoint {step}, meta"] = _json(meta)
        found[f"checkpoint {step}, data"] = _json(checkpoints.read_position(path))
    for line in (run / "log.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)  # of a step logged twice, the later counts
        kept = {name: value for name, value in entry.items() if name not in CLOCK}
        found[f"log, step {entry['step']}"] = _json(kept)
    for path in sorted((run / "eval").glob("*/*")):
        name = f"eval {path.parent.name}/{path.name}"
        if path.suffix == ".json":
            result = json.loads(path.read_text("utf-8"))
            found[name] = _json({k: v for k, v in result.items() if k != "seconds"})
        else:
            found[name] = path.read_bytes()
    found["selected.json"] = (run / "selected.json").read_bytes()
    for path in sorted(store.rglob("*")) if store else ():
        if path.is_file():
            found[f"prepared {path.relative_to(store)}"] = path.read_bytes()
    return found


def differing_bits(one: Mapping[str, bytes], two: Mapping[str, bytes]) -> dict[str, int]:
    """Returns how many bits differ under each name where any does; absent ones count whole."""
    found = {}
    for name in sorted(one.keys() | two.keys()):
        left, right = (np.frombuffer(side.get(name, b""), np.uint8) for side in (one, two))
        shared = min(len(left), len(right))
        bits = int(np.bitwise_count(left[:shared] ^ right[:shared]).sum())
        bits += 8 * (len(left) + len(right) - 2 * shared)
        if bits:
            found[name] = bits
    return found


def leftovers(*roots: pathlib.Path) -> list[str]:
    """Returns the unfinished files and folders that are left in the folders of a finished run."""
    kinds = (".*", "*.partial", "*.removing", "*.lock", "*tmp*", "*.torn", "*.damaged", "*.writing")
    return sorted(str(path) for root in roots for kind in kinds for path in root.rglob(kind))


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    import jax

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
