"""Our engine against Hugging Face's `generate`, on the same weights and threads, and two stages against one.

    python -m benchmarks.decode [--sizes 9m] [--rows 1 32] [--blocks N] [--json FILE]

Each batch has prompts of 32 tokens and draws 128 more, at temperature 1.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import Contestant, alternate, ratio
from benchmarks.decode_inputs import NEW, write_inputs
from benchmarks.sizes import SIZES
from benchmarks.table import Column, add_arguments, show

OURS, TWO, TORCH = "one stage", "two stages", "torch generate"

COLUMNS = [
    Column("size", "size", "{}"),
    Column("parameters", "params", "{:,}"),
    Column("rows", "rows", "{}"),
    Column("contestant", "contestant", "{}"),
    Column("seconds_per_token", "ms/step", "{:.2f}", 1e3),
    Column("tokens_per_second", "tokens/s", "{:,.0f}"),
    Column("of_read_bound", "of reading the weights", "{:.1f}x"),
    Column("times_slower", "one stage is faster by", "{:.2f}x"),
]


def measure(name: str, rows: int, *, blocks: int) -> list[dict[str, Any]]:
    """One row of the table for each contestant. A step is a token for each row of a batch."""
    size = SIZES[name]
    with tempfile.TemporaryDirectory() as inputs, contextlib.ExitStack() as stack:
        write_inputs(size, Path(inputs))
        arguments = [name, inputs, str(rows)]
        contestants = {
            OURS: stack.enter_context(Contestant("benchmarks.decode_ours", [*arguments, "single"])),
            TWO: stack.enter_context(Contestant("benchmarks.decode_ours", [*arguments, "two"])),
            TORCH: stack.enter_context(Contestant("benchmarks.decode_torch", arguments)),
        }
        for who, one in contestants.items():
            drawn = one.ask(1)["told"]
            if drawn != rows * NEW:
                raise SystemExit(f"{who} drew {drawn} tokens, not {rows * NEW}")
        results = alternate(contestants, blocks=blocks, steps=1, warmup=1)
    # The head is read, of the embedding a row a token.
    bound = read_seconds(4 * (size.parameters - size.model.d_model * size.vocabulary))
    return [
        {
            "size": name,
            "parameters": size.parameters,
            "rows": rows,
            "contestant": who,
            "seconds_per_token": result.median / NEW,
            "tokens_per_second": rows * NEW / result.median,
            "of_read_bound": result.median / NEW / bound,
            "read_bound_seconds": bound,
            "times_slower": ratio(results[OURS], result),
        }
        for who, result in results.items()
    ]


def read_seconds(count: int) -> float:
    """What it takes to read so many bytes once, with all threads and nothing else to do."""
    import torch

    block, times = torch.from_numpy(np.ones(count // 4, np.float32)), []
    for _ in range(30):
        started = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["9m"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--blocks", type=int, default=7)
    add_arguments(parser)
    args = parser.parse_args()
    found = [row for name in args.sizes for rows in args.rows for row in measure(name, rows, blocks=args.blocks)]
    show("decoding", COLUMNS, found, args.json)


if __name__ == "__main__":
    main()
