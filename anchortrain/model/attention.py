"""Rotary positions and attention in plain JAX: what kernels for accelerators (`model.kernels`) are tested against.

Shapes: B batch, L queries, S keys, H query heads, K key heads, G = H/K, C head dimension.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Finite, so that a fully masked (padding) row gives a uniform softmax instead of NaN.
MASKED = -1e30

# Queries are taken so many at a time, or more, each block with the keys up to its end: nearly half of a row's scores
# are never made. Smaller blocks save more of them but make small products.
QUERY_BLOCK = 112


def rotary(positions_BL: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Tables [B, L, 1, C], float32, of rotary embeddings (arXiv 2104.09864): cosines, and sines signed for `rotate`."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions_BL[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


@jax.custom_vjp
def rotate(x_BLHC: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Applies rotary tables, in float32; halves are paired as in Hugging Face's `rotate_half`.

    Halves change places before the cast, and in the gradient too (it is the rotation back): as float32 they would be
    the largest arrays of a layer's backward pass.
    """
    swapped = jnp.roll(x_BLHC, x_BLHC.shape[-1] // 2, axis=-1)
    return (x_BLHC.astype(jnp.float32) * cos + swapped.astype(jnp.float32) * sin).astype(x_BLHC.dtype)


def _rotate_forward(x_BLHC: jax.Array, cos: jax.Array, sin: jax.Array) -> tuple[jax.Array, tuple]:
    return rotate(x_BLHC, cos, sin), (cos, sin)


def _rotate_backward(tables: tuple[jax.Array, jax.Array], grad_BLHC: jax.Array) -> tuple[jax.Array, None, None]:
    cos, sin = tables
    return rotate(grad_BLHC, cos, -sin), None, None


rotate.defvjp(_rotate_forward, _rotate_backward)


def packed_mask(segment_ids_BL: jax.Array) -> jax.Array:
    """[B, L, L], true where a query may see a key: same segment and not later."""
    length = segment_ids_BL.shape[1]
    same = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    return same & jnp.tril(jnp.ones((length, length), bool))


def packed_reference(segment_ids_BL: jax.Array) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Causal attention within segments: (q [B, L, H, C], k, v [B, L, K, C]) -> [B, L, H, C]."""
    mask_BLL, length = packed_mask(segment_ids_BL), segment_ids_BL.shape[1]
    size = min((n for n in range(QUERY_BLOCK, length) if length % n == 0), default=length)

    def attend_blocks(q_BLHC: jax.Array, k_BLKC: jax.Array, v_BLKC: jax.Array) -> jax.Array:
        k_BKLC, v_BKLC = (jnp.swapaxes(x, 1, 2) for x in (k_BLKC, v_BLKC))
        blocks = []
        for start in range(0, length, size):
            end = start + size
            queries, keys = slice(start, end), slice(0, end)
            blocks.append(
                attend_cached(q_BLHC[:, queries], k_BKLC[:, :, keys], v_BKLC[:, :, keys], mask_BLL[:, queries, keys])
            )
        return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=1)

    return attend_blocks


def attend_cached(q_BLHC: jax.Array, k_BKSC: jax.Array, v_BKSC: jax.Array, mask_BLS: jax.Array) -> jax.Array:
    """Grouped-query attention with softmax in float32; returns [B, L, H, C].

    Keys and values come as the cache has them, heads before positions: every product is then a plain batched
    matrix product. XLA's CPU backend runs the backward pass 3x faster than that of the equivalent einsum.
    """
    B, L, H, C = q_BLHC.shape
    K, G = k_BKSC.shape[1], H // k_BKSC.shape[1]
    # The G query heads of one key head become more queries of it: [B, K, G*L, C].
    q = jnp.swapaxes(q_BLHC * C**-0.5, 1, 2).reshape(B, K, G * L, C)
    mask = mask_BLS[:, None] if G == 1 else jnp.tile(mask_BLS[:, None], (1, 1, G, 1))
    scores = jnp.matmul(q, jnp.swapaxes(k_BKSC, -1, -2), preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(v_BKSC.dtype)
    return jnp.swapaxes(jnp.matmul(weights, v_BKSC).reshape(B, H, L, C), 1, 2)
