"""The operations of a step, counted against the model's parameters."""

import jax
import pytest

from anchortrain.config import ModelConfig
from anchortrain.flops import peak, train_flops_per_token
from anchortrain.model.parameters import make_model, params_of

CONFIG = ModelConfig(d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=128)


def test_weights_of_matrix_products_are_counted_six_times():
    shapes = params_of(jax.eval_shape(lambda: make_model(CONFIG, 256, 0)))
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    weights = sum(size for name, size in sizes.items() if "norm" not in name and "embed" not in name)
    assert train_flops_per_token(CONFIG, 256, 0) == 6 * weights


def test_a_longer_row_costs_more_attention():
    without, with_ = (train_flops_per_token(CONFIG, 256, length) for length in (0, 128))
    assert with_ - without == 6 * 2 * 64 * 128


@pytest.mark.parametrize(
    "kind, expected",
    [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("TPU v6 lite", 918e12), ("NVIDIA H200", 989e12), ("cpu", None)],
)
def test_the_peak_of_a_device(kind, expected):
    assert peak(kind) == expected
