"""What a function of next-token distributions has to say of itself so that `linear_softmax` can sum it in chunks.

Shapes: T tokens, C columns of a chunk of the vocabulary.
"""

from typing import Any, NamedTuple, Protocol

import jax


class Statistics(NamedTuple):
    """What a functional may know of whole distributions, each [T]; lists are by source of logits."""

    max: list[jax.Array]
    lse: list[jax.Array]  # log sum exp
    tilt: jax.Array | None  # expectation of the functional's `tilt`
    picked: jax.Array | None  # sum of the functional's `pick`, [T] or [T, k]
    second: jax.Array | None = None  # sum of the functional's `second`, [T, n]


class Functional(Protocol):
    """A function of each token's distributions. Source 0 is the model's; others have no gradient. Hashable."""

    tilted: int  # the source under which `tilt` is averaged

    def tilt(self, logits: list[jax.Array]) -> jax.Array | None:
        """[T, C], averaged over the vocabulary under softmax of source `tilted`; None where not needed."""

    def pick(self, logits_TC: jax.Array, columns_C: jax.Array, data: Any) -> jax.Array | None:
        """[T] or [T, k]: a part of a plain sum over the model's logits; `columns_C` are token ids, -1 for none."""

    def second(
        self, logits: list[jax.Array], columns_C: jax.Array, lse: list[jax.Array], data: Any
    ) -> jax.Array | None:
        """[T, n]: a part of plain sums over the vocabulary for which the normalisers `lse` must be known; None where
        not needed: a head that is cut is gone through once more for it."""

    def value(self, statistics: Statistics, data: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The value [T], and metrics [T]."""

    def gradient(self, logits: list[jax.Array], columns_C: jax.Array, statistics: Statistics, data: Any) -> jax.Array:
        """[T, C], of the value by the model's logits."""
