"""Which arrays of a T5X model make which array of ours, in its two layouts; and the model's sizes.

T5X keeps the layers of a T5 either as arrays of their own (network `t5`: "unrolled") or stacked
along axis 1 (network `scalable_t5`: "scanned"), where attention has its heads as an axis, and every
layer has a table of relative positions of its own. Ours are stacked along axis 0, with one table.

Axis letters: D embed, H heads, K head dim, F mlp, L layers, N buckets.

    ours                                unrolled                     scanned
    encoder/layers/mlp/wo/kernel LFD    encoder/layers_i/mlp/... FD  encoder/encoder/mlp/... FLD
    .../query/kernel             LDHK   .../query/kernel         DHK .../query/kernel        DLHK
    encoder/relpos_bias/...      HN     encoder/relpos_bias/...  HN  encoder/encoder/...     HLN
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from flan_train.errors import UserError
from flan_train.models import t5

UNROLLED, SCANNED = "unrolled", "scanned"
LAYOUTS = (UNROLLED, SCANNED)
EMBEDDING = "token_embedder/embedding"
LOGITS = "decoder/logits_dense/kernel"

_MAX_LAYERS = 4096
_SHOWN = 8
_LAYER = re.compile(r"/layers_(\d{1,4})/")

Shape = tuple[int, ...]
Box = tuple[slice, ...]

_BOX_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Source:
    """One array of ours and the arrays of T5X's it is made of.

    Attributes:
      ours: its path.
      shape: its shape.
      keys: T5X's names: one, or in the unrolled layout one for each layer.
      key_shape: the shape each of those has.
      stacked: whether ours has the layers on axis 0.
      scanned: whether theirs has the layers on axis 1.
    """

    ours: str
    shape: Shape
    keys: tuple[str, ...]
    key_shape: Shape
    stacked: bool
    scanned: bool

    @property
    def shared(self) -> bool:
        """Whether theirs repeats for each layer what we have once: the table of positions."""
        return self.scanned and not self.stacked

    def from_scanned(self, theirs: np.ndarray) -> np.ndarray:
        """Returns a scanned array as ours; of a shared one, the first layer's."""
        first = np.moveaxis(theirs, 1, 0)
        return np.ascontiguousarray(first[0] if self.shared else first).reshape(self.shape)

    def to_scanned(self, ours: np.ndarray) -> np.ndarray:
        """Returns an array of ours as they store it in the scanned layout."""
        layers = self.key_shape[1]
        rest = (self.key_shape[0], *self.key_shape[2:])
        stacked = np.broadcast_to(ours, (layers, *ours.shape)) if self.shared else ours
        return np.ascontiguousarray(np.moveaxis(stacked.reshape(layers, *rest), 0, 1))

    def scanned_boxes(self, chunk: Shape, wanted: Box) -> Iterator[tuple[Box, Box]]:
        """Yields (part of a scanned array, the same part of ours), which together cover `wanted`.

        Parts are made of whole chunks, so that each chunk is read or written once: chunks mostly
        have all layers in them. The last axis of two that ours joins is never cut.

        Args:
          chunk: the chunks that theirs is stored in.
          wanted: the part of ours that is needed.
        """
        groups = [(0, 2), (3,)] if self._joined_first else [(0,), tuple(range(2, len(chunk)))]
        groups = [group for group in groups if group]
        inner = {g[0]: math.prod(self.key_shape[axis] for axis in g[1:]) for g in groups}
        steps = {axis: chunk[axis] for axis in (1, *inner)}
        count = 4 * math.prod(steps.get(axis, size) for axis, size in enumerate(self.key_shape))
        steps[0] *= max(1, _BOX_BYTES // max(1, count))
        ranges = {1: wanted[0]}
        for axis, part in zip(inner, wanted[1:], strict=True):
            ranges[axis] = slice(part.start // inner[axis], -(-part.stop // inner[axis]))
        for cut in itertools.product(*(_cut(ranges[axis], steps[axis]) for axis in ranges)):
            at = dict(zip(ranges, cut, strict=True))
            theirs = tuple(at.get(a, slice(0, size)) for a, size in enumerate(self.key_shape))
            ours = [slice(at[a].start * inner[a], at[a].stop * inner[a]) for a in inner]
            yield theirs, (at[1], *ours)

    @property
    def _joined_first(self) -> bool:
        """Whether ours joins theirs' first axis with the one after the layers: attention's out."""
        return len(self.key_shape) == 4 and self.shape[1] != self.key_shape[0]

    def box_from_scanned(self, theirs: np.ndarray) -> np.ndarray:
        """Returns a part of a scanned array that `scanned_boxes` names as ours."""
        first = np.moveaxis(theirs, 1, 0)
        rest = first.shape[1:]
        joined = (rest[0] * rest[1], rest[2]) if self._joined_first else (rest[0], -1)
        return first.reshape(len(first), *(joined if len(rest) > 1 else rest))

    def box_to_scanned(self, ours: np.ndarray, theirs: Box) -> np.ndarray:
        """Returns the part of ours that `scanned_boxes` names as theirs."""
        sizes = [one.stop - one.start for one in theirs]
        return np.moveaxis(ours.reshape(sizes[1], sizes[0], *sizes[2:]), 0, 1)


def _cut(part: slice, step: int) -> list[slice]:
    starts = range(part.start // step * step, part.stop, step)
    return [slice(max(at, part.start), min(at + step, part.stop)) for at in starts]


def sources(shapes: Mapping[str, Shape], layout: str) -> list[Source]:
    """Returns how each of our arrays (path to shape) is kept in a layout, in the order given."""
    return [_source(path, shape, shapes, layout) for path, shape in shapes.items()]


def _source(path: str, shape: Shape, shapes: Mapping[str, Shape], layout: str) -> Source:
    stack = path.split("/")[0]
    stacked = "/layers/" in path
    if layout == UNROLLED:
        count = shape[0] if stacked else 1
        keys = tuple(path.replace("/layers/", f"/layers_{i}/") for i in range(count))
        return Source(path, shape, keys, shape[1:] if stacked else shape, stacked, False)
    heads = shapes[f"{stack}/relpos_bias/rel_embedding"][0] if stack != "token_embedder" else 0
    if stacked:
        layers, *rest = shape
        kind = path.split("/")[-2]
        if kind in ("query", "key", "value"):
            rest = [rest[0], heads, rest[1] // heads]
        elif kind == "out":
            rest = [heads, rest[0] // heads, rest[1]]
        key = path.replace("/layers/", f"/{stack}/")
        return Source(path, shape, (key,), (rest[0], layers, *rest[1:]), True, True)
    if path.endswith("rel_embedding"):
        layers = next(s[0] for p, s in shapes.items() if p.startswith(f"{stack}/layers/"))
        key = path.replace("/", f"/{stack}/", 1)
        return Source(path, shape, (key,), (shape[0], layers, shape[1]), False, True)
    return Source(path, shape, (path,), shape, False, False)


def layout_of(keys: Iterable[str], where: str) -> str:
    """Returns which layout these keys of `target` are of.

    Raises:
      UserError: of neither, the message shows some of the keys.
    """
    names = list(keys)
    if any(name.startswith(("encoder/encoder/", "decoder/decoder/")) for name in names):
        return SCANNED
    if any(name.startswith(("encoder/layers_", "decoder/layers_")) for name in names):
        return UNROLLED
    raise UserError(
        f"the parameters of {where} are not those of a T5 of T5X's",
        where=f"it has {_some(names)}",
        expected="names such as encoder/layers_0/... (network t5) or encoder/encoder/... "
        "(network scalable_t5)",
    )


def config_of(shapes: Mapping[str, Shape], layout: str, where: str) -> t5.T5Config:
    """Returns the model that the shapes of `target` are those of; nothing in it is a guess.

    The number of heads is that of the table of relative positions. An MLP with two inputs is taken
    to be gated by GELU, as all of T5's are, and distances are counted to 128, as T5X has it fixed.

    Raises:
      UserError: an array that every T5 has is missing, or its shape cannot be.
    """

    def shape_of(name: str, rank: int) -> Shape:
        shape = shapes.get(name)
        if shape is None or len(shape) != rank or 0 in shape:
            found = "missing" if shape is None else f"of the shape {list(shape)}"
            raise UserError(
                f"{name} is {found}",
                where=where,
                expected=f"the {layout} parameters of a T5; this one of {rank} dimensions",
            )
        return shape

    scanned = layout == SCANNED
    vocabulary, embed = shape_of(EMBEDDING, 2)
    tables = [
        shape_of(f"{stack}/{stack}/relpos_bias/rel_embedding", 3)
        if scanned
        else shape_of(f"{stack}/relpos_bias/rel_embedding", 2)
        for stack in ("encoder", "decoder")
    ]
    heads, buckets = tables[0][0], tables[0][-1]
    layers = [
        table[1] if scanned else _unrolled_layers(shapes, stack)
        for table, stack in zip(tables, ("encoder", "decoder"), strict=True)
    ]
    first = "encoder/encoder" if scanned else "encoder/layers_0"
    if scanned:
        head_dim = shape_of(f"{first}/attention/query/kernel", 4)[3]
    else:
        joined = shape_of(f"{first}/attention/query/kernel", 2)[1]
        head_dim, rest = divmod(joined, heads)
        if rest:
            raise UserError(
                f"attention has {joined} columns, which {heads} heads do not divide",
                where=where,
                expected="as many heads as the table of relative positions has rows",
            )
    gated = f"{first}/mlp/wi_0/kernel" in shapes
    wi = f"{first}/mlp/{'wi_0' if gated else 'wi'}/kernel"
    if max(layers) > _MAX_LAYERS:
        raise UserError(f"{where} says it has {max(layers)} layers", expected="a T5")
    return t5.T5Config(
        vocab_size=vocabulary,
        embed_dim=embed,
        num_heads=heads,
        head_dim=head_dim,
        mlp_dim=shape_of(wi, 3 if scanned else 2)[-1],
        num_encoder_layers=layers[0],
        num_decoder_layers=layers[1],
        mlp_activation="gated-gelu" if gated else "relu",
        tie_embeddings=LOGITS not in shapes,
        relative_buckets=buckets,
    )


def _unrolled_layers(shapes: Mapping[str, Shape], stack: str) -> int:
    matches = (_LAYER.search(name) for name in shapes if name.startswith(f"{stack}/layers_"))
    return 1 + max((int(match.group(1)) for match in matches if match), default=0)


def check_keys(
    there: Mapping[str, Any],
    wanted: Mapping[str, Shape],
    where: str,
    *,
    what: str = "parameters of the T5X checkpoint",
    fix: str = "use the model's gin file that the checkpoint was made with",
) -> None:
    """Raises UserError unless names and shapes are equal; what differs is listed, on both sides.

    Args:
      there: T5X's names to arrays, or anything else that has a shape.
      wanted: T5X's names to the shapes of the model wanted.
      where: the folder.
      what: what is compared, for the message.
      fix: what to do about it.
    """
    missing = [name for name in wanted if name not in there]
    unexpected = [name for name in there if name not in wanted]
    differing = [
        f"{name}: {list(there[name].shape)} in the checkpoint, {list(shape)} in the model"
        for name, shape in wanted.items()
        if name in there and tuple(there[name].shape) != tuple(shape)
    ]
    if not missing and not unexpected and not differing:
        return
    lines = [
        f"only in the checkpoint: {_some(unexpected)}",
        f"only in the model: {_some(missing)}",
        *differing[:_SHOWN],
        *([f"{len(differing) - _SHOWN} more of other shapes"] if len(differing) > _SHOWN else []),
    ]
    raise UserError(
        f"the {what} are not those of the model\n    " + "\n    ".join(lines),
        where=where,
        expected=f"{len(wanted)} arrays of the names and shapes of the model",
        fix=fix,
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more if names else "none"
