"""What is plotted and tested: figures of rows by size and along sweeps, seeds kept apart until the last moment.

Whatever compares with the base or with standard SFT is computed within a seed, then averaged.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchortrain.evaluate import collapse as collapses
from anchortrain.evaluate.entropy import Z
from anchortrain.scaling.fits import Estimate, Series, mean
from anchortrain.scaling.results import AXES, BASE, SFT, Row, Study


@dataclasses.dataclass(frozen=True)
class Point:
    """A figure at one place of a curve, by seed."""

    x: float
    by_seed: Mapping[int, float]
    size: str = ""

    @property
    def mean(self) -> Estimate:
        found = mean(list(self.by_seed.values()))
        assert found is not None  # a point has at least one seed
        return found


def series(points: Sequence[Point]) -> Series:
    """Points as what `fits` takes."""
    flat = [(point.x, y, seed) for point in points for seed, y in point.by_seed.items()]
    return Series(*([one[i] for one in flat] for i in range(3)))


def by_size(study: Study, method: str, quantity: str, **axes: float) -> list[Point]:
    """A quantity (see `value`) at every size that has it; x is the number of parameters."""
    points = [Point(study.sizes[size], at(study, method, size, quantity, **axes), size) for size in study.sizes]
    return [point for point in points if point.by_seed]


def along(study: Study, method: str, axis: str, quantity: str, size: str | None = None) -> list[Point]:
    """A quantity along one of AXES at the sweep's size; x is the axis itself."""
    size = size or study.sweep_size
    values = study.values_of(axis, method, size)
    points = [Point(one, at(study, method, size, quantity, **{axis: one}), size) for one in values]
    return [point for point in points if point.by_seed]


def against(study: Study, method: str, axis: str, x: str, y: str) -> tuple[list[Point], Series]:
    """One quantity against another along an axis at the sweep's size: points at the mean x, and all seeds to fit."""
    points, flat = [], []
    for step in along(study, method, axis, y):
        xs = at(study, method, step.size, x, **{axis: step.x})
        both = {seed: one for seed, one in step.by_seed.items() if seed in xs}
        if both:
            points.append(Point(float(np.mean([xs[seed] for seed in both])), both, step.size))
            flat += [(xs[seed], one, seed) for seed, one in both.items()]
    return sorted(points, key=lambda point: point.x), Series(*([one[i] for one in flat] for i in range(3)))


