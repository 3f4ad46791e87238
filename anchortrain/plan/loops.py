"""How often the loops of an optimized XLA program run."""

import re

from anchortrain.plan.hlo import Computation, Instruction, Module


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often the body of a `while` runs; None when the text does not tell.

    XLA's own note is taken where there is one. TPU programs have none: there the loop must count an element of its
    state in constant steps from one constant to another, as every `lax.scan` and `fori_loop` does.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known.group(1))
    condition, body = (module.computations[loop.called(key)] for key in ("condition", "body"))
    test = _comparison(module, condition)
    if test is None:
        return None
    index, direction, limit = test
    initial = computation.operand(loop, 0)
    start = _constant(computation, tuple_element(computation, initial, index)) if initial else None
    step = _increment(module, body, index)
    if start is None or not step:
        return None
    last = limit + {"LT": 0, "LE": 1, "GT": 0, "GE": -1, "NE": 0}.get(direction, 0)
    downwards = direction in ("GT", "GE")
    if direction == "EQ" or downwards != (step < 0) and direction != "NE":
        return None
    return max(0, -(-(last - start) // step))


def _comparison(module: Module, condition: Computation) -> tuple[int, str, int] | None:
    """(element of the state, direction, constant) of a condition that is one comparison, perhaps fused."""
    root, values = condition.root, dict[str, Instruction]()
    scope = condition
    if root.opcode in ("fusion", "call"):
        scope = module.computations[root.called("calls") or root.called("to_apply")]
        for number, parameter in scope.parameters.items():
            values[parameter.name] = condition.instructions[root.operands[number]]
        root = scope.root
    if root.opcode != "compare":
        return None
    sides = []
    for index in (0, 1):
        side = _through(scope, scope.operand(root, index))
        outer = values.get(side.name) if side else None
        sides.append((condition, outer) if outer else (scope, side))
    direction = re.search(r"direction=(\w+)", root.attributes).group(1)
    (left_scope, left), (right_scope, right) = sides
    element, constant = element_index(left), _constant(right_scope, right)
    if element is None or constant is None:
        element, constant = element_index(right), _constant(left_scope, left)
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    return None if element is None or constant is None else (element, direction, constant)


def element_index(instruction: Instruction | None) -> int | None:
    """Which element of a tuple an instruction takes; None when it is no get-tuple-element."""
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    return int(re.search(r"index=(\d+)", instruction.attributes).group(1))


def _through(computation: Computation, instruction: Instruction | None) -> Instruction | None:
    """What an instruction copies."""
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "copy-start", "copy-done", "reshape"):
        instruction = computation.operand(instruction, 0)
    return instruction


def _constant(computation: Computation, instruction: Instruction | None) -> int | None:
    instruction = _through(computation, instruction)
    if instruction is None or instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.arguments):
        return None
    return int(instruction.arguments)


def tuple_element(computation: Computation, made: Instruction, index: int) -> Instruction | None:
    """Element `index` of a tuple that is made in `computation`, without copies on the way."""
    made = _through(computation, made)
    if made is None or made.opcode != "tuple":
        return None
    return _through(computation, computation.operand(made, index))


def _increment(module: Module, body: Computation, index: int) -> int | None:
    """What the body adds to element `index` of its state."""
    new = _through(body, tuple_element(body, body.root, index))
    if new is None:
        return None
    if new.opcode in ("fusion", "call"):
        scope = module.computations[new.called("calls") or new.called("to_apply")]
        root = _through(scope, scope.root)
        outer = {p.name: body.instructions.get(new.operands[n]) for n, p in scope.parameters.items()}
    else:
        scope, root, outer = body, new, {}
    if root is None or root.opcode != "add":
        return None
    for value, other in ((0, 1), (1, 0)):
        source = _through(scope, scope.operand(root, value))
        added = _through(scope, scope.operand(root, other))
        source, added = (outer.get(one.name, one) if one else None for one in (source, added))
        if element_index(_through(body, source)) == index:
            step = _constant(scope, added)
            return step if step is not None else _constant(body, added)
    return None
