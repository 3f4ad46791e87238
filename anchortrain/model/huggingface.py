"""Weights and configuration in the names and layout of Hugging Face's `Olmo2ForCausalLM`, and back.

Pure functions of numpy arrays. Hugging Face keeps a matrix as [out, in] and each layer under its own number; here a
matrix is [in, out] and layers are stacked. The architecture is the same, so that logits are equal.

Shapes: N layers, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from anchortrain.config import ModelConfig, padded_vocabulary
from anchortrain.errors import UserError
from anchortrain.model.parameters import Params, abstract_model, params_of

# Our name -> theirs. Everything of two dimensions is transposed, but for the embedding.
_WHOLE = {"embedding": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}
_LAYER = {
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "output": "self_attn.o_proj.weight",
    "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight",
    "attention_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "mlp_norm": "post_feedforward_layernorm.weight",
}

_WHERE = "Olmo2ForCausalLM"


def config_to_huggingface(config: ModelConfig, vocabulary_size: int) -> dict[str, Any]:
    """The content of a `config.json` for the weights that `to_huggingface` gives.

    Args:
      config: of the model.
      vocabulary_size: of the tokenizer; the tables are padded beyond it (`parameters.padded_vocabulary`).
    """
    return {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "vocab_size": padded_vocabulary(vocabulary_size),
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        # Theirs default to token ids of OLMo-2's own tokenizer.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def to_huggingface(params: Params) -> dict[str, np.ndarray]:
    """The state dict of these parameters, float32. Rows of the vocabulary's padding are kept: logits stay equal."""
    state = {theirs: _flipped(ours, params[ours]) for ours, theirs in _WHOLE.items()}
    for ours, theirs in _LAYER.items():
        for layer, weight in enumerate(np.asarray(params["layers"][ours])):
            state[_in_layer(layer, theirs)] = _flipped(ours, weight)
    return state


def from_huggingface(state: Mapping[str, np.ndarray], config: ModelConfig) -> Params:
    """The parameters of a state dict, float32, with the vocabulary padded to what a mesh needs.

    Padding is zeros: logits of the state dict's own tokens stay equal, and a padded token has logit 0.

    Raises:
      UserError: when a name is missing or unknown, or a shape is not that of `config`.
    """
    known = {*_WHOLE.values(), *(_in_layer(n, theirs) for n in range(config.n_layers) for theirs in _LAYER.values())}
    for what, names in (("lacks", known - state.keys()), ("has the unknown", state.keys() - known)):
        if names:
            raise UserError(f"{what} weight {min(names)!r}", where=_WHERE, mend="is ModelConfig.n_layers right?")
    size = state[_WHOLE["embedding"]].shape[0]
    shapes = params_of(abstract_model(config, size))
    params: Params = {ours: _flipped(ours, state[theirs]) for ours, theirs in _WHOLE.items()}
    padding = padded_vocabulary(size) - size
    params["embedding"] = np.pad(params["embedding"], ((0, padding), (0, 0)))
    params["head"] = np.pad(params["head"], ((0, 0), (0, padding)))
    for ours, theirs in _WHOLE.items():
        _check_shape(theirs, params[ours], shapes[ours].shape)
    params["layers"] = {}
    for ours, theirs in _LAYER.items():
        layers = [_flipped(ours, state[_in_layer(n, theirs)]) for n in range(config.n_layers)]
        for n, layer in enumerate(layers):
            _check_shape(_in_layer(n, theirs), layer, shapes["layers"][ours].shape[1:])
        params["layers"][ours] = np.stack(layers)
    return params


def _in_layer(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{name}"


def _flipped(name: str, weight: np.ndarray) -> np.ndarray:
    """Ours to theirs or theirs to ours, one layer at a time."""
    weight = np.asarray(weight, np.float32)
    return np.ascontiguousarray(weight.T) if weight.ndim == 2 and name != "embedding" else weight


def _check_shape(name: str, weight: np.ndarray, shape: tuple[int, ...]) -> None:
    if weight.shape != shape:
        what = f"weight {name!r} is {list(weight.shape)} as [in, out], ModelConfig makes it {list(shape)}"
        raise UserError(what, where=_WHERE, mend="give the ModelConfig of the checkpoint")
