"""Schedules at their corners, and what is decayed, clipped and orthogonalised."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anchortrain.config import OptimizerConfig
from anchortrain.optimizer import make_optimizer, make_schedule
from tests.batches import tiny_model

PARAMS = tiny_model()[1]
MATRICES = {"query", "key", "value", "output", "gate", "up", "down"}


def config(**fields) -> OptimizerConfig:
    return OptimizerConfig(**({"learning_rate": 1.0, "warmup_share": 0.1, "clip_norm": 1e9} | fields))


def rates(steps: int, **fields) -> list[float]:
    schedule = make_schedule(config(**fields), steps)
    return [float(schedule(step)) for step in range(steps + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warm_up_is_linear_from_zero_to_the_peak(schedule):
    assert rates(100, schedule=schedule)[:11] == pytest.approx([i / 10 for i in range(11)], abs=1e-6)


def test_cosine_ends_at_the_final_share():
    found = rates(110, schedule="cosine", final_share=0.1, warmup_share=10 / 110)
    assert found[60] == pytest.approx(0.55) and found[110] == pytest.approx(0.1)
    assert found[10:] == sorted(found[10:], reverse=True)


def test_wsd_is_constant_and_then_linear():
    found = rates(100, schedule="wsd", decay_share=0.2, final_share=0.0)
    assert found[10:81] == [1.0] * 71
    assert found[80:] == pytest.approx([1 - i / 20 for i in range(21)], abs=1e-6)


def test_constant_stays():
    assert rates(100, schedule="constant")[10:] == [1.0] * 91


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup_share, decay_share", [(0.0, 0.0), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_short_runs_have_a_schedule(schedule, steps, warmup_share, decay_share):
    found = rates(steps, schedule=schedule, warmup_share=warmup_share, decay_share=decay_share)
    assert np.isfinite(found).all() and all(0 <= rate <= 1 for rate in found)


def updates(gradients, optimizer_config: OptimizerConfig, params=PARAMS):
    """Those of the second step: the first one's learning rate is 0."""
    optimizer = make_optimizer(optimizer_config, steps=100)

    @jax.jit
    def run(params, gradients):
        state = optimizer.init(params)
        _, state = optimizer.update(jax.tree.map(jnp.zeros_like, gradients), state, params)
        return optimizer.update(gradients, state, params)[0]

    return run(params, gradients)


def by_name(tree) -> dict[str, jax.Array]:
    return {path[-1].key: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("name, expected", [("adamw", MATRICES | {"head"}), ("muon", MATRICES)])
def test_what_is_decayed(name, expected):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    found = by_name(updates(zeros, config(name=name, weight_decay=0.5)))
    assert {name for name, update in found.items() if update.any()} == expected
    # The rate of the second step is 1/10 of the peak.
    for name in expected:
        np.testing.assert_allclose(found[name], -0.1 * 0.5 * by_name(PARAMS)[name], rtol=1e-5)


def test_clipping_is_by_the_norm_of_all_gradients():
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), PARAMS)
    clip, norm = make_optimizer(config(clip_norm=2.0), 100), float(optax.tree.norm(gradients))
    assert norm > 10
    state = clip.init(PARAMS)
    _, state = clip.update(gradients, state, PARAMS)
    # Adam's first moment is (1 - beta1) times the clipped gradient.
    moment = next(
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if ".mu['head']" in jax.tree_util.keystr(path)
    )
    np.testing.assert_allclose(moment, 0.1 * 2.0 / norm * gradients["head"], rtol=1e-4)


def test_muon_orthogonalises_each_layer_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(1)
    gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), PARAMS)
    found = by_name(updates(gradients, config(name="muon", weight_decay=0.0)))
    adam = by_name(updates(gradients, config(name="adamw", beta1=0.9, weight_decay=0.0)))
    for name, update in found.items():
        if name in MATRICES:
            assert update.ndim == 3
            values = np.linalg.svd(np.asarray(update), compute_uv=False)
            # All singular values are about equal: 0.1 (the rate) x 0.2 x sqrt(of the larger side).
            ideal = 0.1 * 0.2 * np.sqrt(max(update.shape[1:]))
            assert (values > 0.5 * ideal).all() and (values < 1.5 * ideal).all(), name
        else:
            assert (
                np.sign(update[np.abs(update) > 1e-6]).tolist() == np.sign(adam[name][np.abs(update) > 1e-6]).tolist()
            )
    assert not np.allclose(found["query"], adam["query"], rtol=0.5)
