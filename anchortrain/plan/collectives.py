"""What a collective of an optimized XLA program sends: its kind, its groups, its bytes.

Bytes are those that one device sends in a ring: (n-1)/n of the full array for all-gather, reduce-scatter and
all-to-all, twice that for all-reduce, the array itself for a permutation. Across slices a hierarchy is assumed: within
each slice first, then each device its share over the data-centre network.
"""

import dataclasses
import re

import numpy as np

from anchortrain.plan.hlo import Computation, Instruction

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Bytes that one device sends in one of `times` runs, within its slice and to other slices."""

    kind: str
    ici_bytes: float
    dcn_bytes: float
    times: int


def volume(computation: Computation, one: Instruction, times: int, devices: int, slices: int) -> Collective:
    """What a collective, or a message to other slices, sends. Devices lie in `slices` equal parts, in order."""
    if one.opcode == "send":
        payload = computation.operand(one, 0)
        size = float(sum(shape.bytes for shape in payload.shapes)) if payload else 0.0
        kind = megascale_kind(one)
        return Collective(kind, 0.0, _ring(kind, size, slices), times)
    size = float(sum(shape.bytes for shape in computation.operand_shapes(one)))
    kind = kind_of(one)
    if kind == "all-reduce" and _scattered(computation, one):
        kind = "reduce-scatter"
    groups = replica_groups(one, devices)
    per_slice = max(1, devices // slices)
    crossing = max(len({device // per_slice for device in group}) for group in groups)
    if kind == "collective-permute":
        moves = any(source != target for source, target in groups)
        return Collective(kind, size * (moves and crossing == 1), size * (crossing > 1), times)
    return Collective(kind, *_hierarchy(kind, size, len(groups[0]), crossing), times)


def kind_of(one: Instruction) -> str | None:
    name = one.opcode.removesuffix("-start")
    return name if name in KINDS else "all-to-all" if name == "ragged-all-to-all" else None


def megascale_kind(one: Instruction) -> str | None:
    """The kind of collective of which this is a device's message to other slices."""
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.attributes) if one.opcode == "send" else None
    if not found:
        return None
    kind = found.group(1).lower().replace("_", "-")
    return kind if kind in KINDS else "collective-permute"


def _scattered(computation: Computation, one: Instruction) -> bool:
    """Whether only this device's part of a sum is used: how TPU programs write a reduce-scatter."""
    users = computation.users[one.name]
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users)


def _ring(kind: str, size: float, n: int) -> float:
    """Bytes a device sends for an operand of `size` bytes among n devices."""
    if n <= 1:
        return 0.0
    factor = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1}
    return size * factor.get(kind, (n - 1) / n)


def _hierarchy(kind: str, size: float, n: int, slices: int) -> tuple[float, float]:
    """Bytes sent within the slice and to others by one of n devices in `slices` slices."""
    within = n // slices
    if slices == 1:
        return _ring(kind, size, n), 0.0
    if kind == "all-gather":
        return _ring(kind, size * slices, within), size * (slices - 1)
    if kind == "all-to-all":
        return size * (within - 1) / n, size * (n - within) / n
    return _ring(kind, size, within), _ring(kind, size / within, slices)


def replica_groups(instruction: Instruction, devices: int) -> list[list[int]]:
    """The devices that talk to each other, by their place in the mesh; all of them where none are named.

    Reads `{{0,1},{2,3}}`, `[2,2]<=[4]`, `[2,2]<=[2,2]T(1,0)`, `mesh['a'=2,'b'=2] {'b'}` and source_target_pairs.
    """
    text = instruction.attributes
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text)
    if pairs:
        return [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{(\d+,\d+)\}", pairs.group(1))]
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)+)\}", text)
    if listed:
        groups = re.findall(r"\{([\d,]+)\}", listed.group(1))
        return [[int(n) for n in group.split(",")] for group in groups] or [list(range(devices))]
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if tiled:
        shape, dims = (_numbers(tiled.group(i)) for i in (1, 2))
        ids = np.arange(np.prod(dims)).reshape(dims)
        ids = ids.transpose(_numbers(tiled.group(3))) if tiled.group(3) else ids
        return ids.reshape(shape[0], -1).tolist()
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^)]*\))?\s*\{([^}]*)\}", text)
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named.group(1))}
        return _axes_groups(sizes, re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", named.group(2)))
    return [list(range(devices))]


def _axes_groups(sizes: dict[str, int], axes: list[tuple[str, str, str]]) -> list[list[int]]:
    """Groups along mesh axes; `'a':(2)4` names the part of size 4 of axis a after a part of size 2."""
    dims, chosen = [], []
    for name, size in sizes.items():
        part = next(((int(pre), int(n)) for axis, pre, n in axes if axis == name and n), None)
        if part:
            dims += [part[0], part[1], size // (part[0] * part[1])]
            chosen.append(len(dims) - 2)
        else:
            dims.append(size)
            if any(axis == name for axis, _, _ in axes):
                chosen.append(len(dims) - 1)
    ids = np.arange(np.prod(dims)).reshape(dims)
    rest = [d for d in range(len(dims)) if d not in chosen]
    return ids.transpose(*rest, *chosen).reshape(-1, int(np.prod([dims[d] for d in chosen], dtype=int))).tolist()


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]
