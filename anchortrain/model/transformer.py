"""The OLMo-2 architecture (arXiv 2501.00656) as an NNX module with stacked, scanned layers.

RMSNorm on the *outputs* of attention and MLP, RMSNorm over the whole query and key projections
(QK-norm), rotary positions, SwiGLU, no biases, embedding and head untied.

Shapes: B batch, L length, D model width, H heads, K key heads,
C head dimension, F MLP width, V vocabulary, N layers.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from anchortrain.config import ModelConfig
from anchortrain.model import attention, kernels, remat
from anchortrain.model.embedding import lookup
from anchortrain.model.gather import gathered, gathers
from anchortrain.sharding import constrain, platform

# Logical axes of each parameter by its name; those of a layer lead with the stacking axis.
LOGICAL_AXES: dict[str, tuple[str | None, ...]] = {
    "embedding": ("vocab", "embed"),
    "head": ("embed", "vocab"),
    "final_norm": (None,),
    "query": ("layers", "embed", "heads"),
    "key": ("layers", "embed", "heads"),
    "value": ("layers", "embed", "heads"),
    "output": ("layers", "heads", "embed"),
    "query_norm": ("layers", None),
    "key_norm": ("layers", None),
    "attention_norm": ("layers", None),
    "gate": ("layers", "embed", "mlp"),
    "up": ("layers", "embed", "mlp"),
    "down": ("layers", "mlp", "embed"),
    "mlp_norm": ("layers", None),
}

INIT_STDDEV = 0.02  # of every matrix, as in OLMo-2
UNROLLED_LAYERS = 16


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square norm over the last axis, in float32, returned in the type of `x`."""
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale * weight).astype(x.dtype)


def dense(x_BLD: jax.Array, weight_DF: jax.Array) -> jax.Array:
    """`x @ weight`. Rows are flattened first: the gradient of the weight is then a plain matrix product, which XLA's
    CPU backend runs 2x faster than a contraction over two axes."""
    flat = x_BLD.reshape(-1, x_BLD.shape[-1]) @ weight_DF
    return flat.reshape(*x_BLD.shape[:-1], -1)


