"""What the anchor costs: a step of masked SFT against the same number of tokens with the stored and the online anchor.

    python -m benchmarks.anchor [--sizes quickstart 9m] [--blocks N] [--json FILE]

An eighth of the rows are the anchor's, as in gin_configs/olmo. On a TPU, `anchortrain plan` counts the operations.
"""

import argparse
import contextlib

from benchmarks.contest import Contestant, alternate, ratio
from benchmarks.sizes import SIZES
from benchmarks.step_anchor import anchor_rows
from benchmarks.table import Column, add_arguments, show

WAYS = ("masked", "stored", "online")

COLUMNS = [
    Column("size", "size", "{}"),
    Column("way", "way", "{}"),
    Column("rows", "rows", "{}"),
    Column("seconds_per_step", "ms/step", "{:.1f}", 1e3),
    Column("times_masked", "times masked SFT", "{:.3f}x"),
]


def measure(name: str, *, blocks: int, block_seconds: float) -> list[dict]:
    """One row of the table for each way."""
    size, extra = SIZES[name], anchor_rows(SIZES[name])
    with contextlib.ExitStack() as stack:
        contestants = {way: stack.enter_context(Contestant("benchmarks.step_anchor", [name, way])) for way in WAYS}
        seconds = max(one.ask(2)["seconds"] for one in contestants.values()) / 2
        results = alternate(contestants, blocks=blocks, steps=max(2, round(block_seconds / seconds)), warmup=2)
    return [
        {
            "size": name,
            "way": way,
            "rows": f"{size.rows}" if way == "masked" else f"{size.rows - extra} + {extra}",
            "seconds_per_step": result.median,
            "times_masked": ratio(results["masked"], result),
        }
        for way, result in results.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["quickstart", "9m"])
    parser.add_argument("--blocks", type=int, default=9, help="of steps, in turn")
    parser.add_argument("--block_seconds", type=float, default=2.0, help="about how long each of a block takes")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    rows = []
    for name in args.sizes:
        rows += measure(name, blocks=args.blocks, block_seconds=args.block_seconds)
    show("Anchor", COLUMNS, rows, args.json)


if __name__ == "__main__":
    main()
