"""The embedding table, cut over `tensor` (tokens) and `fsdp` (width), and never whole on one device.

Each device looks the tokens of all rows of its `fsdp` group up in its own columns, and an all-to-all hands every row
its full width: what moves is activations of the group, not the table, and the table's gradient stays where it is.

Shapes: B rows, L length, D width, V vocabulary; `_` marks a device's own share.
"""

import jax
import jax.numpy as jnp

from anchortrain.sharding import batch_ways, current_mesh, spec


def lookup(table_VD: jax.Array, tokens_BL: jax.Array, dtype: str) -> jax.Array:
    """Rows of a table as [B, L, D] of `dtype`."""
    mesh = current_mesh()
    if mesh is None:
        return _rows(table_VD, tokens_BL).astype(dtype)
    cut = batch_ways(), mesh.shape["sequence"]
    tokens = ("batch", "length")
    if any(size % ways for size, ways in zip(tokens_BL.shape, cut, strict=True)):
        tokens = (None, None)  # few rows, as in sampling: every device looks all of them up

    def local(table_: jax.Array, tokens_: jax.Array) -> jax.Array:
        if tokens[0]:
            tokens_ = jax.lax.all_gather(tokens_, "fsdp", axis=0, tiled=True)
        first = jax.lax.axis_index("tensor") * table_.shape[0]
        here = (tokens_ >= first) & (tokens_ < first + table_.shape[0])
        found = _rows(table_, jnp.where(here, tokens_ - first, 0)) * here[..., None]
        found = jax.lax.psum(found.astype(dtype), "tensor")
        if tokens[0]:
            return jax.lax.all_to_all(found, "fsdp", split_axis=0, concat_axis=2, tiled=True)
        return jax.lax.all_gather(found, "fsdp", axis=2, tiled=True)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(spec(("vocab", "embed")), spec(tokens)),
        out_specs=spec((*tokens, None)),
        check_vma=False,
    )(table_VD, tokens_BL)


def _rows(table_VD: jax.Array, tokens_BL: jax.Array) -> jax.Array:
    # Flat indices: XLA's CPU backend adds a gradient to rows of a table 20 times faster than by pairs of indices.
    return table_VD[tokens_BL.reshape(-1)].reshape(*tokens_BL.shape, -1)
