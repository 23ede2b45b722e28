"""The command line of `flan-train download`: its flags, and what it prints."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flan_train import cli_gin
from flan_train.errors import UserError, not_written

if TYPE_CHECKING:
    from flan_train.download import Entry, Outcome
    from flan_train.download_manifest import Source

# Modules are imported inside the functions: `--help` must not wait for them.

_JOBS = 8
_MOST_NAMED = 20
_USE = {
    "yes": "commercial use allowed",
    "no": "non-commercial",
    "mixed": "commercial use differs by part",
    "unknown": "commercial use not stated",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `download`."""
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAMES",
        help="comma-separated groups (cot, niv2, t0_sf, muffin, vocab, mmlu, bbh, mgsm, tydiqa, "
        "instruct), sources or base tasks; 'all' for everything. Default: every source whose "
        "files are pinned, which the hub datasets of muffin and t0_sf are not",
    )
    parser.add_argument("--data_dir", metavar="DIR", help="the data folder (else FLAN_DATA_DIR)")
    parser.add_argument(
        "--accept-noncommercial",
        "--accept_noncommercial",
        action="store_true",
        help="fetch sources as well whose licence allows no commercial use",
    )
    parser.add_argument(
        "--status",
        action="store_true",
        help="fetch nothing: read every file, and tell what is there, missing and altered",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="tell what would be fetched, write nothing"
    )
    parser.add_argument(
        "--jobs", type=int, default=_JOBS, metavar="N", help=f"files at a time (default {_JOBS})"
    )
    parser.add_argument("--json", metavar="PATH", help="write the state of every file as JSON")
    parser.add_argument(
        "--manifest", metavar="PATH", help="another manifest than the shipped one: that of a mirror"
    )


