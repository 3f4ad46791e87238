"""What a differentiated program keeps from its forward for its backward pass, read off the optimized program."""

from anchortrain.plan.hlo import Computation, Instruction, Module
from anchortrain.plan.loops import element_index, tuple_element


def kept_bytes(module: Module) -> int:
    """Bytes in HBM of one device that loops of the forward pass leave behind for loops of the backward pass.

    A scanned transformer stacks what each layer keeps along a leading axis; the scan of the backward pass reads the
    stack. So these are the elements of a forward loop's result that a backward loop takes and that the forward loop
    itself writes (weights only pass through). Forward and backward are told apart by the names that JAX gives
    ("jvp", "transpose"). An estimate: what is kept outside of loops (embedding, last hidden states) is not in it, nor
    tiles' padding; and it is no sum of live buffers, since some of them may share memory with others later.
    """
    return sum(_kept_in(module, computation) for computation in module.computations.values())


def _kept_in(module: Module, computation: Computation) -> int:
    loops = [one for one in computation.instructions.values() if one.opcode == "while"]
    forward = [one for one in loops if "jvp" in one.op_name and "transpose" not in one.op_name]
    backward = [one for one in loops if "transpose" in one.op_name]
    taken = set().union(*(_sources(computation, loop) for loop in backward)) if backward else set()
    total = 0
    for loop in forward:
        written = _written(module.computations[loop.called("body")])
        total += sum(loop.shapes[i].hbm_bytes for i in written if (loop.name, i) in taken)
    return total


def _written(body: Computation) -> set[int]:
    """Elements of the state that the body of a loop changes."""
    changed = set()
    for index, name in enumerate(body.root.operands):
        value = body.instructions[name]
        if element_index(value) != index or body.operand(value, 0).opcode != "parameter":
            changed.add(index)
    return changed


def _sources(computation: Computation, loop: Instruction) -> set[tuple[str, int]]:
    """(loop, element) of the results of other loops that this one takes as they are."""
    state, found = computation.operand(loop, 0), set()
    for index in range(len(state.operands)):
        value = tuple_element(computation, state, index)
        element = element_index(value)
        if element is not None:
            found.add((value.operands[0], element))
    return found
