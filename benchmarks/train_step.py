"""Our compiled train step against Hugging Face's model with PyTorch, on the same weights, data and threads.

    python -m benchmarks.train_step [--sizes quickstart 9m 40m] [--compile] [--blocks N] [--json FILE]

Both compute the same: their losses are compared after one step and after a few.
"""

import argparse
import contextlib
import math
import tempfile
from pathlib import Path
from typing import Any

import jax

from benchmarks import matmul_peak
from benchmarks.contest import Contestant, alternate, ratio
from benchmarks.sizes import SIZES, Size
from benchmarks.step_inputs import write_inputs
from benchmarks.table import Column, add_arguments, show

OURS = "anchortrain"
CHECKED_STEPS = 4
LOSS_TOLERANCE = 1e-3  # relative

COLUMNS = [
    Column("size", "size", "{}"),
    Column("parameters", "params", "{:,}"),
    Column("tokens_per_step", "tokens/step", "{:,}"),
    Column("contestant", "contestant", "{}"),
    Column("seconds_per_step", "ms/step", "{:.1f}", 1e3),
    Column("tokens_per_second", "tokens/s", "{:,.0f}"),
    Column("mfu", "MFU", "{:.0%}"),
    Column("times_slower", "ours is faster by", "{:.2f}x"),
]


def measure(name: str, *, blocks: int, block_seconds: float, compile: bool, peak: float) -> list[dict[str, Any]]:
    """One row of the table for each contestant.

    Args:
      name: of the size.
      blocks: of steps, in turn.
      block_seconds: about how long a block takes.
      compile: whether torch.compile takes part.
      peak: floating-point operations a second that count as 100 % MFU.
    """
    size = SIZES[name]
    with tempfile.TemporaryDirectory() as inputs:
        write_inputs(size, Path(inputs))
        with contextlib.ExitStack() as stack:
            contestants = {OURS: stack.enter_context(Contestant("benchmarks.step_ours", [name, inputs]))}
            for mode in ("eager", "compile") if compile else ("eager",):
                one = Contestant("benchmarks.step_torch", [name, inputs, mode])
                contestants[f"torch {mode}"] = stack.enter_context(one)
            check_losses({who: one.ready["first_loss"] for who, one in contestants.items()})
            answers = {who: one.ask(CHECKED_STEPS) for who, one in contestants.items()}
            check_losses({who: answer["told"] for who, answer in answers.items()})
            seconds = max(answer["seconds"] for answer in answers.values()) / CHECKED_STEPS
            steps = max(2, round(block_seconds / seconds))
            results = alternate(contestants, blocks=blocks, steps=steps, warmup=2)
    return [_row(name, size, who, result.median, ratio(results[OURS], result), peak) for who, result in results.items()]


def _row(name: str, size: Size, who: str, seconds: float, times: float, peak: float) -> dict[str, Any]:
    return {
        "size": name,
        "parameters": size.parameters,
        "tokens_per_step": size.tokens,
        "contestant": who,
        "seconds_per_step": seconds,
        "tokens_per_second": size.tokens / seconds,
        "mfu": size.flops / seconds / peak,
        "times_slower": times,
    }


def check_losses(losses: dict[str, float]) -> None:
    """Raises RuntimeError unless all have our loss."""
    for who, loss in losses.items():
        if not math.isclose(loss, losses[OURS], rel_tol=LOSS_TOLERANCE):
            raise RuntimeError(f"{who} computes something else: loss {loss}, {OURS} has {losses[OURS]}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["quickstart", "9m", "40m"])
    parser.add_argument("--blocks", type=int, default=7, help="of steps, in turn")
    parser.add_argument("--block_seconds", type=float, default=4.0, help="about how long each of a block takes")
    parser.add_argument("--compile", action="store_true", help="torch.compile takes part (needs a C++ compiler)")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    peak = matmul_peak.peak()
    rows = []
    for name in args.sizes:
        rows += measure(name, blocks=args.blocks, block_seconds=args.block_seconds, compile=args.compile, peak=peak)
    show("Train step", COLUMNS, rows, args.json, {"peak_flops": peak})


if __name__ == "__main__":
    main()
