"""The loss contract, and the losses of the method as functions of a batch.

`loss_terms(model, reference, batch, config)` returns sums and weights, never means: the train step adds
them over microbatches and devices and divides once. The objective has two terms (docs/method in the paper's
notation: L = CE(response) + lambda * A), each with a denominator of its own:

  text    cross-entropy over targets with loss weight, per trained token
  anchor  sum over annotation positions of KL(p_ref || p), per annotation: an estimate of
          KL(R_ref(.|x) || R(.|x)) when the annotations were drawn from the reference; see `divergence`

Shapes: B rows, L length, D width, V vocabulary. A batch is the dict of arrays described in
`data.packing`, with the anchor's rows under "anchor".
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from anchortrain.config import LossConfig
from anchortrain.divergence import Divergence, Stored, StoredDivergence, StoredDivergenceWithBound
from anchortrain.functional import Statistics
from anchortrain.linear_softmax import weighted_sum
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role
from anchortrain.sharding import batch_ways, platform

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


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """-log p(target), plus `z_loss` times the squared log normaliser; metrics "loss", "entropy", "accuracy"."""

    z_loss: float = 0.0
    tilted: int = 0

    def tilt(self, logits: list[jax.Array]) -> jax.Array:
        return logits[0]  # the entropy is lse - E[logit]

    def second(self, logits: list[jax.Array], columns_C: jax.Array, lse: list[jax.Array], targets_T: jax.Array) -> None:
        return None

    def pick(self, logits_TC: jax.Array, columns_C: jax.Array, targets_T: jax.Array) -> jax.Array:
        # A masked sum in place of a gather: local on a cut vocabulary, and fast on a TPU.
        return jnp.sum(jnp.where(columns_C == targets_T[:, None], logits_TC, 0.0), axis=1)

    def value(self, statistics: Statistics, targets_T: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        lse, chosen = statistics.lse[0], statistics.picked
        correct = (chosen >= statistics.max[0]).astype(jnp.float32)
        metrics = {"loss": lse - chosen, "entropy": lse - statistics.tilt, "accuracy": correct}
        return lse - chosen + self.z_loss * lse**2, metrics

    def gradient(
        self, logits: list[jax.Array], columns_C: jax.Array, statistics: Statistics, targets_T: jax.Array
    ) -> jax.Array:
        lse = statistics.lse[0][:, None]
        slope = jnp.exp(logits[0] - lse) * (1 + 2 * self.z_loss * lse)
        return slope - (columns_C == targets_T[:, None])


def text_term(model: Transformer, hidden_BLD: jax.Array, batch: Batch, z_loss: float = 0.0) -> tuple[Term, Terms]:
    """Cross-entropy of the targets (nats) and, without gradient, its split by role.

    Returns:
      The training term, and metrics "loss/ROLE", "entropy/ROLE" (of the prediction), "accuracy/ROLE".
    """
    weights_BL = batch["loss_weights"]
    total, by_token = weighted_sum(CrossEntropy(z_loss), [hidden_BLD], [model.head_DV], batch["targets"], weights_BL)
    metrics = {}
    for name, role in LOGGED_ROLES.items():
        here = (batch["target_roles"] == role).astype(jnp.float32)
        count = jnp.sum(here)
        metrics |= {f"{kind}/{name}": Term(jnp.sum(here * value), count) for kind, value in by_token.items()}
    return Term(total, jnp.sum(weights_BL)), jax.lax.stop_gradient(metrics)


def anchor_term(
    model: Transformer,
    hidden_BLD: jax.Array,
    reference: Transformer | None,
    batch: dict[str, jax.Array],
    direction: str,
) -> Term:
    """The anchor A: divergence summed over annotation positions, per annotation.

    Only the annotations carry it, so `batch` should hold prompts and annotations and no response. Without a
    `reference` its distributions are those stored in the batch.
    """
    weights_BL = batch["anchor_positions"]
    if reference is None:
        functional = StoredDivergence(direction, compares=platform() == "tpu")
        total, _ = weighted_sum(functional, [hidden_BLD], [model.head_DV], _stored(batch), weights_BL)
    else:
        sources = _beside_reference(model, hidden_BLD, reference, batch)
        total, _ = weighted_sum(Divergence(direction), *sources, None, weights_BL)
    return Term(total, annotation_count(batch))


def drift_terms(
    model: Transformer, hidden_BLD: jax.Array, reference: Transformer | None, batch: dict[str, jax.Array]
) -> Terms:
    """The drift KL(R_ref || R), whatever the anchor's direction is: "kl", and "kl_square" of each annotation's sum.

    Without a `reference` its distributions are those stored in the batch, and "kl_bound" is what they miss at most.
    Nats per annotation; without gradient.
    """
    weights_BL, count = batch["anchor_positions"], annotation_count(batch)
    if reference is None:
        functional = StoredDivergenceWithBound(compares=platform() == "tpu")
        sources = [hidden_BLD, -hidden_BLD], [model.head_DV] * 2
        _, by_token = weighted_sum(functional, *sources, _stored(batch), weights_BL)
    else:
        sources = _beside_reference(model, hidden_BLD, reference, batch)
        _, by_token = weighted_sum(Divergence(), *sources, None, weights_BL)
    kl_BS = _by_annotation(weights_BL * by_token["divergence"], batch["segment_ids"])
    terms = {"kl": Term(jnp.sum(kl_BS), count), "kl_square": Term(jnp.sum(kl_BS**2), count)}
    if "bound" in by_token:
        terms["kl_bound"] = Term(jnp.sum(weights_BL * by_token["bound"]), count)
    return terms


def _stored(batch: dict[str, jax.Array]) -> Stored:
    return Stored(batch["reference_ids"], batch["reference_log_probs"])


def _beside_reference(
    model: Transformer, hidden_BLD: jax.Array, reference: Transformer, batch: dict[str, jax.Array]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Hidden states and heads of the model and of the frozen reference."""
    reference_BLD = reference.hidden(batch["inputs"], batch["positions"], batch["segment_ids"])
    frozen = jax.lax.stop_gradient((reference_BLD, reference.head_DV))
    return [hidden_BLD, frozen[0]], [model.head_DV, frozen[1]]


