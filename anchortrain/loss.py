"""The loss contract, and the losses of the method as functions of a batch.

`loss_terms(model, reference, batch, config)` returns sums and weights, never means: the train step adds
them over microbatches and devices and divides once. The objective has two terms (docs/method in the paper's
notation: L = CE(response) + lambda * A), each with a denominator of its own:

  text    cross-entropy over targets with loss weight, per trained token
  anchor  sum over annotation positions of KL(p_ref || p), per annotation: an estimate of
          KL(R_ref(.|x) || R(.|x)) when the annotations were drawn from the reference

Shapes: B rows, L length, D width, V vocabulary. A batch is the dict of arrays described in
`data.loader`, with the anchor's rows under "anchor".
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from anchortrain.config import LossConfig
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role

# Logits are made for as many positions at a time as fit this many elements, forward and backward, so that
# [B, L, V] never exists.
LOGIT_ELEMENTS = 1 << 24

Batch = dict[str, jax.Array | dict[str, jax.Array]]


class Term(NamedTuple):
    """A weighted sum and its weight; their ratio is the mean."""

    sum: jax.Array
    weight: jax.Array


Terms = dict[str, Term]

# Roles whose loss, entropy and accuracy are logged.
LOGGED_ROLES = {
    "annotation_key": Role.ANNOTATION_KEY,
    "annotation_value": Role.ANNOTATION_VALUE,
    "text": Role.TEXT,
}


def _over_chunks(function, xs: tuple[jax.Array, ...], vocab_size: int):
    """Sums `function(*chunk)` over chunks of the length axis, recomputing logits in the backward pass."""
    B, L = xs[0].shape[:2]
    chunks = next(n for n in range(1, L + 1) if L % n == 0 and (B * (L // n) * vocab_size <= LOGIT_ELEMENTS or n == L))
    if chunks == 1:
        return function(*xs)
    split = tuple(jnp.moveaxis(x.reshape(B, chunks, L // chunks, *x.shape[2:]), 1, 0) for x in xs)

    def body(total, chunk):
        return jax.tree.map(jnp.add, total, jax.checkpoint(function)(*chunk)), None

    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, *(x[0] for x in split)))
    return jax.lax.scan(body, zero, split)[0]


def text_term(model: Transformer, hidden_BLD: jax.Array, batch: Batch, z_loss: float = 0.0) -> tuple[Term, Terms]:
    """Cross-entropy of the targets (nats) and, without gradient, its split by role.

    Returns:
      The training term, and metrics "loss/ROLE", "entropy/ROLE" (of the prediction), "accuracy/ROLE".
    """
    vocab_size = model.head.shape[-1]

    def chunk(h_BCD, targets_BC, weights_BC, roles_BC):
        logits = model.logits(h_BCD)
        lse = jax.nn.logsumexp(logits, axis=-1)
        # A masked sum instead of a gather: it stays local on a sharded vocabulary and its gradient is no scatter.
        is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets_BC[..., None]
        chosen = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
        nll = lse - chosen
        total = jnp.sum(weights_BC * (nll + z_loss * lse**2))
        free = jax.lax.stop_gradient(logits)
        entropy = lse - jnp.sum(jnp.exp(free - lse[..., None]) * free, axis=-1)
        correct = (chosen >= jnp.max(free, axis=-1)).astype(jnp.float32)
        by_role = {}
        for name, role in LOGGED_ROLES.items():
            here = (roles_BC == role).astype(jnp.float32)
            values = {"loss": nll, "entropy": entropy, "accuracy": correct}
            by_role[name] = jax.lax.stop_gradient(
                {kind: jnp.sum(here * value) for kind, value in values.items()} | {"count": jnp.sum(here)}
            )
        return total, by_role

    args = (hidden_BLD, batch["targets"], batch["loss_weights"], batch["target_roles"])
    total, by_role = _over_chunks(chunk, args, vocab_size)
    metrics = {
        f"{kind}/{name}": Term(values[kind], values["count"])
        for name, values in by_role.items()
        for kind in ("loss", "entropy", "accuracy")
    }
    return Term(total, jnp.sum(batch["loss_weights"])), metrics


def divergence(logits_ref: jax.Array, logits: jax.Array, direction: str) -> jax.Array:
    """KL between the next-token distributions at each position, in nats.

    Args:
      logits_ref: reference logits [..., V].
      logits: model logits [..., V].
      direction: "forward" is KL(ref || model), "reverse" KL(model || ref).
    """
    log_ref, log_model = jax.nn.log_softmax(logits_ref), jax.nn.log_softmax(logits)
    first, second = {"forward": (log_ref, log_model), "reverse": (log_model, log_ref)}[direction]
    return jnp.sum(jnp.exp(first) * (first - second), axis=-1)


def anchor_term(
    model: Transformer, hidden_BLD: jax.Array, reference: Transformer, batch: dict[str, jax.Array], direction: str
) -> Term:
    """The anchor A: divergence summed over annotation positions, per annotation.

    Only the annotations carry it, so `batch` should hold prompts and annotations and no response.
    """
    segment_args = (batch["inputs"], batch["positions"], batch["segment_ids"])
    reference_BLD = jax.lax.stop_gradient(reference.hidden(*segment_args))

    def chunk(h_BCD, ref_BCD, at_BC):
        logits_ref = jax.lax.stop_gradient(reference.logits(ref_BCD))
        return jnp.sum(at_BC * divergence(logits_ref, model.logits(h_BCD), direction))

    total = _over_chunks(chunk, (hidden_BLD, reference_BLD, batch["anchor_positions"]), model.head.shape[-1])
    return Term(total, annotation_count(batch))


def annotation_count(batch: dict[str, jax.Array]) -> jax.Array:
    """How many annotations the anchor's rows hold: one each packed segment."""
    return jnp.sum(jnp.max(batch["segment_ids"], axis=1)).astype(jnp.float32)


def term_weights(batch: Batch) -> dict[str, jax.Array]:
    """The denominators of `loss_terms`, from data alone: known before any forward pass."""
    weights = {"text": jnp.sum(batch["loss_weights"])}
    if "anchor" in batch:
        weights["anchor"] = annotation_count(batch["anchor"])
    return weights


def coefficients(config: LossConfig) -> dict[str, float]:
    """What each term counts in the objective."""
    return {"text": 1.0, "anchor": config.anchor_weight}


def loss_terms(
    model: Transformer, reference: Transformer | None, batch: Batch, config: LossConfig
) -> tuple[Terms, Terms]:
    """The terms of the objective and the metrics of one batch.

    Rows of the anchor, when there are any, pass through the model together with the training rows;
    the frozen reference sees the anchor's rows only.
    """
    keys = ("inputs", "positions", "segment_ids")
    if "anchor" not in batch:
        text, metrics = text_term(model, model.hidden(*(batch[k] for k in keys)), batch, config.z_loss)
        return {"text": text}, metrics
    anchor, rows = batch["anchor"], batch["inputs"].shape[0]
    hidden_BLD = model.hidden(*(jnp.concatenate([batch[k], anchor[k]]) for k in keys))
    text, metrics = text_term(model, hidden_BLD[:rows], batch, config.z_loss)
    term = anchor_term(model, hidden_BLD[rows:], reference, anchor, config.anchor_direction)
    return {"text": text, "anchor": term}, metrics | {"anchor/kl": jax.lax.stop_gradient(term)}


def mean(term: Term) -> float:
    """The term's mean as a host float; nan when its weight is 0."""
    weight = float(term.weight)
    return float(term.sum) / weight if weight else math.nan
