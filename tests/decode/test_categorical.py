"""Draws follow the softmax, exactly at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain.decode import categorical

draw = jax.jit(categorical.draw)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [7, 64, 200])
def test_frequencies_match_the_softmax(size, temperature):
    n = 40_000
    logits = 1.5 * jax.random.normal(jax.random.key(size), (size,))
    allowed = jnp.arange(size) % 5 != 0
    uniform = jax.random.uniform(jax.random.key(1), (n,))
    rows = jnp.broadcast_to(logits, (n, size)), jnp.broadcast_to(allowed, (n, size))
    tokens, logprob = draw(*rows, jnp.full(n, temperature), uniform)
    expected = jax.nn.log_softmax(jnp.where(allowed, logits / temperature, -jnp.inf))
    np.testing.assert_allclose(logprob, expected[tokens], atol=1e-5)
    expected_n = n * np.exp(np.asarray(expected, np.float64))
    counts = np.bincount(tokens, minlength=size)
    assert counts[~allowed].sum() == 0
    chi2 = ((counts - expected_n)[allowed] ** 2 / expected_n[allowed]).sum()
    degrees = int(allowed.sum()) - 1
    assert chi2 < degrees + 5 * (2 * degrees) ** 0.5


def test_evenly_spaced_numbers_give_every_token_its_share():
    # The inverse of the distribution: n points hit each token n·p times, up to one.
    n, size = 10_000, 130
    logits = jax.random.normal(jax.random.key(0), (size,))
    uniform = (jnp.arange(n) + 0.5) / n
    tokens, _ = draw(jnp.broadcast_to(logits, (n, size)), jnp.ones((n, size), bool), jnp.ones(n), uniform)
    counts = np.bincount(tokens, minlength=size)
    assert np.abs(counts - n * np.asarray(jax.nn.softmax(logits))).max() <= 1.01
    assert (np.diff(tokens) >= 0).all()


def test_the_ends_of_the_unit_interval_give_allowed_tokens():
    allowed = np.zeros((4, 300), bool)
    allowed[0, 0] = allowed[1, 299] = allowed[2, [63, 64]] = allowed[3, 100:200] = True
    for uniform in (0.0, 1 - 2**-23, 0.5):
        logits = 50 * jax.random.normal(jax.random.key(0), (4, 300))
        tokens, logprob = draw(logits, jnp.asarray(allowed), jnp.ones(4), jnp.full(4, uniform))
        assert allowed[np.arange(4), tokens].all() and np.isfinite(logprob).all()


def test_temperature_zero_takes_the_first_of_the_likeliest_in_its_row_only():
    logits = jnp.asarray([[0.0, 3.0, 3.0, 9.0], [0.0, 0.0, 0.0, 20.0]])
    allowed = jnp.asarray([[True, True, True, False], [True] * 4])
    tokens, logprob = draw(logits, allowed, jnp.asarray([0.0, 1.0]), jnp.asarray([0.99, 0.0]))
    assert tokens.tolist() == [1, 0]
    assert logprob[0] == pytest.approx(3 - np.log(1 + 2 * np.exp(3)), abs=1e-5)
