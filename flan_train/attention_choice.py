"""Which way attention is computed on a mesh, and whether the one asked for can be."""

from __future__ import annotations

from flan_train import errors, sharding
from flan_train.models.attention import fused_obstacle
from flan_train.models.t5 import T5Config


def checked(model: T5Config, lengths: tuple[int, int], partitioner: sharding.Partitioner) -> str:
    """Returns in words how attention is computed, one clause for each of its three kinds.

    Raises:
      UserError: ATTENTION = "fused" asks for a kernel that does not apply.
    """
    inputs, targets = lengths
    obstacles = {
        name: fused_obstacle(model, queries, keys, partitioner.constrain)
        for name, queries, keys in (
            ("encoder", inputs, inputs),
            ("decoder", targets, targets),
            ("cross", targets, inputs),
        )
    }
    for name, obstacle in obstacles.items():
        if model.attention == "fused" and obstacle:
            raise errors.UserError(
                f"the fused attention does not apply to the {name} attention: {obstacle}",
                where="ATTENTION, TASK_FEATURE_LENGTHS, NUM_PARTITIONS",
                expected="heads of 64, an even number of them on a device, lengths that are "
                "multiples of 128",
                fix='set ATTENTION = "auto": the kernel where it applies, else the plain product',
            )
    if len(set(obstacles.values())) == 1:
        obstacle = obstacles["encoder"]
        return f"plain ({obstacle})" if obstacle else "fused"
    return "; ".join(
        f"{name} plain ({obstacle})" if obstacle else f"{name} fused"
        for name, obstacle in obstacles.items()
    )
