"""The transformer as decoding runs it: one matrix after another, a cache beside each layer, nothing kept for gradients.

It computes what `model.transformer.Transformer` does. Layers are unstacked, because a slice of a stack is copied in
every step of a compiled loop, and matrices have the compute type already. Where there is one device, matrices with the
same input are one: on a CPU a step of many rows is 4 % faster for it.

Shapes: B rows, R prompts, P tokens of a prompt, D model width, H query heads, K key heads, C head dimension,
S cache slots, V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from anchortrain.config import ModelConfig
from anchortrain.model import attention
from anchortrain.model.embedding import lookup
from anchortrain.model.transformer import LOGICAL_AXES, Transformer, dense, heads, rms_norm
from anchortrain.sharding import constrain, current_mesh

# Keys and values [B, K, S, C] of each layer.
Cache = tuple[tuple[jax.Array, jax.Array], ...]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["embedding_VD", "layers", "final_norm_D", "head_DV"],
    meta_fields=["config"],
)
@dataclasses.dataclass(frozen=True)
class Decoder:
    """The weights. Of each layer a dictionary: names of `Layer`, or `query+key+value` and `gate+up` for those that are
    one."""

    embedding_VD: jax.Array
    layers: tuple[dict[str, jax.Array], ...]
    final_norm_D: jax.Array
    head_DV: jax.Array
    config: ModelConfig

    @classmethod
    def of(cls, model: Transformer) -> "Decoder":
        """A copy of a model's weights, where the model's lie. Shards stay where they are."""
        return _unstacked(model, join=current_mesh() is None)

    def map_axes(self, function: Callable[[Any, tuple[str | None, ...]], Any]) -> "Decoder":
        """The same with `function(array, its logical axes)` for each array."""
        return Decoder(
            function(self.embedding_VD, LOGICAL_AXES["embedding"]),
            tuple(
                # Joined matrices have the axes of each.
                {name: function(x, LOGICAL_AXES[name.split("+")[0]][1:]) for name, x in layer.items()}
                for layer in self.layers
            ),
            function(self.final_norm_D, LOGICAL_AXES["final_norm"]),
            function(self.head_DV, LOGICAL_AXES["head"]),
            self.config,
        )

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """Zeroed, in the compute type."""
        c = self.config
        shape = (rows, c.n_kv_heads, capacity, c.d_model // c.n_heads)
        return tuple((jnp.zeros(shape, c.compute_dtype), jnp.zeros(shape, c.compute_dtype)) for _ in self.layers)

    def prefill(self, tokens_RP: jax.Array) -> Cache:
        """Keys and values of prompts, [R, K, P, C] of each layer. A prompt that is shorter than P is padded at its
        right; what is computed for padding is of no use."""
        R, P = tokens_RP.shape
        rotary = self._rotary(jnp.broadcast_to(jnp.arange(P), (R, P)))
        attend = attention.packed_reference(jnp.ones((R, P), jnp.int32))
        x_RPD, cache = lookup(self.embedding_VD, tokens_RP, self.config.compute_dtype), []
        for number, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x_RPD, rotary)
            cache.append((jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)))
            if number + 1 < len(self.layers):  # nobody reads what the last layer says
                x_RPD = self._finish(layer, x_RPD, attend(q, k, v))
        return tuple(cache)

    def step(self, token_B: jax.Array, position_B: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Feeds one token a row, whose keys and values go to the slot of its position.

        Returns float32 logits [B, V] and the new cache. A row sees the slots up to its position; a position must lie
        within the cache.
        """
        B, S = token_B.shape[0], cache[0][0].shape[2]
        rows, rotary = jnp.arange(B), self._rotary(position_B[:, None])
        mask_B1S = (jnp.arange(S) <= position_B[:, None])[:, None]
        x_B1D, after = lookup(self.embedding_VD, token_B[:, None], self.config.compute_dtype), []

        def put(slots: jax.Array, new_B1KC: jax.Array) -> jax.Array:
            place = slots.at[rows, :, position_B]
            return place.set(new_B1KC[:, 0], mode="promise_in_bounds", unique_indices=True)

        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            q, k, v = self._project(layer, x_B1D, rotary)
            after.append((put(keys, k), put(values, v)))
            x_B1D = self._finish(layer, x_B1D, attention.attend_cached(q, *after[-1], mask_B1S))
        hidden_BD = rms_norm(x_B1D, self.final_norm_D, self.config.norm_eps)[:, 0]
        return jnp.einsum("bd,dv->bv", hidden_BD, self.head_DV, preferred_element_type=jnp.float32), tuple(after)

    def _rotary(self, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        return attention.rotary(positions_BT, self.config.d_model // self.config.n_heads, self.config.rope_theta)

    def _project(
        self, layer: dict[str, jax.Array], x_BTD: jax.Array, rotary: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rotated queries [B, T, H, C], rotated keys and values [B, T, K, C]."""
        c = self.config
        keys_end = c.d_model + c.d_model * c.n_kv_heads // c.n_heads
        projected = _together(layer, x_BTD, ("query", "key", "value"), (c.d_model, keys_end))
        return heads(c, tuple(projected), (layer["query_norm"], layer["key_norm"]), rotary)

    def _finish(self, layer: dict[str, jax.Array], x_BTD: jax.Array, attended_BTHC: jax.Array) -> jax.Array:
        eps = self.config.norm_eps
        attended_BTD = dense(attended_BTHC.reshape(x_BTD.shape), layer["output"])
        x_BTD = x_BTD + rms_norm(attended_BTD, layer["attention_norm"], eps)
        gate, up = _together(layer, x_BTD, ("gate", "up"), (self.config.d_ff,))
        return x_BTD + rms_norm(dense(jax.nn.silu(gate) * up, layer["down"]), layer["mlp_norm"], eps)


def _together(
    layer: dict[str, jax.Array], x_BTD: jax.Array, names: tuple[str, ...], ends: tuple[int, ...]
) -> list[jax.Array]:
    """Products of one input with several matrices."""
    joined = layer.get("+".join(names))
    if joined is None:
        return [dense(x_BTD, layer[name]) for name in names]
    return jnp.split(dense(x_BTD, joined), ends, axis=-1)


@partial(jax.jit, static_argnames="join")
def _unstacked(model: Transformer, *, join: bool) -> Decoder:
    config, stacked = model.config, model.layers
    matrices = ("query", "key", "value", "output", "gate", "up", "down")
    norms = ("query_norm", "key_norm", "attention_norm", "mlp_norm")
    layers = []
    for number in range(config.n_layers):
        layer = {name: getattr(stacked, name)[...][number].astype(config.compute_dtype) for name in matrices}
        for names in (("query", "key", "value"), ("gate", "up")) if join else ():
            layer["+".join(names)] = jnp.concatenate([layer.pop(name) for name in names], axis=1)
        layers.append(layer | {name: getattr(stacked, name)[...][number] for name in norms})
    embedding_VD, head_DV = (x.astype(config.compute_dtype) for x in (model.embedding[...], model.head_DV))
    decoder = Decoder(embedding_VD, tuple(layers), model.final_norm[...], head_DV, config)
    return decoder.map_axes(constrain)
