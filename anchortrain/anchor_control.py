"""Lambda, adapted at each step so that the anchor's divergence stays near `LossConfig.anchor_target`.

A multiplicative controller, as PPO's adaptive KL coefficient (Ziegler et al., arXiv 1909.08593, section 2.2) but with
each batch's divergence smoothed first:

    d      <- SMOOTHING d + (1 - SMOOTHING) measured
    lambda <- lambda exp(RATE clip(d / target - 1, -1, 1))

Training that starts at the reference starts at divergence 0, so lambda first falls, by at most RATE a step, until the
model has moved. It stays within a factor of LIMIT of its first value, `LossConfig.anchor_weight`: a target that cannot
be reached, however weak or strong the anchor, must not let lambda run away.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anchortrain.config import LossConfig

SMOOTHING = 0.8
RATE = 0.05
LIMIT = 1000.0


class AnchorControl(NamedTuple):
    """The controller's state, float32 scalars: part of the train state, so that a run resumes exactly."""

    weight: jax.Array  # lambda of the next step
    divergence: jax.Array  # smoothed, nats per annotation


def initial(config: LossConfig) -> AnchorControl | None:
    """Before the first step; None where lambda is constant."""
    if not config.anchor_target:
        return None
    return AnchorControl(jnp.float32(config.anchor_weight), jnp.float32(0.0))


def adapted(control: AnchorControl, total: jax.Array, annotations: jax.Array, config: LossConfig) -> AnchorControl:
    """After a step whose anchor rows had this `total` divergence; unchanged where they held no annotations."""
    divergence = SMOOTHING * control.divergence + (1 - SMOOTHING) * total / jnp.maximum(annotations, 1.0)
    error = jnp.clip(divergence / config.anchor_target - 1.0, -1.0, 1.0)
    first = config.anchor_weight
    weight = jnp.clip(control.weight * jnp.exp(RATE * error), first / LIMIT, first * LIMIT)
    return jax.tree.map(
        lambda new, old: jnp.where(annotations > 0, new, old), AnchorControl(weight, divergence), control
    )
