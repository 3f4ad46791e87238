"""From ArrayRecord to packed batches: tokens per second of one core.

    python -m benchmarks.loader [--seconds S] [--json FILE]

Without the loader's thread, so that the work of one core is seen: tokens (padding included) by the processor's seconds
and by the clock. `waiting` is what a training loop with the quick start's step spends waiting for the real, threaded
loader.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from anchortrain.data.loader import PackedIterator, Settings, make_loader, open_sources
from anchortrain.memory import keep_freed_memory
from benchmarks.data import make_vocabulary, write_instructions
from benchmarks.sizes import SIZES
from benchmarks.step_ours import make_step
from benchmarks.table import Column, add_arguments, show

WARMUP = 3  # batches


class Case(NamedTuple):
    """Data and the batches made of it."""

    shortest: int  # example, in tokens
    longest: int
    length: int  # of a row
    rows: int
    examples: int


CASES = {
    "quick start": Case(60, 150, 224, 5, 4000),
    "short, large batch": Case(60, 150, 224, 64, 4000),
    "long": Case(200, 2000, 2048, 8, 1000),
    "longer": Case(500, 4000, 4096, 4, 500),
}

COLUMNS = [
    Column("case", "case", "{}"),
    Column("examples", "tokens/example", "{}"),
    Column("batch", "batch", "{}"),
    Column("tokens_per_cpu_second", "tokens/s and core", "{:,.0f}"),
    Column("tokens_per_second", "tokens/s by the clock", "{:,.0f}"),
    Column("fill", "filled", "{:.1%}"),
    Column("waiting", "waiting", "{:.2%}"),
]


def measure(name: str, source: str, *, seconds: float, blocks: int = 5) -> dict[str, Any]:
    """The row of one case, without `waiting`: medians over blocks of about `seconds` each."""
    case = CASES[name]
    settings = Settings(length=case.length, batch_rows=case.rows)
    iterator = PackedIterator(open_sources({source: 1.0}, length=case.length), [1.0], settings)
    fill = [float((next(iterator)["segment_ids"] > 0).mean()) for _ in range(WARMUP)]
    by_cpu, by_clock = [], []
    for _ in range(blocks):
        batches, cpu, clock = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() < clock + seconds:
            next(iterator)
            batches += 1
        tokens = batches * case.length * case.rows
        by_cpu.append(tokens / (time.process_time() - cpu))
        by_clock.append(tokens / (time.perf_counter() - clock))
    return {
        "case": name,
        "examples": f"{case.shortest}-{case.longest}",
        "batch": f"{case.rows} x {case.length}",
        "tokens_per_cpu_second": statistics.median(by_cpu),
        "tokens_per_second": statistics.median(by_clock),
        "fill": statistics.mean(fill),
    }


def waiting_share(source: str, *, seconds: float) -> float:
    """Share of the time of a loop of the quick start's steps that it waits for its loader."""
    size = SIZES["quickstart"]
    step, finish = make_step(size)
    loader = make_loader({source: 1.0}, length=size.length, batch_rows=size.rows)
    step(next(loader))
    finish()
    waits, begun = [], time.perf_counter()
    while time.perf_counter() < begun + seconds:
        asked = time.perf_counter()
        batch = next(loader)
        waits.append(time.perf_counter() - asked)
        step(batch)
        finish()
    share = float(np.sum(waits)) / (time.perf_counter() - begun)
    loader.close()
    return share


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of five measurements of a case")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        vocabulary = make_vocabulary(Path(directory))
        for number, (name, case) in enumerate(CASES.items()):
            where = Path(directory) / str(number)
            sizes = {"shortest": case.shortest, "longest": case.longest, "examples": case.examples}
            source = write_instructions(where, vocabulary, **sizes)
            row = measure(name, source, seconds=args.seconds)
            waiting = waiting_share(source, seconds=3 * args.seconds) if name == "quick start" else None
            rows.append(row | {"waiting": waiting})
    show("Loader", COLUMNS, rows, args.json)


if __name__ == "__main__":
    main()
