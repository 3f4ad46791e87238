"""Losses of logits that never exist whole equal those of logits that do, forward and backward, on every mesh.

Shapes: B rows, L length, D width, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain import linear_softmax
from anchortrain.config import MeshConfig
from anchortrain.divergence import Divergence, Stored, StoredDivergence, StoredDivergenceWithBound
from anchortrain.linear_softmax import weighted_sum
from anchortrain.loss import CrossEntropy
from anchortrain.sharding import make_mesh

B, L, D, V, K = 8, 6, 16, 640, 5
MESHES = [
    MeshConfig(),
    MeshConfig(data=1, fsdp=8),
    MeshConfig(data=1, fsdp=1, tensor=-1),
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
]


def normal(*shape: int, seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def logits(hidden, head):
    return jnp.einsum("bld,dv->blv", hidden, head)


def whole_cross_entropy(log_p, log_ref, data):
    lse_free = -jnp.take_along_axis(log_p, data["targets"][..., None], axis=-1)[..., 0]
    return lse_free


def forward(log_p, log_ref, _):
    return (jnp.exp(log_ref) * (log_ref - log_p)).sum(-1)


def reverse(log_p, log_ref, _):
    return forward(log_ref, log_p, _)


def jensen_shannon(log_p, log_ref, _):
    log_m = jnp.log(0.5 * (jnp.exp(log_p) + jnp.exp(log_ref)))
    return 0.5 * (forward(log_m, log_ref, _) + forward(log_m, log_p, _))


def of_stored(divergence):
    """`divergence` of the distributions over the stored tokens and any other."""

    def value(log_p, log_ref, data):
        return divergence(*(outcomes(log, data["stored"].ids) for log in (log_p, log_ref)), data)

    def outcomes(log_BLV, ids_BLk):
        known = jnp.exp(jnp.take_along_axis(log_BLV, ids_BLk, axis=-1))
        return jnp.log(jnp.concatenate([known, 1 - known.sum(-1, keepdims=True)], axis=-1))

    return value


CASES = {
    "cross-entropy": (CrossEntropy(), "targets", whole_cross_entropy),
    "forward": (Divergence("forward"), None, forward),
    "reverse": (Divergence("reverse"), None, reverse),
    "js": (Divergence("js"), None, jensen_shannon),
    "stored": (StoredDivergence(), "stored", of_stored(forward)),
    "stored, compared": (StoredDivergence(compares=True), "stored", of_stored(forward)),
    "stored, reverse": (StoredDivergence("reverse"), "stored", of_stored(reverse)),
    "stored, js": (StoredDivergence("js"), "stored", of_stored(jensen_shannon)),
}


def problem():
    """(hidden states, heads, data, weights): of a model and of a reference."""
    hiddens, heads = [normal(B, L, D, seed=i) for i in (1, 2)], [normal(D, V, seed=i) for i in (3, 4)]
    log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(logits(hiddens[1], heads[1])), K)
    data = {"targets": jax.random.randint(jax.random.key(5), (B, L), 0, V), "stored": Stored(ids, log_probs)}
    weights = jnp.maximum(normal(B, L, seed=6), 0.0)
    return hiddens, heads, data, weights


def chunked(name, hiddens, heads, data, weights):
    functional, needs, _ = CASES[name]
    sources = 2 if isinstance(functional, Divergence) else 1

    def total(hidden, head):
        args = [hidden, *hiddens[1:sources]], [head, *heads[1:sources]]
        return 3.0 * weighted_sum(functional, *args, data[needs] if needs else None, weights)[0]

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(hiddens[0], heads[0])


def whole(name, hiddens, heads, data, weights):
    def total(hidden, head):
        log_p, log_ref = (jax.nn.log_softmax(logits(*pair)) for pair in ((hidden, head), (hiddens[1], heads[1])))
        return 3.0 * jnp.sum(weights * CASES[name][2](log_p, log_ref, data))

    return jax.value_and_grad(total, argnums=(0, 1))(hiddens[0], heads[0])


def assert_close(a, b, scale=1.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5 * scale, atol=2e-5 * scale), a, b)


@pytest.mark.parametrize("elements", [1, 1 << 24])
@pytest.mark.parametrize("name", CASES)
def test_in_chunks_of_tokens_it_equals_the_whole(monkeypatch, name, elements):
    monkeypatch.setattr(linear_softmax, "LOGIT_ELEMENTS", elements)
    assert_close(chunked(name, *problem()), whole(name, *problem()))


@pytest.mark.parametrize("mesh", MESHES, ids=lambda m: f"d{m.data}f{m.fsdp}s{m.sequence}t{m.tensor}")
@pytest.mark.parametrize("name", CASES)
def test_on_a_mesh_it_equals_the_whole(monkeypatch, name, mesh):
    # Chunks of 128 columns: of 640, 320 and 80 a device, so that the last one overlaps, and that there is only one.
    monkeypatch.setattr(linear_softmax, "LOGIT_ELEMENTS", 1)
    expected = whole(name, *problem())
    with jax.set_mesh(make_mesh(mesh)):
        assert_close(chunked(name, *problem()), expected)


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(data=2, fsdp=2, tensor=2)])
def test_metrics_of_tokens(monkeypatch, mesh):
    monkeypatch.setattr(linear_softmax, "LOGIT_ELEMENTS", 1)
    hiddens, heads, data, weights = problem()
    log_p = jax.nn.log_softmax(logits(hiddens[0], heads[0]))
    targets = data["targets"].at[0].set(jnp.argmax(log_p[0], axis=-1))
    with jax.set_mesh(make_mesh(mesh)):
        args = CrossEntropy(0.1), hiddens[:1], heads[:1], targets, weights
        total, metrics = jax.jit(weighted_sum, static_argnums=0)(*args)
    lse = jax.nn.logsumexp(logits(hiddens[0], heads[0]), axis=-1)
    nll = whole_cross_entropy(log_p, None, {"targets": targets})
    assert_close(total, jnp.sum(weights * (nll + 0.1 * lse**2)), scale=10)
    assert_close(metrics["loss"], nll)
    assert_close(metrics["entropy"], -jnp.sum(jnp.exp(log_p) * log_p, axis=-1))
    np.testing.assert_array_equal(metrics["accuracy"], targets == jnp.argmax(log_p, axis=-1))
    assert metrics["accuracy"][0].all() and not metrics["accuracy"].all()


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=1, fsdp=4, tensor=2)])
def test_no_array_of_all_logits_exists(monkeypatch, mesh):
    monkeypatch.setattr(linear_softmax, "LOGIT_ELEMENTS", 4 * V if mesh is None else 1)
    hiddens, heads, data, weights = problem()

    def total(hidden, head):
        return weighted_sum(CrossEntropy(), [hidden], [head], data["targets"], weights)[0]

    with jax.set_mesh(jax.make_mesh((1,), ("x",)) if mesh is None else make_mesh(mesh)):
        lowered = jax.jit(jax.grad(total, argnums=(0, 1))).lower(hiddens[0], heads[0]).as_text()
    assert f"tensor<{B * L}x{V}xf32>" not in lowered and f"tensor<{B}x{L}x{V}xf32>" not in lowered
    # Logits of a chunk: of 4 tokens; or of a group's 12 tokens by 128 columns of its 320.
    assert (f"tensor<4x{V}xf32>" if mesh is None else "tensor<12x128xf32>") in lowered


@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
def test_divergence_of_two_coins(direction):
    def kl(a, b):
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    p, q = 0.9, 0.3
    expected = {"forward": kl(p, q), "reverse": kl(q, p), "js": (kl(p, 0.6) + kl(q, 0.6)) / 2}[direction]
    ref, model = (jnp.log(jnp.array([[x, 1 - x]])) for x in (p, q))
    ones = [jnp.ones((1, 1, 1))] * 2
    found, _ = weighted_sum(Divergence(direction), ones, [model, ref], None, jnp.ones((1, 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
def test_what_is_stored_bounds_the_divergence_from_below(direction):
    hiddens, heads, data, weights = problem()
    full, _ = weighted_sum(Divergence(direction), hiddens, heads, None, weights)
    part, _ = weighted_sum(StoredDivergence(direction), hiddens[:1], heads[:1], data["stored"], weights)
    assert 0 < part < full


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(data=1, fsdp=2, sequence=2, tensor=2)])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_what_is_stored_and_its_bound_enclose_the_divergence_of_every_token(monkeypatch, mesh, scale):
    """With nearly flat distributions, where the rest is most of the mass, and with steep ones."""
    monkeypatch.setattr(linear_softmax, "LOGIT_ELEMENTS", 1)
    hiddens, heads = [scale * hidden for hidden in problem()[0]], problem()[1]
    log_p, log_ref = (jax.nn.log_softmax(logits(*pair)) for pair in zip(hiddens, heads, strict=True))
    log_probs, ids = jax.lax.top_k(log_ref, K)
    stored, rest = Stored(ids, log_probs), 1 - jnp.exp(log_probs).sum(-1)
    with jax.set_mesh(make_mesh(mesh)):
        sources = [hiddens[0], -hiddens[0]], [heads[0]] * 2
        _, found = jax.jit(weighted_sum, static_argnums=0)(
            StoredDivergenceWithBound(), *sources, stored, jnp.ones((B, L))
        )
    whole, part, bound = forward(log_p, log_ref, None), found["divergence"], found["bound"]
    assert_close(part, of_stored(forward)(log_p, log_ref, {"stored": stored}))
    assert (part <= whole).all() and (whole <= part + bound).all() and rest.mean() > 0.3 * (scale < 1)
    # Never more than the plain bound, which does not know that the stored tokens are the most probable.
    others = 1 - jnp.exp(jnp.take_along_axis(log_p, ids, axis=-1)).sum(-1)
    assert (bound <= rest * (jnp.log(others) - log_p.min(-1)) + 1e-4).all()


def test_a_bound_is_never_negative_and_vanishes_with_the_rest():
    hiddens, heads, _, weights = problem()
    log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(logits(hiddens[1], heads[1])), V)
    sources = [hiddens[0], -hiddens[0]], [heads[0]] * 2
    _, found = weighted_sum(StoredDivergenceWithBound(), *sources, Stored(ids, log_probs), weights)
    assert (found["bound"] >= 0).all() and found["bound"].max() < 1e-4


@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
def test_what_is_stored_says_nothing_against_the_reference_itself(direction):
    hiddens, heads, data, weights = problem()
    missing = data["stored"]._replace(
        ids=data["stored"].ids.at[:, :, -1].set(-2), log_probs=data["stored"].log_probs.at[:, :, -1].set(-jnp.inf)
    )

    def total(hidden, stored):
        return weighted_sum(StoredDivergence(direction), [hidden], heads[1:], stored, weights)[0]

    for stored in (data["stored"], missing):
        value, gradient = jax.value_and_grad(total)(hiddens[1], stored)
        assert abs(value) < 1e-4 and jnp.abs(gradient).max() < 1e-4
