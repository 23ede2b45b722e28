"""Runs one measurement in a process of its own: `python -m flan_train.plan_child ANSWER`.

The compiler of an absent machine is chosen before JAX starts, writes much to the terminal, and may
end the process that it runs in. So each program is compiled in a process made for it.
"""

from __future__ import annotations

import pickle
import sys


def main(path: str) -> None:
    """Reads a pickled request from the standard input, writes the pickled answer to a file.

    The request is (settings, topology, path for the program's text or None), the answer what
    `plan_step.measure` returns, or the UserError that it raised.
    """
    settings, topology, hlo_path = pickle.load(sys.stdin.buffer)
    from flan_train import errors, plan_step

    try:
        answer: object = plan_step.measure(settings, topology, hlo_path)
    except errors.UserError as error:
        answer = error
    with open(path, "wb") as file:
        pickle.dump(answer, file)


if __name__ == "__main__":
    main(sys.argv[1])
