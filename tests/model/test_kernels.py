"""Kernels agree with the plain reference on packed rows, forward and backward.

Shapes: B rows, L length, H query heads, K key heads, C head dimension.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain.config import MeshConfig, ModelConfig
from anchortrain.errors import UserError
from anchortrain.model import attention, kernels
from anchortrain.sharding import make_mesh

B, L, H, K, C = 2, 256, 4, 2, 32
CONFIG = ModelConfig(d_model=H * C, n_heads=H, n_kv_heads=K)
MESHES = [
    None,
    MeshConfig(data=2, tensor=2),
    MeshConfig(data=1, fsdp=2, sequence=2),
    MeshConfig(data=1, sequence=2, tensor=2),
]


def rows(length=L, batch=B):
    """(q, k, v, segment ids): one row of three segments and padding, one of a single segment."""
    shapes = [(batch, length, H, C), (batch, length, K, C), (batch, length, K, C)]
    q, k, v = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    ends = jnp.array([[length // 7, length // 2, length - 9], [length, length, length]])[jnp.arange(batch) % 2]
    segments = 1 + jnp.sum(jnp.arange(length)[None, :, None] >= ends[:, None, :], axis=-1)
    return q, k, v, jnp.where(segments > 3, 0, segments)


def run(config, mesh, q, k, v, segments):
    def total(q, k, v):
        out = kernels.packed_attention(config, segments)(q, k, v)
        return jnp.sum(jnp.sin(out) * (segments > 0)[..., None, None]), out

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    if mesh is None:
        return compiled(q, k, v)
    with jax.set_mesh(make_mesh(mesh, jax.devices()[:4])):
        return compiled(q, k, v)


def assert_close(found, expected, segments):
    grads, out = found
    expected_grads, expected_out = expected
    seen = np.asarray(segments > 0)[..., None, None]  # what padding attends to is nobody's business
    np.testing.assert_allclose(out * seen, expected_out * seen, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grads, expected_grads)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_splash_equals_the_reference(mesh):
    args = rows()
    expected = run(dataclasses.replace(CONFIG, attention="reference"), None, *args)
    assert_close(run(dataclasses.replace(CONFIG, attention="splash"), mesh, *args), expected, args[3])


@pytest.mark.parametrize("length", [512, 300])
def test_blocks_of_queries_equal_the_whole_row(length, monkeypatch):
    q, k, v, segments = rows(length)
    found = run(CONFIG, None, q, k, v, segments)
    monkeypatch.setattr(attention, "QUERY_BLOCK", length)
    assert_close(found, run(CONFIG, None, q, k, v, segments), segments)


@pytest.mark.parametrize(
    "config, length, what",
    [
        (ModelConfig(attention="splash"), 200, "multiple of 128 tokens, got 200; use 256"),
        (ModelConfig(attention="cudnn", compute_dtype="bfloat16"), 256, "needs a GPU and bfloat16, got cpu and bf"),
        (ModelConfig(attention="cudnn"), 256, "got cpu and float32"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused(config, length, what):
    with pytest.raises(UserError, match=what):
        kernels.choose(config, length)


def test_the_kernel_follows_the_devices():
    assert kernels.choose(ModelConfig(), 256) == "reference"
    assert kernels.choose(ModelConfig(attention="splash"), 256) == "splash"
