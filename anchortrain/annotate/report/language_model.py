"""A small language model of words with and without the annotation.

Without: bigrams with Witten-Bell backoff to unigrams. With: unigrams of texts that have the same tags, and the words
that the annotation itself spells out, are mixed in, once where the bigrams back off and once beside them:

    p(w | u, z) = a [c(u, w) + T(u) Σ_i b_i q_i(w | z)] / [c(u) + T(u)] + Σ_i d_i q_i(w | z)

q_0 are the unigrams, the other q_i belong to the keys of z. The weights a, b, d are fitted on validation documents, for
words after few, some and many different continuations apart: after "the" a tag matters more than after "Sherlock".
Without annotation all is the same but for q_0 alone. Words can be excluded, those that an annotation spells out: counts
and distributions then are those of the remaining words, so that both models still sum to 1.

Legend: n words (positions) of a part, c(u, w) count of a pair, T(u) number of words seen after u, q [i, n].
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchortrain.annotation import Annotation

UNKNOWN = 0  # the word that stands for all others
_TAG_PRIOR = 100.0  # words by which a tag's unigrams are drawn to those of all texts
_UNIGRAM_PRIOR = 0.01  # so small because every word of the vocabulary was seen
_EM_STEPS = 60
_BUCKET_EDGES = (8, 64, 512)  # of the number of different words seen after a word
BUCKETS = len(_BUCKET_EDGES) + 1
_MIN_POSITIONS = 50  # to fit weights on


class Passages(NamedTuple):
    """Words of some chunks, one after the other, and what their annotations say."""

    word: np.ndarray  # int64 [n]
    previous: np.ndarray  # int64 [n]; the size of the vocabulary at the start of a chunk
    chunk: np.ndarray  # int64 [n], number of the chunk in `annotations`
    spelled: np.ndarray  # bool [n]: the chunk's annotation spells the word out
    annotations: list[Annotation]
    values: list[dict[str, list[int]]]  # of each chunk: key -> the known words of its values


class Table:
    """Counts of pairs (row, word) with sums by row."""

    def __init__(self, rows: np.ndarray, words: np.ndarray, size: int, n_rows: int) -> None:
        self._size = size
        self._keys, self._counts = np.unique(rows * size + words, return_counts=True)
        owners = self._keys // size
        self.total = np.bincount(owners, self._counts, minlength=n_rows)
        self.types = np.bincount(owners, minlength=n_rows).astype(float)

    def count(self, rows: np.ndarray, words: np.ndarray) -> np.ndarray:
        """How often each pair was seen: float [n]."""
        if not len(self._keys):
            return np.zeros(len(rows))
        wanted = rows * self._size + words
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[at] == wanted, self._counts[at], 0).astype(float)


class Weights(NamedTuple):
    """Of a mixture: a, b [i] and d [i]; a + Σ d = 1, Σ b = 1."""

    pairs: float
    backoff: np.ndarray
    direct: np.ndarray


class Mixture(NamedTuple):
    """p = a (seen + backoff · Σ b_i q_i) + Σ d_i q_i at each position, with the weights of its bucket."""

    seen: np.ndarray  # float32 [n]: half the memory and time, and precise enough for probabilities
    backoff: np.ndarray  # float32 [n]
    bucket: np.ndarray  # int [n], below `BUCKETS`
    parts: np.ndarray  # q, float32 [i, n]; the first are the unigrams

    def log2(self, weights: Sequence[Weights]) -> np.ndarray:
        """Bits of each word, negative: [n]. `weights` are those of each bucket."""
        found = np.zeros(len(self.seen))
        for bucket, one in enumerate(weights):
            at = np.flatnonzero(self.bucket == bucket)
            seen, backoff, parts = self.seen[at], self.backoff[at], self.parts[:, at]
            found[at] = np.log2(one.pairs * (seen + backoff * (one.backoff @ parts)) + one.direct @ parts)
        return found

    def fit(self) -> list[Weights]:
        """Weights of the greatest likelihood for each bucket, by expectation maximisation."""
        return [self._fit_bucket(np.flatnonzero(self.bucket == bucket)) for bucket in range(BUCKETS)]

    def _fit_bucket(self, at: np.ndarray) -> Weights:
        seen, backoff, parts = self.seen[at], self.backoff[at], self.parts[:, at]
        # What the data do not decide stays near the model without annotation.
        first = np.eye(len(parts), dtype=np.float32)[0]
        start = first * np.float32(0.8) + np.float32(0.2 / len(parts))
        if len(at) < _MIN_POSITIONS:
            return Weights(1.0, first, 0 * first)
        weights = Weights(0.8, start, start * np.float32(0.2))
        for _ in range(_EM_STEPS):
            pairs = weights.pairs * (seen + backoff * (weights.backoff @ parts))
            whole = pairs + weights.direct @ parts
            backed_off = weights.backoff * (parts @ (backoff / whole))
            direct = weights.direct * (parts @ (1 / whole))
            share = float((pairs / whole).sum())
            total = share + float(direct.sum())
            # Where no word was ever left to the unigrams, their weights do not matter.
            kept = backed_off / backed_off.sum() if backed_off.sum() > 0 else start
            weights = Weights(share / total, kept, direct / total)
        return weights

    def only(self, parts: Sequence[int], positions: np.ndarray) -> "Mixture":
        """The mixture of some parts at some positions."""
        kept = (one[positions] for one in (self.seen, self.backoff, self.bucket))
        return Mixture(*kept, self.parts[np.ix_(parts, positions)])

    def without_annotation(self) -> "Mixture":
        return self._replace(parts=self.parts[:1])


class LanguageModel:
    """Fitted on passages; `mixture` scores others.

    Attributes:
      keys: those of the tags, in the order of the mixture's parts: the unigrams, then for each key the unigrams of its
        tags, then for each key (unless words are excluded) the words of its values.
    """

    def __init__(self, texts: Passages, annotated: Passages, size: int, keys: Sequence[str]) -> None:
        """Args:
        texts: everything there is to learn words from.
        annotated: the passages whose annotations are learnt.
        size: of the vocabulary.
        keys: of the tags to learn.
        """
        self.keys, self._size = list(keys), size
        counts = np.bincount(texts.word, minlength=size) + _UNIGRAM_PRIOR
        self._unigram = counts / counts.sum()
        self._pairs = Table(texts.previous, texts.word, size, size + 1)
        kept = set(keys)
        found = dict.fromkeys(tag for one in annotated.annotations for tag in one if tag.key in kept)
        self._tags = {tag: i for i, tag in enumerate(found)}
        of_chunk = [[self._tags[tag] for tag in set(one) if tag in self._tags] for one in annotated.annotations]
        position, tag = _expand(annotated.chunk, of_chunk)
        self._by_tag = Table(tag, annotated.word[position], size, len(self._tags))

    def mixture(self, passages: Passages, *, without_spelled: bool = False) -> Mixture:
        """The parts of the model at every position, or at those whose word the annotation does not spell out."""
        if without_spelled:
            kept = ~passages.spelled
            excluded = [sorted({one for known in values.values() for one in known}) for values in passages.values]
            passages = passages._replace(
                word=passages.word[kept], previous=passages.previous[kept], chunk=passages.chunk[kept]
            )
        else:
            excluded = [[] for _ in passages.values]
        n = len(passages.word)
        position, word = _expand(passages.chunk, excluded)
        gone = self._pairs.count(passages.previous[position], word)
        total = self._pairs.total[passages.previous] - np.bincount(position, gone, minlength=n)
        types = self._pairs.types[passages.previous] - np.bincount(position, gone > 0, minlength=n)
        # After a word that was never seen everything is left to the unigrams.
        types = np.where(total + types > 0, types, 1.0)
        mass = np.array([1 - self._unigram[known].sum() for known in excluded])
        unigram = self._unigram[passages.word]
        parts = [unigram / mass[passages.chunk]]
        parts += [self._by_key(key, passages, excluded, mass, parts[0]) for key in self.keys]
        if not without_spelled:
            parts += [self._copied(key, passages, parts[0]) for key in self.keys]
        seen = self._pairs.count(passages.previous, passages.word) / (total + types)
        bucket = np.digitize(self._pairs.types[passages.previous], _BUCKET_EDGES)
        single = (one.astype(np.float32) for one in (seen, types / (total + types)))
        return Mixture(*single, bucket, np.stack(parts, dtype=np.float32))

    def _by_key(
        self, key: str, passages: Passages, excluded: list[list[int]], mass: np.ndarray, otherwise: np.ndarray
    ) -> np.ndarray:
        """Unigrams of a key's tags, averaged over the tags of a chunk; `otherwise` where it has none known."""
        of_chunk = [
            [self._tags[tag] for tag in set(one) if tag.key == key and tag in self._tags]
            for one in passages.annotations
        ]
        left = [
            self._by_tag.total[tags] - self._excluded(tags, words) + _TAG_PRIOR * rest
            for tags, words, rest in zip(of_chunk, excluded, mass, strict=True)
        ]
        position, tag = _expand(passages.chunk, of_chunk)
        _, mass_left = _expand(passages.chunk, left, float)
        word = passages.word[position]
        probability = (self._by_tag.count(tag, word) + _TAG_PRIOR * self._unigram[word]) / mass_left
        tags_at = np.array([len(tags) for tags in of_chunk])[passages.chunk]
        summed = np.bincount(position, probability, minlength=len(passages.word))
        return np.where(tags_at > 0, summed / np.maximum(tags_at, 1), otherwise)

    def _excluded(self, tags: list[int], words: list[int]) -> np.ndarray | float:
        """How many of the words that each tag was seen with are excluded."""
        if not tags or not words:
            return 0.0
        pairs = np.repeat(tags, len(words)), np.tile(words, len(tags))
        return self._by_tag.count(*pairs).reshape(len(tags), -1).sum(axis=1)

    def _copied(self, key: str, passages: Passages, otherwise: np.ndarray) -> np.ndarray:
        """The words of a key's values, alike; `otherwise` where a chunk has none."""
        of_chunk = [sorted(set(values.get(key, ()))) for values in passages.values]
        position, word = _expand(passages.chunk, of_chunk)
        hits = np.bincount(position, word == passages.word[position], minlength=len(passages.word))
        choices = np.array([len(known) for known in of_chunk])[passages.chunk]
        return np.where(choices > 0, hits / np.maximum(choices, 1), otherwise)


def _expand(chunk: np.ndarray, of_chunk: Sequence[Sequence], kind: type = np.int64) -> tuple[np.ndarray, np.ndarray]:
    """Every position with each of its chunk's items: (positions, items)."""
    lengths = np.array([len(one) for one in of_chunk], dtype=np.int64)
    items = np.array([item for one in of_chunk for item in one], dtype=kind)
    starts = np.cumsum(lengths) - lengths
    repeats = lengths[chunk]
    position = np.repeat(np.arange(len(chunk)), repeats)
    within = np.arange(len(position)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return position, items[starts[chunk][position] + within]
