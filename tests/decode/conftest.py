"""A tiny vocabulary and a tiny random model for the tests of this folder."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from anchortrain.config import ModelConfig
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.model.transformer import Transformer
from tests.vocabularies import train_vocabulary

TEXTS = [
    "Tell me a story about the fox, please.",
    "hero: the old fox; place: mill by the river; here: São Paulo’s café <3; time-of-day: late  evening",
    "Once upon a time a fox lived at the mill.\n\nThe end; so it was: the fox’s own.",
]


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Vocabulary:
    """Keys are cut into several tokens, and characters into bytes."""
    return train_vocabulary(tmp_path_factory.mktemp("vocabulary"), TEXTS)


@pytest.fixture(scope="session")
def keys() -> list[str]:
    """Some share their beginning."""
    return ["hero", "here", "place", "time-of-day"]


# One shape for all, so that little is compiled. The head is wider than the vocabulary, as in a run.
CONFIG = ModelConfig(d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48)
COLUMNS = 384


@pytest.fixture(scope="session")
def model(vocabulary: Vocabulary) -> Transformer:
    """Random, with weights large enough that its distributions are far from uniform."""
    made = Transformer(CONFIG, COLUMNS, rngs=nnx.Rngs(0))
    assert vocabulary.size < COLUMNS
    made.head[...] = 0.3 * jax.random.normal(jax.random.key(1), made.head.shape)
    made.embedding[...] = jax.random.normal(jax.random.key(2), made.embedding.shape)
    return made


@pytest.fixture(scope="session")
def flat_model_of() -> Callable[[Vocabulary, float], Transformer]:
    """Makes a model that reaches every corner of the grammar: its logits are nearly `boost` for the control tokens
    and 0 for all others."""

    def make(vocabulary: Vocabulary, boost: float) -> Transformer:
        made = Transformer(CONFIG, -(-vocabulary.size // 128) * 128, rngs=nnx.Rngs(0))
        # A constant that outweighs what the layers add to the residual stream.
        made.embedding[...] = made.embedding[...].at[:, 0].set(100.0)
        constant = CONFIG.d_model**0.5
        made.head[...] = made.head[...].at[0, jnp.asarray(sorted(vocabulary.control_ids))].set(boost / constant)
        return made

    return make


@pytest.fixture(scope="session")
def flat_model(vocabulary: Vocabulary, flat_model_of) -> Callable[[float], Transformer]:
    """`flat_model_of` the tiny vocabulary."""
    return lambda boost: flat_model_of(vocabulary, boost)
