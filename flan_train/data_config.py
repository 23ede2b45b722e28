"""What is prepared, and how: the settings of the data."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import gin

from flan_train.errors import UserError, check_flag, check_local, check_number, check_text


def check_lengths(name: str, lengths: object) -> None:
    """Raises UserError unless a setting is {"inputs": N, "targets": M} in tokens, EOS included."""
    if (
        not isinstance(lengths, Mapping)
        or set(lengths) != {"inputs", "targets"}
        or any(type(length) is not int or length < 2 for length in lengths.values())
    ):
        raise UserError(
            f"feature lengths cannot be {lengths}",
            where=name,
            expected='{"inputs": N, "targets": M}, whole numbers of at least 2',
            fix='for example {"inputs": 1024, "targets": 256}',
        )


@gin.register(module="flan_train.prepare")
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is prepared, and how.

    Attributes:
      mixture_or_task_name: a mixture or task of ours, or any that SeqIO knows once `modules` are
        imported.
      feature_lengths: limits in tokens, EOS included, {"inputs": ..., "targets": ...}.
      vocabulary: "quickstart", "t5" or the path of a SentencePiece model.
      data_dir: the data folder; None for FLAN_DATA_DIR.
      prepared_dir: where prepared datasets are kept; any number of runs can share it. None for
        FLAN_PREPARED_DIR, or else .cache/flan-train/prepared in the home folder.
      seed: of templates, options and exemplars.
      allow_missing: go on without the tasks whose source is missing (the manifest lists them).
      max_bad_rows: bad rows of a task that may be left out; they are listed in the manifest.
      num_workers: processes; None for one a core.
      examples_per_task: only so many of each task, for evaluation suites; None for all.
      modules: Python modules to import first, which register tasks and mixtures.
      renderings: at most so many renderings of a task: a run that comes round to it again trains
        on other templates and exemplars, drawn anew for each pass. 1: the same ones on every pass.
      exclude: a list of examples to leave out, as `inspect --exclude_contaminated` writes it; of
        the split "train" alone. None: leave out none.
    """

    mixture_or_task_name: str
    feature_lengths: Mapping[str, int]
    vocabulary: str = "t5"
    data_dir: str | None = None
    prepared_dir: str | None = None
    seed: int = 0
    allow_missing: bool = False
    max_bad_rows: int = 0
    num_workers: int | None = None
    examples_per_task: int | None = None
    modules: Sequence[str] = ()
    renderings: int = 16
    exclude: str | None = None

    def __post_init__(self) -> None:
        check_lengths("TASK_FEATURE_LENGTHS", self.feature_lengths)
        where = "DataConfig."
        check_text(where + "mixture_or_task_name", self.mixture_or_task_name)
        check_text(where + "vocabulary", self.vocabulary)
        check_number("RANDOM_SEED (DataConfig.seed)", self.seed, whole=True)
        check_flag("ALLOW_MISSING", self.allow_missing)
        check_number("MAX_BAD_ROWS", self.max_bad_rows, whole=True, minimum=0)
        check_number("RENDERINGS", self.renderings, whole=True, minimum=1)
        for name in ("num_workers", "examples_per_task"):
            check_number(where + name, getattr(self, name), whole=True, minimum=1, optional=True)
        for name, title in (
            ("data_dir", "DATA_DIR"),
            ("prepared_dir", "PREPARED_DIR"),
            ("exclude", "EXCLUDE"),
        ):
            folder = getattr(self, name)
            check_text(title, folder, optional=True)
            check_local(title, folder)
            if folder is not None:
                object.__setattr__(self, name, os.path.expanduser(os.fspath(folder)))
        if isinstance(self.modules, str):
            object.__setattr__(self, "modules", (self.modules,))

    @property
    def root(self) -> pathlib.Path:
        """The folder that `prepared_dir` stands for."""
        named = self.prepared_dir or os.environ.get("FLAN_PREPARED_DIR")
        default = pathlib.Path.home() / ".cache" / "flan-train" / "prepared"
        return pathlib.Path(named).expanduser() if named else default

    @property
    def lengths(self) -> tuple[int, int]:
        """Limits of inputs and targets."""
        return self.feature_lengths["inputs"], self.feature_lengths["targets"]
