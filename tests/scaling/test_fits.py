"""Fits recover what made the points, and their intervals cover it about as often as they say."""

import math

import numpy as np
import pytest
from scipy import stats

from anchortrain.scaling import fits
from anchortrain.scaling.fits import Series

XS = [2.6e4, 6.2e4, 1.6e5, 3.3e5, 8.2e5]


def made(curve, *, seeds=3, noise=0.01, spread=0.0, rng=None, xs=XS) -> Series:
    """Points of a curve with noise; `spread` moves whole seeds up or down."""
    rng = rng or np.random.default_rng(0)
    levels = rng.normal(0, spread, seeds) if spread else np.zeros(seeds)
    points = [(x, curve(x) + levels[seed] + rng.normal(0, noise), seed) for seed in range(seeds) for x in xs]
    return Series(*([one[i] for one in points] for i in range(3)))


def test_mean_has_the_interval_of_student():
    values = [1.0, 1.2, 1.7]
    found = fits.mean(values)
    assert [found.low, found.high] == pytest.approx(
        stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    )
    assert fits.mean([2.0]) == fits.Estimate(2.0)
    assert fits.mean([]) is None


def test_one_seed_gives_the_ordinary_least_squares_line():
    series = made(lambda x: 2 + 3 * x, seeds=1, noise=0.3, xs=[1.0, 2.0, 3.0, 4.0])
    found, known = fits.line(series), stats.linregress(series.x, series.y)
    half = stats.t.ppf(0.975, 2) * known.stderr
    assert found.terms["b"].value == pytest.approx(known.slope)
    assert [found.terms["b"].low, found.terms["b"].high] == pytest.approx([known.slope - half, known.slope + half])
    assert found.terms["a"].value == pytest.approx(known.intercept)


def test_log_and_power_laws_are_recovered():
    found = fits.log(made(lambda x: 3.0 + 0.2 * math.log10(x), spread=0.5))
    assert found.terms["b"].low < 0.2 < found.terms["b"].high
    assert found.terms["b"].high - found.terms["b"].low < 0.05  # levels of seeds do not widen it
    series = made(lambda x: math.log(40 * x**-0.3), noise=0.02)
    power = fits.power(Series(series.x, [math.exp(y) for y in series.y], series.seed))
    assert power.terms["b"].low < -0.3 < power.terms["b"].high
    assert power.terms["a"].low < 40 < power.terms["a"].high
    assert power.predict(1e6).value == pytest.approx(40 * 1e6**-0.3, rel=0.05)
    assert fits.power(made(lambda x: -1.0)) is None


def test_power_law_with_an_offset_is_recovered():
    found = fits.offset(made(lambda x: 0.5 + 30 * x**-0.4, noise=0.001))
    assert found.terms["b"].low < -0.4 < found.terms["b"].high
    assert found.terms["c"].low < 0.5 < found.terms["c"].high
    ahead = found.predict(2e6)
    assert ahead.low < 0.5 + 30 * 2e6**-0.4 < ahead.high
    assert fits.offset(made(lambda x: 0.5 + 30 * x**-0.4, xs=XS[:3])) is None


def test_too_little_gives_none_or_no_interval():
    assert fits.line(Series([1.0, 1.0], [2.0, 3.0], [0, 1])) is None
    exact = fits.line(Series([1.0, 2.0], [2.0, 3.0], [0, 0]))
    assert exact.terms["b"].value == pytest.approx(1.0)
    assert exact.terms["b"].low is None and exact.predict(3.0).low is None
    assert fits.log(Series([0.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0, 0, 0])) is None


def test_a_seed_without_some_sizes_does_no_harm():
    series = made(lambda x: 3.0 + 0.2 * math.log10(x), spread=1.0)
    keep = [i for i in range(len(series.x)) if not (series.seed[i] == 2 and series.x[i] > 1e5)]
    part = Series(*([values[i] for i in keep] for values in (series.x, series.y, series.seed)))
    slope = fits.log(part).terms["b"]
    assert slope.low < 0.2 < slope.high


def test_intervals_cover_about_as_often_as_they_say():
    rng, slope, inside, offsets = np.random.default_rng(1), [], [], []
    for _ in range(300):
        series = made(lambda x: 3.0 + 0.05 * math.log10(x), spread=0.1, rng=rng)
        b = fits.log(series).terms["b"]
        slope.append(b.low < 0.05 < b.high)
        inside.append(fits.next_size(series, fits.log)["inside"])
    for _ in range(60):
        b = fits.offset(made(lambda x: 0.5 + 30 * x**-0.4, noise=0.002, rng=rng)).terms["b"]
        offsets.append(b.low < -0.4 < b.high)
    assert 0.91 <= np.mean(slope) <= 0.985
    assert 0.91 <= np.mean(inside) <= 0.985
    assert 0.85 <= np.mean(offsets) <= 1.0


def test_the_next_size_is_told_and_a_bend_is_noticed():
    straight = fits.next_size(made(lambda x: math.log10(x)), fits.log)
    assert straight["inside"] and straight["measured"] == pytest.approx(math.log10(XS[-1]), abs=0.02)
    assert straight["next_x"] == pytest.approx(XS[-1] ** 2 / XS[-2])
    low, high = straight["next"]["interval"]
    assert low < math.log10(straight["next_x"]) < high
    bent = fits.next_size(made(lambda x: math.log10(x) + (0.3 if x > 8e5 else 0.0)), fits.log)
    assert not bent["inside"]
    assert fits.next_size(made(lambda x: x, xs=XS[:2]), fits.log) is None
