"""The sizes that the step benchmark measures: models and batches."""

import dataclasses
from typing import NamedTuple

from anchortrain.config import ModelConfig
from anchortrain.model.parameters import padded_vocabulary


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
    def matrix_parameters(self) -> int:
        """Those that act in matrix products: layers and head, neither embedding nor norms."""
        m = self.model
        heads = (2 * m.n_heads + 2 * m.n_kv_heads) * (m.d_model // m.n_heads)
        return m.n_layers * m.d_model * (heads + 3 * m.d_ff) + m.d_model * padded_vocabulary(self.vocabulary)

    @property
    def parameters(self) -> int:
        """All but the norms."""
        return self.matrix_parameters + self.model.d_model * padded_vocabulary(self.vocabulary)

    @property
    def flops(self) -> int:
        """Of one step, forward and backward: 6 a parameter and token, and the causal half of attention's products."""
        attention = 6 * self.model.n_layers * self.length * self.model.d_model
        return self.tokens * (6 * self.matrix_parameters + attention)


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
