"""Adafactor's second moments in a T5X checkpoint, to ours and back.

T5X factors the moments of a matrix by its two sizes (`v_row` averages over the larger), as we do.
Of scanned layers it factors by the names of axes: `v_row` is what is left of "embed", `v_col` what
is left of the other axes, whatever the sizes. Both are averages of the same squared gradients, and
the estimate is the same product; so they only change places.

Axis letters: D embed, C the other axes of a layer's matrix joined, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flan_train.errors import UserError
from flan_train.optimizers import AdafactorState, factored_dims
from flan_train.t5x_layout import Source
from flan_train.t5x_params import T5XParams, check_one_table, unflattened

STATES = "state/param_states/"
SLOTS = ("m", "v", "v_col", "v_row")
T5X_MINIMUM = 128  # Adafactor's min_dim_size_to_factor there, where gin does not say otherwise

_PARAMETERS_ALONE = "convert the parameters alone: --params_only"


class Slots(NamedTuple):
    """The second moments of one parameter, float32; what is not used is [0.]."""

    v_row: np.ndarray
    v_col: np.ndarray
    v: np.ndarray


@dataclasses.dataclass(frozen=True)
class State:
    """Adafactor's state as ours, numpy.

    Attributes:
      state: as `optimizers.adafactor` keeps it.
      min_dim_size_to_factor: an OptimizerConfig's value under which these parameters are factored.
    """

    state: AdafactorState
    min_dim_size_to_factor: int


def unused() -> np.ndarray:
    """Returns what T5X and we keep in a slot without use."""
    return np.zeros(1, np.float32)


def read_state(params: T5XParams) -> State:
    """Returns the optimizer's state of a T5X checkpoint.

    Raises:
      UserError: it is not there, not Adafactor's without momentum, of another model, or (scanned)
        cannot be ours; parameters can be taken without it.
    """
    stored = params.folder.keys(STATES)
    wanted = {f"{key}/{slot}" for source in params.sources for key in source.keys for slot in SLOTS}
    if stored.keys() != wanted:
        missing, others = sorted(wanted - stored.keys()), sorted(stored.keys() - wanted)
        raise UserError(
            "the optimizer's state in the T5X checkpoint is not that of Adafactor for this model"
            f"\n    only in the checkpoint: {', '.join(others[:8]) or 'none'}"
            f"\n    only in the model: {', '.join(missing[:8]) or 'none'}",
            where=str(params.folder.path),
            expected="m, v, v_row and v_col of each parameter",
            fix=_PARAMETERS_ALONE,
        )
    found = {source.ours: _read(params, source) for source in params.sources}
    return State(
        AdafactorState(
            np.asarray(params.folder.step, np.int32),  # type: ignore[arg-type]
            *(
                unflattened({name: getattr(slots, slot) for name, slots in found.items()})
                for slot in Slots._fields
            ),
        ),
        _minimum(params, found),
    )


def _read(params: T5XParams, source: Source) -> Slots:
    layers = []
    for key in source.keys:
        prefix = f"{STATES}{key}/"
        shapes = {slot: params.folder.leaves[prefix + slot].shape for slot in SLOTS}
        full = shapes["v"] != (1,)
        expected = {"m": (1,), "v": source.key_shape if full else (1,)}
        for slot, shape in zip(("v_row", "v_col"), _factored_shapes(source), strict=True):
            expected[slot] = (1,) if full else shape
        if shapes != expected:
            slot = next(slot for slot in SLOTS if shapes[slot] != expected[slot])
            raise UserError(
                f"{prefix}{slot} has the shape {list(shapes[slot])}"
                + (": momentum, which our Adafactor has not" if slot == "m" else ""),
                where=str(params.folder.path),
                expected=f"{list(expected[slot])}",
                fix=_PARAMETERS_ALONE,
            )
        read = [params.folder.read(prefix + slot).astype(np.float32) for slot in Slots._fields]
        layers.append(Slots(*read))
    if source.scanned:
        return _from_scanned(source, layers[0], str(params.folder.path))
    if not source.stacked:
        return layers[0]
    is_full = {slots.v.shape for slots in layers}
    if len(is_full) != 1:
        raise UserError(
            f"some layers of {source.ours} are factored, and some are not",
            where=str(params.folder.path),
            expected="all layers alike",
            fix=_PARAMETERS_ALONE,
        )
    return Slots(
        *(
            unused() if parts[0].shape == (1,) else np.stack(parts)
            for parts in zip(*layers, strict=True)
        )
    )


def write_state(source: Source, slots: Slots) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields (T5X's key, slot name to array) for each parameter of theirs that ours is.

    Raises:
      UserError: the state cannot be one of scanned layers.
    """
    if source.scanned:
        yield source.keys[0], _named(_to_scanned(source, slots))
    elif not source.stacked:
        yield source.keys[0], _named(slots)
    else:
        for layer, key in enumerate(source.keys):
            yield key, _named(Slots(*(x if x.shape == (1,) else x[layer] for x in slots)))


