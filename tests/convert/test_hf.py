"""Hugging Face folders in and out: bit for bit, and what is wrong with one is said."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from flan_train import checkpoints, cli
from flan_train.convert import hf, hf_files, slices
from flan_train.convert.hf_config import config_from_hf, config_to_hf
from flan_train.convert.hf_table import SHARED, UNREAD, flat, sources
from flan_train.errors import UserError
from flan_train.models import t5
from tests.models import seeded

UNTIED = seeded.CROSSED["t5_relu_untied"]
TIED = seeded.CROSSED["t5_gated_tied"]
TABLE_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

Tensors = dict[str, np.ndarray]


def tensors_of(config: t5.T5Config, dtype: Any = np.float32) -> Tensors:
    """Returns a model's tensors under their Hugging Face names."""
    arrays = flat(seeded.params(config))
    found = {}
    for source in sources(config):
        for i, name in enumerate(source.theirs):
            one = arrays[source.ours][i] if source.stacked else arrays[source.ours]
            found[name] = np.ascontiguousarray(one.T if source.transposed else one).astype(dtype)
    return found


def written(tensors: Tensors) -> list[hf_files.Written]:
    """Returns float32 tensors as the writer takes them."""
    return [
        hf_files.Written(name, "F32", tensor.shape, lambda tensor=tensor: iter([tensor]))
        for name, tensor in tensors.items()
    ]


