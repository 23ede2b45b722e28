"""Object stores: checkpoints read and written through TensorStore's drivers, from a real server.

The server is `tests/object_store.py`, on this machine; no bucket of a cloud is asked for anything.
"""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from flan_train import (
    checkpoint_care,
    checkpoint_mirror,
    checkpoint_names,
    checkpoint_remote,
    checkpoints,
    cli,
    data_config,
    launch,
    storage,
    storage_transfer,
)
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from flan_train.errors import UserError
from flan_train.models import t5
from tests import object_store, t5x_folder

SHAPE = (64, 256)
URLS = ("gs://bucket/run", "s3://bucket-3/run")


@pytest.fixture(scope="module")
def server() -> Iterator[object_store.ObjectStore]:
    with object_store.serving() as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", store.url)
        patch.setenv("AWS_ENDPOINT_URL", store.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        yield store


@pytest.fixture
def store(server: object_store.ObjectStore) -> object_store.ObjectStore:
    """The server, with nothing in it."""
    server.objects.clear()
    server.requests.clear()
    server.refused.clear()
    return server


def values() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "block": {"kernel": random.normal(size=SHAPE).astype(np.float32)},
        "norm": {"scale": random.normal(size=(256,)).astype(np.float32)},
    }


def sharded(devices: int) -> Any:
    """The abstract parameters, the kernel's rows over so many devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), values())


def assert_same(one: Any, two: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, two)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with a checkpoint of step 7, written from four devices."""
    folder = tmp_path_factory.mktemp("run")
    saved = Checkpoints(folder, CheckpointConfig())
    placed = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), values(), sharded(4))
    moments = {"count": jax.numpy.zeros((3,))}
    saved.save(7, placed, moments, {"epoch": 1}, {"model": {"embed_dim": 16}})
    saved.close()
    return folder


@pytest.mark.parametrize("url", URLS)
def test_a_checkpoint_goes_there_and_back(
    run: pathlib.Path, store: object_store.ObjectStore, tmp_path: pathlib.Path, url: str
) -> None:
    step = f"{url}/checkpoints/7"
    done = checkpoint_care.copy(run, "7", step)
    assert (done["to"], done["arrays"], done["bytes"] > 60_000) == (step, 3, True)
    bucket = storage.RemotePath(url).bucket
    puts = [key for method, _, key, _ in store.requests if method in ("PUT", "POST")]
    assert puts[-1] == "run/checkpoints/7/_CHECKPOINT_METADATA"
    assert str(checkpoint_names.find(f"{url}/checkpoints/latest")) == step
    params, meta = checkpoints.load_params(f"{url}/checkpoints/latest", sharded(8))
    assert_same(params, values())
    assert params["block"]["kernel"].sharding == sharded(8)["block"]["kernel"].sharding
    assert meta["model"] == {"embed_dim": 16}
    assert checkpoints.read_position(step) == {"epoch": 1}
    assert_same(checkpoints.load_params(step)[0], values())
    assert [row["state"] for row in checkpoint_care.verify(url)] == ["whole"]
    assert [row["step"] for row in checkpoint_care.listed(url)] == [7]
    checkpoint_care.copy(url, "latest", tmp_path / "back")
    assert_same(checkpoints.load_params(tmp_path / "back")[0], values())
    with pytest.raises(UserError, match="of another model"):
        checkpoints.check_params(step, {"other": sharded(1)["norm"]["scale"]})
    # One array is another one's, as long as it: the checksums tell.
    data = next(key for key in store.keys(bucket) if "/params/" in key and "/d/" in key)
    generation, content = store.objects[bucket, data]
    store.objects[bucket, data] = generation + 9, content[::-1]
    with pytest.raises(checkpoints.DamagedCheckpoint):
        checkpoints.load_params(step)
    assert [row["state"] for row in checkpoint_care.verify(url)] == ["damaged"]


