"""Entropy of a discrete distribution from a sample, with corrections for its bias.

Every entropy here is in nats; `bits` converts. The plug-in estimate is biased low, the more so the
more classes were never seen, so figures of different sample sizes must not be compared even when
corrected.

Legend: N observations, K classes, f1 and f2 = number of classes seen once and twice, C = coverage.
R rows = independent samples (bootstrap replicates), A attributes.

Miller and Madow 1955; Chao and Shen 2003; Chao, Wang and Jost 2013 ("CWJ").
"""

import functools
import math
from collections import Counter
from collections.abc import Hashable, Iterable

import numpy as np

BOOTSTRAP_REPLICATES = 1000
# 95 % of a normal distribution. For CWJ the interval estimate ± Z·se covers about 90 % in simulation,
# whereas the percentile bootstrap inherits the bias twice and covers far less.
Z = 1.959964

LOW_COVERAGE = 0.9  # below it, too much was never seen for an estimate and its interval to be trusted
_MAX_RESAMPLED = 2_000_000  # indices drawn at once, to bound memory


def bits(nats: float) -> float:
    """Nats to bits."""
    return nats / math.log(2)


def counts_of(labels: Iterable[Hashable]) -> np.ndarray:
    """How often each distinct label occurs: int64 [K], in no particular order."""
    return np.array(list(Counter(labels).values()), dtype=np.int64)


def _checked(counts: Iterable[int]) -> np.ndarray:
    counts_K = np.asarray(counts)
    if counts_K.ndim != 1 or (counts_K.size and not np.issubdtype(counts_K.dtype, np.integer)):
        raise ValueError(f"counts must be a list of integers, got shape {counts_K.shape}, {counts_K.dtype}")
    if counts_K.size and counts_K.min() < 0:
        raise ValueError("counts must not be negative")
    counts_K = counts_K[counts_K > 0].astype(np.int64)
    if not counts_K.size:
        raise ValueError("the entropy of no observations is undefined")
    return counts_K


def plug_in(counts: Iterable[int]) -> float:
    """-Σ p ln p of the observed shares, nats."""
    counts_K = _checked(counts)
    share_K = counts_K / counts_K.sum()
    return max(0.0, float(-(share_K * np.log(share_K)).sum()))


def miller_madow(counts: Iterable[int]) -> float:
    """Plug-in + (K-1)/(2N), nats."""
    counts_K = _checked(counts)
    return plug_in(counts_K) + (len(counts_K) - 1) / (2 * int(counts_K.sum()))


def chao_shen(counts: Iterable[int]) -> float:
    """Coverage-adjusted Horvitz-Thompson estimate, nats."""
    counts_K = _checked(counts)
    n = int(counts_K.sum())
    if len(counts_K) == 1:
        return 0.0
    singletons = int((counts_K == 1).sum())
    # All singletons would mean coverage 0; the authors count one less.
    covered = 1 - min(singletons, n - 1) / n
    share_K = covered * counts_K / n
    seen_K = -np.expm1(n * np.log1p(-share_K))
    return float(-(share_K * np.log(share_K) / seen_K).sum())


def chao_wang_jost(counts: Iterable[int]) -> float:
    """The CWJ estimate, nats. The least biased of the four at small N; the headline figure."""
    return float(chao_wang_jost_rows(_checked(counts)[None, :])[0])


def chao_wang_jost_rows(counts_RK: np.ndarray) -> np.ndarray:
    """CWJ of every row of counts, nats: float64 [R]. A row without observations gives NaN."""
    n_R = counts_RK.sum(axis=1)
    if not counts_RK.size or n_R.max() == 0:
        return np.full(len(counts_RK), np.nan)
    # Digamma differences at integers are sums of 1/k: psi(N) - psi(n) = harmonic[N-1] - harmonic[n-1].
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n_R.max() + 1))])
    gap_RK = harmonic[np.maximum(n_R - 1, 0)][:, None] - harmonic[np.maximum(counts_RK - 1, 0)]
    seen_R = (counts_RK * gap_RK).sum(axis=1) / np.maximum(n_R, 1)
    singletons_R = (counts_RK == 1).sum(axis=1)
    doubletons_R = (counts_RK == 2).sum(axis=1)
    unseen_R = [_unseen(*map(int, row)) for row in zip(n_R, singletons_R, doubletons_R, strict=True)]
    return np.where(n_R > 0, seen_R + np.array(unseen_R), np.nan)


