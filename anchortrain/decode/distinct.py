"""Annotations without replacement: stochastic beam search over the annotation stage (Kool et al. 2019, arXiv
1903.06059).

Each sequence has a perturbed log-probability, its log-probability plus Gumbel noise, and those with the largest are a
sample without replacement. A prefix's is the largest of all sequences that begin with it, so that a beam finds them
from left to right: the children of a prefix get noise under the condition that their largest is the prefix's own.

Shapes: B beams, V columns of the head, T tokens of an annotation.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchortrain.decode.decoder import Decoder
from anchortrain.decode.engine import Engine, Request, Ticket, has_filters, make_arrivals, prompt_slots, rounded_slots
from anchortrain.decode.loop import Places, choose, map_axes, move
from anchortrain.decode.samples import Pair
from anchortrain.decode.tables import Tables
from anchortrain.errors import UserError
from anchortrain.roles import Role
from anchortrain.sharding import constrain

_LEAST_BEAMS = 16


class DistinctAnnotation(NamedTuple):
    """One of a sample without replacement."""

    pairs: list[Pair]  # tokens and roles, closing delimiter included
    logprob: float  # in the distribution that was drawn from
    inclusion: float  # probability that it is in a sample of this size, given the threshold


class _Beams(NamedTuple):
    places: Places
    perturbed_B: jax.Array  # float32; -inf for a beam that holds nothing
    tokens_BT: jax.Array  # int32
    roles_BT: jax.Array  # uint8, PAD where there is no token


def distinct_annotations(engine: Engine, request: Request, count: int) -> list[DistinctAnnotation]:
    """Draws annotations without replacement, the one with the largest perturbed log-probability first.

    The estimate of a sum over all annotations z, sum_z p(z) f(z), is the sum over the sample of p(z) f(z) / inclusion
    (equation 7): unbiased, for each size of the sample from 1 on. What is drawn is a function of the weights, the
    request and the power of two above `count`.

    Args:
      request: with a grammar that ends with the annotation, and a positive annotation temperature; it is drawn under
        the grammar, whatever the request says.
      count: how many; fewer come back where there are not more.

    Raises:
      UserError: for a request that cannot be drawn so, and when the model gives no finite numbers.
    """
    config = request.config
    if not config.annotation_temperature > 0:
        what = "without replacement needs an annotation_temperature above 0"
        raise UserError(what, mend="raise it, or draw independently")
    rows = max(_LEAST_BEAMS, 1 << count.bit_length())  # one more than are asked for: it is the threshold
    length = len(request.tokens)
    filtered = has_filters(config)
    base = engine.pool.take(request.grammar)
    if base is None:
        raise UserError("all pages of grammars are in use", mend="wait until requests have ended")
    try:
        with engine.on_mesh():
            slots = rounded_slots(max(prompt_slots(length - 1), length + config.max_annotation_tokens))
            places = engine.programs.empty_places(engine.decoder, rows=rows, capacity=slots)
            start, value_left = engine.start(request)
            ticket = Ticket(0, request, start, value_left, filtered, base=base)
            arrivals = make_arrivals({0: ticket}, {request.tokens: 0}, (1, prompt_slots(length - 1)), rows)
            arrivals.settings.constrained_B[0] = True
            tables = engine.pool.tables
            places = engine.programs.admit(engine.decoder, tables, places, arrivals, filtered=filtered)
            seed = np.array([request.seed, request.index], np.uint32)
            search = _search(tuple(engine.programs.options.items()))
            found = search(engine.decoder, tables, places, seed, steps=config.max_annotation_tokens, filtered=filtered)
            tokens_BT, roles_BT, logprob_B, perturbed_B = map(np.asarray, jax.device_get(found))
    finally:
        engine.pool.give_back(base)
    if np.isnan(perturbed_B).any():
        mend = "train again with a lower learning rate"
        raise UserError("the model's probabilities are not finite: the run has diverged", mend=mend)
    return _chosen(tokens_BT, roles_BT, logprob_B.astype(float), perturbed_B.astype(float), count)


def _chosen(
    tokens_BT: np.ndarray, roles_BT: np.ndarray, logprob_B: np.ndarray, perturbed_B: np.ndarray, count: int
) -> list[DistinctAnnotation]:
    threshold = perturbed_B[count]  # -inf where there are no more than `count` annotations: all are in
    chosen = []
    for b in range(min(count, int(np.isfinite(perturbed_B).sum()))):
        n = int(np.count_nonzero(roles_BT[b] != Role.PAD))
        pairs = list(zip(tokens_BT[b, :n].tolist(), roles_BT[b, :n].tolist(), strict=True))
        inclusion = -math.expm1(-math.exp(min(logprob_B[b] - threshold, 700.0)))
        chosen.append(DistinctAnnotation(pairs, float(logprob_B[b]), inclusion))
    return chosen


def estimate(annotations: Sequence[DistinctAnnotation], values: Sequence[float]) -> float:
    """The mean of `values` over all annotations, from those of a sample, with weights that sum to 1 (Kool et al.,
    section 4.2): biased, with much less variance."""
    weights = np.array([math.exp(one.logprob) / one.inclusion for one in annotations])
    return float(weights @ np.asarray(values, float) / weights.sum())


@cache
def _search(options: tuple[tuple[str, str], ...]) -> Any:
    return jax.jit(search, static_argnames=("steps", "filtered"), compiler_options=dict(options))


def search(
    decoder: Decoder, tables: Tables, places: Places, seed: jax.Array, *, steps: int, filtered: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Stochastic beam search from the request in the first place, until all annotations have closed.

    Args:
      seed: uint32 [2].
      steps: tokens of an annotation, at most.

    Returns:
      Tokens and roles [B, T], log-probabilities and perturbed log-probabilities [B], largest first.
    """
    rows = places.token_B.shape[0]
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
    nothing_B = jnp.arange(rows) > 0
    # The first place's noise must not be conditioned on: it is that of the likeliest of all.
    root = jax.random.gumbel(jax.random.fold_in(key, steps))
    beams = _Beams(
        places._replace(active_B=places.active_B & ~nothing_B),
        jnp.where(nothing_B, -jnp.inf, root),
        jnp.zeros((rows, steps), jnp.int32),
        jnp.full((rows, steps), Role.PAD, jnp.uint8),
    )

    def body(carry: tuple[jax.Array, _Beams]) -> tuple[jax.Array, _Beams]:
        step, beams = carry
        return step + 1, _extended(decoder, tables, beams, jax.random.fold_in(key, step), step, filtered)

    def goes_on(carry: tuple[jax.Array, _Beams]) -> jax.Array:
        return (carry[0] < steps) & jnp.any(carry[1].places.active_B)

    _, beams = jax.lax.while_loop(goes_on, body, (jnp.int32(0), beams))
    return beams.tokens_BT, beams.roles_BT, beams.places.logprob_B2[:, 0], beams.perturbed_B


