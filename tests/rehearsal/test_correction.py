"""The filter must not narrow: entropies, distances, raking and resampling."""

import numpy as np
import pytest

from anchortrain.annotation import Tag
from anchortrain.rehearsal.correction import copies, entropy, labels, rake, shift


def plans(hero_share: float, n: int, seed: int) -> list[dict[str, str]]:
    """Two attributes, dependent on each other; hero is "fox" with this probability."""
    rng = np.random.default_rng(seed)
    heroes = np.where(rng.random(n) < hero_share, "fox", rng.choice(["owl", "hen", "cat"], n))
    places = np.where(rng.random(n) < 0.5, heroes, rng.choice(["mill", "barn"], n))
    return [{"hero": str(hero), "place": str(place)} for hero, place in zip(heroes, places, strict=True)]


def test_labels_and_entropy():
    assert labels((Tag("hero", "The Fox"), Tag("hero", "owl"))) == {"hero": "fox | owl"}
    even = entropy([(Tag("hero", "fox"), Tag("place", "mill")), (Tag("hero", "owl"), Tag("place", "mill"))] * 100)
    assert even["n"] == 200 and even["attributes"]["hero"]["bits"] == pytest.approx(1.0, abs=0.01)
    assert even["bits"] == pytest.approx(0.5, abs=0.01) and even["bits_se"] < 0.01
    assert entropy([])["bits"] is None


def test_raking_restores_every_marginal():
    drawn, kept = plans(0.25, 4000, 0), plans(0.8, 1500, 1)
    weights = rake(drawn, kept, max_weight=100.0)
    assert weights.mean() == pytest.approx(1.0)
    for key in ("hero", "place"):
        for value in {plan[key] for plan in drawn}:
            wanted = np.mean([plan[key] == value for plan in drawn])
            got = weights[[plan[key] == value for plan in kept]].sum() / weights.sum()
            assert got == pytest.approx(wanted, abs=1e-3)
    capped = rake(drawn, kept, max_weight=2.0)
    assert capped.max() <= 2.0 + 1e-9 and capped.mean() == pytest.approx(1.0)


def test_raking_moves_nothing_that_needs_no_moving_and_survives_what_is_missing():
    drawn = plans(0.3, 500, 3)
    assert rake(drawn, drawn, max_weight=4.0) == pytest.approx(np.ones(500), abs=1e-4)
    only = [plan for plan in drawn if plan["hero"] == "fox"]
    assert np.isfinite(rake(drawn, only, max_weight=4.0)).all()
    assert rake(drawn, [{"place": "moon"}], max_weight=4.0) == pytest.approx([1.0])


def test_copies_follow_the_weights():
    drawn, kept = plans(0.25, 4000, 0), plans(0.6, 1500, 1)
    weights = rake(drawn, kept, max_weight=10.0)
    counts = copies(weights, seed=7)
    assert counts.sum() == len(kept)
    assert (np.abs(counts - weights) < 1).all()
    assert (counts == copies(weights, seed=7)).all() and (counts != copies(weights, seed=8)).any()
    written = [plan for plan, n in zip(kept, counts, strict=True) for _ in range(n)]
    assert shift(drawn, written) < 0.1 * shift(drawn, kept)
    assert copies(np.ones(3), 0).tolist() == [1, 1, 1] and not len(copies(np.ones(0), 0))


def test_shift_is_total_variation():
    a, b = [{"hero": "fox"}] * 3 + [{"hero": "owl"}], [{"hero": "fox"}] * 1 + [{"hero": "hen"}]
    assert shift(a, a) == 0.0
    assert shift(a, b) == pytest.approx(0.5)
    assert shift(a, []) is None