@functools.lru_cache(maxsize=65536)
def _unseen(n: int, f1: int, f2: int) -> float:
    """The second term of CWJ: the share of entropy in classes that were never seen.

    (f1/N) (1-A)^(1-N) {-ln A - Σ_{r<N} (1-A)^r / r}, which is (f1/N) Σ_{j>=1} (1-A)^j / (N-1+j).
    """
    if f1 == 0 or n < 2:
        return 0.0
    a = 2 * f2 / ((n - 1) * f1 + 2 * f2) if f2 else 2 / ((n - 1) * (f1 - 1) + 2)
    if a >= 1:
        return 0.0
    log_q = math.log1p(-a)
    if n * a <= 1:
        r = np.arange(1, n)
        tail = math.exp((1 - n) * log_q) * (-math.log(a) - float((np.exp(r * log_q) / r).sum()))
    else:  # the closed form cancels here, and the series is short: terms below 1e-18 are left out
        j = np.arange(1, math.ceil(42 / -log_q) + 1)
        tail = float((np.exp(j * log_q) / (n - 1 + j)).sum())
    return f1 / n * tail


def coverage(counts: Iterable[int]) -> float:
    """Good and Turing's estimate 1 - f1/N of the probability mass of the classes seen."""
    counts_K = _checked(counts)
    return 1 - int((counts_K == 1).sum()) / int(counts_K.sum())


def resampled(labels_NA: np.ndarray, *, replicates: int = BOOTSTRAP_REPLICATES, seed: int = 0) -> np.ndarray:
    """CWJ of every column of bootstrap resamples of the rows.

    Whole rows are drawn, so that attributes keep their correlation.

    Args:
      labels_NA: integer class of each observation and attribute; -1 where there is none.

    Returns:
      float64 [replicates, A], nats; NaN where a resample has no label of an attribute.
    """
    n, n_attributes = labels_NA.shape
    rng = np.random.default_rng(seed)
    chunk = max(1, _MAX_RESAMPLED // max(n, 1))
    entropies = []
    for start in range(0, replicates, chunk):
        rows = min(chunk, replicates - start)
        drawn_RN = rng.integers(0, n, (rows, n))
        columns = [_cwj_of_labels(labels_NA[:, a], drawn_RN) for a in range(n_attributes)]
        entropies.append(np.stack(columns, axis=1))
    return np.concatenate(entropies)


def _cwj_of_labels(labels_N: np.ndarray, drawn_RN: np.ndarray) -> np.ndarray:
    """CWJ, nats [R], of the labels picked by each row of indices."""
    rows, classes = len(drawn_RN), int(labels_N.max(initial=-1)) + 1
    # One class more takes the missing labels (-1) and is cut off again.
    flat = np.arange(rows)[:, None] * (classes + 1) + labels_N[drawn_RN] + 1
    counts_RK = np.bincount(flat.ravel(), minlength=rows * (classes + 1)).reshape(rows, classes + 1)[:, 1:]
    return chao_wang_jost_rows(counts_RK)


def standard_error(replicates_R: np.ndarray) -> float:
    """Standard deviation of bootstrap replicates, in their unit; NaN replicates are left out.

    It is sampling error only: not the spread over training seeds.
    """
    kept = replicates_R[np.isfinite(replicates_R)]
    return float(kept.std(ddof=1)) if len(kept) > 1 else 0.0
