"""Claims of the paper and of this project, each a test of the rows with a bar that stands in the code.

A test says True, False, or None where there is too little to tell; nothing is judged by eye. What "at every size",
"does not fall" and "half of the gain" mean is said once, here:

- A bar is held against the mean over seeds, unless the claim names an end of its 95 % interval.
- "At every size": one size that fails settles it; otherwise every size of the study must be measured. Ablations and
  controls need not be run at every size: those are judged where they were, and the sentence says where.
- "Grows" and "falls": the 95 % interval of the slope over log10 of parameters (or examples) excludes zero.
- Where no base passes its gate everything is open.
- "Does not fall": a fall beyond MARGIN is excluded. It is False when there is a fall and one beyond MARGIN is possible,
  and None when the interval is so wide that it holds both zero and such a fall.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from anchortrain.evaluate import table
from anchortrain.scaling import fits
from anchortrain.scaling.curves import Point, base_agreement, by_size, gated, series
from anchortrain.scaling.fits import Estimate, Fit
from anchortrain.scaling.results import BASE, Study

MARGIN = 0.01  # of the base's entropy (of 1 for shares) per tenfold x: what counts as "does not fall"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`holds`: True, False, or None when the rows do not tell. `figures` is what it rests on, JSON-able."""

    holds: bool | None
    sentence: str
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Claim:
    """`source`: "paper" or "ours". `figure`: the picture that shows it."""

    id: str
    source: str
    text: str
    figure: str
    test: Callable[[Study], Verdict]


def judge(study: Study) -> list[dict[str, Any]]:
    """Every claim with its verdict, as `claims.json` has them."""
    from anchortrain.scaling.claims_table import CLAIMS

    found = []
    # A base that ignores its annotations cannot show what they do, nor do models that never learned to write.
    known = any(base_agreement(study, size) for size in study.sizes)
    open_all = study.base_gate is not None and known and not gated(study)
    for claim in CLAIMS:
        verdict = Verdict(None, "No base passes the gate.") if open_all else claim.test(study)
        found.append(
            {
                "id": claim.id,
                "source": claim.source,
                "text": claim.text,
                "holds": verdict.holds,
                "sentence": verdict.sentence,
                "figures": dict(verdict.figures),
                "figure": f"figures/{claim.figure}.svg",
                "command": study.command,
            }
        )
    return found


def not_measured(*methods: str) -> Verdict:
    """The verdict where rows are missing, or what they should say is undefined."""
    return Verdict(None, f"Not measured, or undefined: {', '.join(map(table.label, methods))}.")


def missing(study: Study, *methods: str) -> list[str]:
    """Those of `methods` without a row at the defaults."""
    return [method for method in methods if not study.measured(method)]


def shown(one: Estimate, digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
    """`3.58 [3.55, 3.61]`."""
    text = f"{_rounded(one.value * scale, digits)}{unit}"
    if one.low is None or one.high is None:
        return text
    return f"{text} [{_rounded(one.low * scale, digits)}, {_rounded(one.high * scale, digits)}]"


def _rounded(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0 turns -0.0 into 0.0


def percent(one: Estimate) -> str:
    """`98.5 % [97.1, 99.9]`."""
    return shown(one, 1, 100, " %")


def at_every_size(
    study: Study,
    measured: Mapping[str, Any],
    passes: Callable[[Any], bool],
    sizes: Iterable[str] | None = None,
) -> bool | None:
    """Whether what was measured (by size) passes at all of `sizes`; None: nothing failed, but a size is missing."""
    if not measured:
        return None
    if not all(passes(one) for one in measured.values()):
        return False
    return True if set(study.sizes if sizes is None else sizes) <= measured.keys() else None


def listed(study: Study, measured: Mapping[str, Any], write: Callable[[Any], str]) -> str:
    """`27k 1.2, 80k 1.3 (not measured: 160k)`."""
    said = ", ".join(f"{size} {write(measured[size])}" for size in study.sizes if size in measured)
    absent = [size for size in study.sizes if size not in measured]
    return said + (f" (not measured: {', '.join(absent)})" if absent else "")


def json_by_size(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {size: one.json() for size, one in measured.items()}


def means(points: Iterable[Point]) -> dict[str, Estimate]:
    """Size -> mean over seeds."""
    return {point.size: point.mean for point in points}


def slope_over(points: list[Point]) -> Fit | None:
    """The log fit through points; its `b` is the change per tenfold x."""
    return fits.log(series(points))


def margin(study: Study) -> float:
    """MARGIN in bits: of the base's mean text entropy over sizes and seeds (of the prior's where there is no base)."""
    bits = [one for point in by_size(study, BASE, "text_bits") for one in point.by_seed.values()]
    bits = bits or list(study.prior_bits.values())
    return MARGIN * sum(bits) / len(bits) if bits else MARGIN


def does_not_fall(slope: Estimate, allowed: float) -> bool | None:
    """See the module's rules. `allowed` is positive."""
    if slope.low is None or slope.high is None:
        return None
    if slope.low > -allowed:
        return True
    return False if slope.high < 0 else None


def grows(slope: Estimate) -> bool | None:
    """Whether the interval lies above zero; None without an interval."""
    return None if slope.low is None else slope.low > 0


def trend(
    points: list[Point], test: Callable[[Estimate], bool | None], name: str, unit: str, over: str = "parameters"
) -> Verdict:
    """A claim about the slope of one quantity over log10 x. `unit` follows the figure, such as "bits"."""
    fit = slope_over(points)
    if fit is None:
        return Verdict(None, f"{name}: defined at fewer than two values of {over}.")
    slope, scale, digits = fit.terms["b"], 100 if unit == "points" else 1, 1 if unit == "points" else 3
    first, last = points[0].mean, points[-1].mean
    said = f"{name}: {shown(slope, digits, scale)} {unit} per tenfold {over}, from {shown(first, 2, scale)} to "
    said += f"{shown(last, 2, scale)}."
    if slope.low is None:
        said += " One seed at too few places: no interval."
    return Verdict(test(slope), said, {"slope_per_tenfold": slope.json(), "fit": fit.json()})
