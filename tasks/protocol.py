"""How a task is evaluated: what its definition says of that, by task name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flan_train.tasks.definitions import TaskDefinition

# "generate": greedy decoding; "rank": the likeliest of the record's options; "samples": drawn.
METHODS = ("generate", "rank", "samples")
PROMPTINGS = ("", "direct", "cot")


@dataclasses.dataclass(frozen=True)
class Draws:
    """How the outputs of a task of method "samples" are drawn.

    Attributes:
      samples: outputs for each prompt.
      temperature: what logits are divided by.
      top_k: how many of the likeliest tokens are drawn from; 0 for all.
    """

    samples: int
    temperature: float = 1.0
    top_k: int = 0


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the examples of a task are evaluated and what of them counts.

    Nothing here changes an example, so prepared folders do not depend on it.

    Attributes:
      metrics: names in `metrics.METRICS`; the first is the main one.
      method: "generate", "rank" or "samples".
      max_output: output tokens, EOS included, that an evaluation may take; None: by the targets.
      chance: the share of right answers that guessing gets; None: there is no normalised score.
      benchmark: "MMLU", "BBH", "TyDiQA", "MGSM", ...; empty outside the held-out benchmarks.
      prompting: "direct" or "cot"; empty where a benchmark does not tell them apart.
      sampling: how outputs are drawn where the method is "samples", else None.
    """

    metrics: tuple[str, ...] = ("exact_match",)
    method: str = "generate"
    max_output: int | None = None
    chance: float | None = None
    benchmark: str = ""
    prompting: str = ""
    sampling: Draws | None = None

    @classmethod
    def of(cls, task: TaskDefinition) -> Protocol:
        """Returns what a definition says of its evaluation."""
        return cls(**{field.name: getattr(task, field.name) for field in dataclasses.fields(cls)})


def protocol_of(name: str) -> Protocol:
    """Returns how a task is evaluated; the defaults for a task that is not one of ours."""
    from flan_train.tasks import registry

    task = registry.find(name)
    return Protocol() if task is None else Protocol.of(task)
