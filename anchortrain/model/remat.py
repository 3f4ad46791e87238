"""What of a layer is kept for the backward pass, by name; everything else is computed again.

Kept bytes a layer and token, in units of the compute type (D width, F MLP width, A = heads x head dimension):

    none       every intermediate result
    dots       3D + 4A + 2F   every matrix product, and attention
    attention  D + 4A         what attention's own backward pass needs: the MLP runs again, attention does not
    full       D              only the layer's input

(with as many key as query heads). Weights gathered over the `fsdp` axis are never kept: they would be the whole model.
The last two also run the MLP on pieces of the row (`in_pieces`), whose intermediate results are the largest of a layer.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from anchortrain.sharding import batch_ways, current_mesh, spec

# Names of intermediate results.
QUERY, KEY, VALUE, ATTENDED = "query", "key", "value", "attended"
OUTPUT, GATE, UP, DOWN = "output", "gate", "up", "down"
GATHERED = "gathered"

_ATTENTION = (QUERY, KEY, VALUE, ATTENDED)
_KEPT = {"dots": (*_ATTENTION, OUTPUT, GATE, UP, DOWN), "attention": _ATTENTION, "full": ()}

# Tokens of a piece: enough that its products are no slower than the whole row's.
PIECE = 1024

named = checkpoint_name


def apply(body: Callable, policy: str, *, gathers: bool) -> Callable:
    """`body` of the scan over layers under a policy of `ModelConfig.remat`.

    Args:
      body: (carry, layer) -> (carry, None).
      policy: a name above.
      gathers: whether weights are gathered or cast, so that "none" too must not keep them.
    """
    if policy == "none":
        if not gathers:
            return body
        return jax.checkpoint(
            body, prevent_cse=False, policy=jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
        )
    kept = jax.checkpoint_policies.save_only_these_names(*_KEPT[policy])
    return jax.checkpoint(body, prevent_cse=False, policy=kept)


def in_pieces(
    function: Callable[..., jax.Array], x_BLD: jax.Array, weights: Sequence[jax.Array], policy: str
) -> jax.Array:
    """`function` of [B, L, D] and weights, position by position, so that the backward pass holds one piece's results
    at a time.

    Whole where the policy keeps its results anyway, and on a row that is itself cut over devices.
    """
    B, L, D = x_BLD.shape
    mesh = current_mesh()
    cut = mesh is not None and mesh.shape["sequence"] > 1
    if policy not in ("attention", "full") or L % PIECE or L == PIECE or cut:
        return function(x_BLD, *weights)

    def local(x_BLD: jax.Array, *weights: jax.Array) -> jax.Array:
        pieces = jnp.moveaxis(x_BLD.reshape(-1, L // PIECE, PIECE, D), 1, 0)
        done = jax.lax.map(jax.checkpoint(lambda x: function(x, *weights), prevent_cse=False), pieces)
        return jnp.moveaxis(done, 0, 1).reshape(-1, L, D)

    if mesh is None or B % batch_ways():
        return local(x_BLD, *weights)
    # Left to itself the compiler sums the gradient of the weights over all devices after every piece.
    rows = spec(("batch", None, None))
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(rows, *[PartitionSpec()] * len(weights)),
        out_specs=rows,
        axis_names={"data", "fsdp"},
        check_vma=False,
    )(x_BLD, *weights)
