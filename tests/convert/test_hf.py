"""Hugging Face folders in and out, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from flan_train import checkpoints, cli
from flan_train.convert import hf, hf_files, slices
from flan_train.convert.hf_config import config_from_hf
from flan_train.convert.hf_table import SHARED, UNREAD, flat
from flan_train.errors import UserError
from flan_train.models import t5
from tests.convert.hf_folder import (
    TABLE_COPIES,
    TIED,
    UNTIED,
    Tensors,
    assert_same_bits,
    folder_of,
    tensors_of,
    written,
)
from tests.models import seeded


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
