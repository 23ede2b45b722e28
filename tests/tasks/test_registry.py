from __future__ import annotations

import subprocess
import sys

import pytest

from flan_train import tasks
from flan_train.errors import UserError


def test_unknown_task_gives_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown task 'cot_gms8k_zs'[\s\S]*cot_gsm8k_zs"):
        tasks.get("cot_gms8k_zs")


def test_a_task_of_ones_own() -> None:
    import dataclasses

    mine = dataclasses.replace(tasks.get("cot_gsm8k_zs"), name="mine_zs")
    tasks.add(mine)
    try:
        assert tasks.get("mine_zs") is mine
        with pytest.raises(ValueError, match="two tasks are called mine_zs"):
            tasks.add(mine)
    finally:
        tasks.remove("mine_zs")
    assert "mine_zs" not in tasks.names()


def test_importing_is_light() -> None:
    code = (
        "import sys; import flan_train.mixtures;"
        "heavy = {'tensorflow', 'seqio', 'jax', 'sentencepiece', 'flan_train.tasks.cot'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
