"""What both sides train on and how it is counted; nothing here imports JAX or PyTorch."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from flan_train import plan_flops
from flan_train.models.config import T5Config

SIZES = {
    "small": {
        "embed_dim": 512,
        "num_heads": 6,
        "mlp_dim": 1024,
        "num_encoder_layers": 8,
        "num_decoder_layers": 8,
    },
    "base": {
        "embed_dim": 768,
        "num_heads": 12,
        "mlp_dim": 2048,
        "num_encoder_layers": 12,
        "num_decoder_layers": 12,
    },
    "tiny": {
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_dim": 64,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
    },
}
HEAD_DIM, VOCABULARY = 64, 32128
DROPOUT = 0.05
LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Work:
    """What a side is asked to do.

    Attributes:
      size: of SIZES.
      data: the file of the examples and of the packed rows.
      lengths: places of a packed row, inputs and targets.
      steps: training steps of a round, at most.
      seconds: after so many no further step of the round begins.
      quick: whether the choice of settings is cut short.
    """

    size: str
    data: str
    lengths: tuple[int, int]
    steps: int
    seconds: float
    quick: bool


@dataclasses.dataclass(frozen=True)
class Round:
    """What a side did in one turn.

    Attributes:
      useful: tokens of examples that were trained on, padding not counted.
      seconds: that the steps took.
      flops: of the model in the arrays that were computed, padding included.
      peak: matrix-multiply FLOP/s measured right after the steps; 0 on the peer's side.
    """

    useful: int
    seconds: float
    flops: float
    peak: float = 0.0


def model_flops(size: str, rows: int, inputs: int, targets: int) -> float:
    """Returns the FLOPs of a training step: three times those of the forward pass.

    Counted: every product with weights and both products of every attention, over all places of
    the rows, whether masked or not; the causal half is not taken off. Not counted: softmax, norms,
    activations, dropout, loss, optimizer, and whatever the backward pass computes a second time.
    """
    model = T5Config(
        **SIZES[size],
        head_dim=HEAD_DIM,
        vocab_size=VOCABULARY,
        mlp_activation="gated-gelu",
        tie_embeddings=False,
    )
    return plan_flops.model_flops(model, rows, inputs, targets)


class Side:
    """One side, in a process of its own that answers a line of JSON with a line of JSON."""

    def __init__(self, module: str, work: Work) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"step_time_parts.{module}",
                json.dumps(dataclasses.asdict(work)),
            ],
            cwd=pathlib.Path(__file__).resolve().parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"XLA_FLAGS": one_device(os.environ.get("XLA_FLAGS", ""))},
        )

    def ask(self, what: str) -> Any:
        """Returns the answer to "settle" or "round".

        Raises:
          SystemExit: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
            print(line, end="", flush=True)
        raise SystemExit(f"a side ended with exit code {self._process.wait()}")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def one_device(flags: str) -> str:
    """Returns XLA's flags without a number of host devices: the figures are those of one."""
    return " ".join(each for each in flags.split() if "host_platform_device_count" not in each)


def serve(side: Any) -> None:
    """Answers what `Side.ask` asks: "settle" by `side.settle()`, "round" by `side.round()`."""
    for line in sys.stdin:
        answer = side.settle() if json.loads(line) == "settle" else side.round()
        print(json.dumps(dataclasses.asdict(answer)), flush=True)


@dataclasses.dataclass(frozen=True)
class Settled:
    """The settings that a side chose.

    Attributes:
      settings: the best ones, in words.
      tried: useful tokens per second of all that were tried, by their words.
    """

    settings: str
    tried: dict[str, float]


def asked(arguments: Sequence[str]) -> Work:
    """Returns what the command line of a side says."""
    given = json.loads(arguments[1])
    return Work(**(given | {"lengths": tuple(given["lengths"])}))
