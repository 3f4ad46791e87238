"""TPU slices by name: what `v5p-64` or `2xv5e-256` is, and what one of its devices can do.

Imports nothing heavy: the launch scripts read the same table.

What the number in a name counts is Google's choice: TensorCores, two a chip, for v4, v5p and tpu7x (there after the
names of GKE's tools, https://github.com/AI-Hypercomputer/xpk: tpu7x-128 is 4x4x4 chips), chips for v5e and v6e. A
device, as JAX sees it, is a chip; of tpu7x each half of one.

Figures are Google's, per chip, of https://docs.cloud.google.com/tpu/docs/{v4,v5p,v5e,v6e,tpu7x}: peak bf16 compute,
HBM bandwidth, bidirectional ICI bandwidth, data-centre network (DCN) bandwidth. Not there, and so inferred: ICI of v4
(half of v5p's, as the older pages have it) and DCN of v5e (6.4 Tbit/s for a pod of 256) and v4 (as much as v5e).
HBM is what the compiler reports as available to a program on one device (libtpu 0.0.52), a little less than there is.
"""

import dataclasses
import math
import re

from anchortrain.errors import UserError
from anchortrain.nearest import suggest

_GIB = 2**30
_GIGA, _TERA = 1e9, 1e12

# Chips -> shape, of the slices that Google publishes. Others exist (4x4x12 and so on); these are the common ones.
_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_CUBES = {
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
    256: (4, 8, 8),
    512: (8, 8, 8),
    1024: (8, 8, 16),
    2048: (8, 16, 16),
    4096: (16, 16, 16),
}


@dataclasses.dataclass(frozen=True)
class Generation:
    """One kind of TPU. Figures are per chip but `hbm_bytes`; bandwidths in bytes per second."""

    name: str
    counts_cores: bool  # whether the number in a slice's name is of cores, two a chip
    shapes: dict[int, tuple[int, ...]]
    hbm_bytes: int  # of one device, available to a program
    peak_flops: float  # bf16
    hbm_bandwidth: float
    ici_bandwidth: float  # both directions of all links
    dcn_bandwidth: float
    devices_per_chip: int = 1
    megacore: bool = False  # two cores as one device, to be asked for

    @property
    def per_number(self) -> int:
        """What the number in a name counts for each chip."""
        return 2 if self.counts_cores else 1

    def names(self) -> list[str]:
        """Every slice, smallest first."""
        return [f"{self.name}-{chips * self.per_number}" for chips in self.shapes]


GENERATIONS: dict[str, Generation] = {
    one.name: one
    for one in (
        Generation(
            "v4", True, _CUBES, int(30.75 * _GIB), 275 * _TERA, 1200 * _GIGA, 600 * _GIGA, 3.125 * _GIGA, megacore=True
        ),
        Generation("v5e", False, _FLAT, int(15.75 * _GIB), 197 * _TERA, 819 * _GIGA, 400 * _GIGA, 3.125 * _GIGA),
        Generation("v5p", True, _CUBES, int(95.73 * _GIB), 459 * _TERA, 2765 * _GIGA, 1200 * _GIGA, 6.25 * _GIGA),
        Generation("v6e", False, _FLAT, int(31.24 * _GIB), 918 * _TERA, 1638 * _GIGA, 800 * _GIGA, 12.5 * _GIGA),
        Generation(
            "tpu7x",
            True,
            _CUBES,
            int(94.74 * _GIB),
            2307 * _TERA,
            7380 * _GIGA,
            1200 * _GIGA,
            12.5 * _GIGA,
            devices_per_chip=2,
        ),
    )
}

ALIASES = {"v5litepod": "v5e", "v7x": "tpu7x"}


