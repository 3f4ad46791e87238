"""Topics: non-negative matrix factorisation of the sample, and a cheap projection of passages onto it.

x ≈ Hᵀa with a ≥ 0 is solved at fitting. Later a = max(0, (HHᵀ + εI)⁻¹Hx), one small product a passage, is as good:
only the order of the topics matters, and a topic counts only if several of its own words occur.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from anchortrain.annotate.offline.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np

_SIGNATURE = 12  # heaviest words of a topic
_NAME_WORDS = 3
_MOST = 100
_RIDGE = 0.05


class Topics(NamedTuple):
    """A fitted topic model of k topics over the words of a vocabulary."""

    names: tuple[str, ...]  # distinct, two or three words each
    signatures: tuple[tuple[int, ...], ...]  # a topic's heaviest words, heaviest first
    projection: "np.ndarray"  # float32 [words, k]

    def rank(self, weights: dict[int, float]) -> list[str]:
        """The names of the topics that a passage is about, best first, given `Vocabulary.weights` of it."""
        if not weights or not self.names:
            return []
        import numpy as np

        x = np.fromiter(weights.values(), np.float32, len(weights))
        # Summed without BLAS, whose rounding depends on its threads.
        scores = (self.projection[list(weights)] * x[:, None]).sum(axis=0)
        found = []
        for topic in np.argsort(-scores, kind="stable")[:8].tolist():
            if scores[topic] > 0 and self._is_evident(topic, weights):
                found.append(self.names[topic])
        return found

    def _is_evident(self, topic: int, weights: dict[int, float]) -> bool:
        """Whether a reader would see it: two words of its name, or the first and one more of its heaviest."""
        signature = self.signatures[topic]
        named = sum(i in weights for i in signature[: self.names[topic].count(" ") + 1])
        heaviest = sum(i in weights for i in signature)
        return named >= 2 or named == 1 and heaviest >= (2 if signature[0] in weights else 3)


def number_of_topics(passages: int, wanted: int = 0) -> int:
    """How many topics a sample of so many passages bears; `wanted` if that is not 0."""
    return wanted or max(1, min(_MOST, round(0.8 * math.sqrt(passages))))


def fit_topics(weights: Iterable[dict[int, float]], vocabulary: Vocabulary, *, count: int, seed: int) -> Topics:
    """Factorises the sample, on one thread so that the same seed gives the same topics."""
    import numpy as np

    rows = [
        (np.fromiter(row, np.int32, len(row)), np.fromiter(row.values(), np.float32, len(row)))
        for row in weights
        if row
    ]
    size = len(vocabulary.words)
    count = min(count, len(rows), size)
    if count < 1:
        return Topics((), (), np.zeros((size, 0), np.float32))
    components = _factorise(rows, size, count, seed)
    norms = np.linalg.norm(components, axis=1)
    components = components[norms > 0] / norms[norms > 0, None]
    names, signatures, kept = _name(components, vocabulary)
    components = components[kept]
    gram = components @ components.T + _RIDGE * np.eye(len(kept))
    projection = np.linalg.solve(gram, components).T if kept else np.zeros((size, 0))
    return Topics(tuple(names), tuple(signatures), np.round(projection, 5).astype(np.float32))


def _factorise(rows: Sequence[tuple["np.ndarray", "np.ndarray"]], size: int, count: int, seed: int) -> "np.ndarray":
    """Components, float64 [count, size], of rows that are (indices, weights)."""
    import warnings

    import numpy as np
    from scipy.sparse import csr_array
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    indptr = np.cumsum([0, *(len(indices) for indices, _ in rows)])
    indices = np.concatenate([indices for indices, _ in rows])
    data = np.concatenate([data for _, data in rows]).astype(np.float64)
    matrix = normalize(csr_array((data, indices, indptr), shape=(len(rows), size)))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # topics are stable long before the last digit is
        model = NMF(count, init="nndsvda" if count < min(matrix.shape) else "random", max_iter=25, random_state=seed)
        with np.errstate(invalid="ignore"):  # an error that rounding makes negative has no root
            model.fit(matrix)
    return model.components_


def _name(components: "np.ndarray", vocabulary: Vocabulary) -> tuple[list[str], list[tuple[int, ...]], list[int]]:
    """Names, signatures and indices of the topics that can be told apart by their heaviest words."""
    import numpy as np

    names, signatures, kept = [], [], []
    taken: set[frozenset[str]] = set()
    for topic, row in enumerate(components):
        order = np.argsort(-row, kind="stable")[:_SIGNATURE].tolist()
        order = [i for i in order if row[i] > 0]
        # A topic of one overwhelming word is named by it and the next; faint third words say little.
        shown = [i for i in order[:_NAME_WORDS] if row[i] >= 0.25 * row[order[0]]] or order[:1]
        words = [vocabulary.words[i] for i in (shown if len(shown) > 1 else order[:2])]
        if not words or frozenset(words) in taken:
            continue
        taken.add(frozenset(words))
        names.append(" ".join(words))
        signatures.append(tuple(order))
        kept.append(topic)
    return names, signatures, kept
