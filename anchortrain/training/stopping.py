"""SIGINT and SIGTERM: a run stops after a step, the same one on every process, and saves."""

import signal
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils


class Stopped(KeyboardInterrupt):
    """Training was asked to stop and has saved its state."""


class StopSignals:
    """Context manager. One signal asks to stop after the running step; a second SIGINT stops at once.

    A signal that comes after the last step goes to the handler of whoever trains, once the run is finished: it may
    have more to do than this run.

    With several processes jax agrees on the step: its coordination service hears SIGTERM, on whichever process it
    comes, and a SIGINT is passed on as one. That takes up to a few seconds, in which training goes on.
    """

    def __init__(self) -> None:
        self._asked = 0  # the signal
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        # With several processes SIGTERM is left to jax, whose handler is already in place.
        numbers = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: whoever runs us handles signals
                break
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        late = self._before.get(self._asked)
        if kind is None and callable(late) and jax.process_count() == 1:
            late(self._asked, None)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, self._before[number])
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)
        self._asked = number

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`. To be asked once a step; the answer is the same on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return bool(self._asked)
