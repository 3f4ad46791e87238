"""A trace of some steps for XProf and TensorBoard, under RUN/profile."""

import contextlib
import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from anchortrain.errors import UserError

PROFILE_DIR = "profile"
_OPTION = "--profile_steps"


def parse_steps(text: str) -> tuple[int, int]:
    """FIRST:LAST, both included. Raises UserError on anything else."""
    match = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        raise UserError(f"must be FIRST:LAST with 1 <= FIRST <= LAST, got {text!r}", where=_OPTION)
    return first, last


class Profile:
    """Context manager around the loop. Only process 0 writes a trace."""

    def __init__(self, run_dir: Path, steps: tuple[int, int] | None, start: int, end: int) -> None:
        """Traces `steps` of a run that goes on after `start` to `end`; nothing for None.

        Raises UserError when none of the steps will be run.
        """
        self._dir, self._steps, self._running = run_dir / PROFILE_DIR, steps, False
        if steps and (steps[1] > end or steps[1] <= start):
            asked = f"{steps[0]}:{steps[1]}"
            raise UserError(f"{asked} is not within the steps that are left, {start + 1}:{end}", where=_OPTION)
        if jax.process_index():
            self._steps = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def step(self, number: int) -> contextlib.AbstractContextManager:
        """To be entered around a step's call."""
        if self._steps and self._steps[0] <= number <= self._steps[1] and not self._running:
            jax.profiler.start_trace(self._dir)
            self._running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def after(self, number: int, results: Any) -> None:
        """To be called with what the step returned; waits for it where the trace ends."""
        if self._running and number == self._steps[1]:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
