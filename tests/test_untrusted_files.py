"""Files that somebody else may have written or spoilt: an error of ours, never another one.

Each reader gets small valid files with bytes changed, cut out, put in or repeated at random. The
readers of safetensors and T5X folders, of Hugging Face folders and of object stores have tests of
this kind beside their own.
"""

from __future__ import annotations

import ast
import gzip
import json
import pathlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_train import (
    checkpoint_care,
    checkpoint_names,
    checkpoint_room,
    checkpoints,
    download_manifest,
    download_part,
    download_records,
    evaluate_files,
    exclusion,
    integrity,
    prepared,
    progress,
    run_directory,
    scores,
    select_values,
    shards,
    spiece,
    vocabulary,
)
from flan_train.convert import slices
from flan_train.errors import UserError
from flan_train.tasks import held_out_files, promptsource, source_files
from tests import spiece_models

# What a JSON file may hold that Python's reader takes, or stumbles over.
ODD = (
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"1e999",
    b"NaN",
    b"9" * 5_000,
    b"\xff\xfe\x00",
    b"",
    b'{"step": [], "metric": {}, "score": null}',
    b'{"step": true, "metric": 1, "score": 1}',
    b'{"step": "x"}\n{"step": {}}\n{"step": 1}\n',
    b'{"suite": 1, "step": 1, "metrics": [], "mean": 3}',
    b'{"mixture": "x", "tasks": [1, null]}',
    b'{"format_version": {}, "seal": 1}',
    b'{"format": [], "files": []}',
    b'{"index": [], "task": 1}\n',
)


@st.composite
def spoilt(draw: Any, valid: bytes) -> bytes:
    """Bytes that were a valid file."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(ODD))
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        size = draw(st.integers(1, 12))
        match draw(st.sampled_from(("change", "cut", "insert", "remove", "repeat"))):
            case "change":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = draw(st.binary(max_size=12))
            case "remove":
                del content[at : at + size]
            case "repeat":
                content[at:at] = content[at : at + size]
    return bytes(content)


def fuzzed(valid: bytes, examples: int = 60) -> Callable[[Callable[..., None]], Any]:
    """Runs a test with spoilt contents as its argument `content`."""

    def around(test: Callable[..., None]) -> Any:
        return settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
        )(given(content=spoilt(valid))(test))

    return around


def refused_or_read(read: Callable[[], Any]) -> Any:
    """Returns what is read; a UserError will do as well, anything else fails the test."""
    try:
        return read()
    except UserError:
        return None


SELECTED = json.dumps({"step": 4, "metric": "exact_match", "score": 0.5, "suites": ["x"]}).encode()
LOG = b"".join(json.dumps({"step": n, "loss": 2.5 / n}).encode() + b"\n" for n in (1, 2, 3))
MIXTURE = json.dumps({"mixture": "cot", "tasks": [{"task": "a", "passes": 1.5}]}).encode()
EXAMPLE = {
    "index": 3,
    "task": "a",
    "example_id": "b",
    "inputs": "q",
    "output": "x",
    "extracted": "x",
    "answer": "x",
    "correct": True,
    "values": {"exact_match": [1.0]},
}
RESULT = json.dumps(
    {"suite": "s", "step": 4, "metrics": {"a": {"exact_match": 1.0, "n": 2}}, "mean": {"n": 1}}
).encode()
LINES = (json.dumps(EXAMPLE).encode() + b"\n") * 2


@fuzzed(SELECTED)
def test_selected_json(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "selected.json").write_bytes(content)
    found = refused_or_read(lambda: checkpoint_names.read_selected(tmp_path))
    assert found is None or (type(found["step"]) is int and found["step"] >= 0)


@fuzzed(LOG)
def test_the_log(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    run = refused_or_read(lambda: run_directory.read_run(tmp_path))
    if run is not None:
        run.series("loss")
        run.seconds()
    progress.truncate_log(tmp_path / "log.jsonl", 2)
    refused_or_read(lambda: run_directory.read_run(tmp_path))


@fuzzed(MIXTURE)
def test_mixture_json(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "mixture.json").write_bytes(content)
    run = refused_or_read(lambda: run_directory.read_run(tmp_path))
    assert run is None or all(isinstance(task, dict) for task in run.mixture["tasks"])


@fuzzed(RESULT)
def test_results(tmp_path: pathlib.Path, content: bytes) -> None:
    folder = tmp_path / "eval" / "s"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "4.json").write_bytes(content)
    (folder / "².json").write_bytes(content)
    found = refused_or_read(lambda: scores.read_results(tmp_path))
    assert not found or isinstance(found["s"][4]["mean"], dict)
    evaluate_files.read_finished(folder / "4.json")


@fuzzed(LINES)
def test_evaluated_examples(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "4.jsonl"
    path.write_bytes(content)
    found = refused_or_read(lambda: scores.read_examples(path))
    assert all(isinstance(example, dict) for example in found or [])
    refused_or_read(lambda: select_values.StepValues(tmp_path, [4]))


@fuzzed(b'{"key": "k"}\n' + LINES)
def test_an_interrupted_evaluation(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "4.partial"
    path.write_bytes(content)
    assert all(
        isinstance(index, int)
        for index in refused_or_read(lambda: evaluate_files.read_partial(path, "k"))
    )


MANIFEST = {
    "format_version": integrity.FORMAT_VERSION,
    "tasks": [{"task": "a", "share": 1.0, "folder": "a@1", "examples": 2, "files": {}}],
    "dtype": "<u2",
    "files": {},
}


@fuzzed(json.dumps(MANIFEST).encode())
def test_manifests_of_prepared_data(tmp_path: pathlib.Path, content: bytes) -> None:
    folder = tmp_path / "mixtures" / "m-train@1"
    folder.mkdir(parents=True, exist_ok=True)
    for resealed in (False, True):
        if resealed:  # what somebody makes up on purpose bears a right seal
            try:
                made_up = json.loads(content)
                assert isinstance(made_up, dict)
                content = integrity.encoded(integrity.sealed(made_up))
            except (ValueError, AssertionError, RecursionError):
                return
        (folder / prepared.MANIFEST).write_bytes(content)
        with pytest.raises(UserError):
            prepared.open_prepared(folder)
        assert not integrity.is_whole(folder, prepared.MANIFEST) or resealed


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": [{"task": "a", "share": 1.0, "folder": "../../x", "examples": 0, "files": {}}]},
        {"tasks": [{"task": "a", "share": 1.0, "folder": "a", "examples": -3, "files": {}}]},
        {"tasks": [{"task": "a", "share": 1.0, "folder": "a", "examples": 10**30, "files": {}}]},
        {"tasks": [{"task": "a", "share": 1.0, "folder": "a", "examples": 2**62, "files": {}}]},
        {"tasks": "text"},
        {"tasks": [3]},
    ],
)
def test_manifests_that_are_made_up(tmp_path: pathlib.Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "mixtures" / "m-train@1"
    folder.mkdir(parents=True)
    (tmp_path / "tasks" / "a").mkdir(parents=True)
    content = integrity.encoded(integrity.sealed({**MANIFEST, **changes}))
    (folder / prepared.MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match="manifest says what no manifest says"):
        prepared.open_prepared(folder)
    assert shards.read_summary(folder / prepared.MANIFEST)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A checkpoint of step 7."""
    run = tmp_path_factory.mktemp("run")
    saved = checkpoints.Checkpoints(run, checkpoints.CheckpointConfig())
    params = {"a": {"kernel": jnp.arange(12, dtype=jnp.float32).reshape(3, 4)}}
    saved.save(7, params, {"count": jnp.zeros(3)}, {"epoch": 1}, {"model": {"embed_dim": 4}})
    saved.close()
    return run / "checkpoints" / "7"