def run(options: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Runs the verb; returns its exit code.

    Raises:
      UserError: a flag is wrong, or not everything is in the data folder in the end.
    """
    cli_gin.refuse_bindings(bindings)
    if options.status and options.dry_run:
        raise UserError(
            "--status and --dry_run do not go together",
            where="the command line",
            expected="one of them: --status tells what is there, --dry_run what would be fetched",
            fix="leave one out",
        )
    from flan_train import download, download_manifest

    only = [name for names in options.only for name in names.split(",") if name]
    folder = download.data_folder(options.data_dir)
    named = download_manifest.load(options.manifest)
    chosen = download_manifest.choose(named, only)
    if options.status:
        shown = chosen if only else named
        entries = download.look(folder, shown, thorough=True)
        print(_status_text(folder, entries))
        _write_json(options.json, folder, entries)
        return 0
    left_out = [
        source
        for source in chosen
        if source.commercial == "no" and not options.accept_noncommercial
    ]
    wanted = [source for source in chosen if source not in left_out]
    if left_out and only and not wanted:
        raise UserError(
            f"the licence of {_listed([source.name for source in left_out])} allows no "
            "commercial use",
            where="--only",
            expected="--accept-noncommercial, from who has read the licence: "
            + "; ".join(sorted({source.licence for source in left_out})),
            fix="add --accept-noncommercial if your use is non-commercial",
        )
    entries = download.look(folder, wanted, thorough=False)
    print(_plan_text(folder, entries, left_out))
    if options.dry_run:
        _write_json(options.json, folder, entries, left_out=left_out)
        return 0
    outcome = download.download(folder, wanted, jobs=options.jobs)
    _write_json(options.json, folder, outcome.entries, left_out=left_out, outcome=outcome)
    print(_outcome_text(folder, outcome))
    download.check_complete(outcome)
    return 0


# --- text ---------------------------------------------------------------------------------------


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _files(number: int) -> str:
    return f"{number:,} file" + "s" * (number != 1)


def _terms(source: Source) -> str:
    return f"{source.licence} ({_USE[source.commercial]})"


def _state_words(entry: Entry) -> str:
    if not entry.listed:
        return "files of your own" if entry.own else "not asked for yet"
    return ", ".join(f"{number:,} {state}" for state, number in entry.counts().items())


def _lines(entries: Sequence[Entry], words: Sequence[str]) -> list[str]:
    """One line a source, below a line for each group."""
    wide = max((len(entry.source.name) for entry in entries), default=0)
    wide_words = max(map(len, words), default=0)
    lines, group = [], ""
    for entry, word in zip(entries, words, strict=True):
        source = entry.source
        if source.group != group:
            group = source.group
            lines.append(f"{group}:")
        unsure = "" if source.verified else "; unverified id"
        lines.append(f"  {source.name:<{wide}}  {word:<{wide_words}}  {_terms(source)}{unsure}")
    return lines


def _status_text(folder: pathlib.Path, entries: Sequence[Entry]) -> str:
    from flan_train import download_manifest
    from flan_train.download_records import ALTERED

    lines = [f"data folder: {folder}"]
    lines += _lines(entries, [_state_words(entry) for entry in entries])
    altered = [
        f"  {file.path}: {state.detail}"
        for entry in entries
        for file, state in entry.files
        if state.name == ALTERED
    ]
    if altered:
        lines += ["altered (delete such a file to have it fetched again):", *altered[:_MOST_NAMED]]
        if len(altered) > _MOST_NAMED:
            lines.append(f"  and {len(altered) - _MOST_NAMED:,} more; --json names all")
    by_hand = download_manifest.needed_by_hand()
    if {base.collection for base in by_hand} & {entry.source.group for entry in entries}:
        lines.append("to be got by hand:")
        lines += [f"  {base.name}: {base.licence}; {base.note}" for base in by_hand]
    if any(not entry.source.verified for entry in entries):
        lines.append(
            "unverified: nobody has looked the id up at the hub; fetched only when --only names it"
        )
    total = sum((Counter(entry.counts()) for entry in entries), Counter())
    lines.append(
        "in all: " + (", ".join(f"{n:,} {name}" for name, n in total.items()) or "nothing")
    )
    return "\n".join(lines)


def _plan_text(folder: pathlib.Path, entries: Sequence[Entry], left_out: Sequence[Source]) -> str:
    from rich.filesize import decimal

    lines = [f"data folder: {folder}"]
    todo, words, own = [], [], []
    for entry in entries:
        files = entry.to_fetch()
        if not entry.listed and not entry.own:
            todo.append(entry)
            words.append("files to be asked for")
        elif files:
            todo.append(entry)
            sizes = [file.bytes for file in files]
            known = sum(size for size in sizes if size is not None)
            sign = "at least " if None in sizes else ""
            words.append(_files(len(files)) + (f", {sign}{decimal(known)}" if known else ""))
        elif entry.own:
            own.append(entry.source.name)
    lines.append(
        "to fetch, with the licence that you accept by it:" if todo else "nothing to fetch"
    )
    lines += _lines(todo, words)
    lines += [f"  {entry.source.name}: {entry.source.note}" for entry in todo if entry.source.note]
    if own:
        lines.append("left as they are, files of your own: " + _listed(own))
    if left_out:
        lines.append(
            "left out, as their licence allows no commercial use (--accept-noncommercial):"
        )
        lines += [f"  {source.name}: {source.licence}" for source in left_out]
    return "\n".join(lines)


def _outcome_text(folder: pathlib.Path, outcome: Outcome) -> str:
    total: Counter[str] = sum((Counter(entry.counts()) for entry in outcome.entries), Counter())
    words = ", ".join(f"{n:,} {name}" for name, n in total.items()) or "nothing"
    lines = [f"{_files(len(outcome.fetched))} fetched into {folder}; in it now: {words}"]
    lines += [f"  {failure.path}: {failure.what}" for failure in outcome.failures[:_MOST_NAMED]]
    if len(outcome.failures) > _MOST_NAMED:
        lines.append(f"  and {len(outcome.failures) - _MOST_NAMED:,} more")
    return "\n".join(lines)


# --- JSON ---------------------------------------------------------------------------------------


def _write_json(
    path: str | None,
    folder: pathlib.Path,
    entries: Sequence[Entry],
    *,
    left_out: Sequence[Source] = (),
    outcome: Outcome | None = None,
) -> None:
    if path is None:
        return
    from flan_train import download_manifest

    content: dict[str, Any] = {
        "data_dir": os.fspath(folder),
        "sources": [_source_json(entry) for entry in entries],
        "left_out": [{"name": source.name, "licence": source.licence} for source in left_out],
        "by_hand": [
            {"task": base.name, "licence": base.licence, "why": base.note}
            for base in download_manifest.needed_by_hand()
        ],
    }
    if outcome is not None:
        content["fetched"] = list(outcome.fetched)
        content["failed"] = [
            {"path": each.path, "source": each.source, "what": each.what, "fix": each.fix}
            for each in outcome.failures
        ]
    try:
        pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise not_written("--json", path, error) from None


def _source_json(entry: Entry) -> dict[str, Any]:
    source = entry.source
    return {
        "name": source.name,
        "group": source.group,
        "title": source.title,
        "licence": source.licence,
        "commercial": source.commercial,
        "revision": source.revision,
        "verified": source.verified,
        "listed": entry.listed,
        "states": entry.counts(),
        "files": [
            {
                "path": file.path,
                "state": state.name,
                "detail": state.detail,
                "url": file.urls[0],
                "revision": file.revision,
                "split": file.split,
                "rows": file.rows,
                "bytes": file.bytes,
                "sha256": file.sha256,
            }
            for file, state in entry.files
        ],
    }
