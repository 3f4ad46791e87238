"""Methods against each other: how much of the entropy that standard SFT loses does a method keep?

    gap closed       g = (H_method - H_sft) / (H_base - H_sft)
    collapse ratio   1 / (1 - g) = (H_base - H_sft) / (H_base - H_method)

g = 85 % is a ratio of 6.7, the paper's "6x less collapse". Entropies are CWJ means over attributes, in bits.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchortrain.errors import UserError
from anchortrain.evaluate import entropy
from anchortrain.evaluate.samples import Sample
from anchortrain.evaluate.semantic import Labels, World, codes, read, summarise

# A collapse smaller than this is never resolved, whatever the standard error says.
MIN_RESOLUTION_BITS = 1e-3


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A mean entropy over attributes and its bootstrap replicates, bits. `bits` is None when it is undefined."""

    n: int
    bits: float | None
    replicates_R: np.ndarray


def measure(columns: Mapping[str, Labels], *, kept: Sequence[bool] | None = None, seed: int = 0) -> Measurement:
    """The mean over attributes of CWJ, with replicates from resampling whole samples.

    Replicates are moved so that their mean is the estimate: resamples miss more classes than the sample did, and
    that bias must not enter an interval. Sets that are compared take different seeds: they are independent.

    Args:
      columns: attribute -> one label per sample, None where not recovered.
      kept: samples to count; None: all.
      seed: of the resampling.
    """
    labels_NA = codes(columns, kept)
    n = len(labels_NA)
    if not columns or not (labels_NA >= 0).any(axis=0).all():
        return Measurement(n, None, np.empty(0))
    counts = [entropy.counts_of(column[column >= 0].tolist()) for column in labels_NA.T]
    middle = entropy.bits(float(np.mean([entropy.chao_wang_jost(one) for one in counts])))
    replicates_R = entropy.bits(1) * entropy.resampled(labels_NA, seed=seed).mean(axis=1)
    # A resample in which an attribute never occurs (few samples kept) says nothing: it stays NaN.
    return Measurement(n, middle, replicates_R - np.nanmean(replicates_R) + middle)


_UNDEFINED: dict[str, Any] = {
    "gap_closed": None,
    "gap_closed_interval": None,
    "collapse_ratio": None,
    "collapse_ratio_interval": None,
    "collapse_ratio_capped": False,
}


def collapse(base: Measurement, sft: Measurement, method: Measurement) -> dict[str, Any]:
    """Gap closed and collapse ratio, each with a 95 % interval from bootstrapping all three sets jointly.

    Everything is None when an entropy is undefined, or when the interval of H_base - H_sft reaches 0 or below:
    there is no collapse to prevent then. A method may reach the base's entropy or pass it; its collapse is then too
    small to measure, and the ratio divides by the standard error of H_base - H_method instead (`capped` says so).
    An upper end of None is unbounded.

    Raises UserError when the sets differ in size: entropy estimates compare only at equal N.
    """
    _check_equal_n({"base": base.n, "sft": sft.n, "method": method.n})
    if base.bits is None or sft.bits is None or method.bits is None:
        return dict(_UNDEFINED)
    lost = base.bits - sft.bits
    if lost <= entropy.Z * math.hypot(_error(base), _error(sft)):
        return dict(_UNDEFINED)
    gap = (method.bits - sft.bits) / lost
    with np.errstate(divide="ignore", invalid="ignore"):
        gap_R = (method.replicates_R - sft.replicates_R) / (base.replicates_R - sft.replicates_R)
    low, high = (float(end) for end in np.percentile(gap_R[np.isfinite(gap_R)], [2.5, 97.5]))
    left = base.bits - method.bits
    resolution = max(math.hypot(_error(base), _error(method)), MIN_RESOLUTION_BITS)
    return {
        "gap_closed": gap,
        "gap_closed_interval": [low, high],
        "collapse_ratio": lost / max(left, resolution),
        "collapse_ratio_interval": [_ratio(low, lost), None if high >= 1 else _ratio(high, lost)],
        "collapse_ratio_capped": left < resolution,
    }


def _error(measurement: Measurement) -> float:
    return entropy.standard_error(measurement.replicates_R)


def _ratio(gap: float, lost: float) -> float:
    return lost / max((1 - gap) * lost, MIN_RESOLUTION_BITS)


def _check_equal_n(sizes: Mapping[str, int]) -> None:
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in sizes.items())
        raise UserError(
            f"sets of samples differ in size ({listed}) and entropies compare only at equal N",
            mend=f"cut every set to {min(sizes.values())}",
        )


def compare(
    sets: Mapping[str, Sequence[Sample]],
    world: World | None = None,
    *,
    base: str = "base",
    sft: str = "sft",
    expected_form: str | None = "assistant",
) -> dict[str, dict[str, Any]]:
    """`summarise` of every set, with the collapse against `base` and `sft` where both are there.

    Fields of `collapse` are added for all responses and, prefixed `wellformed_`, for well-formed ones only. The base
    itself has none. Base samples are expected to be documents, all others to have `expected_form`; with None nothing is
    expected of any.

    Raises UserError when the sets differ in size.
    """
    _check_equal_n({name: len(samples) for name, samples in sets.items()})
    forms = {name: "document" if name == base and expected_form else expected_form for name in sets}
    table = {name: summarise(samples, world, forms[name]) for name, samples in sets.items()}
    measured = {}
    if world is not None and base in sets and sft in sets:
        for seed, (name, samples) in enumerate(sets.items()):
            readings = read(samples, world, forms[name])
            measured[name] = (
                measure(readings.text, seed=seed),
                measure(readings.text, kept=readings.wellformed, seed=seed),
            )
    for name, row in table.items():
        for i, prefix in enumerate(("", "wellformed_")):
            found = _UNDEFINED
            if measured and name != base:
                found = collapse(measured[base][i], measured[sft][i], measured[name][i])
            row.update({prefix + field: value for field, value in found.items()})
    return table
