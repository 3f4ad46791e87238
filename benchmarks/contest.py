"""Contestants in processes of their own, made to work in turn.

Each has its own thread pool and memory allocator, as when it is used alone, and sleeps while another one works. A
contestant is a module run with `-m`, that calls `serve`; parent and child talk in lines of JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple


class Contestant:
    """A process that answers requests. As a context manager it ends with the block."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | dict(environment or {}),
        )
        self.ready = self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.module} ended with status {self._process.wait()}")
        return json.loads(line)

    def ask(self, steps: int) -> dict[str, Any]:
        """Lets it work for `steps` steps; returns what it answers."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.stdin.close()
        self._process.wait()


def serve(ready: Mapping[str, Any], step: Callable[[], None], finish: Callable[[], Any]) -> None:
    """The child's side: after `ready`, answers each request for n steps with the seconds that they took.

    `step` may return before its work is done; `finish` waits for it and returns what else is to be told.
    """
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        told = finish()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "told": told}), flush=True)


class Result(NamedTuple):
    """Of each block: seconds per step, by the clock and of all processors together."""

    seconds: list[float]
    cpu_seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def alternate(contestants: Mapping[str, Contestant], *, blocks: int, steps: int, warmup: int) -> dict[str, Result]:
    """Blocks of steps in turn, after a block of `warmup` steps each that counts for nothing."""
    results = {name: Result([], []) for name in contestants}
    for contestant in contestants.values():
        contestant.ask(warmup)
    for _ in range(blocks):
        for name, contestant in contestants.items():
            answer = contestant.ask(steps)
            results[name].seconds.append(answer["seconds"] / steps)
            results[name].cpu_seconds.append(answer["cpu_seconds"] / steps)
    return results


def ratio(first: Result, second: Result) -> float:
    """Median of how many times longer the second took, block by block: a busy moment strikes neighbours alike."""
    return statistics.median(b / a for a, b in zip(first.seconds, second.seconds, strict=True))
