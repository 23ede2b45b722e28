"""Models whose answers are known beforehand, with the interface of a trained one."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from flan_train.decode import Generated, Sampling
from flan_train.prepared import PreparedDataset
from flan_train.tasks import answers

Choose = Callable[[int], int]


class Planted:
    """Answers each prompt of a suite with the target of an example, `choose(index)`.

    Attributes:
      parameters: none.
      fits: whether every reply has to fit into the output that the task allows.
      asked: how many prompts it was asked.
      seeds: those that it was given with prompts, in order.
    """

    parameters = 0

    def __init__(self, prepared: PreparedDataset, choose: Choose) -> None:
        self._replies: dict[bytes, np.ndarray] = {}
        for index in range(len(prepared)):
            reply = prepared.tokens(choose(index))[1]
            known = self._replies.setdefault(prepared.tokens(index)[0].tobytes(), reply)
            assert np.array_equal(known, reply), "one prompt with two answers"
        self.fits = True
        self.asked = 0
        self.seeds: list[int] = []

    def outputs(self, reply: np.ndarray, sampling: Sampling) -> list[np.ndarray]:
        """Returns the outputs of a prompt, here all the same."""
        return [reply] * sampling.samples

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        *,
        max_length: int,
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, list[Generated]]]:
        """Yields the outputs, the last prompt first."""
        for index in reversed(range(len(prompts))):
            self.asked += 1
            if seeds is not None:
                self.seeds.append(seeds[index])
            reply = self._replies[prompts[index].tobytes()]
            assert len(reply) <= max_length or not self.fits
            replies = self.outputs(reply[:-1], sampling)
            yield index, [Generated(one, -1.0, True) for one in replies]

    def score(
        self, prompts: Sequence[np.ndarray], options: Sequence[Sequence[np.ndarray]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields 0 for the option that is the reply, -1 for the others, the last prompt first."""
        for index in reversed(range(len(prompts))):
            self.asked += 1
            reply = self._replies[prompts[index].tobytes()]
            equal = [np.array_equal(option, reply) for option in options[index]]
            yield index, np.array(equal, np.float32) - 1


def oracle(prepared: PreparedDataset) -> Planted:
    """Returns a model that is always right."""
    return Planted(prepared, lambda index: index)


def constant(prepared: PreparedDataset) -> Planted:
    """Returns a model that always gives its task's commonest answer."""
    common = {}
    for task, spans in prepared.passes.items():
        start, count = spans[0]
        given = [
            answers.normalise(prepared.record(index)["answer"])
            for index in range(start, start + count)
        ]
        if given:
            common[task] = start + given.index(collections.Counter(given).most_common(1)[0][0])
    return Planted(prepared, lambda index: common[prepared.record(index)["task"]])
