"""Time to compile the trainer's step at the depth of XXL, from shapes alone."""

from __future__ import annotations

import time

# T5 1.1 XXL, and the same depth at the width of a small model.
WIDTHS = {
    "XXL": {"embed_dim": 4096, "num_heads": 64, "mlp_dim": 10240},
    "small": {"embed_dim": 512, "num_heads": 6, "mlp_dim": 1024},
}
DEPTH, ROWS, LENGTHS = 24, 8, {"inputs": 1024, "targets": 256}


def seconds(width: str, depth: int = DEPTH) -> tuple[float, float]:
    """Returns the seconds that lowering and compiling take, on one CPU device in float32."""
    from flan_train import launch, train_step
    from flan_train.losses import LossConfig
    from flan_train.models import t5
    from flan_train.optimizers import OptimizerConfig
    from flan_train.sharding import ShardingConfig

    model = t5.T5Config(
        mlp_activation="gated-gelu",
        tie_embeddings=False,
        dropout_rate=0.05,
        num_encoder_layers=depth,
        num_decoder_layers=depth,
        **WIDTHS[width],
    )
    optimizer = OptimizerConfig()
    begun = time.perf_counter()
    partitioner = launch.make_partitioner(ShardingConfig(), ROWS, 1)
    step = train_step.make_train_step(model, optimizer, LossConfig(), partitioner)
    state = train_step.abstract_state(model, optimizer, partitioner)
    batch = train_step.abstract_batch(ROWS, LENGTHS, partitioner)
    lowered = step.lower(state, batch)
    between = time.perf_counter()
    lowered.compile()
    return between - begun, time.perf_counter() - between