FILES = ("meta/metadata", "data/metadata", "params/_METADATA", "params/manifest.ocdbt")


@pytest.mark.parametrize("name", FILES)
def test_checkpoints(checkpoint: pathlib.Path, name: str) -> None:
    file = checkpoint / name
    valid = file.read_bytes()

    @fuzzed(valid, examples=12 if name.startswith("params") else 40)
    def check(content: bytes) -> None:
        file.write_bytes(content)
        refused_or_read(lambda: checkpoints.read_meta(checkpoint))
        refused_or_read(lambda: checkpoints.read_position(checkpoint))
        if name.startswith("params"):
            found = refused_or_read(lambda: checkpoints.load_params(checkpoint))
            # The checksums leave no third way.
            if found is not None:
                kernel = found[0]["a"]["kernel"]
                np.testing.assert_array_equal(kernel.ravel(), np.arange(12))
            reader = refused_or_read(lambda: slices.ParamsReader(checkpoint / "params"))
            for path in reader.paths[:3] if reader is not None else ():
                refused_or_read(lambda path=path: reader.read(path))

    try:
        check()
    finally:
        file.write_bytes(valid)
    assert checkpoints.load_params(checkpoint)[1]["step"] == 7


MODEL = spiece_models.trained()


@fuzzed(MODEL, examples=80)
def test_sentencepiece_models(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "any.model"
    path.write_bytes(content)
    words = refused_or_read(lambda: vocabulary.Vocabulary(path))
    if words is not None:
        refused_or_read(lambda: words.encode_stored(["a b  c", "\u3000x"], np.dtype("<u2")))
    try:
        rules = spiece.Rules(spiece.read(content).rules)
        rules.joining(" a")
    except ValueError:
        pass


@pytest.mark.parametrize("unit", [0xFFFFFC00, 0x00000400, 0x00000500])
def test_normalisation_rules_that_lead_out_of_themselves(tmp_path: pathlib.Path, unit: int) -> None:
    """SentencePiece would follow them, and the process could end without a word."""
    trie = np.full(256, unit, "<u4").tobytes()
    rules = len(trie).to_bytes(4, "little") + trie + b"x"
    path = tmp_path / "any.model"
    path.write_bytes(spiece_models.content({"▁": -1.0, "a": -2.0}, normaliser={2: rules}))
    with pytest.raises(UserError, match="not a SentencePiece model"):
        vocabulary.Vocabulary(path)


GZIPPED = gzip.compress(json.dumps({"data": [{"title": "t", "paragraphs": []}]}).encode(), mtime=0)


@fuzzed(GZIPPED)
def test_compressed_held_out_files(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(content)
    refused_or_read(lambda: list(held_out_files.tydiqa(path)))
    path.write_bytes(gzip.compress(content))
    refused_or_read(lambda: list(held_out_files.tydiqa(path)))


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".tsv", ".csv", ".parquet"])
def test_rows_of_the_users_files(tmp_path: pathlib.Path, ending: str) -> None:
    valid = b'{"a": "b"}\n{"a": "c"}\n'
    valid = gzip.compress(valid, mtime=0) if ending.endswith("gz") else valid

    @fuzzed(valid, examples=30)
    def check(content: bytes) -> None:
        path = tmp_path / f"rows{ending}"
        path.write_bytes(content)
        refused_or_read(lambda: list(source_files.read_items(path)))

    check()


