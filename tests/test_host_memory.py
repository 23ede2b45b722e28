"""Freed memory is kept: in a process of its own, since it is for good."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import resource
import numpy as np
from flan_train import host_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(50_000_000, np.uint8).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
assert host_memory.keep_freed()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to")
def test_memory_that_was_freed_is_not_taken_from_the_system_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 100
    assert kept < given_back / 10
