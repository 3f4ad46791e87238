"""How long `anchortrain train` takes to its first finished step, with a cold and a warm compilation cache.

    python -m benchmarks.startup [--repeats N] [--size NAME] [--json FILE]

From the start of the process to the first line of metrics, which is written when the step is done. Fails when the
trainer has imported TensorFlow.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from anchortrain.metrics import METRICS_FILE
from benchmarks.data import make_vocabulary, write_instructions
from benchmarks.sizes import SIZES, Size
from benchmarks.table import Column, add_arguments, show

TENSORFLOW_IMPORTED = 70
_CHILD = f"""
import sys
from anchortrain.cli import main
code = main(sys.argv[1:])
sys.exit({TENSORFLOW_IMPORTED} if not code and "tensorflow" in sys.modules else code)
"""

COLUMNS = [
    Column("size", "size", "{}"),
    Column("cache", "compilation cache", "{}"),
    Column("seconds", "s to the first step", "{:.1f}"),
]


def first_step_seconds(size: Size, source: str, run: Path, cache: Path | None) -> float:
    """Trains two steps (the second shows that the first is done) and returns the seconds to the end of the first."""
    model = size.model
    bindings = [f"ModelConfig.{name} = {getattr(model, name)}" for name in ("d_model", "n_layers", "d_ff")]
    bindings += [f"ModelConfig.{name} = {model.n_heads}" for name in ("n_heads", "n_kv_heads")]
    bindings += [f"DataConfig.length = {size.length}", f"DataConfig.batch_rows = {size.rows}"]
    bindings += [f"DataConfig.train = {{{source!r}: 1.0}}", f"RunConfig.tokens = {2 * size.tokens}"]
    arguments = ["train", "--out", str(run), "--gin_bindings", "RunConfig.log_every = 1"]
    for binding in bindings:
        arguments += ["--gin_bindings", binding]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    if cache is not None:
        kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment |= kept
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", _CHILD, *arguments], env=environment)
    metrics, seconds = run / METRICS_FILE, None
    while seconds is None and process.poll() is None:
        time.sleep(0.01)
        if metrics.exists() and metrics.stat().st_size:
            seconds = time.perf_counter() - started
    code = process.wait()
    if code or seconds is None:
        raise RuntimeError("TensorFlow was imported" if code == TENSORFLOW_IMPORTED else f"training ended with {code}")
    return seconds


def measure(name: str, directory: Path, *, repeats: int) -> list[dict[str, Any]]:
    """Rows for no cache and a filled one, measured in turn."""
    size = SIZES[name]
    lengths = {"shortest": size.length // 4, "longest": size.length // 2, "examples": 200}
    source = write_instructions(directory / "data", make_vocabulary(directory), **lengths)
    cache = directory / "cache"
    first_step_seconds(size, source, directory / "filling", cache)
    seconds: dict[str, list[float]] = {"none": [], "warm": []}
    for repeat in range(repeats):
        for kind, where in (("none", None), ("warm", cache)):
            seconds[kind].append(first_step_seconds(size, source, directory / f"{kind}{repeat}", where))
    return [{"size": name, "cache": kind, "seconds": statistics.median(found)} for kind, found in seconds.items()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="quickstart")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        rows = measure(args.size, Path(directory), repeats=args.repeats)
    show("Start", COLUMNS, rows, args.json)


if __name__ == "__main__":
    main()
