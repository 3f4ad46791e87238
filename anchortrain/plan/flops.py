"""FLOPs of the instructions of an optimized XLA program, two each multiply-add."""

import re
from functools import lru_cache

import numpy as np

from anchortrain.plan.hlo import Computation, Instruction, Module, Shape


def flops(module: Module, computation: Computation, one: Instruction) -> float:
    if one.opcode == "fusion":
        called = module.computations[one.called("calls")]
        return sum(flops(module, called, inner) for inner in called.instructions.values())
    if one.opcode == "dot":
        left = computation.operand(one, 0).shapes[0]
        contracted = np.prod([left.dims[d] for d in one.integers("lhs_contracting_dims")], dtype=float)
        return 2.0 * one.shapes[0].elements * float(contracted)
    if one.opcode == "convolution":
        return _convolution_flops(one, *(computation.operand(one, i).shapes[0] for i in (0, 1)))
    if one.opcode == "custom-call":
        return _kernel_flops(computation, one)
    return 0.0


def _convolution_flops(one: Instruction, left: Shape, right: Shape) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    inputs, kernel, output = labels.groups()
    total = 2.0 * left.dims[inputs.index("f")] / _group_count(one, "feature")
    total *= one.shapes[0].dims[output.index("f")] * left.dims[inputs.index("b")] / _group_count(one, "batch")
    for d in (c for c in inputs if c.isdigit()):
        sizes = left.dims[inputs.index(d)], right.dims[kernel.index(d)], one.shapes[0].dims[output.index(d)]
        total *= _valid_positions(*sizes, *_window(one, int(d)))
    return total


def _group_count(one: Instruction, what: str) -> int:
    found = re.search(rf"{what}_group_count=(\d+)", one.attributes)
    return int(found.group(1)) if found else 1


def _window(one: Instruction, dimension: int) -> list[int]:
    """Of a spatial dimension: stride, padding before, dilation of the input, dilation of the kernel."""
    found = re.search(r"window=\{([^}]*)\}", one.attributes)
    values = []
    for key, default in (("stride", 1), ("pad", 0), ("lhs_dilate", 1), ("rhs_dilate", 1)):
        listed = re.search(rf"\b{key}=([\w\-]+)", found.group(1) if found else "")
        values.append(int(listed.group(1).split("x")[dimension].split("_")[0]) if listed else default)
    return values


@lru_cache(maxsize=1024)
def _valid_positions(
    size: int, kernel: int, output: int, stride: int, pad: int, dilate: int, kernel_dilate: int
) -> int:
    """Pairs of a kernel and an output position whose input exists and is not a hole of the dilation."""
    at_output = np.arange(output) * stride - pad
    valid = 0
    for k in range(kernel):
        at = at_output + k * kernel_dilate
        valid += int(np.count_nonzero((at >= 0) & (at % dilate == 0) & (at // dilate < size)))
    return valid


def _kernel_flops(computation: Computation, one: Instruction) -> float:
    """A kernel's own estimate; for splash attention, which gives none, `splash_flops`."""
    own = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', one.attributes)
    if own:
        return float(own.group(1))
    if "splash" in one.name or "splash" in one.op_name:
        return splash_flops(one.name, computation.operand_shapes(one))
    return 0.0


def splash_flops(name: str, operands: list[Shape]) -> float:
    """FLOPs of a causal splash attention kernel, which visits the lower triangle of the scores.

    Of the products of size queries x keys x head dimension the forward kernel makes two, that for the gradient of keys
    and values four, that for queries three, and the fused one for all gradients five. Which blocks packing makes empty
    is known only at run time, so none are left out. Operands: queries [..., L, C] come first of the floating-point
    arrays, keys [..., S, C] second.
    """
    arrays = [shape for shape in operands if len(shape.dims) >= 3 and shape.dtype in ("bf16", "f32", "f16")]
    if len(arrays) < 2:
        return 0.0
    query, key = arrays[0], arrays[1]
    products = 3 if "_dq" in name else 4 if "_dkv" in name else 2
    products = 5 if "fused" in name else products
    return products * 2.0 * query.elements * key.dims[-2] / 2
