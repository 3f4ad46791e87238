"""The model's ways of computing the same thing agree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain.config import MeshConfig, padded_vocabulary
from anchortrain.config_checks import CHOICES
from anchortrain.model import embedding, remat
from anchortrain.model.parameters import abstract_model, make_model, model_with, params_of
from anchortrain.model.transformer import LOGICAL_AXES
from anchortrain.sharding import make_mesh
from anchortrain.train_step import param_shardings
from tests.batches import TINY, VOCABULARY, random_batch, tiny_model


@functools.partial(jax.jit, static_argnums=0)
def compiled_hidden(abstract, params, *args) -> jax.Array:
    return model_with(abstract, params).hidden(*args)


def hidden_of(abstract, params, batch) -> jax.Array:
    return compiled_hidden(abstract, params, batch["inputs"], batch["positions"], batch["segment_ids"])


@pytest.mark.parametrize("policy", CHOICES["ModelConfig.remat"][1:])
def test_recomputing_layers_changes_nothing(policy, monkeypatch):
    monkeypatch.setattr(remat, "PIECE", 8)
    batch = random_batch(0, 3)
    found = []
    for name in ("none", policy):
        abstract, params = tiny_model(dataclasses.replace(TINY, remat=name))

        def total(params, abstract=abstract):
            hidden_BLD = hidden_of(abstract, params, batch)
            return jnp.sum(jnp.sin(hidden_BLD)), hidden_BLD

        found.append(jax.jit(jax.grad(total, has_aux=True))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), *found)


@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=1, fsdp=4), MeshConfig(data=2, fsdp=1, tensor=2), MeshConfig(data=2, fsdp=2, tensor=2)]
)
def test_pieces_on_a_mesh_have_the_same_gradient(mesh, monkeypatch):
    monkeypatch.setattr(remat, "PIECE", 8)
    batch = random_batch(0, 4)
    abstract, params = tiny_model(dataclasses.replace(TINY, remat="full"))

    def gradient():
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(hidden_of(abstract, p, batch)))))

    alone = gradient()(params)
    devices = make_mesh(mesh, jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor])
    with jax.set_mesh(devices):
        spread = gradient()(jax.device_put(params, param_shardings(devices, params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), alone, spread)


def test_grouped_queries_share_their_key_head():
    grouped = dataclasses.replace(TINY, n_kv_heads=2)
    abstract, params = tiny_model(grouped)
    full_abstract, _ = tiny_model(dataclasses.replace(TINY, n_kv_heads=4))
    C = TINY.d_model // TINY.n_heads
    # The norm of keys goes over all of them: repeating every head leaves their mean square as it is.
    repeated = dict(params["layers"])
    for name in ("key", "value", "key_norm"):
        weight = repeated[name]
        heads = weight.reshape(*weight.shape[:-1], 2, C)
        repeated[name] = jnp.repeat(heads, 2, axis=-2).reshape(*weight.shape[:-1], 4 * C)
    batch = random_batch(1, 3)
    full = hidden_of(full_abstract, params | {"layers": repeated}, batch)
    np.testing.assert_allclose(hidden_of(abstract, params, batch), full, rtol=0, atol=1e-5)


def test_bfloat16_is_finite_and_near():
    batch = random_batch(2, 3)
    abstract, params = tiny_model()
    half, _ = tiny_model(dataclasses.replace(TINY, compute_dtype="bfloat16"))

    def logits(abstract, params):
        hidden_BLD = hidden_of(abstract, params, batch)
        return hidden_BLD, model_with(abstract, params).logits(hidden_BLD)

    (hidden, logits16), (_, logits32) = logits(half, params), logits(abstract, params)
    assert hidden.dtype == jnp.bfloat16 and logits16.dtype == jnp.float32
    assert np.isfinite(logits16).all()
    spread = np.std(logits32)
    assert np.sqrt(np.mean((logits16 - logits32) ** 2)) < 0.05 * spread
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(logits(half, p)[1] ** 2)))(params)
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_token_sees_neither_later_ones_nor_other_segments():
    batch = random_batch(3, 3)
    abstract, params = tiny_model()
    before = np.asarray(hidden_of(abstract, params, batch))
    row, at = 1, int(np.flatnonzero(np.asarray(batch["segment_ids"][1]) == 1)[-2])  # within the first of two segments
    changed = batch | {"inputs": batch["inputs"].at[row, at].set(VOCABULARY - 1)}
    moved = np.abs(np.asarray(hidden_of(abstract, params, changed)) - before).max(axis=-1) > 0
    seen = np.zeros_like(moved)
    seen[row, at : at + 2] = True
    np.testing.assert_array_equal(moved, seen)


@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(data=1, fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=1, sequence=4, tensor=2)],
    ids=str,
)
@pytest.mark.parametrize("rows", [8, 3])  # 3 cannot be shared out
def test_the_lookup_is_indexing_on_every_mesh(mesh, rows):
    tokens = jax.random.randint(jax.random.key(0), (rows, 4), 0, 128)
    table = jax.random.normal(jax.random.key(1), (128, 16))

    def total(lookup):
        return jax.jit(jax.value_and_grad(lambda table: jnp.sum(jnp.cos(lookup(table)))))(table)

    expected = total(lambda table: table[tokens])
    with jax.set_mesh(make_mesh(mesh)):
        found = total(lambda table: embedding.lookup(table, tokens, "float32"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_every_parameter_has_logical_axes_of_its_rank():
    params = params_of(abstract_model(TINY, VOCABULARY))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert len(LOGICAL_AXES[path[-1].key]) == leaf.ndim
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)} == set(LOGICAL_AXES)


def test_initial_parameters_are_a_function_of_the_seed():
    init = jax.jit(lambda seed: params_of(make_model(TINY, VOCABULARY, seed)), static_argnums=0)
    one, other = init(1), init(2)
    assert not np.array_equal(one["head"], other["head"])
    layers = one["layers"]["query"]
    assert not np.array_equal(layers[0], layers[1])
    assert 0.015 < np.std(layers) < 0.025 and np.all(one["layers"]["query_norm"] == 1)


@pytest.mark.parametrize("size, padded", [(1, 128), (128, 128), (129, 256)])
def test_the_vocabulary_is_padded_to_a_multiple_of_128(size, padded):
    assert padded_vocabulary(size) == padded
