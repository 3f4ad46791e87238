"""Between a module and its parameters as a nested dict: what is optimised, sharded and stored."""

from typing import Any

import jax
from flax import nnx

from anchortrain.config import ModelConfig, padded_vocabulary
from anchortrain.model.transformer import Transformer

Params = dict[str, Any]


def make_model(config: ModelConfig, vocabulary_size: int, seed: int) -> Transformer:
    """A freshly initialised model."""
    return Transformer(config, padded_vocabulary(vocabulary_size), rngs=nnx.Rngs(seed))


def abstract_model(config: ModelConfig, vocabulary_size: int) -> Transformer:
    """The model's structure without its arrays."""
    return jax.eval_shape(lambda: make_model(config, vocabulary_size, 0))


def params_of(model: Transformer) -> Params:
    """The parameters of a model (or their shapes, of an abstract one)."""
    return nnx.to_pure_dict(nnx.state(model))


def model_with(abstract: Transformer, params: Params) -> Transformer:
    """A model of the structure `abstract` with these parameters."""
    graph, state = nnx.split(abstract)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
