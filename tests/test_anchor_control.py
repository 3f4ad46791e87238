"""The controller of lambda: which way it turns, how far, and that it settles."""

import math

import jax
import jax.numpy as jnp
import pytest

from anchortrain.anchor_control import LIMIT, RATE, AnchorControl, adapted, initial
from anchortrain.config import LossConfig

CONFIG = LossConfig(anchor_weight=0.5, anchor_target=0.2)


def after(divergence: float, steps: int = 1, config: LossConfig = CONFIG, annotations: float = 4.0) -> AnchorControl:
    """The state after steps that all measured this divergence."""
    control, step = initial(config), jax.jit(adapted, static_argnums=3)
    for _ in range(steps):
        control = step(control, jnp.float32(divergence * annotations), jnp.float32(annotations), config)
    return control


def test_a_constant_lambda_has_no_state():
    assert initial(LossConfig(anchor_weight=0.5)) is None
    assert initial(CONFIG) == (0.5, 0.0)


def test_it_turns_towards_the_target_and_rests_there():
    weak, right, strong = (float(after(divergence, 40).weight) for divergence in (0.1, 0.2, 0.4))
    assert weak < right < strong
    assert float(after(0.2, 80).weight) == pytest.approx(float(after(0.2, 60).weight), rel=1e-4)
    assert float(after(0.2, 60).divergence) == pytest.approx(0.2, rel=1e-4)


def test_a_step_is_bounded_and_so_is_lambda():
    assert float(after(0.0).weight) == pytest.approx(0.5 * math.exp(-RATE))
    assert float(after(1e9).weight) == pytest.approx(0.5 * math.exp(RATE))
    assert float(after(0.0, 400).weight) == pytest.approx(0.5 / LIMIT)
    assert float(after(1e9, 400).weight) == pytest.approx(0.5 * LIMIT)


def test_a_batch_without_annotations_changes_nothing():
    assert after(0.0, 3, annotations=0.0) == initial(CONFIG)


@pytest.mark.parametrize("first", [0.02, 20.0])
def test_it_settles_where_the_divergence_follows_lambda(first):
    """A divergence that goes as 1 / (1 + 4 lambda) and lags behind by some steps: 0.2 at lambda = 1."""
    config = LossConfig(anchor_weight=first, anchor_target=0.2)
    control, step, divergence = initial(config), jax.jit(adapted, static_argnums=3), 0.0
    found = []
    for _ in range(300):
        divergence += 0.1 * (1 / (1 + 4 * float(control.weight)) - divergence)
        control = step(control, jnp.float32(divergence), jnp.float32(1.0), config)
        found.append(divergence)
    assert found[-100:] == pytest.approx([0.2] * 100, rel=0.2)
    assert float(control.weight) == pytest.approx(1.0, rel=0.2)
