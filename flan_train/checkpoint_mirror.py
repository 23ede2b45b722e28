"""Keeping a copy of a run's checkpoints in an object store, while it trains.

Only copies that the run itself does not keep any more are removed. A run that goes on elsewhere
knows nothing of those that lie in the store alone, such as the best one: they stay.
"""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flan_train import checkpoint_names, storage, storage_transfer
from flan_train.errors import UserError, not_written

log = logging.getLogger(__name__)

RESULTS = "eval"  # the folder of a run's results
_RESULT_FILES = (".json", ".jsonl")
_META_BYTES = 2**26
# What two checkpoints of different steps of one run have in common.
_SETTINGS = ("config_hash", "manifest_hash", "seed")


class Mirror:
    """The copies of one run, `<url>/checkpoints/<step>`, with what the run was selected by.

    Args:
      run: the run directory.
      url: where the copies go.
    """

    def __init__(self, run: pathlib.Path, url: str) -> None:
        self._run = run
        self._there = storage.RemotePath(url)
        self._same: set[int] = set()  # copies known to be of this run's checkpoints
        self._dropped: set[int] = set()
        self._sent: dict[str, tuple[int, int]] = {}

    def update(self, kept: Collection[int], dropped: Collection[int]) -> bool:
        """Copies what is not there yet; then removes the copies of checkpoints that are dropped.

        A store that cannot be reached does not stop the run: the next call does what is missing.

        Args:
          kept: the steps to keep, all of them complete.
          dropped: those that the run is about to remove, complete as well.

        Returns:
          Whether all is done.
        """
        copies, local = self._there / checkpoint_names.FOLDER, self._run / checkpoint_names.FOLDER
        self._dropped = self._dropped.union(dropped).difference(kept)
        try:
            complete = checkpoint_names.complete_steps(copies)
            # What another run has written is neither taken for a copy nor removed.
            for step in sorted({*kept, *dropped}.intersection(complete) - self._same):
                if not _is_same(local / str(step), copies / str(step)):
                    raise _of_another_run(local / str(step), copies / str(step))
                self._same.add(step)
            for step in sorted(set(kept).difference(complete)):
                place = copies / str(step)
                place.remove()  # what a copy that was killed has left
                storage_transfer.upload(local / str(step), place)
                self._same.add(step)
            self._send_results()
            for step in sorted(self._dropped):
                if step in complete and step in self._same:
                    (copies / str(step)).remove()
                self._dropped.discard(step)
        except (UserError, ValueError, OSError) as error:
            log.error(
                "THE CHECKPOINTS COULD NOT BE COPIED TO %s, which is tried again: %s", copies, error
            )
            return False
        return True

    def _send_results(self) -> None:
        for path in _results(self._run):
            status = path.stat()
            seen, name = (status.st_mtime_ns, status.st_size), path.relative_to(self._run)
            if self._sent.get(str(name)) != seen:
                storage_transfer.upload_file(path, self._there.joinpath(*name.parts))
                self._sent[str(name)] = seen


def check(url: str | None) -> None:
    """Raises UserError when a setting is no address in an object store."""
    if url is not None and not storage.is_remote(url):
        raise UserError(
            f"CHECKPOINTS_COPIED_TO cannot be {url!r}",
            where="CHECKPOINTS_COPIED_TO",
            expected="gs://bucket/folder or s3://bucket/folder, or None",
        )
    if url is not None:
        storage.located(url)


