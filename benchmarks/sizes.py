"""The sizes that the step benchmark measures: models and batches."""

import dataclasses
from typing import NamedTuple

from anchortrain.config import ModelConfig, padded_vocabulary
from anchortrain.flops import matrix_parameters, train_flops_per_token


class Size(NamedTuple):
    """A model and the shape of its batches."""

    model: ModelConfig
    vocabulary: int  # of the tokenizer; the tables are padded beyond it
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.rows * self.length

    @property
    def parameters(self) -> int:
        """All but the norms."""
        return matrix_parameters(self.model, self.vocabulary) + self.model.d_model * padded_vocabulary(self.vocabulary)

    @property
    def flops(self) -> float:
        """Of one step, forward and backward."""
        return self.tokens * train_flops_per_token(self.model, self.vocabulary, self.length)


def _model(d_model: int, n_layers: int, n_heads: int, d_ff: int) -> ModelConfig:
    return dataclasses.replace(
        ModelConfig(), d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_heads, d_ff=d_ff
    )


SIZES = {
    "tiny": Size(_model(32, 1, 2, 64), vocabulary=128, rows=2, length=32),  # for tests: says nothing about speed
    "quickstart": Size(_model(64, 3, 2, 192), vocabulary=1108, rows=5, length=224),
    "9m": Size(_model(256, 6, 4, 1024), vocabulary=8192, rows=8, length=512),
    "40m": Size(_model(512, 8, 8, 2048), vocabulary=16384, rows=4, length=1024),
}
