"""Second moments of T5X's Adafactor, whose scanned layers are factored by the names of axes."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from flan_train import t5x_layout, t5x_optimizer
from flan_train.errors import UserError
from flan_train.models import t5
from flan_train.t5x_optimizer import Slots
from flan_train.t5x_params import T5XParams, shapes_of
from tests import t5x_folder
from tests.models import seeded

UNTIED = seeded.CROSSED["t5_relu_untied"]
UNUSED = np.zeros(1, np.float32)
# Which axes of a scanned array T5X's rules call rows ("embed"); the others but layers are columns.
ROWS = {"query": 0, "key": 0, "value": 0, "wi": 0, "out": 3, "wo": 2}


def by_name() -> dict[str, t5x_layout.Source]:
    """Returns the scanned sources by our paths."""
    shapes = shapes_of(t5.abstract_params(UNTIED))
    return {source.ours: source for source in t5x_layout.sources(shapes, "scanned")}


def ours(gradient: np.ndarray) -> Slots:
    """Returns what our Adafactor keeps of one squared gradient [L, A, B], factored."""
    square = gradient.astype(np.float64) ** 2
    larger, smaller = (1, 2) if gradient.shape[1] > gradient.shape[2] else (2, 1)
    row, col = square.mean(larger), square.mean(smaller)
    return Slots(row.astype(np.float32), col.astype(np.float32), UNUSED)


def theirs(gradient: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (v_row, v_col) of one squared gradient in T5X's scanned shape."""
    square = gradient.astype(np.float64) ** 2
    columns = tuple(a for a in range(gradient.ndim) if a not in (1, row))
    return square.mean(columns), square.mean(row)


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("kind", ROWS)
def test_scanned_moments_are_those_of_t5x_rules(kind: str, factored: bool) -> None:
    path = next(name for name in by_name() if name.startswith("encoder/") and f"/{kind}/" in name)
    source = by_name()[path]
    gradient = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)
    slots = ours(gradient) if factored else Slots(UNUSED, UNUSED, gradient**2)
    ((key, named),) = t5x_optimizer.write_state(source, slots)
    assert key == source.keys[0]
    row, col = theirs(source.to_scanned(gradient), ROWS[kind])
    assert named["v_row"].shape == row.shape
    np.testing.assert_allclose(named["v_row"], row, rtol=1e-6)
    np.testing.assert_allclose(named["v_col"], col, rtol=1e-6)
    assert named["v"].shape == named["m"].shape == (1,)


def state_of(config: t5.T5Config, **changes: np.ndarray) -> dict[str, Any]:
    """Returns an unfactored state of the unrolled layout, with changes by the end of the key."""
    shapes = shapes_of(t5.abstract_params(config))
    state = {}
    for source in t5x_layout.sources(shapes, "unrolled"):
        for key in source.keys:
            slots = {"m": UNUSED, "v_row": UNUSED, "v_col": UNUSED}
            slots["v"] = np.full(source.key_shape, 2.0, np.float32)
            for slot, array in slots.items():
                name = f"{key}/{slot}"
                state[name] = t5x_folder.inline(changes.get(name, array))
    return state


def read(folder: pathlib.Path, state: dict[str, Any]) -> t5x_optimizer.State:
    """Writes a checkpoint with a state and returns what is read of it."""
    target = t5x_folder.unrolled(t5x_folder.flat_params(UNTIED))
    return t5x_optimizer.read_state(T5XParams(t5x_folder.write(folder, target, state, step=9)))


def test_layers_are_stacked(tmp_path: pathlib.Path) -> None:
    key = "encoder/layers_1/mlp/wi/kernel/v"
    layer = np.random.default_rng(1).random((16, 24), np.float32)
    found = read(tmp_path / "c", state_of(UNTIED, **{key: layer}))
    assert int(found.state.count) == 9
    moments = found.state.v["encoder"]["layers"]["mlp"]["wi"]["kernel"]
    assert moments.shape == (3, 16, 24)
    np.testing.assert_array_equal(moments[1], layer)
    assert (moments[0] == 2).all()
    assert found.state.v_row["encoder"]["layers"]["mlp"]["wi"]["kernel"].shape == (1,)
    assert found.min_dim_size_to_factor == 128


def _factored(key: str, row: int, col: int) -> dict[str, np.ndarray]:
    ones = {"v_row": np.ones(row, np.float32), "v_col": np.ones(col, np.float32), "v": UNUSED}
    return {f"{key}/{slot}": array for slot, array in ones.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder/encoder_norm/scale/m": np.ones(16, np.float32)}, "momentum, which our"),
        ({"encoder/encoder_norm/scale/v": np.ones(15, np.float32)}, r"has the shape \[15\]"),
        (_factored("encoder/layers_1/mlp/wi/kernel", 16, 24), "some layers of"),
        (_factored("encoder/layers_1/mlp/wi/kernel", 24, 16), r"has the shape \[16\]"),
        (_factored("encoder/relpos_bias/rel_embedding", 4, 32), "which no min_dim_size_to_factor"),
    ],
)
def test_states_that_are_not_ours(
    changes: dict[str, np.ndarray], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "c", state_of(UNTIED, **changes))
    assert "--params_only" in str(caught.value)


def test_a_state_of_another_optimizer_is_listed_on_both_sides(tmp_path: pathlib.Path) -> None:
    state = state_of(UNTIED)
    state["encoder/encoder_norm/scale/nu"] = state.pop("encoder/encoder_norm/scale/v")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "c", state)
    assert "only in the checkpoint: encoder/encoder_norm/scale/nu" in str(caught.value)
    assert "only in the model: encoder/encoder_norm/scale/v" in str(caught.value)


def test_factored_tables_cannot_be_scanned() -> None:
    source = by_name()["encoder/relpos_bias/rel_embedding"]
    slots = Slots(np.ones(4, np.float32), np.ones(32, np.float32), UNUSED)
    with pytest.raises(UserError, match="are factored, which those of scanned layers are not"):
        list(t5x_optimizer.write_state(source, slots))
