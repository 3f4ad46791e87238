"""The checker "likelihood" against log-probabilities computed one response at a time."""

import jax
import numpy as np
import pytest

from anchortrain.checkpoint import load_run
from anchortrain.errors import UserError
from anchortrain.rehearsal.config import RehearsalConfig
from anchortrain.rehearsal.likelihood import Likelihood

ANNOTATION_KEY, ANNOTATION_VALUE, TEXT = 2, 3, 4


@pytest.fixture
def rows(data):
    vocabulary, made = data.vocabulary, []
    for hero in ("fox", "owl", "zzz"):
        plan = [vocabulary.ann_open, *vocabulary.encode("hero:"), *vocabulary.encode(f" {hero}"), vocabulary.ann_close]
        response = [*vocabulary.encode(f"The {hero} ran to the mill."), vocabulary.eos]
        roles = [ANNOTATION_KEY] * len(plan) + [TEXT] * len(response)
        made.append({"prompt": "Tell", "tokens": plan + response, "roles": roles})
    return made


def test_means_are_those_of_the_model(base, rows):
    loaded = load_run(base)
    v = loaded.vocabulary
    found = Likelihood(str(base), RehearsalConfig(likelihood_quantile=0.0)).log_probs(rows)
    for row, mean in zip(rows, found, strict=True):
        prompt = [v.bos, v.user, *v.encode("Tell"), v.assistant, *v.encode("\n\n")]
        tokens = np.array([*prompt, *row["tokens"]], np.int32)
        n = len(tokens) - 1
        hidden = loaded.model.hidden(tokens[None, :-1], np.arange(n)[None], np.ones((1, n), np.int32))
        log_probs = jax.nn.log_softmax(loaded.model.logits(hidden[0]))
        chosen = np.asarray(log_probs)[np.arange(n), tokens[1:]]
        assert mean == pytest.approx(chosen[-row["roles"].count(TEXT) :].mean(), abs=1e-4)


def test_the_least_likely_are_rejected_by_one_bound_for_all_calls(base, rows):
    checker = Likelihood(str(base), RehearsalConfig(likelihood_quantile=0.4))
    verdicts = checker.check(rows)
    assert [verdict.kept for verdict in verdicts].count(False) == 1
    worst = min(range(3), key=lambda i: verdicts[i].score)
    assert not verdicts[worst].kept and verdicts[worst].reason == "unlikely"
    assert not checker.check([rows[worst]])[0].kept and checker.check([rows[1 - min(worst, 1)]])[0].kept
    assert checker.check([]) == []


def test_a_least_log_probability(base, rows):
    checker = Likelihood(str(base), RehearsalConfig(likelihood_quantile=0.0, least_logprob=-1e-6))
    assert not any(verdict.kept for verdict in checker.check(rows))
    with pytest.raises(UserError, match="the checker 'likelihood' needs a run"):
        Likelihood("", RehearsalConfig())