@dataclasses.dataclass(frozen=True)
class Slice:
    """`count` equal slices, joined by the data-centre network. Figures by device."""

    generation: Generation
    chips_each: int
    count: int = 1

    @property
    def name(self) -> str:
        one = f"{self.generation.name}-{self.chips_each * self.generation.per_number}"
        return one if self.count == 1 else f"{self.count}x{one}"

    @property
    def chips(self) -> int:
        return self.chips_each * self.count

    @property
    def devices(self) -> int:
        return self.chips * self.generation.devices_per_chip

    @property
    def shape(self) -> tuple[int, ...]:
        """Chips of one slice along each axis of the interconnect."""
        return self.generation.shapes[self.chips_each]

    @property
    def chips_per_host_bounds(self) -> tuple[int, int, int]:
        """Chips of one host along each axis: 2x2, but the 1- and 8-chip slices of v5e and v6e are one host."""
        if len(self.shape) == 2 and self.chips_each in (1, 8):
            return (*self.shape, 1)
        return (2, 2, 1)

    @property
    def hosts(self) -> int:
        return self.chips // math.prod(self.chips_per_host_bounds)

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """Whether each axis is a ring: of cubes all from 4x4x4 on, of flat slices those of a pod's whole side."""
        if len(self.shape) == 3:
            return (min(self.shape) >= 4,) * 3
        return (*(side == 16 for side in self.shape), False)

    @property
    def topology(self) -> dict:
        """Arguments of `jax.experimental.topologies.get_topology_desc`."""
        arguments = {
            "topology_name": f"{self.generation.name}:{'x'.join(map(str, self.shape))}",
            "chips_per_host_bounds": self.chips_per_host_bounds,
            "num_slices": self.count,
        }
        if any(self.wrap):
            arguments["wrap"] = self.wrap
        if self.generation.megacore:
            arguments["chip_config_name"] = "megacore"
        return arguments

    @property
    def hbm_bytes(self) -> int:
        return self.generation.hbm_bytes

    @property
    def peak_flops(self) -> float:
        return self.generation.peak_flops / self.generation.devices_per_chip

    @property
    def hbm_bandwidth(self) -> float:
        return self.generation.hbm_bandwidth / self.generation.devices_per_chip

    @property
    def ici_bandwidth(self) -> float:
        """Bytes per second that a device can send: half of the figure for both directions."""
        return self.generation.ici_bandwidth / 2 / self.generation.devices_per_chip

    @property
    def dcn_bandwidth(self) -> float:
        return self.generation.dcn_bandwidth / self.generation.devices_per_chip

    def larger(self) -> "Slice | None":
        """The next larger slice of the same generation."""
        sizes = [chips for chips in self.generation.shapes if chips > self.chips_each]
        return dataclasses.replace(self, chips_each=sizes[0]) if sizes else None


def parse_slice(text: str) -> Slice:
    """A name such as v5p-64, v5litepod-16 or 2xv5e-256. Raises UserError with the nearest name that there is."""
    found = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*?)-(\d+)", text.strip().lower())
    generation = GENERATIONS.get(ALIASES.get(found.group(2), found.group(2))) if found else None
    if generation is None:
        every = [name for one in GENERATIONS.values() for name in one.names()]
        prefix = text.strip().lower().partition("-")[0]
        kinds = ", ".join(GENERATIONS)
        mend = suggest(text.strip().lower(), every)
        mend = mend if mend.startswith("did") else f"write a generation ({kinds}) and a size, such as v5p-64"
        raise UserError(f"unknown TPU slice {text!r}" if prefix else "the slice is empty", where="--slice", mend=mend)
    count, number = int(found.group(1) or 1), int(found.group(3))
    chips = [chips for chips in generation.shapes if chips * generation.per_number == number]
    if not chips:
        near = min(generation.shapes, key=lambda size: abs(math.log(size * generation.per_number / max(number, 0.5))))
        name = Slice(generation, near, max(count, 1)).name
        counts = "TensorCores, two a chip" if generation.counts_cores else "chips"
        what = f"there is no {text.strip()} (the number counts {counts})"
        raise UserError(what, where="--slice", mend=f"did you mean {name!r}?")
    if count < 1:
        raise UserError(f"{text.strip()} is no slice at all", where="--slice", mend="write at least 1x")
    return Slice(generation, chips[0], count)


def parse_slices(text: str) -> list[Slice]:
    """Names separated by commas. Raises UserError as `parse_slice` does, and for a slice given twice."""
    slices = [parse_slice(one) for one in text.split(",")]
    for i, one in enumerate(slices):
        if one in slices[:i]:
            raise UserError(f"{one.name} is given twice", where="--slice", mend="remove one of the two")
    return slices