@pytest.mark.parametrize("url", URLS)
def test_a_process_reads_no_more_than_its_part(
    run: pathlib.Path, store: object_store.ObjectStore, url: str
) -> None:
    storage_transfer.upload(run / "checkpoints" / "7", storage.RemotePath(url))
    folder = storage.RemotePath(f"{url}/params")
    names = ("block/kernel",)

    def read(parts: list[Any]) -> tuple[list[np.ndarray], int]:
        arrays = checkpoint_remote.Arrays(folder)
        store.requests.clear()
        found = arrays.read(dict.fromkeys(names, parts))["block/kernel"]
        return found, store.bytes_read("/params/")

    rows = SHAPE[0] // 4
    kernel = values()["block"]["kernel"]
    (whole,), all_bytes = read([()])
    (part,), part_bytes = read([(slice(rows, 2 * rows), slice(None))])
    np.testing.assert_array_equal(whole, kernel)
    np.testing.assert_array_equal(part, kernel[rows : 2 * rows])
    # Noise does not compress: the bytes of the whole are about those of the array.
    assert 0.8 * kernel.nbytes < all_bytes < 1.3 * kernel.nbytes
    assert 0.8 * kernel.nbytes / 4 < part_bytes < 1.5 * kernel.nbytes / 4
    # What a sharding's devices hold is asked for once, however many hold the same.
    everywhere = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()[:4]), ("x",)), jax.sharding.PartitionSpec()
    )
    leaf = jax.ShapeDtypeStruct(SHAPE, np.float32, sharding=everywhere)
    assert len(checkpoint_remote.own_parts(leaf)) == 1
    assert len(checkpoint_remote.own_parts(sharded(4)["block"]["kernel"])) == 4


CONFIG = t5.T5Config(
    vocab_size=32,
    embed_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
)


@pytest.mark.parametrize("url", URLS)
def test_t5x_folders_start_a_run_and_are_converted_where_they_are(
    store: object_store.ObjectStore, tmp_path: pathlib.Path, url: str
) -> None:
    arrays = t5x_folder.unrolled(t5x_folder.flat_params(CONFIG))
    local = t5x_folder.write(tmp_path / "checkpoint_5", arrays, step=5)
    there = f"{url}/checkpoint_5"
    storage_transfer.upload(local, storage.RemotePath(there))
    wanted, meta = checkpoints.load_params(local)
    checkpoints.check_params(there, t5.abstract_params(CONFIG))
    params, read = checkpoints.load_params(there, t5.abstract_params(CONFIG))
    assert_same(params, wanted)
    assert read == meta
    if url == URLS[0]:
        return
    assert (
        cli.main(["convert", "t5x-to-flan", f"--from={there}", f"--to={url}/ours", "--params_only"])
        == 0
    )
    assert_same(checkpoints.load_params(f"{url}/ours")[0], wanted)
    assert cli.main(["convert", "flan-to-t5x", f"--from={url}/ours", f"--to={url}/theirs"]) == 0
    assert_same(checkpoints.load_params(f"{url}/theirs/checkpoint_5")[0], wanted)


def test_a_t5x_folder_that_lacks_a_chunk(
    store: object_store.ObjectStore, tmp_path: pathlib.Path
) -> None:
    url = URLS[0]
    there = f"{url}/checkpoint_5"
    arrays = t5x_folder.unrolled(t5x_folder.flat_params(CONFIG))
    local = t5x_folder.write(tmp_path / "checkpoint_5", arrays)
    storage_transfer.upload(local, storage.RemotePath(there))
    bucket = storage.RemotePath(url).bucket
    missing = next(key for key in store.keys(bucket) if key.startswith("run/checkpoint_5/target"))
    del store.objects[bucket, missing]
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.load_params(there)


