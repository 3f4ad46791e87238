"""The device mesh and the one table from logical axes to mesh axes.

Parameters name their dimensions by logical axes (`model.transformer.LOGICAL_AXES`); activations are
constrained only at the batch dimension, and the compiler propagates the rest.
"""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from anchortrain.config import MeshConfig
from anchortrain.errors import UserError

AXES = ("data", "fsdp", "tensor")

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "layers": None,
    None: None,
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all `devices` with axes `AXES`. Raises UserError when the sizes do not multiply up."""
    devices = list(devices if devices is not None else jax.devices())
    sizes = [config.data, config.fsdp, config.tensor]
    known = 1
    for size in sizes:
        known *= size if size != -1 else 1
    if sizes.count(-1) == 1 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    total = sizes[0] * sizes[1] * sizes[2]
    if min(sizes) < 1 or total != len(devices):
        raise UserError(
            f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not fit {len(devices)} devices",
            where="MeshConfig",
            mend="make the product equal the number of devices, or set one axis to -1",
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def spec(logical: Sequence[str | None]) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes. Raises ValueError when a mesh axis repeats."""
    entries = [RULES[name] for name in logical]
    used = [axis for entry in entries if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {tuple(logical)} use a mesh axis twice: {used}")
    return PartitionSpec(*entries)


def named(mesh: Mesh, logical: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """The sharding of an array of `shape`. Raises UserError, naming the axis, when it does not divide."""
    partition = spec(logical)
    for dimension, name, entry in zip(shape, logical, partition, strict=True):
        axes = () if entry is None else (entry,) if isinstance(entry, str) else entry
        ways = 1
        for axis in axes:
            ways *= mesh.shape[axis]
        if dimension % ways:
            across = f"{ways} devices of mesh axis {'x'.join(axes)}"
            raise UserError(
                f"dimension {name!r} of size {dimension} does not divide over {across}",
                where="MeshConfig",
                mend=f"change the mesh or make the size a multiple of {ways}",
            )
    return NamedSharding(mesh, partition)


def constrain(x: jax.Array, logical: Sequence[str | None]) -> jax.Array:
    """`x` constrained to its sharding under the current mesh; unchanged where no mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(logical))
