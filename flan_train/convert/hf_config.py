"""config.json of a Hugging Face T5, to and from T5Config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flan_train.convert.hf_header import shown
from flan_train.errors import UserError
from flan_train.models.config import MLP_ACTIVATIONS, T5Config

# Their key and our field, required in every config.json.
_REQUIRED = {
    "vocab_size": "vocab_size",
    "d_model": "embed_dim",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_heads": "num_heads",
    "num_layers": "num_encoder_layers",
}
# Their key, our field, and what its absence means to transformers.
_OPTIONAL: dict[str, tuple[str, Any]] = {
    "relative_attention_num_buckets": ("relative_buckets", 32),
    "relative_attention_max_distance": ("relative_max_distance", 128),
    "layer_norm_epsilon": ("norm_epsilon", 1e-6),
    "dropout_rate": ("dropout_rate", 0.1),
}
_MODEL_TYPES = ("t5", "mt5")
_ACTIVATIONS = {"gated-gelu": "gelu_new", "relu": "relu"}  # what dense_act_fn says beside them


def config_from_hf(config: Mapping[str, Any], *, where: str) -> T5Config:
    """Returns the T5Config of a parsed config.json.

    transformers before 5 says by `tie_word_embeddings` whether the output is tied and scaled; from
    5 on that key is always true, and `scale_decoder_outputs` says it. An mT5 is a T5 1.1 to us; its
    output is never scaled and has its own weights, whatever those keys say.

    Args:
      config: the parsed file.
      where: its path, for messages.

    Raises:
      UserError: another kind of model, a key that is missing, or a value that no T5 here has.
    """
    kind = config.get("model_type")
    if kind not in _MODEL_TYPES:
        raise UserError(
            f"the model is of type {shown(repr(kind))}",
            where=f"{where}, key 'model_type'",
            expected="'t5' (T5, T5 1.1, Flan-T5) or 'mt5'",
        )
    missing = sorted(key for key in _REQUIRED if config.get(key) is None)
    if missing:
        raise UserError(
            f"config.json lacks {', '.join(missing)}", where=where, expected="a complete T5 config"
        )
    activation = config.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
    if activation not in MLP_ACTIVATIONS:
        raise _value(
            "feed_forward_proj", activation, " or ".join(map(repr, MLP_ACTIVATIONS)), where
        )
    for key, implied in (
        ("is_gated_act", activation.startswith("gated-")),
        ("dense_act_fn", _ACTIVATIONS[activation]),
    ):
        if config.get(key, implied) != implied:
            expected = f"{implied!r}, which goes with feed_forward_proj {activation!r}"
            raise _value(key, config[key], expected, where)
    fields = {ours: config[theirs] for theirs, ours in _REQUIRED.items()}
    fields |= {ours: config.get(theirs, absent) for theirs, (ours, absent) in _OPTIONAL.items()}
    buckets, epsilon = fields["relative_buckets"], fields["norm_epsilon"]
    if type(buckets) is not int:
        raise _value("relative_attention_num_buckets", buckets, "a whole number", where)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise _value("layer_norm_epsilon", epsilon, "a number between 0 and 1", where)
    layers = config.get("num_decoder_layers")
    fields["num_decoder_layers"] = fields["num_encoder_layers"] if layers is None else layers
    tied = config.get("tie_word_embeddings") is not False
    fields["tie_embeddings"] = kind == "t5" and config.get("scale_decoder_outputs", tied)
    try:
        return T5Config(mlp_activation=activation, **fields)
    except UserError as error:
        raise UserError(shown(error.what), where=where, expected=error.expected) from error


def config_to_hf(config: T5Config) -> dict[str, Any]:
    """Returns a config.json that transformers, any version with T5, reads as this model."""
    theirs: dict[str, Any] = {key: getattr(config, ours) for key, ours in _REQUIRED.items()}
    theirs |= {key: getattr(config, ours) for key, (ours, _) in _OPTIONAL.items()}
    return theirs | {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": config.mlp_activation,
        "dense_act_fn": _ACTIVATIONS[config.mlp_activation],
        "is_gated_act": config.gated,
        "tie_word_embeddings": config.tie_embeddings,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def generation_config() -> dict[str, Any]:
    """Returns a generation_config.json: the ids that decoding begins, ends and pads with."""
    return {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Returns a config.json that says the data type of the weights, such as "bfloat16"."""
    others = {key: value for key, value in config.items() if key != "dtype"}
    return others | {"torch_dtype": dtype}  # under this name every version of transformers reads it


def _value(key: str, value: object, expected: str, where: str) -> UserError:
    return UserError(
        f"{key} is {shown(repr(value))}, which is not supported",
        where=f"{where}, key '{key}'",
        expected=expected,
    )