def at(study: Study, method: str, size: str, quantity: str, **axes: float) -> dict[int, float]:
    """Seed -> quantity, of the seeds that have it."""
    found = {seed: value(study, row, quantity) for seed, row in study.at(method, size, **axes).items()}
    return {seed: one for seed, one in found.items() if one is not None}


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """The mean difference over the seeds that both have."""
    return mean([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


# Beside the fields of `Row`: quantity -> (entropy it is made of, whether compared with SFT, too).
_DERIVED = {
    "lost_share": ("text", False),
    "wellformed_lost_share": ("wellformed", False),
    "gap_closed": ("text", True),
    "wellformed_gap_closed": ("wellformed", True),
}


def value(study: Study, row: Row, quantity: str) -> float | None:
    """A field of the row, or one of these, each against the base (and SFT) of the same size and seed:

    lost_share = 1 - H / H_base;   gap_closed = (H - H_sft) / (H_base - H_sft), None where SFT does not collapse;
    either with `wellformed_` before it for entropies of well-formed responses;
    kept_share = H / H_base, wellformed_kept_share = H_wellformed / H_base, both of the base's whole text entropy.
    """
    if quantity in _DERIVED:
        kind, with_sft = _DERIVED[quantity]
        if with_sft:
            return (collapse(study, row, kind) or {}).get("gap_closed")
        return _minus(1.0, _share_of_base(study, row, f"{kind}_bits", f"{kind}_bits"))
    if quantity == "kept_share":
        return _share_of_base(study, row, "text_bits", "text_bits")
    if quantity == "wellformed_kept_share":
        return _share_of_base(study, row, "wellformed_bits", "text_bits")
    return getattr(row, quantity)


def _minus(one: float, other: float | None) -> float | None:
    return None if other is None else one - other


def _share_of_base(study: Study, row: Row, field: str, of: str) -> float | None:
    base = study.at(BASE, row.size).get(row.seed)
    bits, whole = getattr(row, field), None if base is None else getattr(base, of)
    return bits / whole if bits is not None and whole else None


def collapse(study: Study, row: Row, kind: str = "text") -> dict[str, Any] | None:
    """`evaluate.collapse.collapse` of a row against the base and SFT of its size and seed; None without them.

    SFT is that on the same data with the same budget, at the default temperature. Rows hold standard errors instead
    of bootstrap replicates, so the replicates are normal.
    """
    base = study.at(BASE, row.size).get(row.seed)
    sft = _sft_of(study, row)
    if base is None or sft is None or row.method == BASE:
        return None
    found = [_measurement(one, kind, number) for number, one in enumerate((base, sft, row))]
    if any(one.bits is None for one in found):
        return None
    return collapses.collapse(*found) | {
        "lost": found[0].bits - found[1].bits,
        "resolution": _resolution(base, row, kind),
    }


def _sft_of(study: Study, row: Row) -> Row | None:
    axes = {axis: getattr(row, axis) for axis in AXES if axis != "temperature"}
    same = study.at(SFT, row.size, **axes).get(row.seed)
    return same or study.at(SFT, row.size, **(axes | {"tokens": None})).get(row.seed)


def _error(row: Row, kind: str) -> float:
    return getattr(row, f"{kind}_bits_se") or 0.0


def _resolution(base: Row, row: Row, kind: str) -> float:
    return max(math.hypot(_error(base, kind), _error(row, kind)), collapses.MIN_RESOLUTION_BITS)


@functools.cache
def _normal(number: int) -> np.ndarray:
    """Standard normal replicates, with mean 0 and deviation 1 exactly."""
    drawn_R = np.random.default_rng(number).standard_normal(1000)
    return (drawn_R - drawn_R.mean()) / drawn_R.std(ddof=1)


def _measurement(row: Row, kind: str, number: int) -> collapses.Measurement:
    bits = getattr(row, f"{kind}_bits")
    if bits is None:
        return collapses.Measurement(0, None, np.empty(0))
    # Rows compare whatever their n: a study samples all methods alike.
    return collapses.Measurement(0, bits, bits + _error(row, kind) * _normal(number))


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times less collapse than standard SFT, over seeds.

    The interval is that of the gap closed, transformed; an upper end of None is unbounded, a lower end of None unknown
    (one seed). Capped: what collapse is left is below its standard error, by which the ratio is then divided.
    """

    value: float
    low: float | None
    high: float | None
    capped: bool
    capped_seeds: int
    gap: Estimate

    def json(self) -> dict[str, Any]:
        return {
            "ratio": self.value,
            "interval": None if self.low is None else [self.low, self.high],
            "capped": self.capped,
            "capped_seeds": self.capped_seeds,
            "gap_closed": self.gap.json(),
        }

    def __str__(self) -> str:
        text = f"{_times(self.value)}×{'*' if self.capped else ''}"
        if self.low is None:
            return text
        return f"{text} [{_times(self.low)}, {'∞' if self.high is None else _times(self.high)}]"


def _times(value: float) -> str:
    return f"{value:.{0 if value >= 20 else 1}f}"


def ratio(study: Study, method: str, size: str, kind: str = "text", **axes: float) -> Ratio | None:
    """The collapse ratio of a method at a size; None where no seed has a collapse to prevent."""
    rows = study.at(method, size, **axes).values()
    found = [one for row in rows if (one := collapse(study, row, kind)) and one["gap_closed"] is not None]
    gap = mean([one["gap_closed"] for one in found])
    if gap is None:
        return None
    lost = float(np.mean([one["lost"] for one in found]))
    # The standard error of the mean over seeds of the collapse that is left, as a share of what SFT loses.
    smallest = math.sqrt(sum(one["resolution"] ** 2 for one in found)) / len(found) / lost
    left = 1 - gap.value
    return Ratio(
        value=1 / max(left, smallest),
        low=None if gap.low is None else 1 / max(1 - gap.low, smallest),
        high=None if gap.high is None or gap.high >= 1 else 1 / (1 - gap.high),
        capped=left < smallest,
        capped_seeds=sum(one["collapse_ratio_capped"] for one in found),
        gap=gap,
    )


def lost_bits(study: Study, size: str) -> dict[int, tuple[float, float]]:
    """Seed -> (bits that standard SFT loses, 1.96 standard errors of that over samples)."""
    bases, found = study.at(BASE, size), {}
    for seed, row in study.at(SFT, size).items():
        base = bases.get(seed)
        if base is not None and base.text_bits is not None and row.text_bits is not None:
            found[seed] = (base.text_bits - row.text_bits, Z * math.hypot(_error(base, "text"), _error(row, "text")))
    return found


def base_agreement(study: Study, size: str) -> dict[int, float]:
    """Seed -> agreement of the base's texts with their annotations."""
    found = {}
    for method in (BASE, *study.methods):
        for seed, row in study.at(method, size).items():
            known = row.base_agreement if row.base_agreement is not None or method != BASE else row.agreement
            if known is not None:
                found.setdefault(seed, known)
    return dict(sorted(found.items()))


def gated(study: Study) -> list[str]:
    """Sizes whose base passes the gate, by its mean over seeds; without a gate all that have a base."""
    if study.base_gate is None:
        return study.measured(BASE)
    found = []
    for size in study.sizes:
        agreements = list(base_agreement(study, size).values())
        if agreements and float(np.mean(agreements)) >= study.base_gate:
            found.append(size)
    return found
