"""Entropy estimates: golden values, properties, and that the correction corrects."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchortrain.evaluate import entropy

ESTIMATORS = (entropy.plug_in, entropy.miller_madow, entropy.chao_shen, entropy.chao_wang_jost)
COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # As by infomeasure 0.6.3.
        ([4, 2, 3, 2, 4, 2, 1, 1], (1.968382, 2.152593, 2.201137, 2.197116)),
        ([5, 5], (0.693147, 0.743147, 0.693825, 0.745635)),
        ([1] * 10, (2.302585, 2.752585, 4.816221, 4.203386)),
    ],
)
def test_golden_values(counts, expected):
    assert [estimator(counts) for estimator in ESTIMATORS] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_one_class_has_no_entropy(estimator, n):
    assert estimator([n]) == 0.0


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(counts=COUNTS, seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_order_and_empty_classes_do_not_matter(estimator, counts, seed):
    shuffled = np.random.default_rng(seed).permutation([*counts, 0, 0])
    assert estimator(shuffled) == pytest.approx(estimator(counts), abs=1e-12)


@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_relabelling_does_not_matter(labels):
    renamed = [f"class {9 - label}" for label in labels]
    for estimator in ESTIMATORS:
        mine, theirs = (estimator(entropy.counts_of(one)) for one in (labels, renamed))
        assert mine == pytest.approx(theirs, abs=1e-12)


@given(counts=COUNTS)
@settings(max_examples=100, deadline=None)
def test_bounds(counts):
    plug_in = entropy.plug_in(counts)
    assert 0 <= plug_in <= math.log(len(counts)) + 1e-12
    assert entropy.chao_wang_jost(counts) >= plug_in - 1e-9
    assert all(math.isfinite(estimator(counts)) for estimator in ESTIMATORS)
    assert 0 <= entropy.coverage(counts) <= 1


@pytest.mark.parametrize(("n", "f1", "f2"), [(100, 40, 5), (100, 3, 20), (512, 30, 0), (300, 300, 0), (50, 1, 24)])
def test_unseen_term_is_its_series(n, f1, f2):
    """Whichever way it is computed: with A large the closed form cancels, with A small the series is long."""
    a = 2 * f2 / ((n - 1) * f1 + 2 * f2) if f2 else 2 / ((n - 1) * (f1 - 1) + 2)
    j = np.arange(1, int(50 / a) + 1)
    series = f1 / n * float(((1 - a) ** j / (n - 1 + j)).sum())
    assert entropy._unseen(n, f1, f2) == pytest.approx(series, rel=1e-6)


def test_correction_removes_most_of_the_bias():
    share_K = 1 / np.arange(1, 201)
    share_K /= share_K.sum()
    truth = -(share_K * np.log(share_K)).sum()
    samples = np.random.default_rng(0).multinomial(100, share_K, size=200)
    plug_in = np.mean([entropy.plug_in(one) for one in samples]) - truth
    corrected = entropy.chao_wang_jost_rows(samples).mean() - truth
    # Simulated elsewhere with the same distribution: -0.71 and -0.10.
    assert plug_in == pytest.approx(-0.71, abs=0.03)
    assert corrected == pytest.approx(-0.10, abs=0.04)


def test_interval_covers_the_truth_about_as_often_as_stated():
    share_K = 1 / np.arange(1, 21)
    share_K /= share_K.sum()
    truth = -(share_K * np.log(share_K)).sum()
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(100):
        labels_N = rng.choice(20, size=200, p=share_K)
        replicates_R = entropy.resampled(labels_N[:, None], replicates=200, seed=i)[:, 0]
        error = entropy.standard_error(replicates_R)
        hits += abs(entropy.chao_wang_jost(entropy.counts_of(labels_N.tolist())) - truth) < entropy.Z * error
    assert 84 <= hits <= 100


def test_resampling_keeps_rows_together_and_leaves_out_what_is_missing():
    labels_N = np.random.default_rng(0).integers(0, 5, 80)
    labels_NA = np.stack([labels_N, 4 - labels_N, np.full(80, -1), np.where(labels_N == 0, 0, -1)], axis=1)
    found = entropy.resampled(labels_NA, replicates=20, seed=3)
    np.testing.assert_allclose(found[:, 0], found[:, 1])
    assert np.isnan(found[:, 2]).all()
    assert (found[:, 3] == 0).all()
    np.testing.assert_array_equal(found, entropy.resampled(labels_NA, replicates=20, seed=3))


def test_resampling_in_chunks_is_the_same(monkeypatch):
    labels_NA = np.random.default_rng(0).integers(-1, 5, (50, 2))
    whole = entropy.resampled(labels_NA, replicates=30)
    monkeypatch.setattr(entropy, "_MAX_RESAMPLED", 50 * 7)
    np.testing.assert_array_equal(whole, entropy.resampled(labels_NA, replicates=30))


def test_bits_are_bits():
    assert entropy.bits(entropy.plug_in([3, 3, 3, 3])) == pytest.approx(2.0)


@pytest.mark.parametrize("counts", [[], [0, 0], [-1, 2], [[1, 2]], [0.5, 0.5]])
def test_bad_counts(counts):
    with pytest.raises(ValueError):
        entropy.plug_in(counts)
