"""Plans without replacement: distinct, with the right probabilities, and with weights that make estimates unbiased."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from anchortrain.decode.distinct import distinct_annotations, estimate
from anchortrain.decode.engine import Engine, Request
from anchortrain.decode.grammar import GrammarKey
from anchortrain.decode.prompts import encode_turns
from anchortrain.decode.sampler import sample
from anchortrain.decode.sets import sample_set
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import Steering
from anchortrain.errors import UserError
from anchortrain.roles import Role
from tests.decode.test_sampler import PROMPTS

# Two tokens at each step and ten of them: some dozens of annotations in all.
FEW = SamplingConfig(max_annotation_tokens=10, max_response_tokens=6, annotation_top_k=2, constrain=True, batch_size=16)


@pytest.fixture(scope="module")
def draw(model, vocabulary, keys):
    engine = Engine(model, vocabulary, keys, places=1, most_tokens=128)
    tokens = (*encode_turns(vocabulary, PROMPTS[:1]), vocabulary.ann_open)

    def drawn(count, seed, config=FEW):
        request = Request(tokens, GrammarKey("annotation", tuple(keys)), config, seed, 0)
        return distinct_annotations(engine, request, count)

    return drawn


def key_of(one) -> tuple[int, ...]:
    return tuple(token for token, _ in one.pairs)


@pytest.fixture(scope="module")
def everything(draw) -> dict[tuple[int, ...], float]:
    """All annotations there are, and their probabilities."""
    every = draw(400, seed=0)
    assert 8 < len(every) < 400 and all(one.inclusion == 1 for one in every)
    probabilities = {key_of(one): math.exp(one.logprob) for one in every}
    assert len(probabilities) == len(every) and sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    return probabilities


def test_they_are_distinct_wellformed_and_those_that_independent_draws_find(draw, everything, model, vocabulary, keys):
    for seed in range(5):
        drawn = draw(6, seed)
        assert len({key_of(one) for one in drawn}) == 6
        for one in drawn:
            assert one.pairs[-1] == (vocabulary.ann_close, Role.ANNOTATION_KEY) and 0 < one.inclusion <= 1
            assert everything[key_of(one)] == pytest.approx(math.exp(one.logprob), rel=1e-3)
    rows = sample(model, vocabulary, PROMPTS[:1] * 64, FEW, keys=keys)
    for row in rows:
        inside = [token for token, role in zip(row["tokens"], row["roles"], strict=True) if role != Role.TEXT]
        assert everything[tuple(inside[1:])] == pytest.approx(math.exp(row["annotation_logprob"]), rel=1e-3)


def test_the_first_is_an_ordinary_draw(draw, everything):
    n = 400
    counts = Counter(key_of(draw(3, seed)[0]) for seed in range(n))
    expected = np.array([n * p for p in everything.values()])
    observed = np.array([counts[key] for key in everything])
    common = expected >= 5
    wanted = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    seen = np.append(observed[common], observed[~common].sum())
    degrees = len(wanted) - 1
    assert degrees >= 3 and ((seen - wanted) ** 2 / wanted).sum() < degrees + 5 * (2 * degrees) ** 0.5


def test_estimates_are_unbiased(draw, everything):
    """Of the probability of all, which is 1, and of the mean length."""
    length = sum(p * len(key) for key, p in everything.items())
    totals, lengths, normalised = [], [], []
    for seed in range(300):
        drawn = draw(5, 1000 + seed)
        weights = [math.exp(one.logprob) / one.inclusion for one in drawn]
        totals.append(sum(weights))
        lengths.append(sum(w * len(one.pairs) for w, one in zip(weights, drawn, strict=True)))
        normalised.append(estimate(drawn, [len(one.pairs) for one in drawn]))
    for values, expected in ((totals, 1.0), (lengths, length)):
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values) - expected) < 4 * error < 0.2 * expected
    assert np.mean(normalised) == pytest.approx(length, rel=0.05)


def test_fewer_come_where_there_are_not_more_and_greedy_is_refused(draw):
    only = dataclasses.replace(FEW, max_annotation_tokens=1)
    drawn = draw(5, 0, only)
    assert len(drawn) == 1 and drawn[0].inclusion == 1 and len(drawn[0].pairs) == 1
    with pytest.raises(UserError, match="annotation_temperature above 0"):
        draw(5, 0, dataclasses.replace(FEW, annotation_temperature=0.0))


@pytest.mark.parametrize("distinct", [False, True])
def test_sets_fan_out(model, vocabulary, keys, distinct):
    options = {"keys": keys, "plans": 5, "responses": 3, "distinct": distinct, "seed": 2}
    done = []
    rows = sample_set(model, vocabulary, PROMPTS[0], FEW, progress=done.append, **options)
    assert [row["plan"] for row in rows] == sorted([*range(5)] * 3) and sum(done) == 15
    assert len({row["index"] for row in rows}) == 15
    plans = {row["plan"]: row["annotation_text"] for row in rows}
    assert all(row["annotation_text"] == plans[row["plan"]] and row["annotation_wellformed"] for row in rows)
    assert len({(row["plan"], row["response"]) for row in rows}) > 10
    if distinct:
        assert len(set(plans.values())) == 5 and all(0 < row["inclusion"] <= 1 for row in rows)
    # The text's probability is that of the text alone, given the plan.
    assert all(row["response_logprob"] < 0 and row["annotation_logprob"] <= 0 for row in rows)
    assert sample_set(model, vocabulary, PROMPTS[0], FEW, **options) == rows


def test_sets_that_cannot_be_drawn_are_refused(model, vocabulary, keys):
    def refused(match, config=FEW, **options):
        with pytest.raises(UserError, match=match):
            sample_set(model, vocabulary, PROMPTS[0], config, keys=keys, **{"plans": 2} | options)

    refused("at least 1", plans=0)
    refused("distinct plans cannot be steered", distinct=True, steering=Steering(prefix="he"))
    refused("mode two_stage", config=SamplingConfig(mode="single_stage"))
