"""The loss contract, and the losses of the method as functions of a batch.

`loss_terms(model, reference, batch, config)` returns sums and weights, never means: the train step adds
them over microbatches and devices and divides once. The objective has two terms (docs/method in the paper's
notation: L = CE(response) + lambda * A), each with a denominator of its own:

  text    cross-entropy over targets with loss weight, per trained token
  anchor  sum over annotation positions of KL(p_ref || p), per annotation: an estimate of
          KL(R_ref(.|x) || R(.|x)) when the annotations were drawn from the reference

Shapes: B rows, L length, D width, V vocabulary. A batch is the dict of arrays described in
`data.packing`, with the anchor's rows under "anchor".
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from anchortrain.config import LossConfig
from anchortrain.linear_softmax import Statistics, weighted_sum
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


# Float32 sums of probabilities are exact to about this.
_LEAST_REST = 1e-7


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """-log p(target), plus `z_loss` times the squared log normaliser; metrics "loss", "entropy", "accuracy"."""

    z_loss: float = 0.0
    tilted: int = 0

    def tilt(self, logits: list[jax.Array]) -> jax.Array:
        return logits[0]  # the entropy is lse - E[logit]

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


@dataclasses.dataclass(frozen=True)
class Divergence:
    """KL between the next-token distributions of the reference (source 1) and the model, in nats.

    `direction` "forward" is KL(ref || model), "reverse" KL(model || ref).
    """

    direction: str = "forward"

    @property
    def tilted(self) -> int:
        return {"forward": 1, "reverse": 0}[self.direction]

    def tilt(self, logits: list[jax.Array]) -> jax.Array:
        return logits[self.tilted] - logits[1 - self.tilted]

    def pick(self, logits_TC: jax.Array, columns_C: jax.Array, data: Any) -> None:
        return None

    def value(self, statistics: Statistics, data: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        lse = statistics.lse
        return statistics.tilt - lse[self.tilted] + lse[1 - self.tilted], {}

    def gradient(self, logits: list[jax.Array], columns_C: jax.Array, statistics: Statistics, data: Any) -> jax.Array:
        model, reference = (jnp.exp(z - lse[:, None]) for z, lse in zip(logits, statistics.lse, strict=True))
        if self.direction == "forward":
            return model - reference
        return model * (self.tilt(logits) - statistics.tilt[:, None])


class Stored(NamedTuple):
    """Reference distributions made ahead of time: the k most probable tokens and what is left. [B, L, k] each."""

    ids: jax.Array  # int32, distinct; any that cannot occur (-2) with log-probability -inf is none
    log_probs: jax.Array  # float32


@dataclasses.dataclass(frozen=True)
class StoredDivergence:
    """KL(ref || model) between distributions over the stored tokens and "any other token".

    By the data-processing inequality it is at most the whole KL; what it misses is how the reference's remaining mass
    is spread. Zero where the model equals the reference.

    With `compares` the stored tokens are found by comparing them with all columns: a TPU is made for that, and slow to
    gather and scatter; on a CPU it cost a fifth of the quick start's step.
    """

    compares: bool = False
    tilted: int = 0

    def tilt(self, logits: list[jax.Array]) -> None:
        return None

    def pick(self, logits_TC: jax.Array, columns_C: jax.Array, stored: Stored) -> jax.Array:
        if self.compares:
            at_TkC = columns_C == stored.ids[..., None]
            return jnp.sum(jnp.where(at_TkC, logits_TC[:, None], 0.0), axis=-1)
        at_Tk, here_Tk = self._places(columns_C, stored)
        return jnp.where(here_Tk, jnp.take_along_axis(logits_TC, at_Tk, axis=1), 0.0)

    def _places(self, columns_C: jax.Array, stored: Stored) -> tuple[jax.Array, jax.Array]:
        """Where each stored token is among the columns, and whether it is. Columns are in order, the last is no -1."""
        first = columns_C[-1] - columns_C.shape[0] + 1
        at_Tk = jnp.clip(stored.ids - first, 0, columns_C.shape[0] - 1)
        return at_Tk, columns_C[at_Tk] == stored.ids

    def _parts(self, statistics: Statistics, stored: Stored) -> tuple[jax.Array, ...]:
        """(reference [T, k], model's logs [T, k], reference's rest [T], model's rest [T])"""
        reference_Tk = jnp.exp(stored.log_probs)
        model_Tk = statistics.picked - statistics.lse[0][:, None]
        known_Tk = jnp.where(stored.ids >= 0, jnp.exp(model_Tk), 0.0)
        rests = (jnp.maximum(1.0 - jnp.sum(p, axis=1), _LEAST_REST) for p in (reference_Tk, known_Tk))
        return reference_Tk, model_Tk, *rests

    def value(self, statistics: Statistics, stored: Stored) -> tuple[jax.Array, dict[str, jax.Array]]:
        reference_Tk, model_Tk, rest, model_rest = self._parts(statistics, stored)
        known = jnp.where(reference_Tk > 0, reference_Tk * (stored.log_probs - model_Tk), 0.0)
        return jnp.sum(known, axis=1) + rest * jnp.log(rest / model_rest), {}

    def gradient(
        self, logits: list[jax.Array], columns_C: jax.Array, statistics: Statistics, stored: Stored
    ) -> jax.Array:
        reference_Tk, model_Tk, rest, model_rest = self._parts(statistics, stored)
        share = (rest / model_rest)[:, None]
        model_TC = jnp.exp(logits[0] - statistics.lse[0][:, None])
        # Of a stored token: model - reference. Of any other: model's share of its rest is left as it is.
        correction_Tk = jnp.exp(model_Tk) * share - reference_Tk
        others_TC = model_TC * (1.0 - share)
        if self.compares:
            at_TkC = columns_C == stored.ids[..., None]
            return others_TC + jnp.sum(jnp.where(at_TkC, correction_Tk[..., None], 0.0), axis=1)
        at_Tk, here_Tk = self._places(columns_C, stored)
        flat = at_Tk + others_TC.shape[1] * jnp.arange(others_TC.shape[0])[:, None]
        added = others_TC.reshape(-1).at[flat.reshape(-1)].add(jnp.where(here_Tk, correction_Tk, 0.0).reshape(-1))
        return added.reshape(others_TC.shape)


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
        stored = Stored(batch["reference_ids"], batch["reference_log_probs"])
        functional = StoredDivergence(compares=platform() == "tpu")
        total, _ = weighted_sum(functional, [hidden_BLD], [model.head_DV], stored, weights_BL)
        return Term(total, annotation_count(batch))
    segment_args = (batch["inputs"], batch["positions"], batch["segment_ids"])
    reference_BLD = jax.lax.stop_gradient(reference.hidden(*segment_args))
    sources = [hidden_BLD, reference_BLD], [model.head_DV, jax.lax.stop_gradient(reference.head_DV)]
    total, _ = weighted_sum(Divergence(direction), *sources, None, weights_BL)
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


def mean(term: Term) -> float:
    """The term's mean as a host float; nan when its weight is 0."""
    weight = float(term.weight)
    return float(term.sum) / weight if weight else math.nan
