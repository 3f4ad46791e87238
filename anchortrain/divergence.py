"""Divergences between the next-token distributions of a reference and the model, in nats, for `linear_softmax`.

    forward  KL(ref || model)
    reverse  KL(model || ref)
    js       Jensen-Shannon: KL(ref || m) / 2 + KL(model || m) / 2 with m = (ref + model) / 2; at most log 2

Each is known from the whole reference (`Divergence`) or from what was stored of it (`StoredDivergence`).

Shapes: T tokens, C columns of a chunk of the vocabulary, k stored tokens; p is the model's probability, r the
reference's.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from anchortrain.functional import Statistics

# Float32 sums of probabilities are exact to about this.
_LEAST_REST = 1e-7


def _mixture(log_p: jax.Array, log_r: jax.Array) -> jax.Array:
    """log m of the Jensen-Shannon divergence."""
    return jnp.logaddexp(log_p, log_r) - math.log(2.0)


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Of whole distributions; the reference is source 1. Its metric "divergence" is the value [T]."""

    direction: str = "forward"

    @property
    def tilted(self) -> int:
        return {"forward": 1, "reverse": 0, "js": 0}[self.direction]

    def tilt(self, logits: list[jax.Array]) -> jax.Array | None:
        return None if self.direction == "js" else logits[self.tilted] - logits[1 - self.tilted]

    def pick(self, logits_TC: jax.Array, columns_C: jax.Array, data: Any) -> None:
        return None

    def second(self, logits: list[jax.Array], columns_C: jax.Array, lse: list[jax.Array], data: Any) -> Any:
        """Halves of the Jensen-Shannon divergence, the model's and the reference's: the mixture needs both `lse`."""
        if self.direction != "js":
            return None
        log_p, log_r = (z - total[:, None] for z, total in zip(logits, lse, strict=True))
        log_m = _mixture(log_p, log_r)
        return jnp.stack([0.5 * jnp.sum(jnp.exp(x) * (x - log_m), axis=1) for x in (log_p, log_r)], axis=1)

    def value(self, statistics: Statistics, data: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        lse = statistics.lse
        if self.direction == "js":
            value = jnp.sum(statistics.second, axis=1)
        else:
            value = statistics.tilt - lse[self.tilted] + lse[1 - self.tilted]
        return value, {"divergence": value}

    def gradient(self, logits: list[jax.Array], columns_C: jax.Array, statistics: Statistics, data: Any) -> jax.Array:
        log_p, log_r = (z - lse[:, None] for z, lse in zip(logits, statistics.lse, strict=True))
        model, reference = jnp.exp(log_p), jnp.exp(log_r)
        if self.direction == "forward":
            return model - reference
        if self.direction == "reverse":
            return model * (self.tilt(logits) - statistics.tilt[:, None])
        return model * (0.5 * (log_p - _mixture(log_p, log_r)) - statistics.second[:, :1])


class Stored(NamedTuple):
    """Reference distributions made ahead of time: the k most probable tokens and what is left. [B, L, k] each."""

    ids: jax.Array  # int32, distinct; any that cannot occur (-2) with log-probability -inf is none
    log_probs: jax.Array  # float32


class _Outcomes(NamedTuple):
    """Log-probabilities of the stored tokens [T, k] and of "any other" [T], and which of the k there are."""

    log_p_Tk: jax.Array
    log_r_Tk: jax.Array
    log_p_rest: jax.Array
    log_r_rest: jax.Array
    there_Tk: jax.Array


@dataclasses.dataclass(frozen=True)
class StoredDivergence:
    """Between distributions over the stored tokens and "any other token".

    By the data-processing inequality it is at most that of whole distributions, in every direction; what it misses is
    how the remaining mass is spread. Zero where the model equals the reference. Metric "divergence", the value [T].

    With `compares` the stored tokens are found by comparing them with all columns: a TPU is made for that, and slow to
    gather and scatter; on a CPU it cost a fifth of the quick start's step.
    """

    direction: str = "forward"
    compares: bool = False
    tilted: int = 0

    def tilt(self, logits: list[jax.Array]) -> None:
        return None

    def second(self, logits: list[jax.Array], columns_C: jax.Array, lse: list[jax.Array], data: Any) -> None:
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

    def _outcomes(self, statistics: Statistics, stored: Stored) -> _Outcomes:
        there_Tk = stored.ids >= 0
        log_p_Tk = statistics.picked - statistics.lse[0][:, None]
        log_r_Tk = jnp.where(there_Tk, stored.log_probs, 0.0)
        known = (jnp.sum(jnp.where(there_Tk, jnp.exp(log), 0.0), axis=1) for log in (log_p_Tk, log_r_Tk))
        rests = (jnp.log(jnp.maximum(1.0 - mass, _LEAST_REST)) for mass in known)
        return _Outcomes(log_p_Tk, log_r_Tk, *rests, there_Tk)

    def _of(self, log_p: jax.Array, log_r: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An outcome's part of the divergence, and p times its derivative by p (but for what is the same for all)."""
        p, r = jnp.exp(log_p), jnp.exp(log_r)
        if self.direction == "forward":
            return r * (log_r - log_p), -r
        if self.direction == "reverse":
            return p * (log_p - log_r), p * (log_p - log_r)
        log_m = _mixture(log_p, log_r)
        return 0.5 * (p * (log_p - log_m) + r * (log_r - log_m)), 0.5 * p * (log_p - log_m)

    def value(self, statistics: Statistics, stored: Stored) -> tuple[jax.Array, dict[str, jax.Array]]:
        o = self._outcomes(statistics, stored)
        known_Tk = jnp.where(o.there_Tk, self._of(o.log_p_Tk, o.log_r_Tk)[0], 0.0)
        value = jnp.sum(known_Tk, axis=1) + self._of(o.log_p_rest, o.log_r_rest)[0]
        return value, {"divergence": value}

    def gradient(
        self, logits: list[jax.Array], columns_C: jax.Array, statistics: Statistics, stored: Stored
    ) -> jax.Array:
        o = self._outcomes(statistics, stored)
        known_Tk = jnp.where(o.there_Tk, self._of(o.log_p_Tk, o.log_r_Tk)[1], 0.0)
        rest = self._of(o.log_p_rest, o.log_r_rest)[1]
        mean, slope = jnp.sum(known_Tk, axis=1) + rest, rest * jnp.exp(-o.log_p_rest)
        # By the logit of token v it is p_v times (slope of v's outcome - mean slope); any other's first, then what is
        # different for the stored ones.
        model_TC = jnp.exp(logits[0] - statistics.lse[0][:, None])
        others_TC = model_TC * (slope - mean)[:, None]
        correction_Tk = jnp.where(o.there_Tk, known_Tk - jnp.exp(o.log_p_Tk) * slope[:, None], 0.0)
        if self.compares:
            at_TkC = columns_C == stored.ids[..., None]
            return others_TC + jnp.sum(jnp.where(at_TkC, correction_Tk[..., None], 0.0), axis=1)
        at_Tk, here_Tk = self._places(columns_C, stored)
        flat = at_Tk + others_TC.shape[1] * jnp.arange(others_TC.shape[0])[:, None]
        added = others_TC.reshape(-1).at[flat.reshape(-1)].add(jnp.where(here_Tk, correction_Tk, 0.0).reshape(-1))
        return added.reshape(others_TC.shape)


@dataclasses.dataclass(frozen=True)
class StoredDivergenceWithBound(StoredDivergence):
    """Forward, with the metric "bound": what is stored misses at most so much of the whole divergence [T].

    With the rests R of the reference and P of the model it misses R KL(r/R || p/P) over the tokens that are not stored.
    There -log(p/P) <= log P - min log p, and r is at most the least of the stored probabilities r_k, so that the
    expectation of log(r/R) is at most log(r_k / R). Together: R (log P - min log p + min(0, log r_k - log R)). The
    minimum is taken over all tokens, which is no more. Source 1 must be the model with its hidden states negated: its
    largest logit is minus the model's least.
    """

    def value(self, statistics: Statistics, stored: Stored) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, metrics = super().value(statistics, stored)
        o = self._outcomes(statistics, stored)
        least = -statistics.max[1] - statistics.lse[0]
        least_stored = jnp.min(jnp.where(o.there_Tk, o.log_r_Tk, 0.0), axis=1)
        excess = o.log_p_rest - least + jnp.minimum(0.0, least_stored - o.log_r_rest)
        return value, metrics | {"bound": jnp.exp(o.log_r_rest) * jnp.maximum(excess, 0.0)}