def folder_of(
    path: pathlib.Path, config: t5.T5Config, tensors: Tensors, extra: dict[str, Any] | None = None
) -> pathlib.Path:
    """Writes a Hugging Face folder by hand and returns it."""
    path.mkdir()
    described = config_to_hf(config) | (extra or {})
    (path / "config.json").write_text(json.dumps(described))
    safetensors.numpy.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def assert_same_bits(one: Tensors, other: Tensors) -> None:
    """Asserts equal names, data types and bits."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("config", [UNTIED, TIED], ids=["untied", "tied"])
def test_round_trip_is_bit_exact(config: t5.T5Config, dtype: Any, tmp_path: pathlib.Path) -> None:
    tensors = tensors_of(config, dtype)
    # transformers keeps some tensors of a half-precision T5 in float32.
    for name in tensors:
        if name.endswith("wo.weight"):
            tensors[name] = tensors[name].astype(np.float32)
    theirs = folder_of(tmp_path / "hf", config, tensors, {"n_positions": 512})
    (theirs / "generation_config.json").write_text('{"max_length": 20}')
    summary = hf.hf_to_flan(theirs, tmp_path / "flan")
    assert f"{t5.count_params(config):,} parameters" in summary

    params, meta = checkpoints.load_params(tmp_path / "flan", t5.abstract_params(config))
    assert t5.T5Config(**meta["model"]) == config
    for path, leaf in flat(params).items():
        assert leaf.dtype == np.float32, path
    wo = flat(params)["encoder/layers/mlp/wo/kernel"]
    last = config.num_encoder_layers - 1
    expected = tensors[f"encoder.block.{last}.layer.1.DenseReluDense.wo.weight"].T
    np.testing.assert_array_equal(wo[last], expected)

    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    assert_same_bits(safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors"), tensors)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "back" / name).read_text()) == json.loads(
            (theirs / name).read_text()
        )


def test_copies_of_the_token_table_and_an_unread_tensor_are_taken(tmp_path: pathlib.Path) -> None:
    tensors = tensors_of(TIED)
    for name in (*TABLE_COPIES, "lm_head.weight"):
        tensors[name] = tensors[SHARED].copy()
    theirs = folder_of(tmp_path / "hf", TIED, tensors | {UNREAD: np.zeros((32, 2), np.float32)})
    hf.hf_to_flan(theirs, tmp_path / "flan")
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    assert_same_bits(safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors"), tensors)


def test_the_token_table_may_go_by_another_of_its_names(tmp_path: pathlib.Path) -> None:
    tensors = tensors_of(UNTIED)
    tensors[TABLE_COPIES[0]] = tensors.pop(SHARED)
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors)
    with hf.opened(theirs) as folder:
        table = folder.params()["token_embedder"]["embedding"]
    np.testing.assert_array_equal(table, tensors[TABLE_COPIES[0]])


def test_sharded_folders_are_read_and_written(tmp_path: pathlib.Path) -> None:
    tensors = tensors_of(UNTIED)
    theirs = folder_of(tmp_path / "hf", UNTIED, {})
    (theirs / "model.safetensors").unlink()
    hf_files.write_tensors(theirs, written(tensors), shard_bytes=10_000)
    files = sorted(theirs.glob("*.safetensors"))
    assert len(files) > 3
    assert all(path.stat().st_size < 20_000 for path in files)
    with hf.opened(theirs) as folder:
        arrays = flat(folder.params())
    expected = flat(seeded.params(UNTIED))
    assert arrays.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(arrays[path], array, err_msg=path)


def test_a_run_of_our_own_becomes_a_float32_folder(tmp_path: pathlib.Path) -> None:
    meta = {"step": 7, "model": dataclasses.asdict(UNTIED)}
    checkpoints.save_params(tmp_path / "run", seeded.params(UNTIED), meta)
    hf.flan_to_hf(tmp_path / "run", tmp_path / "hf")
    assert_same_bits(
        safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors"), tensors_of(UNTIED)
    )
    described = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config_from_hf(described, where="") == UNTIED


def test_the_selected_checkpoint_of_a_run_by_its_name(tmp_path: pathlib.Path) -> None:
    meta = {"model": dataclasses.asdict(UNTIED)}
    run = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig())
    chosen, other = seeded.params(UNTIED), jax.tree.map(np.zeros_like, seeded.params(UNTIED))
    for step, params in ((3, chosen), (5, other)):
        run.save(step, jax.tree.map(jnp.asarray, params), {"x": jnp.zeros(1)}, {}, meta)
    run.close()
    with pytest.raises(UserError, match="no checkpoint of the run has been selected yet"):
        hf.flan_to_hf(tmp_path / "checkpoints" / "selected", tmp_path / "hf")
    selection = tmp_path / "selected.json"
    selection.write_text(json.dumps({"step": 3, "metric": "exact_match", "score": 0.5}))
    for number, name in enumerate(("checkpoints/selected", "selected")):
        summary = hf.flan_to_hf(tmp_path / name, tmp_path / f"hf{number}")
        # What was converted is said, not what it is called now.
        assert summary.startswith(f"{tmp_path / 'checkpoints' / '3'} -> ")
        tensors = safetensors.numpy.load_file(tmp_path / f"hf{number}" / "model.safetensors")
        assert_same_bits(tensors, tensors_of(UNTIED))
    selection.write_text(json.dumps({"step": 4, "metric": "exact_match", "score": 0.5}))
    with pytest.raises(UserError, match="of step 4, is not there any more"):
        hf.flan_to_hf(tmp_path / "selected", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_run_of_our_own_says_how_to_decode(tmp_path: pathlib.Path) -> None:
    meta = {"step": 7, "model": dataclasses.asdict(TIED)}
    checkpoints.save_params(tmp_path / "run", seeded.params(TIED), meta)
    hf.flan_to_hf(tmp_path / "run", tmp_path / "hf")
    said = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert said == {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    # A folder that came without one goes back without one.
    hf.hf_to_flan(folder_of(tmp_path / "theirs", TIED, tensors_of(TIED)), tmp_path / "flan")
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    assert not (tmp_path / "back" / "generation_config.json").exists()


def test_a_data_type_and_a_file_size_may_be_asked_for(tmp_path: pathlib.Path) -> None:
    hf.hf_to_flan(folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED)), tmp_path / "flan")
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "half", dtype="bfloat16", shard_gb=1e-5)
    files = sorted((tmp_path / "half").glob("model-*.safetensors"))
    assert len(files) > 3
    found: Tensors = {}
    for path in files:
        assert path.stat().st_size < 25_000
        found |= safetensors.numpy.load_file(path)
    assert_same_bits(found, tensors_of(UNTIED, ml_dtypes.bfloat16))
    index = json.loads((tmp_path / "half" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == found.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    with hf.opened(tmp_path / "half") as folder:
        assert set(folder.dtypes()) == {"BF16"}
    with pytest.raises(UserError, match="unknown data type 'bfloat61'"):
        hf.flan_to_hf(tmp_path / "flan", tmp_path / "other", dtype="bfloat61")
    with pytest.raises(UserError, match="--shard_gb cannot be 0"):
        hf.flan_to_hf(tmp_path / "flan", tmp_path / "other", shard_gb=0)


@pytest.mark.parametrize("vocab", [250, 256])
def test_an_mt5_folder_goes_both_ways(vocab: int, tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(
        UNTIED, mlp_activation="gated-gelu", vocab_size=vocab, num_decoder_layers=2
    )
    # transformers 5 writes that the embeddings are tied, whatever the weights say.
    tensors = tensors_of(config, ml_dtypes.bfloat16)
    said = {"model_type": "mt5", "tie_word_embeddings": True}
    theirs = folder_of(tmp_path / "hf", config, tensors, said)
    hf.hf_to_flan(theirs, tmp_path / "flan")
    _, meta = checkpoints.load_params(tmp_path / "flan", t5.abstract_params(config))
    assert t5.T5Config(**meta["model"]) == config
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    assert_same_bits(safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors"), tensors)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "mt5"


def test_blocks_of_rows_make_the_same_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    monkeypatch.setattr(slices, "BLOCK_BYTES", 300)  # a few rows of every matrix
    hf.hf_to_flan(theirs, tmp_path / "flan")
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    written = (tmp_path / "back" / "model.safetensors").read_bytes()
    assert written == (theirs / "model.safetensors").read_bytes()
    params, _ = checkpoints.load_params(tmp_path / "flan")
    assert_same_bits(flat(params), flat(seeded.params(UNTIED)))


def test_the_command_line_takes_the_flags_of_its_direction(tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    there = ["convert", "hf-to-flan", f"--from={theirs}", f"--to={tmp_path / 'flan'}"]
    assert cli.main([*there, "--dtype=bfloat16"]) == 2
    assert cli.main(there) == 0
    back = ["convert", "flan-to-hf", f"--from={tmp_path / 'flan'}", f"--to={tmp_path / 'back'}"]
    assert cli.main([*back, "--dtype=bfloat16", "--shard_gb=0.00002"]) == 0
    assert (tmp_path / "back" / "model.safetensors.index.json").is_file()


def test_dry_runs_write_nothing(tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    assert "nothing was written" in hf.hf_to_flan(theirs, tmp_path / "flan", dry_run=True)
    hf.hf_to_flan(theirs, tmp_path / "flan")
    assert "nothing was written" in hf.flan_to_hf(
        tmp_path / "flan", tmp_path / "back", dry_run=True
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flan", "hf"]


# --- config.json


@pytest.mark.parametrize("config", seeded.ALL.values(), ids=seeded.ALL)
def test_config_round_trip(config: t5.T5Config) -> None:
    assert config_from_hf(config_to_hf(config), where="") == config


def test_configs_of_older_and_newer_transformers() -> None:
    old = {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_heads": 8,
        "num_layers": 6,
    }
    small = config_from_hf(old, where="")
    assert (small.mlp_activation, small.tie_embeddings) == ("relu", True)
    assert (small.num_decoder_layers, small.relative_max_distance) == (6, 128)
    newer = old | {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert not config_from_hf(newer, where="").tie_embeddings
    assert not config_from_hf(old | {"tie_word_embeddings": False}, where="").tie_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bart"}, "type 'bart'"),
        ({"d_model": None}, "lacks d_model"),
        ({"feed_forward_proj": "gated-silu"}, "'gated-silu', which is not supported"),
        ({"is_gated_act": True}, "is_gated_act is True"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu'"),
        ({"num_heads": 0}, "num_heads = 0 cannot be"),
        ({"num_layers": 10**9}, "says it has 1000000001 layers"),
        ({"relative_attention_num_buckets": 32.0}, "relative_attention_num_buckets is 32.0"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon is 1000"),
        ({"model_type": ["t5"] * 999}, r"\.\.\."),
    ],
)
def test_other_configs_are_refused(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED), change)
    with pytest.raises(UserError, match=message) as caught:
        hf.hf_to_flan(theirs, tmp_path / "flan")
    assert "config.json" in str(caught.value)
    assert not (tmp_path / "flan").exists()


# --- folders and files


def change_tensors(name: str) -> Tensors:
    """Returns the tensors of UNTIED with one thing wrong."""
    tensors = tensors_of(UNTIED)
    query = "encoder.block.1.layer.0.SelfAttention.q.weight"
    if name == "missing":
        del tensors[query]
    elif name == "unexpected":
        tensors["encoder.block.9.layer.0.SelfAttention.q.weight"] = tensors[query]
    elif name == "shape":
        tensors[query] = tensors[query][:-1]
    elif name == "dtype":
        tensors[query] = tensors[query].astype(np.float64)
    elif name == "tables":
        tensors[TABLE_COPIES[0]] = tensors[SHARED] + 1
    return tensors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"missing: encoder\.block\.1.*unexpected: none"),
        ("unexpected", r"missing: none; unexpected: encoder\.block\.9"),
        ("shape", r"is \(31, 16\), expected \(32, 16\)"),
        ("dtype", "is F64"),
        ("tables", "shared.weight of .* differ"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(
    name: str, message: str, tmp_path: pathlib.Path
) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, change_tensors(name))
    with pytest.raises(UserError, match=message):
        hf.hf_to_flan(theirs, tmp_path / "flan")
    assert not (tmp_path / "flan").exists()


def test_a_tied_model_with_an_output_of_its_own_is_refused(tmp_path: pathlib.Path) -> None:
    tensors = tensors_of(TIED)
    tensors["lm_head.weight"] = tensors[SHARED] * 2
    theirs = folder_of(tmp_path / "hf", TIED, tensors)
    with pytest.raises(UserError, match="set tie_word_embeddings to false"):
        hf.hf_to_flan(theirs, tmp_path / "flan")


def test_missing_folder_and_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        hf.hf_to_flan(tmp_path / "nowhere", tmp_path / "flan")
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    (theirs / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        hf.hf_to_flan(theirs, tmp_path / "flan")
    (theirs / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        hf.hf_to_flan(theirs, tmp_path / "flan")
    (theirs / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(UserError, match="pickle can run code"):
        hf.hf_to_flan(theirs, tmp_path / "flan")


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x08\0\0\0\0\0\0\0notjson!"])
def test_a_torn_weight_file_is_named(content: bytes, tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    (theirs / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        hf.hf_to_flan(theirs, tmp_path / "flan")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no object"),
        ('{"model_type": "t5", "model_type": "t5"}', "model_type is there more than once"),
        ("[" * 1_000_000, "nested too deeply"),
        ('{"d_model":' * 100_000, "nested too deeply"),
        ('{"layer_norm_epsilon": 1e999}', "no finite number"),
        ('{"d_model": ' + "9" * 5000 + "}", "4300 digits"),
        (" " * 8_000_001, "it has 8,000,001 bytes"),
    ],
)
def test_a_broken_config_is_named(content: str, message: str, tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    (theirs / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        hf.hf_to_flan(theirs, tmp_path / "flan")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "no weight_map"),
        ({"weight_map": {"a": "../outside.safetensors"}}, "a file of its folder"),
        ({"weight_map": {"a": "/etc/hostname"}}, "a file of its folder"),
        ({"weight_map": {"a": "one.safetensors\0"}}, "a file of its folder"),
        ({"weight_map": {"a": ".."}}, "is missing from"),
        ({"weight_map": {"a": ""}}, "a file of its folder|is missing from"),
        ({"weight_map": {"a": "x" * 5000}}, "xxx... is missing from"),
        ({"weight_map": {"a": "absent.safetensors"}}, "absent.safetensors is missing"),
        ({"weight_map": {"a": "one.safetensors"}}, "disagree about"),
        ({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}, "more than once"),
    ],
)
def test_a_wrong_index_is_refused(
    index: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, {})
    (theirs / "model.safetensors").unlink()
    for name in ("one", "two"):
        safetensors.numpy.save_file({"x": np.zeros(2)}, theirs / f"{name}.safetensors")
    (theirs / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        hf.hf_to_flan(theirs, tmp_path / "flan")


def test_a_pipe_is_no_file(tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    for name in ("config.json", "model.safetensors"):
        (theirs / name).rename(tmp_path / name)
        os.mkfifo(theirs / name)
        with pytest.raises(UserError, match=r"is missing from|has no model"):
            hf.hf_to_flan(theirs, tmp_path / "flan")
        (theirs / name).unlink()
        (theirs / name).symlink_to(tmp_path / name)  # as a download cache lays files out
    hf.hf_to_flan(theirs, tmp_path / "flan")


def test_a_file_cut_while_it_is_read_is_named(tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    with hf.opened(theirs) as folder:
        os.truncate(theirs / "model.safetensors", 20_000)
        with pytest.raises(UserError, match="it has become shorter"):
            folder.params()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F8"}, "a value that conversion does not write"),
        ({"token_tables": ["../x"]}, "a value that conversion does not write"),
        ({"token_tables": []}, "a value that conversion does not write"),
        ({"other_dtypes": None}, "has no attribute"),
        ({"config": []}, "a value that conversion does not write"),
    ],
)
def test_what_was_kept_for_the_way_back_is_not_trusted(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    hf.hf_to_flan(theirs, tmp_path / "flan")
    path = tmp_path / "flan" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {hf.META_KEY: meta[hf.META_KEY] | change}))
    with pytest.raises(UserError, match=message) as caught:
        hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    assert f"key '{hf.META_KEY}'" in str(caught.value)
    model = {"model": meta["model"] | {"num_decoder_layers": 10**9}}
    path.write_text(json.dumps(model))
    with pytest.raises(UserError, match="a T5 with 1,000,000,000 layers is not converted"):
        hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")


def test_a_checkpoint_that_is_not_what_was_saved_is_not_exported(tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    hf.hf_to_flan(theirs, tmp_path / "flan")
    chunks = tmp_path / "flan" / "params" / "encoder.layers.mlp.wi.kernel"
    (chunks / "0.0.0").write_bytes((chunks / "1.0.0").read_bytes())  # whole, but another layer's
    with pytest.raises(
        UserError, match=r"not what was saved: encoder/layers/mlp/wi/kernel\n"
    ) as caught:
        hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    assert "checksums" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flan", "hf"]


def test_existing_destinations_and_wrong_checkpoints(tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    with pytest.raises(UserError, match="exists already"):
        hf.hf_to_flan(theirs, theirs)
    with pytest.raises(UserError, match="there is no checkpoint"):
        hf.flan_to_hf(tmp_path / "nowhere", tmp_path / "back")
    hf.hf_to_flan(theirs, tmp_path / "flan")
    with pytest.raises(UserError, match="exists already"):
        hf.flan_to_hf(tmp_path / "flan", theirs)

    params = seeded.params(UNTIED)
    checkpoints.save_params(tmp_path / "unnamed", params, {"step": 1})
    with pytest.raises(UserError, match="does not say which T5"):
        hf.flan_to_hf(tmp_path / "unnamed", tmp_path / "back")
    params["decoder"].pop("logits_dense")
    model = {"model": dataclasses.asdict(UNTIED)}
    checkpoints.save_params(tmp_path / "other", params, model)
    with pytest.raises(UserError, match="missing: decoder/logits_dense/kernel"):
        hf.flan_to_hf(tmp_path / "other", tmp_path / "back")
    assert not list(tmp_path.glob(".back*"))


@pytest.mark.parametrize("kind", ["under a file", "where nothing can be made"])
def test_destinations_that_cannot_be_written(kind: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    base = tmp_path / "file" if kind == "under a file" else pathlib.Path("/proc/flan")
    if not base.parent.is_dir():
        pytest.skip("this system has no /proc")
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED))
    with pytest.raises(UserError, match="the folder cannot be"):
        hf.hf_to_flan(theirs, base / "new")
    hf.hf_to_flan(theirs, tmp_path / "flan")
    with pytest.raises(UserError, match="the folder cannot be"):
        hf.flan_to_hf(tmp_path / "flan", base / "new")


# --- the real thing


@pytest.mark.torch
@pytest.mark.parametrize("name", ["t5_1_1_small", "t5_1_0_small"])
def test_live_round_trip_through_transformers(name: str, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tests.golden import make_hf_goldens as maker

    config = seeded.ALL[name]
    model = maker.reference(config, seeded.params(config)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "hf")
    hf.hf_to_flan(tmp_path / "hf", tmp_path / "flan")
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    assert_same_bits(
        safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors"),
        safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors"),
    )
    batch = seeded.padded(name, [(5, 3), (8, 4)])
    one, other = (
        transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / folder).float().eval()
        for folder in ("hf", "back")
    )
    np.testing.assert_array_equal(maker.logits(one, batch), maker.logits(other, batch))

    # A folder of ours alone, without anything kept from theirs.
    checkpoints.save_params(
        tmp_path / "run", seeded.params(config), {"model": vars(config) | {"dropout_rate": 0.0}}
    )
    hf.flan_to_hf(tmp_path / "run", tmp_path / "fresh")
    fresh = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "fresh").eval()
    expected = maker.logits(maker.reference(config, seeded.params(config)), batch)
    np.testing.assert_array_equal(maker.logits(fresh, batch), expected)


@pytest.mark.torch
def test_live_mt5_computes_the_same(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tests.golden import make_hf_goldens as maker

    config = dataclasses.replace(TIED, tie_embeddings=False)
    batch = seeded.padded("mt5", [(5, 3), (8, 4)])
    described = config_to_hf(config) | {"model_type": "mt5"}
    torch.manual_seed(0)
    model = transformers.MT5ForConditionalGeneration(transformers.MT5Config(**described)).eval()
    # Its output has weights of its own, as in every published mT5.
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.save_pretrained(tmp_path / "hf")
    hf.hf_to_flan(tmp_path / "hf", tmp_path / "flan")
    params, meta = checkpoints.load_params(tmp_path / "flan")
    ours = t5.apply(params, t5.T5Config(**meta["model"]), batch)
    expected = maker.logits(model, batch)
    kept = np.asarray(batch["decoder_segment_ids"]) > 0
    np.testing.assert_allclose(np.asarray(ours)[kept], expected[kept], rtol=1e-4, atol=1e-4)

    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    back = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "back").eval()
    np.testing.assert_array_equal(maker.logits(back, batch), expected)
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "half", dtype="bfloat16")
    half = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "half")
    assert half.dtype == torch.bfloat16
