"""Does the filter narrow? Distributions of plans drawn and kept, and the weights that bring them back together.

A checker confirms common plans more often than rare ones, because those are written better. Trained on as they are,
the kept records would teach the model to favour what it can do already.

Legend: K kept records, keys = attributes of the plans; the class of a key in a plan is the set of its values.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchortrain.annotation import Annotation
from anchortrain.evaluate.samples import canonical
from anchortrain.evaluate.semantic import summarise

_SWEEPS = 50
_COMMON = 5  # kept records that a class must have to be weighed by itself
_CLOSE = 1e-6  # of the marginals, to stop raking at

Labels = Mapping[str, str]  # key -> class, of one plan


def labels(plan: Annotation) -> dict[str, str]:
    """The class of each key of a plan."""
    values: dict[str, set[str]] = {}
    for tag in plan:
        values.setdefault(tag.key, set()).add(canonical(tag.value))
    return {key: " | ".join(sorted(found)) for key, found in values.items()}


def entropy(plans: Sequence[Annotation]) -> dict[str, Any]:
    """Entropy of plan attributes in bits, by Chao, Wang and Jost: the mean over keys, weighted by how many plans name
    each, with its bootstrap standard error, and each key's own."""
    if not plans:
        return {"n": 0, "bits": None, "bits_se": None, "attributes": {}}
    summary = summarise([{"response": "", "annotation": [list(tag) for tag in plan]} for plan in plans])
    attributes = {
        name: {field: block["annotation"].get(field) for field in ("n", "bits", "bits_se", "classes", "coverage")}
        for name, block in summary["attributes"].items()
    }
    head = {field: summary[f"annotation_{field}"] for field in ("bits", "bits_se")}
    return {"n": len(plans), **head, "attributes": attributes}


def shift(drawn: Sequence[Labels], kept: Sequence[Labels]) -> float | None:
    """How far the marginals of kept plans lie from those of drawn ones: total variation, mean over keys, in 0..1.

    None when nothing was kept. Sampling alone makes it larger than 0.
    """
    if not kept:
        return None
    distances = []
    for key, target in _marginals(drawn).items():
        found = _marginals(kept).get(key, {})
        distances.append(0.5 * sum(abs(target.get(c, 0.0) - found.get(c, 0.0)) for c in {*target, *found}))
    return float(np.mean(distances)) if distances else 0.0


def rake(drawn: Sequence[Labels], kept: Sequence[Labels], *, max_weight: float) -> np.ndarray:
    """Weights of kept records with mean 1, so that each key's marginal is that of the draws: float64 [K].

    Iterative proportional fitting (Deming and Stephan 1940). A class of which nothing was kept cannot come back; its
    share goes to the others. No weight passes `max_weight`, at the price of marginals that are not quite reached.
    """
    weights_K = np.ones(len(kept))
    tables = [table for key in _keys(drawn) if (table := _table(key, drawn, kept)) is not None]
    for _ in range(_SWEEPS):
        before_K = weights_K.copy()
        for class_K, wanted in tables:
            have = np.bincount(class_K, weights_K, minlength=len(wanted)) / weights_K.sum()
            factors = np.divide(wanted, have, out=np.ones_like(wanted), where=(have > 0) & (wanted > 0))
            weights_K = weights_K * factors[class_K]
            weights_K = _capped(weights_K, max_weight)
        if np.abs(weights_K - before_K).max(initial=0) < _CLOSE:
            break
    return weights_K


def _table(key: str, drawn: Sequence[Labels], kept: Sequence[Labels]) -> tuple[np.ndarray, np.ndarray] | None:
    """The class number of each kept record [K] and the share wanted for each class; None when nothing is to be had.

    Classes that hardly occur among the kept, as most values of free text do, are one together: matched one by one they
    would pile all weight onto a few records.
    """
    common = [name for name, n in Counter(one.get(key, "") for one in kept).items() if n >= _COMMON]
    number = {name: i for i, name in enumerate(common)}
    class_K = np.array([number.get(one.get(key, ""), len(common)) for one in kept])
    drawn_N = np.array([number.get(one.get(key, ""), len(common)) for one in drawn])
    wanted = np.bincount(drawn_N, minlength=len(common) + 1).astype(np.float64)
    wanted[np.bincount(class_K, minlength=len(common) + 1) == 0] = 0.0
    return (class_K, wanted / wanted.sum()) if wanted.sum() > 0 else None


def _capped(weights_K: np.ndarray, most: float) -> np.ndarray:
    """Weights of mean 1 with none above `most`, by scaling those below."""
    weights_K = weights_K / weights_K.mean()
    for _ in range(20):
        over = weights_K >= most
        if over.all() or not (weights_K > most).any():
            break
        weights_K = np.where(over, most, weights_K)
        rest = weights_K[~over].sum()
        weights_K = np.where(over, most, weights_K * (len(weights_K) - most * over.sum()) / rest)
    return weights_K


def copies(weights_K: np.ndarray, seed: int) -> np.ndarray:
    """How often each record is written, int64 [K], as many in all as there are records.

    Systematic resampling: a count is its weight rounded up or down, right on average. The same for the same seed.
    """
    if not len(weights_K):
        return np.zeros(0, np.int64)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(weights_K))  # neighbours share their luck
    ends = np.cumsum(weights_K[order] * len(weights_K) / weights_K.sum())
    marks = np.arange(len(weights_K)) + rng.random()
    counts = np.zeros(len(weights_K), np.int64)
    np.add.at(counts, order[np.minimum(np.searchsorted(ends, marks, side="right"), len(order) - 1)], 1)
    return counts


def _keys(plans: Sequence[Labels]) -> list[str]:
    return list(dict.fromkeys(key for plan in plans for key in plan))


def _marginals(plans: Sequence[Labels]) -> dict[str, dict[str, float]]:
    """Key -> class -> share of the plans; a plan without the key has the class ""."""
    counts = {key: Counter(plan.get(key, "") for plan in plans) for key in _keys(plans)}
    return {key: {name: n / len(plans) for name, n in found.items()} for key, found in counts.items()}
