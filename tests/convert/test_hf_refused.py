"""Folders, files and checkpoints that cannot be converted: what is wrong is said."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from flan_train import checkpoints
from flan_train.convert import hf
from flan_train.convert.hf_table import SHARED
from flan_train.errors import UserError
from tests.convert.hf_folder import (
    TABLE_COPIES,
    TIED,
    UNTIED,
    Tensors,
    folder_of,
    tensors_of,
)
from tests.models import seeded


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
    changed = meta | {hf.META_KEY: meta[hf.META_KEY] | change}
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="meta is not what was saved"):
        hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    del changed["checksums"]  # whoever changes it on purpose takes those out as well
    path.write_text(json.dumps(changed))
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
