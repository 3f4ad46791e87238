"""Logits are those of `transformers`' Olmo2ForCausalLM on the same weights, and nothing is lost on the way."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from anchortrain.config import ModelConfig, padded_vocabulary
from anchortrain.errors import UserError
from anchortrain.model.huggingface import config_to_huggingface, from_huggingface, to_huggingface
from anchortrain.model.parameters import abstract_model, model_with
from tests.batches import TINY, VOCABULARY, tiny_model

SHAPES = {
    "all heads have keys": dataclasses.replace(TINY, n_kv_heads=4),
    "grouped queries": TINY,
    "one key head, wide": ModelConfig(d_model=48, n_layers=3, n_heads=6, n_kv_heads=1, d_ff=40),
    "other constants": dataclasses.replace(TINY, n_layers=1, rope_theta=100.0, norm_eps=1e-3),
}


def reference_model(config: ModelConfig, state: dict[str, np.ndarray] | None = None, *, seed: int = 0):
    """transformers' model in float32 with these weights, or with random ones."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    settings = transformers.Olmo2Config.from_dict(config_to_huggingface(config, VOCABULARY))
    model = transformers.Olmo2ForCausalLM(settings).eval()
    if state is None:
        with torch.no_grad():  # norms differ from each other, matrices are large enough to matter
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.2 + (parameter.dim() == 1))
    else:
        model.load_state_dict({name: torch.tensor(weight) for name, weight in state.items()})  # strict
    return model


def reference_logits(model, tokens_BL: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens_BL.astype(np.int64)), use_cache=False).logits.numpy()


@functools.cache
def compiled_logits(config: ModelConfig):
    abstract = abstract_model(config, VOCABULARY)

    def logits(params, *batch):
        model = model_with(abstract, params)
        return model.logits(model.hidden(*batch))

    return jax.jit(logits)


def our_logits(config: ModelConfig, params, tokens_BL, positions_BL=None, segment_ids_BL=None) -> np.ndarray:
    if positions_BL is None:
        at_L, one = np.arange(tokens_BL.shape[1], dtype=np.int32), np.ones_like(tokens_BL)
        positions_BL, segment_ids_BL = np.broadcast_to(at_L, tokens_BL.shape), one
    return np.asarray(compiled_logits(config)(params, tokens_BL, positions_BL, segment_ids_BL))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_imported_weights_give_their_logits(name, seed):
    config, rng = SHAPES[name], np.random.default_rng(seed)
    model = reference_model(config, seed=seed)
    params = from_huggingface({key: weight.numpy() for key, weight in model.state_dict().items()}, config)
    tokens_BL = rng.integers(0, VOCABULARY, (2, 30)).astype(np.int32)
    theirs = reference_logits(model, tokens_BL)
    assert np.abs(theirs).max() > 1.0
    np.testing.assert_allclose(our_logits(config, params, tokens_BL), theirs, rtol=0, atol=1e-4)


def test_exported_weights_give_our_logits():
    _, params = tiny_model(seed=3)
    tokens_BL = np.random.default_rng(0).integers(0, VOCABULARY, (2, 30)).astype(np.int32)
    theirs = reference_logits(reference_model(TINY, to_huggingface(params)), tokens_BL)
    np.testing.assert_allclose(our_logits(TINY, params, tokens_BL), theirs, rtol=0, atol=1e-4)


def test_packed_rows_are_separate_forward_passes():
    _, params = tiny_model()
    model, rng = reference_model(TINY, to_huggingface(params)), np.random.default_rng(1)
    lengths, length = [[5, 11, 8], [1, 16]], 30
    tokens_BL, positions_BL, segment_ids_BL = (np.zeros((2, length), np.int32) for _ in range(3))
    places = []
    for row, row_lengths in enumerate(lengths):
        start = 0
        for segment, n in enumerate(row_lengths, 1):
            here = slice(start, start + n)
            tokens_BL[row, here], positions_BL[row, here] = rng.integers(0, VOCABULARY, n), np.arange(n)
            segment_ids_BL[row, here] = segment
            places.append((row, here))
            start += n
    ours = our_logits(TINY, params, tokens_BL, positions_BL, segment_ids_BL)
    for row, here in places:
        theirs = reference_logits(model, tokens_BL[row, here][None])[0]
        np.testing.assert_allclose(ours[row, here], theirs, rtol=0, atol=1e-4)
    assert np.isfinite(ours).all()  # padding too


def test_the_round_trip_is_exact():
    _, params = tiny_model(SHAPES["one key head, wide"])
    back = from_huggingface(to_huggingface(params), SHAPES["one key head, wide"])
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_vocabulary_of_any_size_is_padded():
    _, params = tiny_model()
    state = to_huggingface(params)
    cut = {k: w[:VOCABULARY] if k in ("model.embed_tokens.weight", "lm_head.weight") else w for k, w in state.items()}
    padded = from_huggingface(cut, TINY)
    assert padded["embedding"].shape == (padded_vocabulary(VOCABULARY), TINY.d_model) == (128, 16)
    tokens_BL = np.arange(VOCABULARY, dtype=np.int32).reshape(2, 30)
    ours, whole = our_logits(TINY, padded, tokens_BL), our_logits(TINY, params, tokens_BL)
    np.testing.assert_array_equal(ours[..., :VOCABULARY], whole[..., :VOCABULARY])
    assert not ours[..., VOCABULARY:].any()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("lm_head.weight"), "lacks weight 'lm_head.weight'"),
        (lambda state: state.pop("model.layers.1.mlp.up_proj.weight"), "lacks weight 'model.layers.1.mlp.up_proj"),
        (lambda state: state.update({"model.layers.2.x": np.ones(1)}), "has the unknown weight 'model.layers.2.x'"),
        (
            lambda state: state.update({"model.layers.1.mlp.up_proj.weight": np.ones((32, 17))}),
            r"weight 'model.layers.1.mlp.up_proj.weight' is \[17, 32\] as \[in, out\], ModelConfig makes it \[16, 32\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    state = to_huggingface(tiny_model()[1])
    change(state)
    with pytest.raises(UserError, match=message):
        from_huggingface(state, TINY)
