"""A step does not depend on how its rows are packed, split into microbatches, or spread over devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain.config import LossConfig, MeshConfig, OptimizerConfig
from anchortrain.loss import mean
from anchortrain.optimizer import make_optimizer
from anchortrain.sharding import make_mesh
from anchortrain.train_step import (
    batch_sharding,
    gradients,
    init_params,
    initial_state,
    make_drift_step,
    make_evaluate_step,
    make_train_step,
    param_shardings,
)
from tests.batches import TINY, VOCABULARY, example, packed, random_batch, tiny_model

ABSTRACT, PARAMS = tiny_model()
_, REFERENCE = tiny_model(seed=1)
CONFIG = LossConfig(anchor_weight=0.5, z_loss=0.01)
ADAPTED = dataclasses.replace(CONFIG, anchor_target=0.5)
MESHES = {
    "data=8": MeshConfig(data=8),
    "fsdp=8": MeshConfig(data=1, fsdp=8),
    "tensor=2 data=4": MeshConfig(data=4, tensor=2),
    "sequence=4 data=2": MeshConfig(data=2, sequence=4),
    "data=2 fsdp=2 tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
    "fsdp=2 sequence=2 tensor=2": MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
}


@functools.partial(jax.jit, static_argnums=1)
def compute(batch, accumulation=1):
    return gradients(ABSTRACT, PARAMS, REFERENCE, batch, CONFIG, accumulation)


def assert_same_gradients(found, expected) -> None:
    (grads, metrics), (expected_grads, expected_metrics) = found, expected
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, expected_grads)
    assert metrics.keys() == expected_metrics.keys()
    for name, term in metrics.items():
        assert term.weight == expected_metrics[name].weight
        np.testing.assert_allclose(term.sum, expected_metrics[name].sum, rtol=1e-5, atol=1e-5, err_msg=name)


def test_packed_equals_unpacked():
    rng = np.random.default_rng(0)
    some = [example(rng, annotated=i % 3 > 0) for i in range(8)]
    drawn = [example(rng, response=False) for _ in range(9)]

    def batch(rows, anchor_rows):
        return packed(rows, length=40) | {"anchor": packed(anchor_rows, length=40, objective="anchor")}

    tight = batch([some[i : i + 2] for i in range(0, 8, 2)], [drawn[:3], drawn[3:4], drawn[4:6], drawn[6:]])
    loose = batch([[one] for one in reversed(some)], [[one] for one in drawn])
    found = compute(tight)
    assert found[1]["loss/anchor_term"].weight == 9 and found[1]["loss/text_term"].sum > 0
    assert_same_gradients(found, compute(loose))


def uneven_batch() -> dict:
    """Eight rows and four of the anchor; what is trained on lies in some of them only."""
    batch = random_batch(1, 8, anchor_rows=4)
    batch["loss_weights"] = batch["loss_weights"].at[jnp.array([1, 5, 6])].set(0.0)  # microbatch 1 of 4 has nothing
    batch["anchor"]["segment_ids"] = batch["anchor"]["segment_ids"].at[2].set(0)
    batch["anchor"]["anchor_positions"] = batch["anchor"]["anchor_positions"].at[2].set(0.0)
    return batch


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_equals_the_whole_batch(accumulation):
    batch = uneven_batch()
    whole = compute(batch)
    assert whole[1]["loss/text_term"].weight == batch["loss_weights"].sum()
    assert_same_gradients(compute(batch, accumulation), whole)


def test_nothing_to_train_on_gives_zero_gradients():
    batch = packed([[], []], length=40) | {"anchor": packed([[]], length=40)}
    grads, metrics = compute(batch)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))
    assert all(term == (0, 0) for term in metrics.values())


@functools.cache
def three_steps(mesh: MeshConfig, devices: int, name: str = "adamw") -> tuple:
    """Parameters and metrics after three steps with accumulation and anchor, as numpy."""
    mesh = make_mesh(mesh, jax.devices()[:devices])
    optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=1e-2, warmup_share=0.0, eps=1e-6), steps=3)
    with jax.set_mesh(mesh):
        params, reference = (jax.device_put(tree, param_shardings(mesh, tree)) for tree in (PARAMS, REFERENCE))
        params = jax.tree.map(lambda x: x.copy(), params)  # the step donates them
        state = initial_state(params, optimizer, ADAPTED, mesh)
        step = make_train_step(mesh, ABSTRACT, optimizer, ADAPTED, accumulation=2)
        logged = []
        for i in range(3):
            batch = jax.device_put(random_batch(i, 16, anchor_rows=16), batch_sharding(mesh))
            state, metrics = step(state, reference, batch)
            logged.append({name: mean(term) for name, term in jax.device_get(metrics).items()})
        assert step._cache_size() == 1  # its output fits its input
        return jax.device_get(state.params), logged


@pytest.mark.parametrize("name, optimizer", [(name, "adamw") for name in MESHES] + [("data=2 fsdp=2 tensor=2", "muon")])
def test_one_device_equals_eight(name, optimizer):
    params, logged = three_steps(MESHES[name], 8, optimizer)
    expected_params, expected = three_steps(MeshConfig(), 1, optimizer)
    assert expected[2]["loss/text_term"] < expected[0]["loss/text_term"]
    for found, wanted in zip(logged, expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), params, expected_params)


def test_initial_parameters_are_the_same_on_every_mesh():
    one = init_params(TINY, VOCABULARY, 5, make_mesh(MeshConfig(), jax.devices()[:1]))
    for mesh in (MESHES["fsdp=8"], MESHES["data=2 fsdp=2 tensor=2"]):
        other = init_params(TINY, VOCABULARY, 5, make_mesh(mesh))
        jax.tree.map(np.testing.assert_array_equal, other, one)
    assert len(other["head"].sharding.device_set) == 8 and other["head"].addressable_shards[0].data.shape == (8, 64)


def test_evaluation_agrees_with_the_loss():
    batch = random_batch(2, 4, anchor_rows=4)
    grads, trained = gradients(ABSTRACT, PARAMS, REFERENCE, batch, LossConfig(anchor_weight=1.0))
    anchor = batch.pop("anchor")
    measured = make_evaluate_step(ABSTRACT)(PARAMS, batch)
    np.testing.assert_allclose(measured["loss"].sum, trained["loss/text_term"].sum, rtol=1e-5)
    np.testing.assert_allclose(measured["accuracy/text"], trained["accuracy/text"], rtol=1e-5)
    drift = make_drift_step(ABSTRACT)(PARAMS, REFERENCE, anchor)
    np.testing.assert_allclose(drift["kl"], trained["loss/anchor_term"], rtol=1e-5)
    mesh = make_mesh(MESHES["fsdp=2 sequence=2 tensor=2"])
    with jax.set_mesh(mesh):
        params, reference = (jax.device_put(tree, param_shardings(mesh, tree)) for tree in (PARAMS, REFERENCE))
        cut = make_drift_step(ABSTRACT)(params, reference, jax.device_put(anchor, batch_sharding(mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), cut, drift)
