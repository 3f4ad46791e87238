"""Gap closed and collapse ratio, with their intervals, edges and refusals."""

import json

import numpy as np
import pytest

from anchortrain.errors import UserError
from anchortrain.evaluate.collapse import Measurement, collapse, compare


def measurement(bits, error=0.02, n=500, seed=0):
    return Measurement(n, bits, np.random.default_rng(seed).normal(bits, error, 1000))


def test_formulas():
    found = collapse(measurement(3.0, seed=1), measurement(1.0, seed=2), measurement(2.7, seed=3))
    assert found["gap_closed"] == pytest.approx(0.85)
    assert found["collapse_ratio"] == pytest.approx(1 / 0.15)
    assert not found["collapse_ratio_capped"]
    low, high = found["gap_closed_interval"]
    assert 0.8 < low < 0.85 < high < 0.9
    assert found["collapse_ratio_interval"] == pytest.approx([1 / (1 - low), 1 / (1 - high)])


def test_worse_than_sft():
    found = collapse(measurement(3.0), measurement(1.0, seed=1), measurement(0.5, seed=2))
    assert found["gap_closed"] == pytest.approx(-0.25)
    assert found["collapse_ratio"] == pytest.approx(0.8)


@pytest.mark.parametrize("bits", [2.995, 3.0, 3.2])
def test_a_ratio_beyond_resolution_is_capped_and_says_so(bits):
    found = collapse(measurement(3.0), measurement(1.0, seed=1), measurement(bits, seed=2))
    assert found["collapse_ratio_capped"]
    assert found["collapse_ratio"] == pytest.approx(2.0 / np.hypot(0.02, 0.02), rel=0.1)
    assert found["collapse_ratio_interval"][0] > 1
    assert found["collapse_ratio_interval"][1] is None
    json.dumps(found, allow_nan=False)


def test_no_error_at_all_stays_finite():
    exact = [Measurement(500, bits, np.full(1000, bits)) for bits in (3.0, 1.0, 3.0)]
    assert collapse(*exact)["collapse_ratio"] == pytest.approx(2000)


@pytest.mark.parametrize("sft", [2.98, 3.0, 3.5, None])
def test_undefined_without_a_collapse(sft):
    nothing = Measurement(500, None, np.empty(0))
    found = collapse(measurement(3.0), nothing if sft is None else measurement(sft, seed=1), measurement(2.0, seed=2))
    assert found["gap_closed"] is found["collapse_ratio"] is found["gap_closed_interval"] is None


def test_unequal_sizes_are_refused(sets, world):
    with pytest.raises(UserError, match=r"base 500, sft 400.*equal N; cut every set to 400"):
        collapse(measurement(3.0), measurement(1.0, n=400), measurement(2.0))
    sets["kl"] = sets["kl"][:300]
    with pytest.raises(UserError, match="kl 300.*cut every set to 300"):
        compare(sets, world)


def test_compare(sets, world):
    table = compare(sets, world)
    assert table["base"]["gap_closed"] is None
    assert table["base"]["wellformed"] == 1.0  # as documents
    assert table["sft"]["gap_closed"] == 0.0
    assert table["sft"]["collapse_ratio"] == pytest.approx(1.0)
    assert table["sft"]["gap_closed"] < table["masked"]["gap_closed"] < table["kl"]["gap_closed"]
    assert table["kl"]["gap_closed"] == pytest.approx(1.0, abs=0.03)
    assert table["kl"]["wellformed_gap_closed"] == pytest.approx(table["kl"]["gap_closed"])
    truth = (np.log2(12) / 2 + 1.5 - 1) / 2.5
    low, high = table["masked"]["gap_closed_interval"]
    assert low < truth < high
    assert high - low < 0.06
    json.dumps(table, allow_nan=False)


def test_compare_grows_and_is_repeatable(sets, world):
    first = compare({"base": sets["base"]}, world)
    assert first["base"]["text_bits"] == pytest.approx(compare(sets, world)["base"]["text_bits"])
    assert compare(sets, world) == compare(sets, world)


def test_samples_that_miss_much_keep_their_intervals(world, make_samples):
    """Few well-formed samples: some resamples hold none of them, and still nothing is NaN."""
    bad = [row | {"response": "nothing"} for row in make_samples(27)]
    sets = {name: make_samples(3, seed=i) + bad for i, name in enumerate(("base", "sft", "masked"))}
    assert "NaN" not in json.dumps(compare(sets, world))


def test_without_a_world_there_is_no_gap(sets):
    table = compare(sets)
    assert table["kl"]["gap_closed"] is None
    assert table["kl"]["annotation_bits"] > 3
