"""The losses equal sums written out with plain numpy loops.

Shapes: B rows, L length, V vocabulary.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain import loss as losses
from anchortrain.config import LossConfig
from anchortrain.data.prepared import Example
from anchortrain.model.parameters import model_with
from anchortrain.roles import Role
from tests.batches import packed, random_batch, tiny_model

ABSTRACT, PARAMS = tiny_model()
_, OTHER = tiny_model(seed=1)


def log_softmax(logits_V: np.ndarray) -> list[float]:
    highest = max(logits_V.tolist())
    total = math.log(sum(math.exp(x - highest) for x in logits_V.tolist())) + highest
    return [x - total for x in logits_V.tolist()]


@jax.jit
def hidden_of(params, batch) -> jax.Array:
    return model_with(ABSTRACT, params).hidden(batch["inputs"], batch["positions"], batch["segment_ids"])


def logits_of(params, batch) -> np.ndarray:
    """[B, L, V]."""
    return np.asarray(hidden_of(params, batch) @ params["head"], np.float64)


def terms(params, reference, batch, config):
    frozen = None if reference is None else model_with(ABSTRACT, reference)
    return losses.loss_terms(model_with(ABSTRACT, params), frozen, batch, config)


compiled_terms = jax.jit(terms, static_argnums=3)


def gradient_by_hidden(batch, config):
    """The objective and its gradient by parameters and hidden states, from hidden states on: quick to compile."""
    hidden_BLD = hidden_of(PARAMS, batch)
    anchor_hidden_BLD = hidden_of(PARAMS, batch["anchor"])
    frozen = model_with(ABSTRACT, OTHER)

    def objective(params, hidden_BLD, anchor_hidden_BLD):
        model = model_with(ABSTRACT, params)
        text, metrics = losses.text_term(model, hidden_BLD, batch, config.z_loss)
        anchor = losses.anchor_term(model, anchor_hidden_BLD, frozen, batch["anchor"], config.anchor_direction)
        return text.sum / text.weight + config.anchor_weight * anchor.sum / anchor.weight, (text, anchor, metrics)

    differentiate = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(differentiate)(PARAMS, hidden_BLD, anchor_hidden_BLD)


def places(batch):
    return itertools.product(*map(range, batch["inputs"].shape))


def test_cross_entropy_and_metrics_by_role():
    batch, z = random_batch(0, 4), 0.01
    found, metrics = compiled_terms(PARAMS, None, batch, LossConfig(z_loss=z))
    logits_BLV, expected = logits_of(PARAMS, batch), {"text": [0.0, 0.0]}
    names = {Role.ANNOTATION_KEY: "annotation_key", Role.ANNOTATION_VALUE: "annotation_value", Role.TEXT: "text"}
    for b, t in places(batch):
        log_p = log_softmax(logits_BLV[b, t])
        target, weight, role = (batch[name][b, t].item() for name in ("targets", "loss_weights", "target_roles"))
        nll = -log_p[target]
        if weight:
            lse = logits_BLV[b, t, 0] - log_p[0]
            expected["text"][0] += weight * (nll + z * lse**2)
            expected["text"][1] += weight
        if role in names:
            values = {
                "loss": nll,
                "entropy": -sum(math.exp(x) * x for x in log_p),
                "accuracy": float(log_p[target] == max(log_p)),
            }
            for kind, value in values.items():
                entry = expected.setdefault(f"{kind}/{names[role]}", [0.0, 0.0])
                entry[0] += value
                entry[1] += 1
    got = found | metrics
    assert got.keys() == expected.keys()
    for name, (total, weight) in expected.items():
        np.testing.assert_allclose(got[name].sum, total, rtol=1e-5, err_msg=name)
        assert got[name].weight == weight > 0
    assert losses.term_weights(batch)["text"] == expected["text"][1]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_anchor_equals_a_brute_force_sum(direction):
    batch = random_batch(1, 4, anchor_rows=3)
    config = LossConfig(anchor_weight=1.0, anchor_direction=direction)
    found, metrics = compiled_terms(PARAMS, OTHER, batch, config)
    anchor = batch["anchor"]
    ours_BLV, reference_BLV = logits_of(PARAMS, anchor), logits_of(OTHER, anchor)
    total, openings, annotations = 0.0, 0, 0
    inside = (Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE)
    for b, t in places(anchor):
        before, after = anchor["input_roles"][b, t].item(), anchor["target_roles"][b, t].item()
        if after not in inside:
            continue
        if before not in inside:  # the prediction of the opening delimiter, which decoding forces
            openings += 1
            continue
        log_p, log_ref = log_softmax(ours_BLV[b, t]), log_softmax(reference_BLV[b, t])
        first, second = (log_ref, log_p) if direction == "forward" else (log_p, log_ref)
        for x, y in zip(first, second, strict=True):
            total += math.exp(x) * (x - y)
    annotations = len({(b, anchor["segment_ids"][b, t].item()) for b, t in places(anchor)} - {(b, 0) for b in range(3)})
    assert openings == annotations == 6  # 1 + 2 + 3 of the three rows
    np.testing.assert_allclose(found["anchor"].sum, total, rtol=1e-5)
    assert found["anchor"].weight == annotations == losses.term_weights(batch)["anchor"]
    np.testing.assert_allclose(losses.mean(metrics["anchor/kl"]), total / annotations, rtol=1e-5)


def test_over_all_annotations_it_is_the_divergence_of_their_distributions():
    """The mean over reference draws of the sum over positions is KL(R_ref || R), by the chain rule; here enumerated."""
    V = PARAMS["head"].shape[1]
    z_Z2 = np.array(list(itertools.product(range(V), repeat=2)))
    prompt_and_open = np.full((len(z_Z2), 2), [7, 9])
    roles = [Role.PROMPT, Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE, Role.ANNOTATION_VALUE]
    one = packed([[Example(np.array([7, 9, 0, 0]), np.array(roles), "")]], length=4, objective="anchor")
    batch = {name: jnp.tile(x, (len(z_Z2), 1)) for name, x in one.items()}
    targets = jnp.asarray(np.concatenate([prompt_and_open, z_Z2], axis=1), jnp.int32)
    batch |= {"targets": targets, "inputs": batch["inputs"].at[:, 1:].set(targets[:, :-1])}

    def log_probability_Z(params):
        log_p = np.asarray(jax.nn.log_softmax(hidden_of(params, batch) @ params["head"]), np.float64)
        return sum(np.take_along_axis(log_p[:, t], z_Z2[:, [t - 2]], axis=1)[:, 0] for t in (2, 3))

    log_ref_Z, log_ours_Z = log_probability_Z(OTHER), log_probability_Z(PARAMS)
    np.testing.assert_allclose(np.exp(log_ref_Z).sum(), 1.0, rtol=1e-5)
    # Every annotation counts as often as the reference draws it.
    batch["anchor_positions"] = batch["anchor_positions"] * jnp.exp(log_ref_Z)[:, None]
    model, reference = model_with(ABSTRACT, PARAMS), model_with(ABSTRACT, OTHER)
    found = losses.anchor_term(model, hidden_of(PARAMS, batch), reference, batch, "forward")
    expected = np.sum(np.exp(log_ref_Z) * (log_ref_Z - log_ours_Z))
    assert expected > 0.1
    np.testing.assert_allclose(found.sum, expected, rtol=1e-4)


def test_drift_is_the_mean_over_annotations_with_its_standard_error():
    anchor = random_batch(1, 4, anchor_rows=3)["anchor"]
    log_p, log_ref = (np.asarray(jax.nn.log_softmax(logits_of(x, anchor)), np.float64) for x in (PARAMS, OTHER))
    kl_BL = np.sum(np.exp(log_ref) * (log_ref - log_p), axis=-1) * anchor["anchor_positions"]
    segments_BL = np.asarray(anchor["segment_ids"])
    each = [kl_BL[b][segments_BL[b] == s].sum() for b in range(3) for s in range(1, segments_BL[b].max() + 1)]

    @jax.jit
    def measured(reference, batch):
        frozen = None if reference is None else model_with(ABSTRACT, reference)
        return losses.drift_terms(model_with(ABSTRACT, PARAMS), hidden_of(PARAMS, batch), frozen, batch)

    found = measured(OTHER, anchor)
    assert found["kl"].weight == len(each) == 6 and found.keys() == {"kl", "kl_square"}
    np.testing.assert_allclose(losses.mean(found["kl"]), np.mean(each), rtol=1e-5)
    error = losses.standard_error(found["kl"], found["kl_square"])
    np.testing.assert_allclose(error, np.std(each, ddof=1) / math.sqrt(len(each)), rtol=1e-3)
    log_probs, ids = jax.lax.top_k(log_ref, 8)
    stored = measured(None, anchor | {"reference_ids": ids, "reference_log_probs": jnp.asarray(log_probs, jnp.float32)})
    part, bound = losses.mean(stored["kl"]), losses.mean(stored["kl_bound"])
    assert part < np.mean(each) < part + bound


def test_of_one_value_there_is_no_standard_error():
    assert math.isnan(losses.standard_error(losses.Term(2.0, 1.0), losses.Term(4.0, 1.0)))


@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
def test_the_anchor_is_zero_at_the_reference(direction):
    batch = random_batch(2, 4, anchor_rows=3)["anchor"]
    model = model_with(ABSTRACT, PARAMS)

    def anchor(hidden_BLD):
        return losses.anchor_term(model, hidden_BLD, model, batch, direction).sum

    value, gradient = jax.jit(jax.value_and_grad(anchor))(hidden_of(PARAMS, batch))
    assert abs(value) < 1e-5
    assert jnp.abs(gradient).max() < 1e-5  # it is at its minimum


def test_the_reference_gets_no_gradient():
    batch = random_batch(3, 4, anchor_rows=3)["anchor"]
    hidden_BLD = hidden_of(PARAMS, batch)

    def anchor(reference):
        model, frozen = model_with(ABSTRACT, PARAMS), model_with(ABSTRACT, reference)
        return losses.anchor_term(model, hidden_BLD, frozen, batch, "forward").sum

    assert not any(leaf.any() for leaf in jax.tree.leaves(jax.jit(jax.grad(anchor))(OTHER)))


def test_a_batch_without_annotations_has_no_metrics_of_them():
    plain = packed([[]], length=8)
    found, metrics = compiled_terms(PARAMS, None, plain, LossConfig())
    assert found["text"] == (0, 0) and all(metric == (0, 0) for metric in metrics.values())
    assert math.isnan(losses.mean(metrics["loss/text"]))
