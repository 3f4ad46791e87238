"""The device mesh and the one table from logical axes to mesh axes.

Parameters name their dimensions by logical axes (`model.transformer.LOGICAL_AXES`); activations are constrained at
batch and length, and the compiler propagates the rest. A batch is spread over `data` and `fsdp`, rows over `sequence`.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from anchortrain.config import Experiment, MeshConfig, padded_vocabulary
from anchortrain.errors import UserError

LANES = 128  # of a TPU's vector unit

AXES = ("data", "fsdp", "sequence", "tensor")

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": "sequence",
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "layers": None,
    None: None,
}


def mesh_sizes(config: MeshConfig, count: int) -> tuple[int, ...]:
    """Devices along each of `AXES`. Raises UserError when they do not multiply up to `count`."""
    sizes = [getattr(config, axis) for axis in AXES]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and count % known == 0:
        sizes[sizes.index(-1)] = count // known
    if min(sizes) < 1 or math.prod(sizes) != count or sizes[0] % config.slices:
        asked = " ".join(f"{axis}={getattr(config, axis)}" for axis in AXES)
        slices = f" in {config.slices} slices" if config.slices > 1 else ""
        raise UserError(
            f"mesh {asked} does not fit {count} devices{slices}",
            where="MeshConfig",
            mend="make the product equal the number of devices, or set one axis to -1; slices must divide data",
        )
    return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all `devices` with axes `AXES`. Raises UserError when the sizes do not multiply up.

    With several slices `data` leads with them, so that nothing but its gradient reduction crosses between slices.
    """
    devices = list(devices if devices is not None else jax.devices())
    sizes = mesh_sizes(config, len(devices))
    if config.slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    within = (sizes[0] // config.slices, *sizes[1:])
    parts = []
    for part in _slices(devices, config.slices):
        parts.append(jax.make_mesh(within, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=part).devices)
    return Mesh(np.concatenate(parts), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices: list[jax.Device], count: int) -> list[list[jax.Device]]:
    """The devices of each slice; where devices know of none (CPU, GPU) as many slices of neighbours are simulated."""
    numbers = sorted({getattr(device, "slice_index", None) or 0 for device in devices})
    if len(numbers) == 1:
        share = len(devices) // count
        return [devices[i * share : (i + 1) * share] for i in range(count)]
    if len(numbers) != count:
        raise UserError(f"slices = {count}, but the devices are of {len(numbers)} slices", where="MeshConfig")
    return [[device for device in devices if device.slice_index == number] for number in numbers]


def check_fits(mesh: Mesh, experiment: Experiment) -> None:
    """Raises UserError, before anything is made, where the model or its batches do not divide over the mesh."""
    _check_model(mesh, experiment)
    _check_rows(mesh, experiment)
    length, pieces = experiment.data.length, mesh.shape["sequence"]
    if length % pieces:
        what = f"rows of {length} tokens do not divide over {pieces} devices of mesh axis sequence"
        raise UserError(what, where="MeshConfig.sequence", mend=f"use {math.gcd(length, pieces)}")
    if experiment.model.attention == "splash" and length // pieces % LANES:
        each = f"{length} / {pieces}" if pieces > 1 else str(length)
        what = f"attention 'splash' needs a multiple of {LANES} tokens of a row on each device, got {each}"
        mend = f"use {-(-length // (LANES * pieces)) * LANES * pieces}"
        raise UserError(what, where="DataConfig.length", mend=mend)


def _check_model(mesh: Mesh, experiment: Experiment) -> None:
    model = experiment.model
    sizes = (
        ("n_heads", model.n_heads, "query heads", "tensor"),
        ("n_kv_heads", model.n_kv_heads, "key heads", "tensor"),
        ("d_ff", model.d_ff, "columns of the MLP", "tensor"),
        ("vocabulary_size", padded_vocabulary(model.vocabulary_size), "tokens (padded)", "tensor"),
        ("d_model", model.d_model, "columns", "fsdp"),
    )
    for field, size, what, axis in sizes:
        ways = mesh.shape[axis]
        if size % ways:
            raise UserError(
                f"{size} {what} do not divide over {ways} devices of mesh axis {axis}",
                where=f"ModelConfig.{field}",
                mend=f"use MeshConfig.{axis} = {math.gcd(size, ways)}, or another size",
            )


def _check_rows(mesh: Mesh, experiment: Experiment) -> None:
    ways, parts = mesh.shape["data"] * mesh.shape["fsdp"], experiment.run.accumulation
    rows = {"DataConfig.batch_rows": experiment.data.batch_rows}
    if experiment.loss.anchor_weight:
        rows["LossConfig.anchor_rows"] = experiment.loss.anchor_rows
    for name, count in rows.items():
        if count % (ways * parts):
            over = f"{ways} devices" + (f" x {parts} microbatches" if parts > 1 else "")
            mend = f"use a multiple of {ways * parts}, or another MeshConfig"
            raise UserError(f"{count} rows cannot be shared out over {over}", where=name, mend=mend)


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


def current_mesh() -> AbstractMesh | None:
    """The mesh set by `jax.set_mesh`; None where there is none, or nothing to share out: a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.axis_names == AXES and mesh.size > 1 else None


def platform() -> str:
    """Of the devices that the program is made for: those of the mesh, be they here or only described."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def batch_ways() -> int:
    """Over how many devices of the current mesh the rows of a batch are spread."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def constrain(x: jax.Array, logical: Sequence[str | None]) -> jax.Array:
    """`x` constrained to its sharding under the current mesh; unchanged where no mesh is set."""
    return x if current_mesh() is None else jax.lax.with_sharding_constraint(x, spec(logical))
