"""Functions of next-token distributions whose logits are never made whole, forward or backward.

`weighted_sum(functional, …)` is sum_t w_t f(z_t) with logits z = hidden @ head, for f a cross-entropy or a divergence
(`functional.Functional`). f is known from a few sums over the vocabulary, so logits are made a chunk at a time:

    head whole on the device  chunks of tokens; the gradient is made in the same pass (weights are known beforehand),
                              three matrix products in place of four
    head cut over a mesh      chunks of the vocabulary, each gathered over `fsdp` where it is used and its gradient
                              reduced and cut at once: neither head nor its gradient is ever whole on a device

An array of logits has at most LOGIT_ELEMENTS numbers, whatever length x vocabulary is (but at least one token's, or 128
columns).

Shapes: B rows, L length, T = B L tokens, D width, V vocabulary, C columns of a chunk; `_` marks a device's share.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from anchortrain.functional import Functional, Statistics
from anchortrain.sharding import LANES, current_mesh, spec

LOGIT_ELEMENTS = 1 << 24

_NEVER = -1e30  # the logit of a column that does not count
_TOKENS = ("batch", "length")
_HIDDEN = (*_TOKENS, None)
_HEAD = ("embed", "vocab")


def weighted_sum(
    functional: Functional, hiddens: list[jax.Array], heads: list[jax.Array], data: Any, weights_BL: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The sum over tokens of weight times value, and each token's metrics.

    Args:
      functional: what to compute.
      hiddens: hidden states [B, L, D] of each source, in the compute type.
      heads: [D, V] of each source, float32.
      data: tree of arrays [B, L, …] that the functional needs.
      weights_BL: float32.

    Returns:
      A float32 scalar, differentiable by `hiddens[0]` and `heads[0]` alone, and arrays [B, L] without gradient.
    """
    return _weighted_sum(functional, hiddens[0], heads[0], (hiddens[1:], heads[1:], data, weights_BL))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sum(functional: Functional, hidden: jax.Array, head: jax.Array, rest: tuple) -> tuple:
    others, other_heads, data, weights_BL = rest
    compute = _by_tokens if _head_is_whole() else _by_columns
    _, value, metrics = compute(functional, [hidden, *others], [head, *other_heads], data)
    return jnp.sum(weights_BL * value), metrics


def _forward(functional: Functional, hidden: jax.Array, head: jax.Array, rest: tuple) -> tuple:
    others, other_heads, data, weights_BL = rest
    sources = [hidden, *others], [head, *other_heads]
    if _head_is_whole():
        grads, value, metrics = _by_tokens(functional, *sources, data, weights_BL)
        return (jnp.sum(weights_BL * value), metrics), grads
    statistics, value, metrics = _by_columns(functional, *sources, data)
    return (jnp.sum(weights_BL * value), metrics), (*sources, data, statistics, weights_BL)


def _backward(functional: Functional, saved: tuple, cotangents: tuple) -> tuple:
    cotangent = cotangents[0]
    if _head_is_whole():
        return *(cotangent.astype(grad.dtype) * grad for grad in saved), None
    hiddens, heads, data, statistics, weights_BL = saved
    return *_gradients_by_columns(functional, hiddens, heads, data, statistics, cotangent * weights_BL), None


_weighted_sum.defvjp(_forward, _backward)


def _head_is_whole() -> bool:
    mesh = current_mesh()
    return mesh is None or mesh.shape["fsdp"] * mesh.shape["tensor"] == 1


# -- a whole head: chunks of tokens ------------------------------------------------------------------


