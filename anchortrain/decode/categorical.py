"""Drawing one token a row from logits.

One uniform number a row and the inverse of the cumulative distribution: as exact as Gumbel noise for every
token, at a fraction of the random numbers. The sums are taken in two levels, over blocks and within one.

Shapes: B batch, V vocabulary, J blocks of K tokens.
"""

import jax
import jax.numpy as jnp

_BLOCK = 64
# Just below 1, so that rounding never carries a draw past the last token of its block.
_BELOW_ONE = 1 - 2**-22


def draw(
    logits_BV: jax.Array, allowed_BV: jax.Array, temperature_B: jax.Array, uniform_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws from softmax(logits / temperature) over the allowed tokens.

    Args:
      logits_BV: float32.
      allowed_BV: bool; other tokens have probability 0 and are never drawn.
      temperature_B: float32; 0 takes the likeliest token (the first of equals).
      uniform_B: float32 in [0, 1), the only randomness.

    Returns:
      Tokens int32 [B], and their log-probability float32 [B] in the distribution drawn from; at temperature 0
      that is the one of temperature 1. Both are meaningless in rows without an allowed token.
    """
    B, V = logits_BV.shape
    greedy_B = temperature_B == 0
    scale_B = jnp.where(greedy_B, 1.0, temperature_B)
    scaled_BV = jnp.where(allowed_BV, logits_BV / scale_B[:, None], -jnp.inf)
    peak_B = jnp.max(scaled_BV, axis=1)
    weights_BV = jnp.pad(jnp.exp(scaled_BV - peak_B[:, None]), ((0, 0), (0, -V % _BLOCK)))
    weights_BJK = weights_BV.reshape(B, -1, _BLOCK)
    ends_BJ = jnp.cumsum(jnp.sum(weights_BJK, axis=2), axis=1)
    total_B = ends_BJ[:, -1]
    drawn_B = _invert(weights_BJK, ends_BJ, uniform_B * total_B)
    tokens_B = jax.lax.cond(
        jnp.any(greedy_B),
        lambda: jnp.where(greedy_B, jnp.argmax(scaled_BV, axis=1).astype(jnp.int32), drawn_B),
        lambda: drawn_B,
    )
    picked_B = jnp.take_along_axis(scaled_BV, tokens_B[:, None], axis=1)[:, 0]
    return tokens_B, picked_B - peak_B - jnp.log(total_B)


def _invert(weights_BJK: jax.Array, ends_BJ: jax.Array, threshold_B: jax.Array) -> jax.Array:
    """The first token [B] at which the running sum of the weights exceeds the threshold."""
    block_B = jnp.sum(ends_BJ <= threshold_B[:, None], axis=1)
    block_B = jnp.minimum(block_B, ends_BJ.shape[1] - 1)
    inside_BK = jnp.take_along_axis(weights_BJK, block_B[:, None, None], axis=1)[:, 0]
    starts_BJ = jnp.pad(ends_BJ[:, :-1], ((0, 0), (1, 0)))
    start_B = jnp.take_along_axis(starts_BJ, block_B[:, None], axis=1)[:, 0]
    running_BK = jnp.cumsum(inside_BK, axis=1)
    rest_B = jnp.clip(threshold_B - start_B, 0, running_BK[:, -1] * _BELOW_ONE)
    within_B = jnp.sum(running_BK <= rest_B[:, None], axis=1)
    return (block_B * _BLOCK + within_B).astype(jnp.int32)
