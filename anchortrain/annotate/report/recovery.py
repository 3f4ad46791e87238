"""How well a tag can be told from the text: a linear classifier for each key, on held-out documents.

Its bits, H(tag) - cross-entropy, are a lower bound of the mutual information of tag and text (Barber and Agakov 2003):
a better classifier could only find more. H is that of the held-out classes as counted, which is rather too low.

Legend: N chunks, K classes.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anchortrain.annotate.report.sample import SampledChunk, Split
from anchortrain.annotate.report.words import words

CLASSES = 20  # values of a key that are classes of their own
MIN_OCCURRENCES = 5  # of such a value among the documents learnt from
ABSENT, OTHER = "absent", "other"
_FEATURES = 1 << 16
_LIMIT = 8.0  # of the settings of the calibration, both logarithmic


class Chunks(NamedTuple):
    """Chunks with tags of one part of the split."""

    chunks: list[SampledChunk]
    documents: np.ndarray  # int [N], number of each chunk's document
    features: Any  # sparse [N, features], TF-IDF


class Recovered(NamedTuple):
    """What was recovered of a key's tags, in bits for each chunk."""

    entropy: float
    bits: float  # may be below 0: nothing was found, and the sample is small
    error: float  # standard error of `bits`, over documents
    accuracy: float
    majority: float  # accuracy of always saying the most frequent class


def vectorise(split: Split) -> tuple[Chunks, Chunks, Chunks]:
    """The annotated chunks of each part with their features; weights of words are those of the first part."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    hashing = HashingVectorizer(analyzer=words, n_features=_FEATURES, alternate_sign=False, norm=None, dtype=np.float32)
    weigh = TfidfTransformer(sublinear_tf=True)
    parts = []
    for documents in split:
        chunks = [chunk for document in documents for chunk in document.chunks if chunk.annotation]
        owners = [i for i, document in enumerate(documents) for chunk in document.chunks if chunk.annotation]
        counts = hashing.transform([chunk.text for chunk in chunks])
        features = weigh.transform(counts) if parts else weigh.fit_transform(counts)
        parts.append(Chunks(chunks, np.array(owners, dtype=np.int64), features))
    return parts[0], parts[1], parts[2]


def recover(key: str, parts: tuple[Chunks, Chunks, Chunks], *, shifted: bool = False) -> Recovered | None:
    """Fits on the first part, calibrates on the second, measures on the third; None where there is nothing to tell.

    Args:
      key: of the tags. A chunk's class is its first value of the key, `OTHER` for a rare one, `ABSENT` without any.
      shifted: every chunk gets the tag of another document, as a control.
    """
    labels = [_values(key, part, shifted) for part in parts]
    frequent = Counter(labels[0])
    del frequent[ABSENT]
    kept = [value for value, n in frequent.most_common(CLASSES) if n >= MIN_OCCURRENCES]
    names = [ABSENT, OTHER, *kept]
    place = {name: i for i, name in enumerate(names)}
    train, valid, test = (np.array([place.get(one, 1) for one in part], dtype=np.int64) for part in labels)
    if len(set(train.tolist())) < 2 or not len(valid) or len(set(test.tolist())) < 2:
        return None
    prior_K = (np.bincount(train, minlength=len(names)) + 0.5) / (len(train) + 0.5 * len(names))
    scores = _fit(parts[0].features, train, [parts[1].features, parts[2].features], len(names))
    setting = _calibrate(scores[0], valid, prior_K)
    predicted_NK = _probabilities(scores[1], prior_K, *setting)
    return _measure(predicted_NK, test, prior_K, parts[2].documents)


def _values(key: str, part: Chunks, shifted: bool) -> list[str]:
    values = [
        next((f"={tag.value}" for tag in chunk.annotation or () if tag.key == key), ABSENT) for chunk in part.chunks
    ]
    return shift(values) if shifted else values


def shift(values: list[Any]) -> list[Any]:
    """The list moved on by half of its length: chunks of a document stay together and meet another document's."""
    half = len(values) // 2
    return values[half:] + values[:half]


def _fit(features: Any, labels: np.ndarray, others: Sequence[Any], classes: int) -> list[np.ndarray]:
    """Scores of every class for the rows of `others`: [N, K]; classes that were never seen have the lowest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="log_loss", alpha=2e-5, max_iter=10, tol=1e-3, random_state=0)
    with warnings.catch_warnings():
        # Ten passes are enough: whatever they found is measured on other documents.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    scores = []
    for other in others:
        found = model.decision_function(other)
        if found.ndim == 1:
            found = np.stack([-found / 2, found / 2], axis=1)
        full = np.full((len(found), classes), found.min(initial=0.0) - 1)
        full[:, model.classes_] = found
        scores.append(full)
    return scores


def _probabilities(scores_NK: np.ndarray, prior_K: np.ndarray, sharpness: float, trust: float) -> np.ndarray:
    """Softmax of the scores, mixed with the classes' shares: [N, K]."""
    from scipy.special import expit, softmax

    trusted = expit(trust)
    return trusted * softmax(scores_NK * math.exp(sharpness), axis=1) + (1 - trusted) * prior_K


def _calibrate(scores_NK: np.ndarray, labels: np.ndarray, prior_K: np.ndarray) -> tuple[float, float]:
    """Sharpness and trust with the least cross-entropy; no trust where the classifier is not clearly better at all."""
    from scipy.optimize import minimize

    rows = np.arange(len(labels))

    def gains(setting: np.ndarray) -> np.ndarray:
        sharpness, trust = np.clip(setting, -_LIMIT, _LIMIT)
        return np.log(_probabilities(scores_NK, prior_K, sharpness, trust)[rows, labels]) - np.log(prior_K[labels])

    found = minimize(lambda setting: -gains(setting).mean(), [0.0, 2.0], method="Nelder-Mead", options={"maxiter": 60})
    sharpness, trust = np.clip(found.x, -_LIMIT, _LIMIT)
    best = gains(found.x)
    clear = best.mean() > best.std() / math.sqrt(len(best))
    return float(sharpness), float(trust) if clear else -math.inf


def _measure(predicted_NK: np.ndarray, labels: np.ndarray, prior_K: np.ndarray, documents: np.ndarray) -> Recovered:
    counts_K = np.bincount(labels, minlength=len(prior_K))
    with np.errstate(divide="ignore"):
        surprise_N = -np.log2(counts_K / len(labels))[labels]
    gain_N = surprise_N + np.log2(predicted_NK[np.arange(len(labels)), labels])
    right = predicted_NK.argmax(axis=1) == labels
    return Recovered(
        entropy=float(surprise_N.mean()),
        bits=float(gain_N.mean()),
        error=error_by_document(gain_N, np.ones(len(gain_N)), documents),
        accuracy=float(right.mean()),
        majority=float((labels == prior_K.argmax()).mean()),
    )


def error_by_document(gains: np.ndarray, weights: np.ndarray, documents: np.ndarray) -> float:
    """Standard error of Σ gains / Σ weights, when documents are drawn and all of their chunks with them."""
    total = weights.sum()
    mean = gains.sum() / total
    residuals = np.bincount(documents, gains - mean * weights)
    n = len(np.unique(documents))
    return float(math.sqrt((residuals**2).sum() * n / max(n - 1, 1)) / total)
