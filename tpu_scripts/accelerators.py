"""What Google's tools call a slice: `--accelerator-type`, runtime version, GKE's labels.

Sizes, hosts and shapes are those of `anchortrain.plan.slices`, which `anchortrain plan` compiles for. Names are of
https://docs.cloud.google.com/tpu/docs/runtimes and https://docs.cloud.google.com/kubernetes-engine/docs/concepts/tpus.
"""

import math
from typing import NamedTuple

from anchortrain.plan.slices import Slice


class Names(NamedTuple):
    """Of one generation."""

    prefix: str  # of --accelerator-type
    runtime: str  # --runtime-version; "" where the Cloud TPU API does not have the generation
    gke: str  # node label cloud.google.com/gke-tpu-accelerator


GENERATIONS = {
    "v4": Names("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": Names("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": Names("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": Names("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice"),
    "tpu7x": Names("tpu7x", "", "tpu7x"),
}


def names(where: Slice) -> Names:
    """The names of a slice's generation."""
    return GENERATIONS[where.generation.name]


def accelerator_type(where: Slice) -> str:
    """Of one of the slices: v5litepod-16."""
    return f"{names(where).prefix}-{where.chips_each * where.generation.per_number}"


def hosts_each(where: Slice) -> int:
    """VMs of one of the slices."""
    return where.hosts // where.count


def chips_each_host(where: Slice) -> int:
    """Chips of one VM."""
    return math.prod(where.chips_per_host_bounds)


def topology(where: Slice) -> str:
    """GKE's node label cloud.google.com/gke-tpu-topology: 2x2x4."""
    return "x".join(map(str, where.shape))