def _by_annotation(values_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
    """Sums over each packed segment, [B, most segments of a row]; 0 where a row has fewer."""
    length = values_BL.shape[1]
    sums = jax.vmap(lambda values, segments: jax.ops.segment_sum(values, segments, length + 1))(values_BL, segments_BL)
    return sums[:, 1:]  # 0 is padding


def annotation_count(batch: dict[str, jax.Array]) -> jax.Array:
    """How many annotations the anchor's rows hold: one each packed segment."""
    return jnp.sum(jnp.max(batch["segment_ids"], axis=1)).astype(jnp.float32)


def term_weights(batch: Batch) -> dict[str, jax.Array]:
    """The denominators of `loss_terms`, from data alone: known before any forward pass."""
    weights = {"text": jnp.sum(batch["loss_weights"])}
    if "anchor" in batch:
        weights["anchor"] = annotation_count(batch["anchor"])
    return weights


def coefficients(anchor_weight: float | jax.Array) -> dict[str, float | jax.Array]:
    """What each term counts in the objective."""
    return {"text": 1.0, "anchor": anchor_weight}


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
    anchor = batch["anchor"]
    both_BLD = model.hidden(*(_beside(batch[k], anchor[k]) for k in keys))
    hidden_BLD, anchor_BLD = _apart(both_BLD, anchor["inputs"].shape[0])
    text, metrics = text_term(model, hidden_BLD, batch, config.z_loss)
    term = anchor_term(model, anchor_BLD, reference, anchor, config.anchor_direction)
    return {"text": text, "anchor": term}, metrics | {"anchor/kl": jax.lax.stop_gradient(term)}


def _beside(rows_BL: jax.Array, more_AL: jax.Array) -> jax.Array:
    """Both, [B + A, L]: each device's rows beside its share of the others, so that nothing moves between devices."""
    parts = (x.reshape(batch_ways(), -1, *x.shape[1:]) for x in (rows_BL, more_AL))
    return jnp.concatenate(list(parts), axis=1).reshape(-1, *rows_BL.shape[1:])


def _apart(both_BLD: jax.Array, more: int) -> tuple[jax.Array, jax.Array]:
    """What `_beside` put together, the second of `more` rows."""
    by_device = both_BLD.reshape(batch_ways(), -1, *both_BLD.shape[1:])
    rows = by_device.shape[1] - more // batch_ways()
    return tuple(x.reshape(-1, *both_BLD.shape[1:]) for x in (by_device[:, :rows], by_device[:, rows:]))


def standard_error(term: Term, squares: Term) -> float:
    """Of a mean of independent values, given as the sums of the values and of their squares; nan of fewer than two."""
    count = float(term.weight)
    if count < 2:
        return math.nan
    return math.sqrt(max(0.0, mean(squares) - mean(term) ** 2) / (count - 1))


def mean(term: Term) -> float:
    """The term's mean as a host float; nan when its weight is 0."""
    weight = float(term.weight)
    return float(term.sum) / weight if weight else math.nan