def fresh_slots(source: Source) -> Slots:
    """Returns the state before any update, factored as T5X's defaults would have it."""
    own = _own_shape(source)
    dims = factored_dims(own, (None,) * len(own), T5X_MINIMUM)
    lead = source.shape[:1] if source.stacked else ()
    if dims is None:
        return Slots(unused(), unused(), np.zeros(source.shape, np.float32))
    second, largest = dims
    row, col = np.zeros((*lead, own[second])), np.zeros((*lead, own[largest]))
    return Slots(row.astype(np.float32), col.astype(np.float32), unused())


def _named(slots: Slots) -> dict[str, np.ndarray]:
    arrays = {"m": unused(), "v": slots.v, "v_col": slots.v_col, "v_row": slots.v_row}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def _own_shape(source: Source) -> tuple[int, ...]:
    """Returns the shape of one layer's parameter of ours."""
    return source.shape[1:] if source.stacked else source.shape


def _by_size(source: Source) -> tuple[int, int]:
    own = _own_shape(source)
    dims = factored_dims(own, (None,) * len(own), 0)
    assert dims is not None
    return dims


def _factored_shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shapes of T5X's v_row and v_col where they are used; () where never."""
    own = _own_shape(source)
    if len(own) < 2 or source.shared:
        return (), ()
    shape = source.key_shape
    if source.scanned and source.stacked:
        if _embed_first(source):
            return shape[:2], shape[1:]
        return (shape[1], shape[-1]), shape[:-1]
    second, largest = _by_size(source)
    return (own[second],), (own[largest],)


def _embed_first(source: Source) -> bool:
    return source.ours.split("/")[-2] not in ("out", "wo")


def _from_scanned(source: Source, theirs: Slots, where: str) -> Slots:
    if theirs.v.shape != (1,):
        if source.shared:
            check_one_table(theirs.v, source, where)
        return Slots(unused(), unused(), source.from_scanned(theirs.v))
    layers = source.key_shape[1]
    first = _embed_first(source)
    embed = theirs.v_row.T if first else theirs.v_row
    others = theirs.v_col if first else np.moveaxis(theirs.v_col, 1, 0)
    pair = [np.ascontiguousarray(embed), np.ascontiguousarray(others).reshape(layers, -1)]
    if _by_size(source)[1] == (0 if first else 1):  # embed is the larger: it is our column
        pair.reverse()
    return Slots(pair[0], pair[1], unused())


def _to_scanned(source: Source, ours: Slots) -> Slots:
    if source.shared or len(_own_shape(source)) < 2:
        if ours.v.shape == (1,):
            raise UserError(
                f"the moments of {source.ours} are factored, which those of scanned layers are not",
                expected="OptimizerConfig.min_dim_size_to_factor above the number of buckets",
                fix=f"--layout=unrolled, or {_PARAMETERS_ALONE}",
            )
        return Slots(unused(), unused(), source.to_scanned(ours.v))
    first = _embed_first(source)
    embed_axis = 0 if first else 1
    if ours.v.shape == (1,):
        embed, others = ours.v_row, ours.v_col
        if _by_size(source)[1] == embed_axis:
            embed, others = others, embed
    else:
        # T5X factors every matrix of scanned layers. A mean of averages is the average of means.
        embed, others = ours.v.mean(axis=2 - embed_axis), ours.v.mean(axis=1 + embed_axis)
    shape = source.key_shape
    if first:
        return Slots(embed.T, others.reshape(shape[1:]), unused())
    apart = others.reshape(shape[1], shape[0], *shape[2:-1])
    return Slots(embed, np.moveaxis(apart, 0, 1), unused())


def _minimum(params: T5XParams, found: dict[str, Slots]) -> int:
    """Returns a min_dim_size_to_factor that gives this state's parameters the slots they have."""
    least, most = 1, 2**40
    for source in params.sources:
        own = _own_shape(source)
        if len(own) < 2:
            continue
        if found[source.ours].v.shape == (1,):
            most = min(most, sorted(own)[-2])
        else:
            least = max(least, sorted(own)[-2] + 1)
    if least > most:
        raise UserError(
            "the optimizer's state factors some parameters and not others, which no "
            "min_dim_size_to_factor would do",
            where=str(params.folder.path),
            expected=f"all matrices of two sizes of at least {most} factored, or none of them",
            fix=_PARAMETERS_ALONE,
        )
    return min(max(T5X_MINIMUM, least), most)
