"""Bytes that the instructions of an optimized XLA program read from and write to HBM."""

import re

from anchortrain.plan.collectives import kind_of
from anchortrain.plan.hlo import Computation, Instruction, Module

# Custom calls that move nothing.
_FREE_TARGETS = ("AllocateBuffer", "ConcatBitcast", "AsyncCollective", "AssumeGatherIndicesInBound", "SliceId")
_SLICING = ("dynamic-slice", "slice", "gather", "slice-start")
_RENAMING = ("bitcast", "reshape", "copy")


def traffic(module: Module, computation: Computation, one: Instruction) -> float:
    """Bytes read from and written to HBM."""
    result = sum(shape.hbm_bytes for shape in one.shapes)
    if one.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', one.attributes)
        if target and target.group(1).startswith(_FREE_TARGETS):
            return 0.0
    if one.opcode == "fusion":
        return _fusion_traffic(module, computation, one)
    if one.opcode in _SLICING:
        source = computation.operand(one, 0)
        target = one.shapes[-2] if one.opcode == "slice-start" else one.shapes[0]
        in_hbm = source is not None and not source.shapes[0].space
        return float(target.bytes * in_hbm + target.hbm_bytes)
    if one.opcode == "dynamic-update-slice":
        update = computation.operand(one, 1).shapes[0]
        return float(update.hbm_bytes + update.bytes * (not one.shapes[0].space))
    if one.opcode == "copy-start":
        return float(sum(shape.hbm_bytes for shape in one.shapes[:2]))
    return float(result + sum(shape.hbm_bytes for shape in computation.operand_shapes(one)))


def _fusion_traffic(module: Module, computation: Computation, one: Instruction) -> float:
    called = module.computations[one.called("calls")]
    total = 0.0
    for number, name in enumerate(one.operands):
        operand, parameter = computation.instructions.get(name), called.parameters.get(number)
        if operand and parameter and not operand.shapes[0].space:
            total += min(_read(module, called, parameter), sum(shape.bytes for shape in operand.shapes))
    written = _written(module, called, called.root)
    if len(written) != len(one.shapes):
        written = [shape.bytes for shape in one.shapes]
    return total + sum(size for size, shape in zip(written, one.shapes, strict=True) if not shape.space)


def _read(module: Module, computation: Computation, value: Instruction) -> float:
    """Bytes of `value` that a fusion reads."""
    total, whole = 0.0, float(sum(shape.bytes for shape in value.shapes))
    for user in computation.users[value.name]:
        if user.opcode in _RENAMING:
            total += _read(module, computation, user)
        elif user.opcode in _SLICING and user.operands[0] == value.name:
            total += user.shapes[0].bytes
        elif user.opcode == "fusion":
            called = module.computations[user.called("calls")]
            places = [i for i, name in enumerate(user.operands) if name == value.name]
            total += sum(_read(module, called, called.parameters[i]) for i in places)
        elif not _passes(user, value):
            return whole
    return min(total, whole)


def _passes(user: Instruction, value: Instruction) -> bool:
    """Whether `value` goes through `user` unread: handed on, updated in place, or sent (counted as a collective)."""
    in_place = user.opcode == "dynamic-update-slice" and user.operands[0] == value.name
    return in_place or user.opcode == "tuple" or kind_of(user) is not None or "AsyncCollective" in user.attributes


def _written(module: Module, computation: Computation, value: Instruction | None) -> list[float]:
    """Bytes that each leaf of a fusion's result writes."""
    if value is None:
        return [0.0]
    if value.opcode == "tuple":
        return [
            size for name in value.operands for size in _written(module, computation, computation.instructions[name])
        ]
    if value.opcode in ("parameter", "custom-call") or kind_of(value):
        return [0.0] * len(value.shapes)
    if value.opcode in ("bitcast", "reshape"):
        source = computation.operand(value, 0)
        inner = _written(module, computation, source)
        return inner if len(inner) == 1 else [float(value.shapes[0].bytes)]
    if value.opcode == "get-tuple-element":
        index = int(re.search(r"index=(\d+)", value.attributes).group(1))
        inner = _written(module, computation, computation.operand(value, 0))
        return [inner[index]] if index < len(inner) else [float(value.shapes[0].bytes)]
    if value.opcode == "dynamic-update-slice":
        return [float(computation.operand(value, 1).shapes[0].bytes)]
    if value.opcode == "fusion":
        called = module.computations[value.called("calls")]
        return _written(module, called, called.root)
    return [float(shape.bytes) for shape in value.shapes]
