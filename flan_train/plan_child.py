"""Runs one measurement in a process of its own: `python -m flan_train.plan_child`.

The compiler of an absent machine is chosen before JAX starts, writes much to the terminal, and may
end the process that it runs in. So each program is compiled in a process made for it.
"""

from __future__ import annotations

import json
import os
import sys
import threading


def main() -> None:
    """Reads a request, a line of JSON, from the standard input; answers on the standard output.

    The request is {"settings", "topology", "slices", "hlo_path"}, the answer {"measured"}, what
    `plan_step.measure` returns, or {"error"}, the four texts of the UserError that it raised. When
    the standard input is closed before, whoever asked has ended, and this process does too.
    """
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    # The compilers' own lines must not come between.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from flan_train import errors, plan_chips, plan_step

    try:
        settings = plan_step.Settings.from_json(request["settings"])
        topology = plan_chips.parse(request["topology"], request["slices"])
        found = {"measured": plan_step.measure(settings, topology, request["hlo_path"])}
    except errors.UserError as error:
        fields = ("what", "where", "expected", "fix")
        found = {"error": {name: getattr(error, name) for name in fields}}
    with answer:
        json.dump(found, answer, allow_nan=False)


def _end_with_the_asker() -> None:
    # Not sys.stdin: a thread that waits in it would keep the process from ending.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
