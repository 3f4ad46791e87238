"""How much an annotation tells about its text: what a small language model saves with it, on held-out documents.

What is saved is a difference of two losses and no bound of the mutual information: a better model of text would guess
by itself part of what the annotation says. A bound it is that the annotation can be told from those of other texts:
E log2 [p(x|z) / mean_j p(x|z_j)] over candidates z_j, the text's own among them (van den Oord et al. 2018).
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchortrain.annotate.report.language_model import UNKNOWN, LanguageModel, Mixture, Passages, Weights
from anchortrain.annotate.report.recovery import error_by_document, shift
from anchortrain.annotate.report.sample import SampledChunk, SampledDocument, Split
from anchortrain.annotate.report.words import words

WORDS_OF_CHUNK = 400  # of its beginning that are read
CANDIDATES = 128  # annotations that one is told from
_TEMPER_CANDIDATES = 48
_IDENTIFIED_WORDS = 150  # of a text, by which its annotation is told
_VOCABULARY = 50_000
_MEASURED_WORDS = 300_000  # of a part
_TAGS = 16  # of an annotation


class Gain(NamedTuple):
    """What annotations save, on the chunks that have them."""

    chunks: int
    words: int
    before: float  # bits of a word without annotation
    after: float  # and with it
    error: float  # standard error of the difference, over documents

    @property
    def per_word(self) -> float:
        return self.before - self.after

    @property
    def per_chunk(self) -> float:
        return self.per_word * self.words / self.chunks


class Gains(NamedTuple):
    """Of whole annotations, and of the tags of each key alone."""

    all: Gain
    keys: dict[str, Gain]


class Identified(NamedTuple):
    """Telling a text's annotation from those of other texts."""

    candidates: int
    first: float  # share of texts whose own annotation fits best
    bits: float  # bound of the mutual information, at most log2 of `candidates`
    error: float


class Part(NamedTuple):
    passages: Passages
    documents: np.ndarray  # int, number of each chunk's document


def vocabulary_of(documents: Sequence[SampledDocument]) -> dict[str, int]:
    """Ids from 1 of the words that occur at least twice; `UNKNOWN` stands for the others."""
    counts = Counter(
        word for document in documents for chunk in document.chunks for word in words(chunk.text)[:WORDS_OF_CHUNK]
    )
    kept = [word for word, n in counts.most_common(_VOCABULARY) if n > 1]
    return {word: i for i, word in enumerate(kept, UNKNOWN + 1)}


def encode(
    chunks: Sequence[SampledChunk], vocabulary: dict[str, int], keys: Sequence[str], *, shifted: bool = False
) -> Passages:
    """The words of chunks with the tags of some keys; `shifted` gives every chunk the annotation of another."""
    annotations = [tuple(tag for tag in chunk.annotation or () if tag.key in keys)[:_TAGS] for chunk in chunks]
    annotations = shift(annotations) if shifted else annotations
    ids, spelled, values, lengths = [], [], [], []
    for chunk, annotation in zip(chunks, annotations, strict=True):
        found = words(chunk.text)[:WORDS_OF_CHUNK]
        known: dict[str, list[int]] = {}
        said = set()
        for tag in annotation:
            in_value = words(tag.value)
            said.update(in_value)
            known.setdefault(tag.key, []).extend(vocabulary[word] for word in in_value if word in vocabulary)
        ids += [vocabulary.get(word, UNKNOWN) for word in found]
        spelled += [word in said for word in found]
        values.append(known)
        lengths.append(len(found))
    word = np.array(ids, dtype=np.int64)
    previous = np.concatenate([[0], word[:-1]]) if len(word) else word.copy()
    starts = np.cumsum(lengths, dtype=np.int64) - np.array(lengths, dtype=np.int64)
    previous[starts[np.array(lengths) > 0]] = len(vocabulary) + 1
    chunk_of = np.repeat(np.arange(len(lengths)), lengths)
    return Passages(word, previous, chunk_of, np.array(spelled, dtype=bool), annotations, values)


