"""A checkpoint that is not what was saved does not become a T5X one."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_train import checkpoints, optimizers
from flan_train.convert import hf, t5x
from flan_train.errors import UserError
from flan_train.models import t5
from tests import t5x_folder
from tests.convert.hf_folder import UNTIED as HF_UNTIED
from tests.convert.hf_folder import folder_of, tensors_of
from tests.models import seeded

UNTIED = seeded.CROSSED["t5_relu_untied"]
KERNEL = "encoder/layers/mlp/wi/kernel"


@pytest.fixture
def theirs(tmp_path: pathlib.Path) -> pathlib.Path:
    """A T5X checkpoint of step 100 with the state of Adafactor."""
    transform = optimizers.adafactor(
        optimizers.OptimizerConfig(min_dim_size_to_factor=16), t5.param_axes(UNTIED)
    )
    params = seeded.params(UNTIED)
    state = jax.tree.map(np.asarray, transform.init(params))._replace(count=np.int32(100))
    run = checkpoints.Checkpoints(tmp_path / "run", checkpoints.CheckpointConfig())
    run.save(100, params, state, {}, {"model": dataclasses.asdict(UNTIED)})
    run.close()
    t5x.flan_to_t5x(run.path(100), tmp_path / "theirs")
    return tmp_path / "theirs" / "checkpoint_100"


def change_one(folder: pathlib.Path, item: str, path: str) -> None:
    """Adds to one number of an array, in files that stay valid."""
    described = json.loads((folder / item / "_METADATA").read_text())
    name = path.replace("/", ".")
    base = {"driver": "file", "path": f"{folder}/{item}/"}
    store: Any = {"driver": "file", "path": f"{folder}/{item}/{name}/"}
    if described["use_ocdbt"]:
        store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    array = ts.open({"driver": "zarr", "kvstore": store}, open=True).result()
    place = (0,) * len(array.shape)
    array[place].write(array[place].read().result() + 1).result()


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("path", [KERNEL, "decoder/relpos_bias/rel_embedding"])
def test_one_number_that_changed_is_found(
    theirs: pathlib.Path, tmp_path: pathlib.Path, layout: str, path: str
) -> None:
    t5x.t5x_to_flan(theirs, tmp_path / "ours")
    for number, source in enumerate((tmp_path / "run" / "checkpoints" / "100", tmp_path / "ours")):
        change_one(source, "params", path)
        with pytest.raises(UserError, match=f"are not what was saved: {path}"):
            t5x.flan_to_t5x(source, tmp_path / f"to{number}", layout=layout)
        assert not (tmp_path / f"to{number}").exists() or not any(
            (tmp_path / f"to{number}").iterdir()
        )


def test_the_optimizers_state_of_a_converted_folder_is_compared(
    theirs: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    t5x.t5x_to_flan(theirs, tmp_path / "ours")
    # Nothing is taken as it is: all of it has checksums.
    t5x.flan_to_t5x(tmp_path / "ours", tmp_path / "back")
    assert "has no checksums" not in caplog.text
    sums = checkpoints.read_checksums(tmp_path / "ours")
    assert sums.keys() == {"params", "opt_state", "shapes", "meta"}
    change_one(tmp_path / "ours", "opt_state", "count")
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"opt_state .* not what was saved"):
        t5x.flan_to_t5x(tmp_path / "ours", tmp_path / "again")
    file = tmp_path / "ours" / "meta" / "metadata"
    file.write_text(file.read_text().replace('"step": 100', '"step": 101'))
    with pytest.raises(checkpoints.DamagedCheckpoint, match="meta is not what was saved"):
        t5x.flan_to_t5x(tmp_path / "ours", tmp_path / "again", params_only=True)


@pytest.mark.parametrize(
    "change",
    [
        {"t5x": [1]},
        {"t5x": "scanned"},
        {"t5x": None},
        {"t5x": {"layout": "rolled"}},
        {"t5x": {"layout": []}},
        {"t5x": {"dtype": {}}},
        {"step": "x"},
        {"step": 1.7},
        {"step": None},
        {"step": True},
    ],
)
def test_what_a_checkpoint_says_of_itself_is_not_trusted(
    tmp_path: pathlib.Path, change: dict[str, Any]
) -> None:
    meta = {"model": dataclasses.asdict(UNTIED), "step": 3} | change
    checkpoints.save_params(tmp_path / "ours", seeded.params(UNTIED), meta)
    with pytest.raises(UserError, match="says of itself cannot be used") as caught:
        t5x.flan_to_t5x(tmp_path / "ours", tmp_path / "new")
    assert "--layout" not in str(caught.value)
    assert not (tmp_path / "new").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def test_any_meta_is_refused_or_read(tmp_path: pathlib.Path) -> None:
    model = dataclasses.asdict(UNTIED)
    checkpoints.save_params(tmp_path / "ours", seeded.params(UNTIED), {"model": model})
    file = tmp_path / "ours" / "meta" / "metadata"
    keys = ("model", "step", "t5x", "hugging_face", "checksums", *model)

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(keys), VALUES)
    def check(key: str, value: Any) -> None:
        meta: dict[str, Any] = {"model": dict(model), "step": 3}
        (meta["model"] if key in model else meta)[key] = value
        file.write_text(json.dumps(meta))
        for convert in (t5x.flan_to_t5x, hf.flan_to_hf):
            try:
                convert(tmp_path / "ours", tmp_path / "new", dry_run=True)
            except UserError:
                continue

    check()


def test_messages_name_the_folder_that_was_given(tmp_path: pathlib.Path) -> None:
    other = {"model": dataclasses.asdict(seeded.CROSSED["t5_gated_tied"])}
    checkpoints.save_params(tmp_path / "other", seeded.params(UNTIED), other)
    with pytest.raises(UserError) as caught:
        t5x.flan_to_t5x(tmp_path / "other", tmp_path / "new")
    assert f"the arrays of {tmp_path / 'other'} are not those of the model" in str(caught.value)
    assert "T5X checkpoint" not in str(caught.value)
    broken = t5x_folder.write(
        tmp_path / "checkpoint_1",
        {**t5x_folder.unrolled(t5x_folder.flat_params(UNTIED)), "more": np.zeros(1, np.float32)},
    )
    with pytest.raises(UserError, match="the parameters of the T5X checkpoint are not those"):
        t5x.t5x_to_flan(broken, tmp_path / "new", params_only=True)


def test_the_generation_config_is_read_before_the_weights(tmp_path: pathlib.Path) -> None:
    theirs = folder_of(tmp_path / "hf", HF_UNTIED, tensors_of(HF_UNTIED))
    (theirs / "generation_config.json").write_text("[]")
    for dry_run in (True, False):
        with pytest.raises(UserError, match=r"generation_config\.json"):
            hf.hf_to_flan(theirs, tmp_path / "ours", dry_run=dry_run)
    (theirs / "generation_config.json").unlink()
    with hf.opened(theirs) as folder:
        # A meta that is made of what was read when the folder was opened.
        (theirs / "generation_config.json").write_text("[]")
        assert folder.meta()["hugging_face"]["generation_config"] is None