def check_copies(folder: pathlib.Path, url: str | None, latest: int | None) -> None:
    """Raises UserError when the copies are another run's, or go further than this one would begin.

    Args:
      folder: the run's folder of checkpoints.
      url: where the copies go; None for nowhere.
      latest: the run's newest step; None where it has none.

    Raises:
      UserError: also when the store cannot be reached.
    """
    if url is None:
        return
    copies = storage.RemotePath(url) / checkpoint_names.FOLDER
    steps = checkpoint_names.complete_steps(copies)
    if not steps:
        return
    newest = steps[-1]
    if latest is None or newest > latest:
        wanted = _to_bring_back(storage.RemotePath(url), steps)
        raise UserError(
            f"the copies of the checkpoints go up to step {newest}, those of MODEL_DIR "
            + ("are none" if latest is None else f"to {latest}"),
            where=f"CHECKPOINTS_COPIED_TO: {copies}",
            expected="no newer ones there: the run would begin behind them",
            fix="; ".join(
                f"flan-train checkpoint copy {url} --step={step} --to={folder / str(step)}"
                for step in wanted
            )
            + ", or name another CHECKPOINTS_COPIED_TO",
        )
    common = sorted(set(steps).intersection(checkpoint_names.complete_steps(folder)))
    # One is enough: another of ours may be damaged, for which an earlier one is taken.
    pairs = [(folder / str(step), copies / str(step)) for step in common[::-1]]
    same = [_is_same(*pair) for pair in pairs]
    if pairs and True not in same and None not in same:
        raise _of_another_run(*pairs[0])
    if not pairs:
        ours, theirs = _meta(folder / str(latest)), _meta(copies / str(newest))
        if any(ours.get(name) != theirs.get(name) for name in _SETTINGS):
            raise _of_another_run(folder / str(latest), copies / str(newest))


def bring_results(run: pathlib.Path, url: str | None) -> int:
    """Copies a run's results and selection back where it has none; returns how many files.

    So a run that goes on on a new machine knows which of its checkpoints were the best.

    Args:
      run: the run directory.
      url: where the copies are; None for nowhere.

    Raises:
      UserError: the store cannot be read, or the run directory cannot be written to.
    """
    if url is None or next(_results(run), None) is not None:
        return 0
    there = storage.RemotePath(url)
    names = [name for name in there.files() if _is_result(name)]
    storage_transfer.check_names(names, url)
    try:
        for name in names:
            path = run / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(there.joinpath(*name.split("/")).read_bytes())
    except OSError as error:
        raise not_written("MODEL_DIR", run, error) from error
    return len(names)


def _to_bring_back(url: storage.RemotePath, steps: Collection[int]) -> list[int]:
    """Returns the newest step, and the selected one where that is another."""
    selected = checkpoint_names.read_selected(url)
    chosen = {selected["step"]} if selected else set()
    return [max(steps), *chosen.intersection(steps).difference({max(steps)})]


def _results(run: pathlib.Path) -> Iterator[pathlib.Path]:
    if (run / checkpoint_names.SELECTION_FILE).is_file():
        yield run / checkpoint_names.SELECTION_FILE
    for path in sorted((run / RESULTS).rglob("*")):
        if path.is_file() and _is_result(path.relative_to(run).as_posix()):
            yield path


def _is_result(name: str) -> bool:
    return name == checkpoint_names.SELECTION_FILE or (
        name.startswith(f"{RESULTS}/") and name.endswith(_RESULT_FILES)
    )


def _is_same(ours: pathlib.Path, copy: storage.RemotePath) -> bool | None:
    """Returns whether two checkpoints of one step recorded the same checksums of parameters.

    None where our own is damaged: an earlier one will be taken instead.
    """
    try:
        mine = _sums(_meta(ours))
    except UserError:
        return None
    return bool(mine == _sums(_meta(copy)))


def _of_another_run(ours: pathlib.Path, copy: storage.RemotePath) -> UserError:
    return UserError(
        f"the copy of the checkpoint of step {copy.name} is of another run",
        where=f"CHECKPOINTS_COPIED_TO: {copy}; MODEL_DIR: {ours}",
        expected="copies of this run's own checkpoints, or nothing",
        fix="name another CHECKPOINTS_COPIED_TO; or, if they are not wanted any more, remove those "
        "there",
    )


def _sums(meta: Mapping[str, Any]) -> Any:
    recorded = meta.get("checksums")
    return recorded.get("params") if isinstance(recorded, dict) else None


def _meta(folder: storage.Path) -> dict[str, Any]:
    file = folder / "meta" / checkpoint_names.JSON_FILE
    try:
        meta = json.loads(storage.read_limited(file, _META_BYTES))
        if not isinstance(meta, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read: {str(error)[:200]}",
            expected="the meta of a checkpoint",
            fix="remove that checkpoint's folder: it is damaged",
        ) from error
    return meta
