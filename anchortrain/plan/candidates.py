"""Other ways to run an experiment on a slice: meshes that divide everything, and changes that save memory."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from anchortrain.config import Experiment, MeshConfig, padded_vocabulary
from anchortrain.config_checks import CHOICES
from anchortrain.flops import matrix_parameters
from anchortrain.plan.slices import Slice

REMAT = CHOICES["ModelConfig.remat"]  # from most memory to least
_SECTIONS = {"model": "ModelConfig", "data": "DataConfig", "mesh": "MeshConfig", "run": "RunConfig"}
_NARROWEST = 128  # columns of a matrix on one device: less leaves lanes of a matrix unit empty
_SHORTEST = 1024  # tokens of a row on one device


class Change(NamedTuple):
    """Some fields with other values. `what` names the kind of change."""

    what: str
    experiment: Experiment
    where: Slice


def bindings(before: Experiment, after: Experiment) -> list[str]:
    """The gin bindings that make `after` of `before`."""
    found = []
    for section, name in _SECTIONS.items():
        old, new = getattr(before, section), getattr(after, section)
        for field in dataclasses.fields(new):
            if getattr(old, field.name) != getattr(new, field.name):
                found.append(f"{name}.{field.name} = {getattr(new, field.name)!r}")
    return found


def with_fields(experiment: Experiment, section: str, **values: Any) -> Experiment:
    return dataclasses.replace(experiment, **{section: dataclasses.replace(getattr(experiment, section), **values)})


def rows_divide(experiment: Experiment, ways: int) -> bool:
    """Whether batch (and anchor) rows share out over `ways` devices and the microbatches."""
    ways *= experiment.run.accumulation
    anchored = experiment.loss.anchor_weight and experiment.loss.anchor_rows % ways
    return experiment.data.batch_rows % ways == 0 and not anchored


def meshes(experiment: Experiment, where: Slice) -> tuple[list[MeshConfig], dict[str, int]]:
    """Meshes over all devices that divide rows, heads, widths and vocabulary; those with least to send first.

    Returns:
      The meshes, and how many others were left out, by reason.
    """
    found, left_out = [], dict[str, int]()
    for mesh in _factorisations(where.devices, where.count):
        reason = _unfit(experiment, mesh, where)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            found.append(mesh)
    # Fewer ways to cut a layer first, then as much of fsdp as there can be: it costs least for what it saves.
    found.sort(key=lambda mesh: (mesh.tensor * mesh.sequence, mesh.sequence, -mesh.fsdp))
    return found, left_out


def _factorisations(devices: int, slices: int) -> Iterator[MeshConfig]:
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    for tensor in divisors:
        for sequence in divisors:
            for fsdp in divisors:
                data, rest = divmod(devices, tensor * sequence * fsdp)
                if rest == 0 and data and data % slices == 0:
                    yield MeshConfig(data, fsdp, sequence, tensor, slices)


def _unfit(experiment: Experiment, mesh: MeshConfig, where: Slice) -> str | None:
    """Why a mesh is of no use."""
    model, length = experiment.model, experiment.data.length
    vocabulary = padded_vocabulary(model.vocabulary_size)
    if not rows_divide(experiment, mesh.data * mesh.fsdp):
        return "the rows do not divide over data x fsdp (x microbatches)"
    if model.d_model % mesh.fsdp:
        return "the width does not divide over fsdp"
    if any(size % mesh.tensor for size in (model.n_heads, model.n_kv_heads, model.d_ff, vocabulary)):
        return "heads, MLP or vocabulary do not divide over tensor"
    if mesh.tensor > 1 and min(model.d_ff, model.d_model) // mesh.tensor < _NARROWEST:
        return f"fewer than {_NARROWEST} columns a device"
    if length % mesh.sequence or (mesh.sequence > 1 and length // mesh.sequence < _SHORTEST):
        return f"rows of fewer than {_SHORTEST} tokens a device"
    # The least that stays in memory from step to step: parameters and one moment, in float32.
    parameters = matrix_parameters(model, model.vocabulary_size) + (
        0 if model.tie_embeddings else model.d_model * vocabulary
    )
    if 8 * parameters / (mesh.fsdp * mesh.tensor) > where.hbm_bytes:
        return "parameters and optimizer alone exceed the memory"
    return None


def savings(experiment: Experiment, where: Slice, sizes: dict[str, int]) -> Iterator[Change]:
    """Changes that need less memory, cheapest first: recomputation, microbatches, mesh, batch, slice.

    Args:
      sizes: the mesh as it is, axis -> devices.
    """
    after = REMAT[REMAT.index(experiment.model.remat) + 1 :]
    for remat in after:
        yield Change("remat", with_fields(experiment, "model", remat=remat), where)
    least = with_fields(experiment, "model", remat=REMAT[-1])
    yield from _accumulations(least, where, sizes["data"] * sizes["fsdp"])
    shards = sizes["fsdp"] * sizes["tensor"]
    others = [mesh for mesh in meshes(experiment, where)[0] if mesh.fsdp * mesh.tensor > shards]
    nearest = sorted(others, key=lambda mesh: (abs(math.log(mesh.tensor / sizes["tensor"])), -mesh.fsdp))
    for mesh in nearest:
        for one in (experiment, least) if after else (experiment,):
            yield Change("mesh", dataclasses.replace(one, mesh=mesh), where)
    yield from _batches(least, where, sizes["data"] * sizes["fsdp"])
    larger = where.larger()
    while larger:
        for mesh in meshes(least, larger)[0][:1]:
            yield Change("slice", dataclasses.replace(least, mesh=mesh), larger)
        larger = larger.larger()


def _accumulations(experiment: Experiment, where: Slice, ways: int) -> Iterator[Change]:
    parts = experiment.run.accumulation * 2
    while rows_divide(one := with_fields(experiment, "run", accumulation=parts), ways):
        yield Change("accumulation", one, where)
        parts *= 2


def _batches(experiment: Experiment, where: Slice, ways: int) -> Iterator[Change]:
    rows = experiment.data.batch_rows // 2
    while rows and rows_divide(one := with_fields(experiment, "data", batch_rows=rows), ways):
        yield Change("batch", one, where)
        rows //= 2