def _extended(
    decoder: Decoder, tables: Tables, beams: _Beams, key: jax.Array, step: jax.Array, filtered: bool
) -> _Beams:
    places, rows = beams.places, beams.perturbed_B.shape[0]
    logits_BV, cache = decoder.step(places.token_B, places.position_B, places.cache)
    columns = logits_BV.shape[1]
    choice = choose(tables, places, logits_BV, filtered=filtered)
    scaled_BV = jnp.where(choice.allowed_BV, choice.logits_BV / choice.temperature_B[:, None], -jnp.inf)
    logprob_BV = jax.nn.log_softmax(scaled_BV, axis=1)
    child_BV = _children(places.logprob_B2[:, :1] + logprob_BV, beams.perturbed_B, key)
    # One that has closed goes on as it is.
    kept_BV = jnp.where(jnp.arange(columns) == 0, beams.perturbed_B[:, None], -jnp.inf)
    candidate_BV = jnp.where(places.active_B[:, None], child_BV, kept_BV)
    perturbed_B, index_B = jax.lax.top_k(candidate_BV.reshape(-1), rows)
    parent_B, token_B = index_B // columns, (index_B % columns).astype(jnp.int32)
    logprob_B = logprob_BV[parent_B, token_B]

    places = jax.tree.map(lambda x: x[parent_B], places._replace(cache=cache))
    places = places._replace(active_B=places.active_B & (perturbed_B > -jnp.inf))
    drew_B = places.active_B
    places = move(tables, places, token_B, jnp.where(drew_B, logprob_B, 0.0), filtered=filtered)
    role_B = tables.role_N[places.base_B + places.state_B]

    def put(array_BT: jax.Array, new_B: jax.Array) -> jax.Array:
        array_BT = array_BT[parent_B]
        old_B = jax.lax.dynamic_index_in_dim(array_BT, step, axis=1, keepdims=False)
        column_B1 = jnp.where(drew_B, new_B.astype(array_BT.dtype), old_B)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(array_BT, column_B1, step, axis=1)

    return _Beams(
        map_axes(places, constrain),
        perturbed_B,
        put(beams.tokens_BT, token_B),
        put(beams.roles_BT, role_B),
    )


def _children(logprob_BV: jax.Array, perturbed_B: jax.Array, key: jax.Array) -> jax.Array:
    """Perturbed log-probabilities of children whose largest is that of their parent (appendix B.3)."""
    noisy_BV = logprob_BV + jax.random.gumbel(key, logprob_BV.shape)
    parent_B1 = perturbed_B[:, None]
    largest_B1 = jnp.max(noisy_BV, axis=1, keepdims=True)
    # -log(exp(-parent) - exp(-largest) + exp(-noisy)), so that no exponential overflows.
    v_BV = parent_B1 - noisy_BV + _log1mexp(noisy_BV - largest_B1)
    conditioned_BV = parent_B1 - jnp.maximum(v_BV, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(v_BV)))
    return jnp.where(jnp.isfinite(logprob_BV) & jnp.isfinite(parent_B1), conditioned_BV, -jnp.inf)


def _log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - exp(x)) of x <= 0; -inf at 0."""
    near = x > -math.log(2)
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))
