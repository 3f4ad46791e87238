"""What an optimized XLA program does, loops multiplied out: FLOPs, bytes of HBM traffic, bytes of collectives.

XLA's own cost analysis counts the body of a loop once, so a scanned transformer would seem to have one layer. All
figures are per device. What counts:

  FLOPs        matrix products and convolutions, two each multiply-add, only where a window lies inside its input (as
               XLA's HloCostAnalysis does); kernels by their own estimate, splash attention by `flops.splash_flops`.
               Elementwise work is not counted: it does not run on the matrix units.
  HBM bytes    operands and results of every instruction or fusion that lie in HBM (values that TPU programs keep in
               VMEM cost nothing). What is only sliced counts at the slice's size, what is updated in place at the
               update's. Tiles' padding is not counted.
  collectives  bytes that a device sends, see `collectives`.
"""

import dataclasses
from collections.abc import Iterator

from anchortrain.plan.collectives import KINDS, Collective, kind_of, megascale_kind, volume
from anchortrain.plan.flops import flops
from anchortrain.plan.hlo import Computation, Instruction, Module
from anchortrain.plan.loops import trip_count
from anchortrain.plan.traffic import traffic

# Nothing runs for these, or it is counted where it starts.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_FREE |= {
    "optimization-barrier",
    "opt-barrier",
    "domain",
    "recv",
    "async-update",
    "add-dependency",
    "get-dimension-size",
}


@dataclasses.dataclass(frozen=True)
class Work:
    """An instruction that runs `times` times; figures are of one run."""

    name: str
    flops: float
    bytes: float
    times: int


@dataclasses.dataclass
class Costs:
    """Of one run of a program on one device. `unknown` are loops counted once because their count is not known."""

    work: list[Work] = dataclasses.field(default_factory=list)
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    unknown: dict[str, "Costs"] = dataclasses.field(default_factory=dict)

    @property
    def flops(self) -> float:
        return sum(one.flops * one.times for one in self.work)

    @property
    def bytes(self) -> float:
        return sum(one.bytes * one.times for one in self.work)

    @property
    def dcn_bytes(self) -> float:
        return sum(one.dcn_bytes * one.times for one in self.collectives)

    @property
    def ici_bytes(self) -> float:
        return sum(one.ici_bytes * one.times for one in self.collectives)

    def collective_bytes(self) -> dict[str, float]:
        """Bytes sent by kind, and "total"."""
        by_kind = {kind: 0.0 for kind in KINDS}
        for one in self.collectives:
            by_kind[one.kind] += (one.ici_bytes + one.dcn_bytes) * one.times
        return by_kind | {"total": sum(by_kind.values())}


def costs(module: Module, devices: int = 1, slices: int = 1) -> Costs:
    """The costs of one run of `module` on one of `devices`, which lie in `slices` equal parts, in order."""
    counter = _Counter(module, devices, slices)
    counter.walk(module.computations[module.entry], 1, set())
    return counter.costs


class _Counter:
    """A walk over the computations that run."""

    def __init__(self, module: Module, devices: int, slices: int) -> None:
        self.module, self.devices, self.slices = module, devices, slices
        self.costs = Costs()
        self._spread = set[str]()  # channels of collectives whose steps are fused into several places

    def walk(self, computation: Computation, times: int, seen: set[str]) -> None:
        """Adds what one computation does, `times` times; `seen` are the channels of the loop body it belongs to, and
        those of the bodies around it that are spread."""
        for instruction in computation.instructions.values():
            opcode = instruction.opcode
            if opcode == "while":
                self._loop(computation, instruction, times, seen)
            elif opcode == "conditional":
                self._branch(instruction, times, seen)
            elif opcode in ("call", "async-start"):
                called = instruction.called("to_apply") or instruction.called("calls")
                self.walk(self.module.computations[called], times, seen)
            elif opcode == "custom-call" and (called := instruction.called_computations()):
                for name in called:  # collectives that run on the SparseCores
                    self.walk(self.module.computations[name], times, seen)
            elif opcode not in _FREE and not opcode.endswith("-done"):
                self._instruction(computation, instruction, times, seen)

    def _loop(self, computation: Computation, loop: Instruction, times: int, seen: set[str]) -> None:
        body = self.module.computations[loop.called("body")]
        count = trip_count(self.module, computation, loop)
        if count is None:
            once = _Counter(self.module, self.devices, self.slices)
            once.walk(body, 1, set())
            self.costs.unknown[loop.op_name or loop.name] = once.costs
            self.costs.unknown |= once.costs.unknown
        # A collective that was begun before the loop may go on in it.
        self.walk(body, times * (1 if count is None else count), seen & self._spread)

    def _branch(self, instruction: Instruction, times: int, seen: set[str]) -> None:
        """The dearest branch counts."""
        names = instruction.called_computations("branch_computations")
        names = names or [instruction.called(f"{value}_computation") for value in ("true", "false")]
        branches = []
        for name in names:
            counter = _Counter(self.module, self.devices, self.slices)
            counter.walk(self.module.computations[name], 1, set(seen))
            branches.append((counter.costs.flops, counter.costs.bytes, name))
        self.walk(self.module.computations[max(branches)[2]], times, seen)

    def _instruction(self, computation: Computation, one: Instruction, times: int, seen: set[str]) -> None:
        for scope, collective in self._collectives(computation, one):
            # The steps of one asynchronous collective are fused into several places; all have its channel.
            key = f"{collective.opcode} {collective.channel}"
            if one.opcode == "fusion":
                self._spread.add(key)
            if collective.channel is None or key not in seen:
                seen.add(key)
                self.costs.collectives.append(volume(scope, collective, times, self.devices, self.slices))
        if kind_of(one) is None and one.opcode != "send":
            done = flops(self.module, computation, one), traffic(self.module, computation, one)
            self.costs.work.append(Work(one.name, *done, times))

    def _collectives(self, computation: Computation, one: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        if kind_of(one) or megascale_kind(one):
            yield computation, one
        elif one.opcode == "fusion":
            called = self.module.computations[one.called("calls")]
            for inner in called.instructions.values():
                yield from self._collectives(called, inner)
