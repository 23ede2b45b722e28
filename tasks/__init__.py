"""What each dataset is and how it is phrased; importing touches no data and no TensorFlow.

Once SeqIO is imported, before or after this package, every task is a SeqIO Task as well.
"""

from __future__ import annotations

import importlib
from typing import Any

import wrapt

from flan_train.tasks.definitions import BadRow, Rendered, Row, Source, TaskDefinition
from flan_train.tasks.registry import add, get, names, remove

__all__ = [
    "BadRow",
    "Rendered",
    "Row",
    "Source",
    "TaskDefinition",
    "add",
    "get",
    "names",
    "remove",
]


def _register(module: Any) -> None:
    # Importing it registers. Where it was imported first, it is what imports SeqIO, and goes on.
    importlib.import_module("flan_train.tasks.register")


wrapt.when_imported("seqio")(_register)