@pytest.mark.parametrize("url", URLS)
def test_copies_follow_the_run(
    store: object_store.ObjectStore,
    tmp_path: pathlib.Path,
    url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = CheckpointConfig(keep=2, copied_to=url)
    saved = Checkpoints(tmp_path / "run", config)
    arrays = jax.tree.map(jax.numpy.asarray, values())
    store.refused.add("checkpoints/1/")
    with caplog.at_level(logging.ERROR):
        for step in (1, 2):
            saved.save(step, arrays, {"count": arrays["norm"]}, {"epoch": step}, {})
            saved.wait()
            if step == 1:
                assert "COULD NOT BE COPIED" in caplog.text
                assert "may not be read or written" in caplog.text
                store.refused.clear()
    copies = storage.RemotePath(f"{url}/checkpoints")
    assert checkpoint_names.complete_steps(copies) == [1, 2]
    saved.save(3, arrays, {"count": arrays["norm"]}, {"epoch": 3}, {})
    saved.close()
    assert checkpoint_names.complete_steps(copies) == [2, 3]
    assert not any("/1/" in key for key in store.keys(copies.bucket))
    abstract = jax.eval_shape(lambda: arrays)
    assert launch.find_start(saved, 9, None, True, abstract) == 3
    elsewhere = Checkpoints(tmp_path / "elsewhere", config)
    with pytest.raises(UserError, match=r"go up to step 3, those of MODEL_DIR are none") as caught:
        launch.find_start(elsewhere, 9, None, True, abstract)
    assert f"checkpoint copy {url} --step=3 --to=" in caught.value.fix
    checkpoint_care.copy(url, "3", elsewhere.path(3))
    assert launch.find_start(elsewhere, 9, None, True, abstract) == 3


def test_errors_are_readable(store: object_store.ObjectStore, tmp_path: pathlib.Path) -> None:
    for url, message in (
        ("az://bucket/x", "no driver for az://"),
        ("gs://", "no address"),
        ("gs://bucket/../x", "no address"),
        ("s3://Bucket/x", "no address"),
    ):
        with pytest.raises(UserError, match=message):
            storage.located(url)
    with pytest.raises(UserError, match="there is no checkpoint gs://bucket/run"):
        checkpoints.load_params("gs://bucket/run")
    for url in URLS:
        store.refused.add("secret")
        folder = storage.RemotePath(url) / "secret"
        with pytest.raises(UserError, match="may not be read or written") as caught:
            folder.read_bytes()
        assert "AWS" in caught.value.fix or "gcloud" in caught.value.fix
    with pytest.raises(UserError, match="MODEL_DIR cannot be gs://bucket/run") as caught:
        launch.check_scalars("gs://bucket/run", 1, 1, 1, 0, None, 1)
    assert "CHECKPOINTS_COPIED_TO" in caught.value.fix
    with pytest.raises(UserError, match="PREPARED_DIR cannot be s3://bucket/data"):
        data_config.DataConfig("cot", {"inputs": 8, "targets": 8}, prepared_dir="s3://bucket/data")
    with pytest.raises(UserError, match="CHECKPOINTS_COPIED_TO cannot be 'runs/copy'"):
        CheckpointConfig(copied_to="runs/copy")
    with pytest.raises(UserError, match="is a whole bucket"):
        storage_transfer.upload(tmp_path, storage.RemotePath("gs://bucket"))
    with pytest.raises(UserError, match="there is nothing at"):
        storage_transfer.download(storage.RemotePath("gs://bucket/none"), tmp_path / "none")
    store.objects["bucket", "x/y"] = 1, b"z"
    with pytest.raises(UserError, match="exists already"):
        storage_transfer.upload(tmp_path, storage.RemotePath("gs://bucket/x"))


@pytest.mark.parametrize("name", ["../out", "a/../../out", "a//b", "a\\b", "a\nb", "./a"])
def test_names_of_objects_do_not_lead_out_of_the_folder(
    store: object_store.ObjectStore, tmp_path: pathlib.Path, name: str
) -> None:
    store.objects["bucket", f"x/{name}"] = 1, b"content"
    with pytest.raises(UserError, match="outside of the folder"):
        storage_transfer.download(storage.RemotePath("gs://bucket/x"), tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_paths() -> None:
    path = storage.located("gs://bucket/a/b/")
    assert isinstance(path, storage.RemotePath)
    assert (str(path), path.name, str(path.parent)) == ("gs://bucket/a/b", "b", "gs://bucket/a")
    assert str(path / "c") == "gs://bucket/a/b/c"
    assert str(path.with_name("d").absolute()) == "gs://bucket/a/d"
    assert path == storage.RemotePath("gs://bucket/a/b") != storage.RemotePath("s3://bucket/a/b")
    assert storage.located(pathlib.Path("x")) == pathlib.Path("x").absolute()
    with pytest.raises(TypeError):  # never the local folder "gs:"
        pathlib.Path(path)  # type: ignore[arg-type]


def test_large_files_are_not_fetched(store: object_store.ObjectStore) -> None:
    for url in URLS:
        path = storage.RemotePath(url)
        store.objects[path.bucket, path.key] = 1, b"x" * 10_000
        store.requests.clear()
        with pytest.raises(ValueError, match="more than 100 bytes"):
            storage.read_limited(path, 100)
        assert store.bytes_read() == 101
        assert len(storage.read_limited(path, 10_000)) == 10_000


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "_RETRIES", {"max_retries": 1, "initial_delay": "10ms"})
    storage.context.cache_clear()
    try:
        with pytest.raises(UserError, match="cannot be reached"):
            storage.RemotePath("s3://bucket/x").exists()
        config = CheckpointConfig(copied_to="s3://bucket/x")
        assert config.copied_to is not None
        copies = checkpoint_mirror.Mirror(pathlib.Path("/nowhere"), config.copied_to)
        assert not copies.update([1], [])
    finally:
        storage.context.cache_clear()


def test_meta_of_a_store_is_checked(run: pathlib.Path, store: object_store.ObjectStore) -> None:
    storage_transfer.upload(run / "checkpoints" / "7", storage.RemotePath("gs://bucket/c"))
    generation, content = store.objects["bucket", "c/params/_METADATA"]
    for other in (b"[]", b"{}", content[:40], json.dumps({"tree_metadata": 3}).encode()):
        store.objects["bucket", "c/params/_METADATA"] = generation + 1, other
        with pytest.raises(checkpoints.DamagedCheckpoint):
            checkpoints.load_params("gs://bucket/c")


@pytest.mark.parametrize("url", URLS)
def test_large_objects_come_in_parts(
    store: object_store.ObjectStore,
    tmp_path: pathlib.Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("_FIRST_BYTES", 10), ("_PART_BYTES", 8), ("_PARTS", 3)):
        monkeypatch.setattr(storage_transfer, name, value)
    path = storage.RemotePath(url)
    # Around the ends of the first bytes, of a part, and of the parts that are asked for at once.
    sizes = (0, 1, 9, 10, 11, 17, 18, 19, 33, 34, 35, 58, 100)
    for size in sizes:
        store.objects[path.bucket, f"run/f/{size}"] = 1, bytes(range(size))
    store.requests.clear()
    assert storage_transfer.download(path, tmp_path / "made") == sum(sizes)
    for size in sizes:
        assert (tmp_path / "made" / "f" / str(size)).read_bytes() == bytes(range(size))
    of_objects = [size for _, _, key, size in store.requests if key.startswith("run/f/")]
    assert max(of_objects) == 10


def test_an_object_that_is_replaced_while_it_is_read(
    store: object_store.ObjectStore, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_transfer, "_FIRST_BYTES", 10)
    store.objects["bucket", "x/y"] = 1, b"a" * 100
    rest = storage_transfer._rest

    def replaced(*arguments: Any) -> None:
        store.objects["bucket", "x/y"] = 2, b"b" * 100
        rest(*arguments)

    monkeypatch.setattr(storage_transfer, "_rest", replaced)
    with pytest.raises(UserError, match="was removed or replaced while it was read"):
        storage_transfer.download(storage.RemotePath("gs://bucket/x"), tmp_path / "made")
    assert not list(tmp_path.iterdir())