def test_a_compressed_bomb_is_given_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out_files, "_MOST_BYTES", 2**20)
    monkeypatch.setattr(source_files, "_MOST_LINE", 2**20)
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 2**26))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more than 1,048,576 bytes when unpacked"):
            held_out_files.read_gzip_json(path)
        with pytest.raises(UserError, match="a line of more than 1,048,576 bytes"):
            list(source_files.read_items(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**24


EXCLUDED = json.dumps({"format": exclusion.FORMAT}).encode() + (
    b'\n{"task": "a", "example_id": "b", "suites": ["s"], "why": "w"}\n'
)


@fuzzed(EXCLUDED)
def test_lists_of_excluded_examples(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "list.jsonl").write_bytes(content)
    refused_or_read(lambda: exclusion.read(tmp_path / "list.jsonl"))


@fuzzed(json.dumps({"format": download_records.FORMAT, "files": {}, "hub": {}}).encode())
def test_records_of_downloads(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / download_records.NAME).write_bytes(content)
    refused_or_read(lambda: download_records.Records(tmp_path))


@fuzzed(b'{"url": "u", "etag": "e", "modified": "m"}')
def test_notes_of_half_a_download(tmp_path: pathlib.Path, content: bytes) -> None:
    target = tmp_path / "x.json"
    (tmp_path / ".x.json.part").write_bytes(content)
    (tmp_path / ".x.json.part.json").write_bytes(content)
    with download_part.Part(target) as part:
        assert isinstance(part.told.validator, str)
        assert part.size == len(content)


@fuzzed(
    json.dumps(
        {"format": download_manifest.FORMAT, "sources": [{"name": "x", "files": []}]}
    ).encode()
)
def test_manifests_of_downloads(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    refused_or_read(lambda: download_manifest.load(tmp_path / "manifest.json"))


# Reading any of these can run code that somebody put into the file.
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
}
# We unpack no archives, so no member of one can escape; whoever adds it has to think of that.
ARCHIVES = {"tarfile", "zipfile"}
UNSAFE_CALLS = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle"}
UNSAFE_CALLS |= {"shutil.unpack_archive", "yaml.load", "yaml.unsafe_load"}


def unsafe(source: str) -> list[str]:
    """Returns what a source uses that could run code out of a file or unpack an archive."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {each.arg: ast.unparse(each.value) for each in node.keywords}
            safe = name in ("np.load", "numpy.load") and keywords.get("allow_pickle") == "False"
            # promptsource's own loader, see below
            safe |= name == "yaml.load" and keywords.get("Loader") == "_Loader"
            if (name in UNSAFE_CALLS and not safe) or keywords.get("allow_pickle") == "True":
                found.append(name)
            continue
        else:
            continue
        found += [name for name in names if name.split(".")[0] in UNSAFE_MODULES | ARCHIVES]
    return found


def test_the_scan_finds_what_it_looks_for() -> None:
    for source in (
        "import pickle",
        "from dill import loads",
        "import numpy as np\nnp.load('x')",
        "x.load('y', allow_pickle=True)",
        "import tarfile",
        "torch.load('x')",
    ):
        assert unsafe(source), source
    assert not unsafe("import numpy as np\nnp.load('x', allow_pickle=False)")


def test_no_pickle_and_no_archives_anywhere(repository: pathlib.Path) -> None:
    """Worker processes talk by multiprocessing's own pickles: pipes between our processes."""
    files = [
        path
        for folder in ("flan_train", "tasks", "mixtures")
        for path in (repository / folder).rglob("*.py")
    ]
    assert len(files) > 200
    words = ("pickle", "dill", "marshal", "shelve", "joblib", "load(", *ARCHIVES, "unpack_archive")
    texts = {str(path): path.read_text("utf-8") for path in files}
    found = {
        path: unsafe(text) for path, text in texts.items() if any(word in text for word in words)
    }
    assert {path: names for path, names in found.items() if names} == {}
    assert issubclass(promptsource._Loader, yaml.SafeLoader | yaml.CSafeLoader)


ZARRAY = "params/a.kernel/.zarray"
SHAPES = ([2**33, 64], [2**62, 2**62], [2**33, 2**10], [-1, 4], [1.5, 4], [3, 4, 0], "3", None)


@pytest.fixture
def converted(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of the converters', whose arrays are plain zarr folders."""
    folder = tmp_path / "converted"
    with slices.ParamsWriter(folder, {"a/kernel": (3, 4)}) as writer:
        writer.write("a/kernel", (), np.arange(12, dtype=np.float32).reshape(3, 4))
        writer.commit({"step": 1, "model": {}})
    return folder


def check_refused(folder: pathlib.Path) -> None:
    """Reads an array in every way; the numbers must be those that were written."""
    found = refused_or_read(lambda: checkpoints.load_params(folder))
    assert found is None or list(found[0]["a"]["kernel"].ravel()) == list(range(12))
    abstract = {"a": {"kernel": jax.ShapeDtypeStruct((3, 4), jnp.float32)}}
    refused_or_read(lambda: checkpoints.load_params(folder, abstract))
    refused_or_read(lambda: checkpoints.check_params(folder, abstract))
    reader = refused_or_read(lambda: slices.ParamsReader(folder / "params"))
    if reader is not None:
        refused_or_read(lambda: reader.shape("a/kernel"))
        refused_or_read(lambda: reader.read("a/kernel"))


@pytest.mark.parametrize("chunks", [None, "same", [2**33, 64]])
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_of_shapes_that_cannot_be(converted: pathlib.Path, shape: Any, chunks: Any) -> None:
    described = json.loads((converted / ZARRAY).read_text())
    described["shape"] = shape
    if chunks is not None:
        described["chunks"] = shape if chunks == "same" else chunks
    (converted / ZARRAY).write_text(json.dumps(described))
    with pytest.raises(UserError):
        checkpoints.load_params(converted)
    check_refused(converted)
    described["shape"] = [3, 4]  # a chunk alone can be too large for any memory
    described["chunks"] = [2**40, 4]
    (converted / ZARRAY).write_text(json.dumps(described))
    with pytest.raises(UserError):
        checkpoints.load_params(converted)
    check_refused(converted)


def test_descriptions_of_arrays(converted: pathlib.Path) -> None:
    file = converted / ZARRAY
    valid = file.read_bytes()

    @fuzzed(valid, examples=60)
    def check(content: bytes) -> None:
        file.write_bytes(content)
        check_refused(converted)

    check()


def test_shapes_inside_a_database_of_arrays(tmp_path: pathlib.Path) -> None:
    """Orbax's own files: an array of the same names, far larger than what was written."""
    run = tmp_path / "run"
    saved = checkpoints.Checkpoints(run, checkpoints.CheckpointConfig())
    params = {"a": {"kernel": jnp.arange(12, dtype=jnp.float32).reshape(3, 4)}}
    saved.save(7, params, {"count": jnp.zeros(3)}, {"epoch": 1}, {})
    saved.close()
    folder = run / "checkpoints" / "7"
    base = {"driver": "file", "path": f"{folder}/params/"}
    store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    described = json.loads(store.read("a.kernel/.zarray").result().value)
    for shape, chunks in (([2**33, 64], [3, 4]), ([3, 4], [2**40, 4]), ([2**33, 4], [2**33, 4])):
        changed = json.dumps(described | {"shape": shape, "chunks": chunks})
        store.write("a.kernel/.zarray", changed).result()
        with pytest.raises(checkpoints.DamagedCheckpoint):
            checkpoints.load_params(folder)
        check_refused(folder)
        (row,) = checkpoint_care.verify(run)
        assert row["state"] == "damaged"
        assert row["damaged"] == ["params"]


def test_arrays_that_no_memory_holds(
    converted: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_room, "_memory", lambda: 47)
    with pytest.raises(UserError, match=r"this machine has 0\.0 GiB of memory"):
        checkpoints.load_params(converted)
    with pytest.raises(UserError, match=r"this machine has 0\.0 GiB of memory"):
        slices.ParamsReader(converted / "params").read("a/kernel")
