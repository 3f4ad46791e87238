"""The decoder with its cache computes what the model does in one pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain.decode.decoder import Decoder
from anchortrain.model.parameters import model_with
from tests.batches import TINY, VOCABULARY, tiny_model

LENGTHS = np.array([3, 7, 12])  # of prompts
PROMPT, STEPS, CAPACITY = 16, 4, 32


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_steps_after_prompts_of_different_length_give_the_logits_of_the_model(n_kv_heads, tied):
    abstract, params = tiny_model(dataclasses.replace(TINY, n_kv_heads=n_kv_heads, tie_embeddings=tied))
    model = model_with(abstract, params)
    tokens_BL = np.random.default_rng(0).integers(0, VOCABULARY, (3, LENGTHS.max() + STEPS)).astype(np.int32)
    at_BL = np.broadcast_to(np.arange(tokens_BL.shape[1]), tokens_BL.shape)
    full_BLV = jax.jit(lambda t: model.logits(model.hidden(t, at_BL, jnp.ones_like(t))))(tokens_BL)

    decoder = Decoder.of(model)
    # What stands behind a prompt's end is nonsense, as after another request that had the place before.
    padded_BP = np.full((3, PROMPT), 7, np.int32)
    for row, length in enumerate(LENGTHS):
        padded_BP[row, :length] = tokens_BL[row, :length]
    cache = jax.tree.map(
        lambda new, old: old.at[:, :, :PROMPT].set(new),
        jax.jit(Decoder.prefill)(decoder, padded_BP),
        decoder.new_cache(3, CAPACITY),
    )
    rows, step = np.arange(3), jax.jit(Decoder.step)
    for offset in range(STEPS):
        position_B = LENGTHS + offset
        logits_BV, cache = step(decoder, tokens_BL[rows, position_B], position_B, cache)
        np.testing.assert_allclose(logits_BV, full_BLV[rows, position_B], rtol=0, atol=1e-4)


def test_weights_have_the_compute_type_and_norms_do_not():
    abstract, params = tiny_model(dataclasses.replace(TINY, compute_dtype="bfloat16"))
    decoder = Decoder.of(model_with(abstract, params))
    kinds = {name: x.dtype for name, x in decoder.layers[0].items()}
    assert {name for name, dtype in kinds.items() if dtype == jnp.float32} == {
        "query_norm", "key_norm", "attention_norm", "mlp_norm",
    }  # fmt: skip
    assert decoder.embedding_VD.dtype == decoder.head_DV.dtype == kinds["down"] == jnp.bfloat16
