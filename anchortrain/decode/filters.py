"""Which of the permitted tokens may be drawn: top-k, top-p, min-p; and the penalty on repetition.

They apply one after the other, as Hugging Face's `generate` has them: repetition penalty (arXiv 1909.05858) on the
logits, temperature, the `k` likeliest, the fewest likeliest with probability `p` (arXiv 1904.09751) among those, and
those with at least `min_p` of the likeliest's probability (arXiv 2407.01082). Tokens that tie with the last one that
is kept are kept, too, so nothing depends on their order.

No row is sorted: the smallest logit that is kept is found bit by bit, with 32 sums over the vocabulary.

Shapes: B batch, V vocabulary. Pairs [B, 2] are (annotation, text).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Filters(NamedTuple):
    """Of each row, by stage."""

    top_k_B2: jax.Array  # int32; 0 keeps all
    top_p_B2: jax.Array  # float32 in (0, 1]; 1 keeps all
    min_p_B2: jax.Array  # float32 in [0, 1]; 0 keeps all
    repetition_penalty_B2: jax.Array  # float32 above 0; 1 changes nothing

    def of_stage(self, in_text_B: jax.Array) -> "Filters":
        """The same with [B] for each: those of the stage that a row is in."""
        return Filters(*(jnp.where(in_text_B, pair[:, 1], pair[:, 0]) for pair in self))


def penalised(logits_BV: jax.Array, seen_BV: jax.Array, penalty_B: jax.Array) -> jax.Array:
    """Logits with those of tokens that prompt or sample hold already divided by the penalty, or multiplied with it
    where they are negative."""
    penalty_B1 = penalty_B[:, None]
    changed_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, changed_BV, logits_BV)


def kept(logits_BV: jax.Array, allowed_BV: jax.Array, temperature_B: jax.Array, filters: Filters) -> jax.Array:
    """bool [B, V]: those of the allowed tokens that all filters keep; at least the likeliest.

    Args:
      logits_BV: float32, before the temperature.
      temperature_B: where it is 0 only the likeliest is drawn anyway, and it is taken for 1.
      filters: [B] each, see `Filters.of_stage`.
    """
    scale_B1 = jnp.where(temperature_B == 0, 1.0, temperature_B)[:, None]
    scaled_BV = jnp.where(allowed_BV, logits_BV / scale_B1, -jnp.inf)
    peak_B1 = jnp.max(scaled_BV, axis=1, keepdims=True)
    weights_BV = jnp.exp(scaled_BV - peak_B1)
    order_BV = _ordered(scaled_BV)

    size_B = jnp.where(filters.top_k_B2 > 0, filters.top_k_B2, logits_BV.shape[1])
    likeliest_BV = order_BV >= _last(order_BV, lambda these_BV: jnp.sum(these_BV, axis=1) >= size_B)[:, None]
    weights_BV = jnp.where(likeliest_BV, weights_BV, 0.0)

    def enough(these_BV: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(these_BV, weights_BV, 0.0), axis=1) >= filters.top_p_B2 * total_B

    total_B = jnp.sum(weights_BV, axis=1)
    # All of it is never asked for by sums, which round.
    last_B = jnp.where(filters.top_p_B2 < 1, _last(order_BV, enough), 0)
    nucleus_BV = order_BV >= last_B[:, None]
    return allowed_BV & likeliest_BV & nucleus_BV & (weights_BV >= filters.min_p_B2[:, None])


def _ordered(x: jax.Array) -> jax.Array:
    """uint32 in the order of the float32 `x`."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _last(order_BV: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The largest uint32 [B] for which `enough` (bool [B]) holds of the tokens from it on; 0 where it holds for none.

    `enough` must hold for more tokens where it holds for fewer."""

    def bit(i: jax.Array, found_B: jax.Array) -> jax.Array:
        tried_B = found_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(enough(order_BV >= tried_B[:, None]), tried_B, found_B)

    return jax.lax.fori_loop(0, 32, bit, jnp.zeros(order_BV.shape[0], jnp.uint32))
