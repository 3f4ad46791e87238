"""The same tokens are kept as by Hugging Face's `generate`; what is drawn is drawn from those."""

import dataclasses

import jax
import numpy as np
import pytest

from anchortrain.decode import filters
from anchortrain.decode.filters import Filters
from anchortrain.decode.sampler import SamplingConfig, sample
from anchortrain.errors import UserError
from tests.decode.test_sampler import TWO_STAGE, prompt_tokens, prompts, replay

kept = jax.jit(filters.kept)


def made(B, top_k=0, top_p=1.0, min_p=0.0, penalty=1.0) -> Filters:
    full = (np.int32(top_k), np.float32(top_p), np.float32(min_p), np.float32(penalty))
    return Filters(*(np.broadcast_to(one, B) for one in full))


def reference(logits, allowed, temperature, top_k, top_p, min_p):
    """As transformers warps logits, one after the other."""
    import torch
    from transformers.generation import logits_process as processes

    scores = torch.tensor(np.where(allowed, logits, -np.inf)) / torch.tensor(temperature)
    if top_k:
        scores = processes.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = processes.TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = processes.MinPLogitsWarper(min_p)(None, scores)
    return np.isfinite(scores.numpy())


@pytest.mark.parametrize("top_k", [0, 1, 5, 10_000])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 1.0])
def test_the_tokens_that_transformers_keeps(top_k, top_p, min_p):
    random = np.random.default_rng(top_k)
    logits = (4 * random.normal(size=(32, 300))).astype(np.float32)
    allowed = random.random((32, 300)) < 0.8
    temperature = random.choice(np.float32([0.5, 1.0, 1.7]), 32)
    got = kept(logits, allowed, temperature, made(32, top_k, top_p, min_p))
    np.testing.assert_array_equal(got, reference(logits, allowed, temperature[:, None], min(top_k, 300), top_p, min_p))


def test_rows_have_filters_of_their_own_and_greedy_ones_keep_the_likeliest():
    logits = np.float32([[3, 2, 1, 0]] * 4)
    each = Filters(
        np.int32([0, 2, 0, 0]), np.float32([1, 1, 0.7, 1]), np.float32([0, 0, 0, 0.3]), np.ones(4, np.float32)
    )
    got = kept(logits, np.ones((4, 4), bool), np.float32([0, 1, 1, 1]), each)
    assert np.asarray(got).sum(axis=1).tolist() == [4, 2, 2, 2] and np.asarray(got)[:, 0].all()


def test_ties_are_kept_together_and_one_token_always_is():
    logits = np.float32([[1, 1, 1, 0], [-1e30, -1e30, -5, -1e30]])
    got = kept(logits, np.ones((2, 4), bool), np.ones(2, np.float32), made(2, top_k=2, top_p=0.4))
    assert np.asarray(got).tolist() == [[True, True, True, False], [False, False, True, False]]
    alone = kept(logits, np.eye(4, dtype=bool)[[3, 3]], np.ones(2, np.float32), made(2, 1, 1e-6, 1.0))
    assert np.asarray(alone).tolist() == [[False, False, False, True]] * 2


def test_the_penalty_of_transformers():
    import torch
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 50)).astype(np.float32)
    ids = random.integers(0, 50, (4, 9))
    seen = np.zeros((4, 50), bool)
    np.put_along_axis(seen, ids, True, axis=1)
    for penalty in (0.5, 1.0, 1.8):
        got = filters.penalised(logits, seen, np.full(4, penalty, np.float32))
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(ids), torch.tensor(logits))
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)


FILTERED = dataclasses.replace(
    TWO_STAGE, annotation_top_p=0.8, response_top_k=7, response_min_p=0.02,
    annotation_repetition_penalty=1.3, response_repetition_penalty=1.1, constrain=True,
)  # fmt: skip


def test_samples_are_drawn_from_what_is_kept(model, vocabulary, keys):
    """Every token against a full forward pass, penalised and filtered in numpy."""
    plain = dataclasses.replace(TWO_STAGE, constrain=True)
    for row in sample(model, vocabulary, prompts(16), FILTERED, keys=keys, seed=2):
        head = [vocabulary.bos, *prompt_tokens(vocabulary, row["prompt"]), vocabulary.ann_open]
        sums = {False: 0.0, True: 0.0}
        for place, (token, logprob, text) in enumerate(replay(model, vocabulary, keys, plain, row)):
            # Up to a constant the log-probabilities are the logits, but a penalty sees the difference.
            sums[text] += filtered(model, vocabulary, row, head, place, np.isfinite(logprob), text)[token]
        assert row["annotation_logprob"] == pytest.approx(sums[False], abs=2e-3)
        assert row["response_logprob"] == pytest.approx(sums[True], abs=2e-3)


def filtered(model, vocabulary, row, head, place, allowed, text) -> np.ndarray:
    from tests.decode.test_sampler import full_logits

    before = head + row["tokens"][1 : 1 + place]
    padded = np.zeros(256, np.int32)
    padded[: len(before)] = before
    logits = np.asarray(full_logits(model, padded))[len(before) - 1]
    seen = np.isin(np.arange(len(logits)), before)
    penalty = FILTERED.response_repetition_penalty if text else FILTERED.annotation_repetition_penalty
    logits = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    how = (7, 1.0, 0.02) if text else (0, 0.8, 0.0)
    keep = reference(logits[None], allowed[None], 1.0, *how)[0]
    logits = np.where(keep, logits, -np.inf)
    return logits - np.logaddexp.reduce(logits)


def test_the_likeliest_alone_is_greedy(model, vocabulary, keys):
    first = dataclasses.replace(TWO_STAGE, annotation_top_k=1, response_top_k=1)
    greedy = dataclasses.replace(TWO_STAGE, annotation_temperature=0.0, response_temperature=0.0)
    got, expected = (sample(model, vocabulary, prompts(16), config, keys=keys) for config in (first, greedy))
    assert [row["tokens"] for row in got] == [row["tokens"] for row in expected]


def test_what_cannot_be_is_refused():
    for setting, words in (
        ({"response_top_k": -1}, "response_top_k must be 0 or more, got -1"),
        ({"annotation_top_p": 0.0}, "annotation_top_p must be above 0 and at most 1, got 0.0"),
        ({"response_min_p": 1.5}, "response_min_p must be from 0 to 1"),
        ({"response_repetition_penalty": float("nan")}, "response_repetition_penalty must be between 0.001 and 1000"),
    ):
        with pytest.raises(UserError, match=words):
            SamplingConfig(**setting)


def test_neighbours_and_batches_do_not_matter(model, vocabulary, keys):
    given = prompts(12)
    whole = sample(model, vocabulary, given, FILTERED, keys=keys, seed=4)
    for place in (0, 5, 11):
        alone = sample(model, vocabulary, given[place : place + 1], FILTERED, keys=keys, seed=4, indices=[place])
        assert alone[0]["tokens"] == whole[place]["tokens"]