def heads(
    config: ModelConfig,
    projected: tuple[jax.Array, jax.Array, jax.Array],
    norms: tuple[jax.Array, jax.Array],
    rotary: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotated queries [B, L, H, C], rotated keys and values [B, L, K, C], of projections [B, L, H*C or K*C] and the
    norms of queries and keys."""
    q, k, v = projected
    lead = q.shape[:2]
    q = rms_norm(q, norms[0], config.norm_eps).reshape(*lead, config.n_heads, -1)
    k = rms_norm(k, norms[1], config.norm_eps).reshape(*lead, config.n_kv_heads, -1)
    return attention.rotate(q, *rotary), attention.rotate(k, *rotary), v.reshape(*lead, config.n_kv_heads, -1)


class Layer(nnx.Module):
    """One transformer layer."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        D, F, C = config.d_model, config.d_ff, config.d_model // config.n_heads
        matrix = nnx.initializers.truncated_normal(INIT_STDDEV)

        def param(*shape: int) -> nnx.Param:
            return nnx.Param(matrix(rngs.params(), shape, jnp.float32))

        self.query = param(D, config.n_heads * C)
        self.key = param(D, config.n_kv_heads * C)
        self.value = param(D, config.n_kv_heads * C)
        self.output = param(config.n_heads * C, D)
        self.query_norm = nnx.Param(jnp.ones(config.n_heads * C))
        self.key_norm = nnx.Param(jnp.ones(config.n_kv_heads * C))
        self.attention_norm = nnx.Param(jnp.ones(D))
        self.gate = param(D, F)
        self.up = param(D, F)
        self.down = param(F, D)
        self.mlp_norm = nnx.Param(jnp.ones(D))

    def _whole(self, name: str, dtype: jnp.dtype) -> jax.Array:
        """The weight called `name`, whole along `fsdp`; stacked layers lead with an axis more than a layer."""
        return gathered(getattr(self, name)[...], LOGICAL_AXES[name][1:], dtype)

    def _dense(self, x_BLD: jax.Array, name: str) -> jax.Array:
        return dense(x_BLD, self._whole(name, x_BLD.dtype))

    def project(self, x_BLD: jax.Array, rotary: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rotated queries [B, L, H, C], rotated keys and values [B, L, K, C]."""
        q = remat.named(self._dense(x_BLD, "query"), remat.QUERY)
        k = remat.named(self._dense(x_BLD, "key"), remat.KEY)
        v = remat.named(self._dense(x_BLD, "value"), remat.VALUE)
        return heads(self.config, (q, k, v), (self.query_norm[...], self.key_norm[...]), rotary)

    def finish(self, x_BLD: jax.Array, attended_BLHC: jax.Array) -> jax.Array:
        """The rest of the layer, once attention is done: output projection, MLP, both norms."""
        c = self.config
        B, L, _ = x_BLD.shape
        attended = remat.named(self._dense(attended_BLHC.reshape(B, L, -1), "output"), remat.OUTPUT)
        x_BLD = x_BLD + rms_norm(attended, self.attention_norm[...], c.norm_eps)
        weights = [self._whole(name, x_BLD.dtype) for name in ("gate", "up", "down")]
        return remat.in_pieces(self._mlp, x_BLD, [*weights, self.mlp_norm[...]], c.remat)

    def _mlp(
        self, x_BLD: jax.Array, gate_DF: jax.Array, up_DF: jax.Array, down_FD: jax.Array, norm_D: jax.Array
    ) -> jax.Array:
        gate = remat.named(dense(x_BLD, gate_DF), remat.GATE)
        up = remat.named(dense(x_BLD, up_DF), remat.UP)
        down = remat.named(dense(jax.nn.silu(gate) * up, down_FD), remat.DOWN)
        return x_BLD + rms_norm(down, norm_D, self.config.norm_eps)

    def __call__(self, x_BLD: jax.Array, rotary: tuple[jax.Array, jax.Array], attend: kernels.Attention) -> jax.Array:
        attended_BLHC = attend(*self.project(x_BLD, rotary))
        return constrain(self.finish(x_BLD, attended_BLHC), ("batch", "length", None))


class Transformer(nnx.Module):
    """Embedding, stacked layers, final norm, head."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        self.config = config
        matrix = nnx.initializers.truncated_normal(INIT_STDDEV)
        self.embedding = nnx.Param(matrix(rngs.params(), (vocab_size, config.d_model), jnp.float32))
        self.layers = jax.vmap(lambda r: Layer(config, rngs=r))(rngs.split(config.n_layers))
        self.final_norm = nnx.Param(jnp.ones(config.d_model))
        if not config.tie_embeddings:
            self.head = nnx.Param(matrix(rngs.params(), (config.d_model, vocab_size), jnp.float32))

    @property
    def head_DV(self) -> jax.Array:
        """The matrix from hidden states to logits."""
        return self.embedding[...].T if self.config.tie_embeddings else self.head[...]

    def _rotary(self, positions_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
        return attention.rotary(positions_BL, self.config.d_model // self.config.n_heads, self.config.rope_theta)

    def hidden(self, tokens_BL: jax.Array, positions_BL: jax.Array, segment_ids_BL: jax.Array) -> jax.Array:
        """Final hidden states of packed rows.

        Args:
          tokens_BL: int32 inputs.
          positions_BL: int32, restarting at 0 in each segment.
          segment_ids_BL: int32; a token sees only its own segment.

        Returns:
          [B, L, D] in the compute type, normalised, ready for `logits`.
        """
        c = self.config
        x_BLD = constrain(lookup(self.embedding[...], tokens_BL, c.compute_dtype), ("batch", "length", None))
        rotary, attend = self._rotary(positions_BL), kernels.packed_attention(c, segment_ids_BL)

        def body(x: jax.Array, layer: Layer) -> tuple[jax.Array, None]:
            return layer(x, rotary, attend), None

        body = remat.apply(body, c.remat, gathers=gathers(c.compute_dtype))
        # XLA's CPU backend fills and copies what a loop keeps for its backward pass: a tenth of the step. Few layers
        # are spelled out there; a loop of many compiles faster.
        unroll = c.n_layers if platform() == "cpu" and c.n_layers <= UNROLLED_LAYERS else 1
        x_BLD, _ = jax.lax.scan(body, x_BLD, self.layers, unroll=unroll)
        return rms_norm(x_BLD, self.final_norm[...], self.config.norm_eps)

    def logits(self, hidden_D: jax.Array) -> jax.Array:
        """Float32 logits [..., V] of hidden states [..., D]."""
        head = gathered(self.head_DV, ("embed", "vocab"), hidden_D.dtype)
        return jnp.einsum("...d,dv->...v", hidden_D, head, preferred_element_type=jnp.float32)
