"""Attention over packed rows by the kernel made for the device.

    splash     JAX's splash attention (Pallas, TPU): never makes a [length, length] array, skips blocks after the
               diagonal, and knows of segments. Under `shard_map` over batch, heads and, for long rows, queries.
    cudnn      `jax.nn.dot_product_attention` on GPU, bfloat16 only.
    reference  plain JAX, everywhere else, and what the others are tested against.

Shapes: B batch, L length, H query heads, K key heads, C head dimension.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import NamedSharding

from anchortrain.config import ModelConfig
from anchortrain.errors import UserError
from anchortrain.model import attention
from anchortrain.model.remat import ATTENDED
from anchortrain.sharding import LANES, current_mesh, platform, spec

# (q [B, L, H, C], k [B, L, K, C], v [B, L, K, C]) -> [B, L, H, C]
Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

_LARGEST_BLOCK = 512  # rows are cut into blocks of a multiple of `LANES`


def choose(config: ModelConfig, length: int) -> str:
    """The kernel's name. Raises UserError when one asked for by name cannot do it."""
    on_gpu = platform() in ("gpu", "cuda", "rocm")
    if config.attention == "splash" and length % LANES:
        what = f"attention 'splash' needs rows of a multiple of {LANES} tokens, got {length}"
        raise UserError(what, where="DataConfig.length", mend=f"use {-(-length // LANES) * LANES}")
    if config.attention == "cudnn" and (config.compute_dtype != "bfloat16" or not on_gpu):
        raise UserError(
            f"attention 'cudnn' needs a GPU and bfloat16, got {platform()} and {config.compute_dtype}",
            where="ModelConfig.attention",
            mend="use 'auto'",
        )
    if config.attention != "auto":
        return config.attention
    if platform() == "tpu" and length % LANES == 0:
        return "splash"
    return "cudnn" if on_gpu and config.compute_dtype == "bfloat16" else "reference"


def packed_attention(config: ModelConfig, segment_ids_BL: jax.Array) -> Attention:
    """Causal attention within segments."""
    mesh = current_mesh()
    pieces = 1 if mesh is None else mesh.shape["sequence"]
    name = choose(config, segment_ids_BL.shape[1] // pieces)
    if name == "splash":
        return partial(_splash, segment_ids_BL=segment_ids_BL)
    if name == "cudnn":
        return partial(_cudnn, mask_BLL=attention.packed_mask(segment_ids_BL))
    return attention.packed_reference(segment_ids_BL)


def _cudnn(q_BLHC: jax.Array, k_BLKC: jax.Array, v_BLKC: jax.Array, mask_BLL: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q_BLHC, k_BLKC, v_BLKC, mask=mask_BLL[:, None], implementation="cudnn")


def _splash(q_BLHC: jax.Array, k_BLKC: jax.Array, v_BLKC: jax.Array, segment_ids_BL: jax.Array) -> jax.Array:
    """Each device attends with its own queries to all keys of its rows, for its own heads."""
    mesh = current_mesh()
    heads, length = q_BLHC.shape[2], q_BLHC.shape[1]
    # Heads before positions, as the kernel wants them; it leaves scaling to the caller.
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q_BLHC * q_BLHC.shape[-1] ** -0.5, k_BLKC, v_BLKC))
    if mesh is None:
        out = _attend_rows(_kernel(heads, length, 1), q, k, v, segment_ids_BL, segment_ids_BL)
        return jnp.swapaxes(out, 1, 2)
    kernel = _kernel(heads // mesh.shape["tensor"], length, mesh.shape["sequence"])
    queries, keys = spec(("batch", "heads", "length", None)), spec(("batch", "heads", None, None))
    out = jax.shard_map(
        _attend_rows,
        mesh=mesh,
        in_specs=(
            # Blocks to skip differ by query: that table is cut along with them.
            kernel.manual_sharding_spec(NamedSharding(mesh, spec((None, "length")))),
            queries,
            keys,
            keys,
            spec(("batch", "length")),
            spec(("batch", None)),
        ),
        out_specs=queries,
        check_vma=False,
    )(kernel, q, k, v, segment_ids_BL, segment_ids_BL)
    return jnp.swapaxes(out, 1, 2)


def _attend_rows(kernel: splash.SplashAttentionKernel, q_BHQC, k_BKLC, v_BKLC, segments_BQ, segments_BL) -> jax.Array:
    def row(q, k, v, queries, keys):
        return kernel(q, k, v, splash.SegmentIds(q=queries, kv=keys))

    return jax.vmap(row)(q_BHQC, k_BKLC, v_BKLC, segments_BQ, segments_BL)


def _kernel(heads: int, length: int, pieces: int) -> splash.SplashAttentionKernel:
    block = next(b for b in (_LARGEST_BLOCK, 256, LANES) if (length // pieces) % b == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    sizes = splash.BlockSizes(**dict.fromkeys((*names, "block_q_dq", "block_kv_dq"), block))
    return splash.make_splash_mha(
        splash_mask.MultiHeadMask([splash_mask.CausalMask((length, length))] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=pieces,
        residual_checkpoint_name=ATTENDED,
        interpret=platform() != "tpu",
    )
