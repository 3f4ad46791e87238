"""Floating-point operations of training, and what a device could do: for the share that is used (MFU)."""

from anchortrain.config import ModelConfig, padded_vocabulary

# bfloat16 operations a second of what jax calls one device, by the start of `device_kind`; the vendors' figures.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1153.5e12,  # half a chip
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def peak(device_kind: str) -> float | None:
    """Operations a second; None where it is not known, as for a CPU."""
    known = [name for name in PEAK if device_kind.startswith(name)]
    return PEAK[max(known, key=len)] if known else None


def matrix_parameters(config: ModelConfig, vocabulary_size: int) -> int:
    """Parameters that every token is multiplied by: matrices of the layers and the padded head, not the embedding."""
    head_dim = config.d_model // config.n_heads
    attention = 2 * config.d_model * (config.n_heads + config.n_kv_heads) * head_dim
    layer = attention + 3 * config.d_model * config.d_ff
    return config.n_layers * layer + config.d_model * padded_vocabulary(vocabulary_size)


def train_flops_per_token(config: ModelConfig, vocabulary_size: int, length: int) -> float:
    """Forward and backward of one token in a row of `length`; recomputation does not count, nor do additions.

    Two operations for each parameter, three times that with the backward pass; attention multiplies queries with, on
    average, half of the row's keys (as if the row were one document), and as many values.
    """
    attention = config.n_layers * config.d_model * length
    return 6.0 * (matrix_parameters(config, vocabulary_size) + attention)
