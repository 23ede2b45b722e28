"""Which tasks are mixed and at what rates; importing touches no data and no TensorFlow.

Once SeqIO is imported, before or after this package, every mixture is a SeqIO Mixture as well.
"""

from __future__ import annotations

import importlib
from typing import Any

import wrapt

from flan_train.mixtures.availability import Availability, check_sources
from flan_train.mixtures.definitions import (
    Member,
    MixtureDefinition,
    add,
    find,
    get,
    names,
    remove,
    tasks_of,
)

__all__ = [
    "Availability",
    "Member",
    "MixtureDefinition",
    "add",
    "check_sources",
    "find",
    "get",
    "names",
    "remove",
    "tasks_of",
]


def _register(module: Any) -> None:
    # Importing it registers. Where it was imported first, it is what imports SeqIO, and goes on.
    importlib.import_module("flan_train.mixtures.register")


wrapt.when_imported("seqio")(_register)