def _by_tokens(
    functional: Functional, hiddens: list[jax.Array], heads: list[jax.Array], data: Any, weights_BL: Any = None
) -> tuple[tuple, jax.Array, dict[str, jax.Array]]:
    """((gradient by hidden, gradient by head), value [B, L], metrics [B, L]); without weights no gradients."""

    def local(hiddens: list[jax.Array], heads: list[jax.Array], data: Any, weights: Any) -> tuple:
        shape, dtype = hiddens[0].shape[:2], hiddens[0].dtype
        heads = [head.astype(dtype) for head in heads]
        tokens, chunk = math.prod(shape), _chunk_of_tokens(math.prod(shape), heads[0].shape[1])
        args = jax.tree.map(lambda x: x.reshape(tokens // chunk, chunk, *x.shape[2:]), (hiddens, data, weights))

        def body(grad_head: jax.Array, args: tuple) -> tuple:
            hiddens, data, weights = args
            columns_C = jnp.arange(heads[0].shape[1])
            logits = [_logits(h, head) for h, head in zip(hiddens, heads, strict=True)]
            statistics = _finish(functional, _sums(functional, logits, columns_C, data))
            statistics = statistics._replace(second=functional.second(logits, columns_C, statistics.lse, data))
            value, metrics = functional.value(statistics, data)
            if weights is None:
                return grad_head, ((), value, metrics)
            slope = functional.gradient(logits, columns_C, statistics, data) * weights[:, None]
            grad_hidden, more = _products(slope, hiddens[0], heads[0])
            return grad_head + more, (grad_hidden.astype(dtype), value, metrics)

        zero = jnp.zeros(() if weights is None else heads[0].shape, jnp.float32)
        if tokens == chunk:
            grad_head, out = body(zero, jax.tree.map(lambda x: x[0], args))
        else:
            grad_head, out = jax.lax.scan(body, zero, args)
        grad_hidden, value, metrics = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1 + (tokens > chunk) :]), out)
        return (grad_hidden, _sum_over(grad_head, ("data", "sequence"))) if weights is not None else (), value, metrics

    grads = () if weights_BL is None else (_HIDDEN, _HEAD)
    return _on_mesh(local, (_HIDDEN, _HEAD, _TOKENS, _TOKENS), (grads, _TOKENS, _TOKENS))(
        hiddens, heads, data, weights_BL
    )


def _chunk_of_tokens(tokens: int, columns: int) -> int:
    """The largest divisor of `tokens` whose logits are few enough."""
    most = max(1, LOGIT_ELEMENTS // columns)
    return max(n for n in range(1, min(tokens, most) + 1) if tokens % n == 0)


# -- a head cut over a mesh: chunks of the vocabulary ------------------------------------------------


def _by_columns(functional: Functional, hiddens: list[jax.Array], heads: list[jax.Array], data: Any) -> tuple:
    """(statistics, value, metrics), all [B, L, …]."""

    def local(hiddens: list[jax.Array], heads: list[jax.Array], data: Any) -> tuple:
        shape = hiddens[0].shape[:2]
        hiddens, data = _flat((hiddens, data))

        def chunk_sums(number: Any) -> Statistics:
            logits, _, columns_C, _ = _chunk(hiddens, heads, number)
            return _sums(functional, logits, columns_C, data)

        def body(sums: Statistics, number: jax.Array) -> tuple[Statistics, None]:
            return _merged(functional, sums, chunk_sums(number)), None

        none = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(chunk_sums, 0))
        none = none._replace(max=[jnp.full_like(m, _NEVER) for m in none.max])
        sums, _ = jax.lax.scan(body, none, jnp.arange(_chunks(hiddens, heads)))
        statistics = _finish(functional, _over_tensor(functional, sums))
        statistics = statistics._replace(second=_second_pass(functional, hiddens, heads, statistics.lse, data))
        return jax.tree.map(
            lambda x: x.reshape(*shape, *x.shape[1:]), (statistics, *functional.value(statistics, data))
        )

    return _on_mesh(local, (_HIDDEN, _HEAD, _TOKENS), (_TOKENS, _TOKENS, _TOKENS))(hiddens, heads, data)


