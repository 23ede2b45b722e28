"""One of several processes that train together on this machine's processor; tests start it.

python -m tests.distributed_run ADDRESS PROCESSES INDEX MODEL_DIR PREPARED_DIR STEPS PROGRAMS \
    [LOG_PERIOD [no_suites]]
"""

from __future__ import annotations

import pathlib
import sys

from flan_train import hosts, interruption, train
from flan_train.evaluate import EvalConfig
from tests import small_run


def main(
    address: str,
    count: str,
    index: str,
    model_dir: str,
    prepared: str,
    steps: str,
    programs: str,
    log_period: str = "5",
    suites: str = "",
) -> int:
    """Trains until it is finished or stopped; returns the exit code that the verb would."""
    settings = small_run.settings(pathlib.Path(prepared))
    settings |= {"train_steps": int(steps), "log_period": int(log_period)}
    if suites == "no_suites":
        settings["evaluation"] = EvalConfig()
    place = hosts.find(address, int(count), int(index))
    programs_of_one = small_run.compiled_once(pathlib.Path(programs) / index)
    with hosts.joined(place, repr(settings), start_timeout=240), programs_of_one:
        try:
            with interruption.handled():
                train.train(model_dir, **settings)
        except interruption.Interruption as stopped:
            print(f"stopped at {stopped.step}", flush=True)
            return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