def part_of(
    documents: Sequence[SampledDocument], vocabulary: dict[str, int], keys: Sequence[str], *, shifted: bool, limit: int
) -> Part:
    """The annotated chunks of a part of the split, evenly thinned out to about `limit` words (0: no limit)."""
    annotated = [(i, chunk) for i, one in enumerate(documents) for chunk in one.chunks if chunk.annotation]
    total = sum(min(WORDS_OF_CHUNK, len(chunk.text) // 5) for _, chunk in annotated)
    kept = annotated[:: max(1, -(-total // limit))] if limit else annotated
    passages = encode([chunk for _, chunk in kept], vocabulary, keys, shifted=shifted)
    return Part(passages, np.array([i for i, _ in kept], dtype=np.int64))


class Study(NamedTuple):
    """A fitted model with what it is calibrated and measured on."""

    model: LanguageModel
    valid: Part
    test: Part


def fit(split: Split, keys: Sequence[str]) -> tuple[Study, Study]:
    """Learns words and tags from the first part of the split: with annotations as they are, and shifted."""
    vocabulary = vocabulary_of(split.train)
    texts = encode([chunk for document in split.train for chunk in document.chunks], vocabulary, ())
    own, control = (_study(split, texts, vocabulary, keys, shifted) for shifted in (False, True))
    return own, control


def _study(split: Split, texts: Passages, vocabulary: dict[str, int], keys: Sequence[str], shifted: bool) -> Study:
    train = part_of(split.train, vocabulary, keys, shifted=shifted, limit=0)
    model = LanguageModel(texts, train.passages, len(vocabulary) + 1, keys)
    valid, test = (
        part_of(documents, vocabulary, keys, shifted=shifted, limit=_MEASURED_WORDS)
        for documents in (split.valid, split.test)
    )
    return Study(model, valid, test)


def gains(study: Study, *, without_spelled: bool = False) -> Gains | None:
    """What all keys together and each alone save on the held-out part; None when no word is left to measure on."""
    valid, test = (
        study.model.mixture(part.passages, without_spelled=without_spelled) for part in (study.valid, study.test)
    )
    chunk_of = [
        part.passages.chunk[~part.passages.spelled] if without_spelled else part.passages.chunk
        for part in (study.valid, study.test)
    ]
    if not len(chunk_of[1]):
        return None
    found = {}
    for i, key in enumerate(study.model.keys):
        parts = [0, 1 + i] if without_spelled else [0, 1 + i, 1 + len(study.model.keys) + i]
        at = [
            np.flatnonzero(_has(key, part.passages)[chunks])
            for part, chunks in zip((study.valid, study.test), chunk_of, strict=True)
        ]
        if len(at[0]) and len(at[1]):
            found[key] = _gain(valid.only(parts, at[0]), test.only(parts, at[1]), chunk_of[1][at[1]], study.test)
    return Gains(_gain(valid, test, chunk_of[1], study.test), found)


def _has(key: str, passages: Passages) -> np.ndarray:
    return np.array([any(tag.key == key for tag in one) for one in passages.annotations], dtype=bool)


def _gain(valid: Mixture, test: Mixture, chunk: np.ndarray, part: Part) -> Gain:
    after = -test.log2(valid.fit())
    before = -test.without_annotation().log2(valid.without_annotation().fit())
    documents = part.documents[chunk]
    error = error_by_document(before - after, np.ones(len(chunk)), documents)
    return Gain(len(np.unique(chunk)), len(chunk), float(before.mean()), float(after.mean()), error)


def identify(study: Study, candidates: int = CANDIDATES) -> Identified | None:
    """How well the annotation of a held-out text is told from others'; None with fewer than two of them."""
    weights = study.model.mixture(study.valid.passages).fit()
    chosen = [_choose(study.valid, _TEMPER_CANDIDATES), _choose(study.test, candidates)]
    if min(map(len, chosen)) < 2:
        return None
    valid, test = (
        _likelihoods(study.model, part.passages, chunks, weights)
        for part, chunks in zip((study.valid, study.test), chosen, strict=True)
    )
    # Words are not independent, as the model has it: likelihoods must be tempered.
    temper = max((2.0**-i for i in range(9)), key=lambda one: _contrast(valid * one).mean())
    bits = _contrast(test * temper)
    own = np.diag(test)[:, None]
    # Texts with the very same annotation share the first place.
    first = (own[:, 0] >= test.max(axis=1)) / np.maximum((test == own).sum(axis=1), 1)
    error = error_by_document(bits, np.ones(len(bits)), study.test.documents[chosen[1]])
    return Identified(len(bits), float(first.mean()), float(bits.mean()), error)


def _choose(part: Part, most: int) -> list[int]:
    """Chunks with text, the first of every document before the second of any."""
    present = np.unique(part.passages.chunk)
    turns: Counter[int] = Counter()
    order = []
    for chunk in present.tolist():
        document = int(part.documents[chunk])
        order.append((turns[document], chunk))
        turns[document] += 1
    return [chunk for _, chunk in sorted(order)[:most]]


def _likelihoods(model: LanguageModel, passages: Passages, chunks: list[int], weights: Sequence[Weights]) -> np.ndarray:
    """log2 p(text i | annotation j): [len(chunks), len(chunks)]."""
    annotations = [passages.annotations[chunk] for chunk in chunks]
    values = [passages.values[chunk] for chunk in chunks]
    rows = []
    for chunk in chunks:
        begin, end = np.searchsorted(passages.chunk, [chunk, chunk + 1])
        at = slice(begin, min(end, begin + _IDENTIFIED_WORDS))
        n = len(passages.word[at])
        owner = np.repeat(np.arange(len(chunks)), n)
        crossed = Passages(
            np.tile(passages.word[at], len(chunks)),
            np.tile(passages.previous[at], len(chunks)),
            owner,
            np.zeros(len(owner), dtype=bool),
            annotations,
            values,
        )
        rows.append(np.bincount(owner, model.mixture(crossed).log2(weights), minlength=len(chunks)))
    return np.stack(rows)


def _contrast(bits: np.ndarray) -> np.ndarray:
    """log2 of the likelihood of each text's own annotation over the mean of all: [N]."""
    from scipy.special import logsumexp

    natural = bits * math.log(2)
    return (np.diag(natural) - logsumexp(natural, axis=1) + math.log(len(bits))) / math.log(2)