def _second_pass(
    functional: Functional, hiddens: list[jax.Array], heads: list[jax.Array], lse: list[jax.Array], data: Any
) -> jax.Array | None:
    """The sum of the functional's `second` over all chunks and devices, if it has any."""

    def chunk_sums(number: Any) -> jax.Array | None:
        logits, _, columns_C, _ = _chunk(hiddens, heads, number)
        return functional.second(logits, columns_C, lse, data)

    shape = jax.eval_shape(chunk_sums, 0)
    if shape is None:
        return None
    numbers, zero = jnp.arange(_chunks(hiddens, heads)), jnp.zeros(shape.shape, shape.dtype)
    sums, _ = jax.lax.scan(lambda sums, number: (sums + chunk_sums(number), None), zero, numbers)
    return jax.lax.psum(sums, "tensor")


def _gradients_by_columns(
    functional: Functional,
    hiddens: list[jax.Array],
    heads: list[jax.Array],
    data: Any,
    statistics: Statistics,
    weights_BL: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of sum(weights * value) by the model's hidden states and head."""

    def local(hiddens: list[jax.Array], heads: list[jax.Array], data: Any, statistics: Any, weights: jax.Array):
        shape, dtype = hiddens[0].shape, hiddens[0].dtype
        hiddens, data, statistics, weights = _flat((hiddens, data, statistics, weights))

        def body(carry: tuple[jax.Array, jax.Array], number: jax.Array) -> tuple[tuple, None]:
            grad_hidden, grad_head_ = carry
            logits, head_DC, columns_C, start = _chunk(hiddens, heads, number)
            slope = functional.gradient(logits, columns_C, statistics, data) * weights[:, None]
            slope = jnp.where(columns_C >= 0, slope, 0.0)
            more_hidden, more_DC = _products(slope, hiddens[0], head_DC)
            more_ = jax.lax.psum_scatter(more_DC, "fsdp", scatter_dimension=0, tiled=True)
            before = jax.lax.dynamic_slice_in_dim(grad_head_, start, more_.shape[1], axis=1)
            grad_head_ = jax.lax.dynamic_update_slice_in_dim(grad_head_, before + more_, start, axis=1)
            return (grad_hidden + more_hidden, grad_head_), None

        zeros = jnp.zeros(hiddens[0].shape, jnp.float32), jnp.zeros(heads[0].shape, jnp.float32)
        (grad_hidden, grad_head_), _ = jax.lax.scan(body, zeros, jnp.arange(_chunks(hiddens, heads)))
        grad_hidden = jax.lax.psum(grad_hidden, "tensor").astype(dtype).reshape(shape)
        return grad_hidden, jax.lax.psum(grad_head_, ("data", "sequence"))

    return _on_mesh(local, (_HIDDEN, _HEAD, _TOKENS, _TOKENS, _TOKENS), (_HIDDEN, _HEAD))(
        hiddens, heads, data, statistics, weights_BL
    )


def _columns(tokens: int, share: int) -> int:
    """How many of a device's `share` of columns to take at a time: a multiple of what a vector unit takes."""
    return min(share, max(LANES, LOGIT_ELEMENTS // tokens // LANES * LANES))


def _chunks(hiddens: list[jax.Array], heads: list[jax.Array]) -> int:
    share = heads[0].shape[1]
    return -(-share // _columns(hiddens[0].shape[0], share))


def _chunk(hiddens: list[jax.Array], heads: list[jax.Array], number: Any) -> tuple:
    """(logits of each source [T, C], the model's part of the head [D, C], token ids [C], first column).

    The last chunk may begin before the one before it ends: columns seen already do not count, and have id -1.
    """
    share = heads[0].shape[1]
    size = _columns(hiddens[0].shape[0], share)
    start = jnp.minimum(number * size, share - size)
    local_C = start + jnp.arange(size)
    fresh_C = local_C >= number * size
    parts = []
    for hidden, head in zip(hiddens, heads, strict=True):
        part = jax.lax.dynamic_slice_in_dim(head, start, size, axis=1).astype(hidden.dtype)
        parts.append(jax.lax.all_gather(part, "fsdp", axis=0, tiled=True))
    logits = [_logits(hidden, part) for hidden, part in zip(hiddens, parts, strict=True)]
    if share % size:
        logits = [jnp.where(fresh_C, z, _NEVER) for z in logits]
    columns_C = jnp.where(fresh_C, jax.lax.axis_index("tensor") * share + local_C, -1)
    return logits, parts[0], columns_C, start


# -- sums over the vocabulary ------------------------------------------------------------------------
# Until `_finish`, a `Statistics` holds sums relative to exp(max): lse is the sum of exp(z - max), tilt that of
# exp(z - max) times the tilt.


def _logits(hidden_TD: jax.Array, head_DC: jax.Array) -> jax.Array:
    return jnp.matmul(hidden_TD, head_DC, preferred_element_type=jnp.float32)


def _products(slope_TC: jax.Array, hidden_TD: jax.Array, head_DC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients by hidden states [T, D] and head [D, C], float32, of what has this gradient by logits."""
    slope_TC = slope_TC.astype(hidden_TD.dtype)
    by_hidden = jnp.einsum("tc,dc->td", slope_TC, head_DC, preferred_element_type=jnp.float32)
    return by_hidden, jnp.einsum("td,tc->dc", hidden_TD, slope_TC, preferred_element_type=jnp.float32)


def _sums(functional: Functional, logits: list[jax.Array], columns_C: jax.Array, data: Any) -> Statistics:
    most = [jnp.max(z, axis=1) for z in logits]
    scaled = [jnp.exp(z - m[:, None]) for z, m in zip(logits, most, strict=True)]
    tilt = functional.tilt(logits)
    if tilt is not None:
        tilt = jnp.sum(scaled[functional.tilted] * tilt, axis=1)
    picked = functional.pick(logits[0], columns_C, data)
    return Statistics(most, [jnp.sum(e, axis=1) for e in scaled], tilt, picked)


def _merged(functional: Functional, a: Statistics, b: Statistics) -> Statistics:
    most = [jnp.maximum(x, y) for x, y in zip(a.max, b.max, strict=True)]
    a, b = _rescaled(functional, a, most), _rescaled(functional, b, most)
    return jax.tree.map(jnp.add, a, b)._replace(max=most)


def _over_tensor(functional: Functional, sums: Statistics) -> Statistics:
    most = [jax.lax.pmax(m, "tensor") for m in sums.max]
    return jax.lax.psum(_rescaled(functional, sums, most), "tensor")._replace(max=most)


def _rescaled(functional: Functional, sums: Statistics, most: list[jax.Array]) -> Statistics:
    factor = [jnp.exp(m - new) for m, new in zip(sums.max, most, strict=True)]
    scaled = [s * f for s, f in zip(sums.lse, factor, strict=True)]
    tilt = None if sums.tilt is None else sums.tilt * factor[functional.tilted]
    return sums._replace(lse=scaled, tilt=tilt)


def _finish(functional: Functional, sums: Statistics) -> Statistics:
    lse = [m + jnp.log(s) for m, s in zip(sums.max, sums.lse, strict=True)]
    tilt = None if sums.tilt is None else sums.tilt / sums.lse[functional.tilted]
    return sums._replace(lse=lse, tilt=tilt)


# -- on a mesh ---------------------------------------------------------------------------------------


def _flat(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _sum_over(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return x if current_mesh() is None else jax.lax.psum(x, axes)


def _on_mesh(function: Callable, inputs: tuple, outputs: tuple) -> Callable:
    """`function` on each device's share; specs are logical axes of whole subtrees, trailing ones left out."""
    mesh = current_mesh()
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=_specs(inputs), out_specs=_specs(outputs), check_vma=False)


def _specs(logical: tuple) -> Any:
    if all(name is None or isinstance(name, str) for name in logical):
        return spec(logical) if logical else PartitionSpec()
    return tuple(_specs(part) for part in logical)
