"""The machine's float32 matrix products, by JAX and by PyTorch.

    python -m benchmarks.matmul_peak [--sizes 512 1024 2048] [--json FILE]

The best figure is what a train step could reach at most; `benchmarks.train_step` measures against it.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.contest import Contestant, alternate, ratio, serve
from benchmarks.table import Column, add_arguments, show

SIZES = (512, 1024, 2048)

COLUMNS = [
    Column("size", "n x n", "{:,}"),
    Column("jax_flops", "jax GFLOP/s", "{:.0f}", 1e-9),
    Column("torch_flops", "torch GFLOP/s", "{:.0f}", 1e-9),
    Column("jax_to_torch", "jax : torch", "{:.2f}"),
]


def measure(size: int, *, blocks: int = 7, block_seconds: float = 0.3) -> dict[str, Any]:
    """The row of products of two square matrices of `size`."""
    flops = 2 * size**3
    steps = max(1, round(block_seconds * 1e11 / flops))
    module = "benchmarks.matmul_peak"
    with Contestant(module, ["--contestant", "jax", str(size)]) as jax_one:
        with Contestant(module, ["--contestant", "torch", str(size)]) as torch_one:
            both = {"jax": jax_one, "torch": torch_one}
            results = alternate(both, blocks=blocks, steps=steps, warmup=steps)
    return {
        "size": size,
        "jax_flops": flops / results["jax"].median,
        "torch_flops": flops / results["torch"].median,
        "jax_to_torch": ratio(results["jax"], results["torch"]),
    }


def peak(size: int = 2048) -> float:
    """Operations a second of the faster library."""
    row = measure(size)
    return max(row["jax_flops"], row["torch_flops"])


def _product(library: str, size: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step, one product, and what waits for it."""
    if library == "torch":
        import torch

        x = torch.rand(size, size)
        out = torch.empty(size, size)
        return lambda: torch.mm(x, x, out=out), lambda: None
    import jax

    from anchortrain.memory import keep_freed_memory

    keep_freed_memory()
    x = jax.random.uniform(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    return lambda: product(x).block_until_ready(), lambda: None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--block_seconds", type=float, default=0.3, help="about how long each of seven blocks takes")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    rows = [measure(size, block_seconds=args.block_seconds) for size in args.sizes]
    show("Matrix products, float32", COLUMNS, rows, args.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contestant"]:
        serve({}, *_product(sys.argv[2], int(sys.argv[3])))
    else:
        main()
