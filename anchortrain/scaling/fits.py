"""Means with intervals, and lines, logarithms and power laws through measurements of several seeds.

Every interval is 95 %, from Student's t. A seed makes its own world, so its measurements lie higher or lower together:
lines have one slope and an intercept of their own for every seed, and their residuals are free of the seeds' levels.

Legend: P points, S seeds.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; the ends are None when there is too little to tell (one seed, no residuals)."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 1

    def json(self) -> dict[str, Any]:
        """As it stands in `claims.json`."""
        return {"value": self.value, "interval": None if self.low is None else [self.low, self.high], "n": self.n}


def mean(values: Sequence[float]) -> Estimate | None:
    """The mean over seeds with its t-interval; None without values."""
    if not values:
        return None
    middle = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return _spread(middle, error, len(values) - 1, len(values))


def _spread(value: float, error: float, freedom: int, n: int) -> Estimate:
    if freedom < 1 or not math.isfinite(error):
        return Estimate(value, n=n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Estimate(value, value - half, value + half, n)


@dataclasses.dataclass(frozen=True)
class Series:
    """Points to fit: one entry per (x, seed), all of the same length P."""

    x: Sequence[float]
    y: Sequence[float]
    seed: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Fit:
    """A curve through points. `terms` are its coefficients; `formula` says which."""

    form: str
    terms: Mapping[str, Estimate]
    points: int
    _predict: Callable[[float], Estimate] = dataclasses.field(repr=False)

    def predict(self, x: float) -> Estimate:
        """The mean over as many seeds as were fitted, of new measurements at `x`, with its prediction interval."""
        return self._predict(x)

    @property
    def formula(self) -> str:
        return FORMS[self.form]

    def json(self) -> dict[str, Any]:
        return {"formula": self.formula, "points": self.points, **{k: term.json() for k, term in self.terms.items()}}


FORMS = {"line": "a + b·x", "log": "a + b·log10(x)", "power": "a·x^b", "offset": "c + a·x^b"}


def line(series: Series) -> Fit | None:
    """y = a + b·x by least squares, `a` the mean of the seeds' intercepts. None without two different x."""
    return _straight("line", series, float, float, float)


def log(series: Series) -> Fit | None:
    """y = a + b·log10(x): b is the change per tenfold x. None without two different positive x."""
    return _straight("log", series, math.log10, float, float)


def power(series: Series) -> Fit | None:
    """y = a·x^b, a line of logarithms. None without two different x, or when a y is not positive."""
    if any(y <= 0 for y in series.y):
        return None
    return _straight("power", series, math.log10, math.log10, lambda y: 10**y)


def _straight(
    form: str,
    series: Series,
    of_x: Callable[[float], float],
    of_y: Callable[[float], float],
    back: Callable[[float], float],
) -> Fit | None:
    if of_x is math.log10 and any(x <= 0 for x in series.x):
        return None
    x_P, y_P = np.array([of_x(x) for x in series.x]), np.array([of_y(y) for y in series.y])
    seeds = sorted(set(series.seed))
    # A seed with a single x has nothing to say about the slope, and its intercept fits it exactly: no harm.
    if len(set(series.x)) < 2:
        return None
    design = np.column_stack([[one == seed for one in series.seed] for seed in seeds] + [x_P]).astype(float)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y_P
    freedom = len(y_P) - design.shape[1]
    variance = float(((y_P - design @ beta) ** 2).sum()) / freedom if freedom > 0 else math.nan

    def at(weights: np.ndarray, extra: float = 0.0) -> Estimate:
        return _spread(
            float(weights @ beta), math.sqrt(variance * (weights @ inverse @ weights + extra)), freedom, len(seeds)
        )

    def predict(x: float) -> Estimate:
        weights = np.append(np.full(len(seeds), 1 / len(seeds)), of_x(x))
        return _mapped(at(weights, 1 / len(seeds)), back)

    middle = np.append(np.full(len(seeds), 1 / len(seeds)), 0.0)
    slope = np.append(np.zeros(len(seeds)), 1.0)
    return Fit(form, {"a": _mapped(at(middle), back), "b": at(slope)}, len(y_P), predict)


def _mapped(one: Estimate, back: Callable[[float], float]) -> Estimate:
    ends = (None, None) if one.low is None or one.high is None else (back(one.low), back(one.high))
    return Estimate(back(one.value), *ends, one.n)


def offset(series: Series) -> Fit | None:
    """y = c + a·x^b with b < 0 and c >= 0, as losses fall with compute. Seeds have no levels of their own here.

    None with fewer than four different x (three would fit exactly whatever the law), or where no such law fits: at the
    bounds of b the other parameters are arbitrary.
    """
    x_P, y_P = np.array(series.x, float), np.array(series.y, float)
    if len(set(series.x)) < 4 or x_P.min() <= 0:
        return None
    # Around the geometric mean of x, a and b are nearly independent.
    scale = float(np.exp(np.log(x_P).mean()))

    def curve(x: Any, a: float, b: float, c: float) -> Any:
        return c + a * (x / scale) ** b

    start = (max(float(np.ptp(y_P)), 1e-6), -0.3, max(0.0, float(y_P.min() - np.ptp(y_P))))
    steepest, flattest = -5.0, -1e-3
    bounds = ([0.0, steepest, 0.0], [np.inf, flattest, np.inf])
    try:
        found, covariance = optimize.curve_fit(curve, x_P, y_P, p0=start, bounds=bounds, maxfev=20_000)
    except RuntimeError:  # no convergence
        return None
    a, b, c = map(float, found)
    if not 0.99 * steepest < b < 1.1 * flattest:
        return None
    freedom, seeds = len(y_P) - 3, len(set(series.seed))
    variance = float(((y_P - curve(x_P, a, b, c)) ** 2).sum()) / freedom if freedom > 0 else math.nan

    def predict(x: float) -> Estimate:
        power_of_x = (x / scale) ** b
        gradient = np.array([power_of_x, a * power_of_x * math.log(x / scale), 1.0])
        error = math.sqrt(max(float(gradient @ covariance @ gradient), 0.0) + variance / seeds)
        return _spread(curve(x, a, b, c), error, freedom, seeds)

    b_term, c_term = (_spread(value, math.sqrt(covariance[i, i]), freedom, seeds) for i, value in ((1, b), (2, c)))
    return Fit("offset", {"a": Estimate(a / scale**b, n=seeds), "b": b_term, "c": c_term}, len(y_P), predict)


def next_size(series: Series, fit: Callable[[Series], Fit | None]) -> dict[str, Any] | None:
    """Fits all x but the largest and predicts the largest; then fits all and predicts one ratio of x further.

    None when there is too little for a prediction interval.
    """
    xs = sorted(set(series.x))
    if len(xs) < 3:
        return None
    kept = [i for i, x in enumerate(series.x) if x < xs[-1]]
    part = Series(*([values[i] for i in kept] for values in (series.x, series.y, series.seed)))
    before, whole = fit(part), fit(series)
    if before is None or whole is None or (predicted := before.predict(xs[-1])).low is None:
        return None
    measured = float(np.mean([y for x, y in zip(series.x, series.y, strict=True) if x == xs[-1]]))
    further = xs[-1] * xs[-1] / xs[-2]
    return {
        "formula": whole.formula,
        "x": xs[-1],
        "predicted": predicted.json(),
        "measured": measured,
        "inside": predicted.low <= measured <= predicted.high,
        "next_x": further,
        "next": whole.predict(further).json(),
    }
