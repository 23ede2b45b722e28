"""Compiles the fused attention for TPUs that are not there; prints one line of JSON for each.

Run as `python -m tests.models.compiled_for_tpu` where libtpu is installed. A layer of an encoder
and one of a decoder, split over the rows of the batch and the heads of four chips, with their
gradients, under a policy that keeps the results of the attention and nothing else.
"""

from __future__ import annotations

import json
import os
import re
from functools import partial

os.environ |= {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flan_train.models.config import FUSED_RESULTS
from flan_train.models.fused_attention import fused_attention

CHIPS = {
    "v4": {"topology_name": "v4:2x2x1", "chip_config_name": "megacore"},
    "v5e": {"topology_name": "v5e:2x2"},
    "v5p": {"topology_name": "v5p:2x2x1"},
    "v6e": {"topology_name": "v6e:2x2"},
}
BATCH, HEADS, LQ, LK = 4, 8, 256, 512
JOINED = P("rows", None, "heads")
ROWS = P("rows", None)
SCALE = P("rows", "heads", None)


def _attention(mesh: Mesh, causal: bool, *operands: Array | None) -> Array:
    present = [x is not None for x in operands]
    specs = (JOINED, JOINED, JOINED, ROWS, ROWS, P("heads", None), SCALE)

    def local(*given: Array | None) -> Array:
        return fused_attention(
            *given[:6],
            value_scale=given[6],
            heads=HEADS // 2,
            causal=causal,
            bidirectional=not causal,
            max_distance=128,
        )

    split = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=tuple(spec if there else None for spec, there in zip(specs, present, strict=True)),
        out_specs=JOINED,
        check_vma=False,
    )
    return split(*operands)


def compile_for(chip: str) -> dict[str, object]:
    """Returns the kernels of the compiled gradient, and what XLA says of their work."""
    devices = topologies.get_topology_desc(platform="tpu", **CHIPS[chip]).devices
    mesh = Mesh(np.array(devices).reshape(2, 2), ("rows", "heads"))

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(*FUSED_RESULTS))
    def loss(
        encoder: Array, decoder: Array, tables: Array, scale: Array, e_seg: Array, d_seg: Array
    ) -> Array:
        attend = partial(_attention, mesh)
        x = attend(False, encoder, encoder, encoder, e_seg, e_seg, tables[0], scale)
        y = attend(True, decoder, decoder, decoder, d_seg, d_seg, tables[1], None)
        return jnp.sum(attend(False, y, x, x, d_seg, e_seg, None, scale).astype(jnp.float32))

    def shape(sizes: tuple[int, ...], dtype: jnp.dtype, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, spec))

    compiled = (
        jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        .lower(
            shape((BATCH, LK, HEADS * 64), jnp.dtype(jnp.bfloat16), JOINED),
            shape((BATCH, LQ, HEADS * 64), jnp.dtype(jnp.bfloat16), JOINED),
            shape((2, HEADS, 32), jnp.dtype(jnp.float32), P(None, "heads", None)),
            shape((BATCH, HEADS, LK), jnp.dtype(jnp.float32), SCALE),
            shape((BATCH, LK), jnp.dtype(jnp.int32), ROWS),
            shape((BATCH, LQ), jnp.dtype(jnp.int32), ROWS),
        )
        .compile()
    )
    calls = re.findall(
        r"= .* custom-call\(.*tpu_custom_call.*fused_attention_(\w+?ward)", compiled.as_text()
    )
    cost = compiled.cost_analysis()
    return {
        "chip": chip,
        "forward": calls.count("forward"),
        "backward": calls.count("backward"),
        "flops": cost["flops"],
        "exponentials": cost["transcendentals"],
    }


if __name__ == "__main__":
    for name in CHIPS:
        print(json.dumps(compile_for(name)), flush=True)
