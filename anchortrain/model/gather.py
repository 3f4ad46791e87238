"""Fully sharded data parallelism: a weight lies cut over the `fsdp` axis and is made whole where it is used.

Spelled out, because the compiler left to itself may as well move activations, or reduce a gradient whole on every
device. Here a weight is cast before it is gathered, and its gradient is asked for cut, so that
the compiler can reduce and cut it in one step (it does not on every slice, see docs/configurations.md).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from anchortrain.model import remat
from anchortrain.sharding import RULES, constrain, current_mesh

_AXIS = "fsdp"


def gathers(dtype: str) -> bool:
    """Whether `gathered` makes anything new: parameters are float32."""
    mesh = current_mesh()
    return dtype != "float32" or (mesh is not None and mesh.shape[_AXIS] > 1)


def gathered(weight: jax.Array, logical: Sequence[str | None], dtype: jnp.dtype) -> jax.Array:
    """The weight of these logical axes in `dtype`, whole along `fsdp`; its gradient is cut again, in float32."""
    return remat.named(_gathered(weight, tuple(logical), jnp.dtype(dtype)), remat.GATHERED)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(weight: jax.Array, logical: tuple[str | None, ...], dtype: jnp.dtype) -> jax.Array:
    # Constrained before and after, so that the cast comes first and half the bytes are moved.
    cast = constrain(weight.astype(dtype), logical)
    return constrain(cast, tuple(None if RULES[name] == _AXIS else name for name in logical))


def _forward(weight: jax.Array, logical: tuple[str | None, ...], dtype: jnp.dtype) -> tuple[jax.Array, None]:
    return _gathered(weight, logical, dtype), None


def _backward(logical: tuple[str | None, ...], _dtype: jnp.dtype, _saved: None, grad: jax.Array) -> tuple[jax.Array]:
    return (constrain(grad, logical).astype(jnp.float32),)


_gathered.defvjp(_forward, _backward)
