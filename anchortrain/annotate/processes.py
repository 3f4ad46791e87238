"""Passages through an annotator in several processes, in order, with ends that nothing can block.

Each process has a pipe of its own, so one that dies, even in the middle of an answer, is an end of file and no more.
The pools of the standard library share queues: a process that is killed while it writes leaves them waiting for ever.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from anchortrain.annotate.annotators import open_annotator
from anchortrain.annotate.config import Annotating
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.schema import Schema
from anchortrain.errors import UserError

_AHEAD = 4  # batches for each process that may wait for an earlier one
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Processes:
    """Context manager around `count` processes with an annotator each. They end with it, and with this process."""

    def __init__(self, count: int, annotating: Annotating, schema: Schema, out: Path) -> None:
        # Spawned, because this process may have threads, and forked ones would keep its memory alive.
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # which lets interrupts through when it starts
        self._processes = []
        self._pipes: list[Connection] = []
        with _Inherited():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, annotating, schema, out), daemon=True)
                process.start()
                theirs.close()  # the other end is the process's alone: it is closed when that ends
                self._processes.append(process)
                self._pipes.append(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            if kind is not None:
                process.terminate()
            pipe.close()
        for process in self._processes:
            process.join()

    def annotate(self, batches: Iterator[list[Passage]]) -> Iterator[Answer]:
        """Answers in order. Raises UserError when a process dies, and what the annotator raises in one."""
        idle, busy = list(self._pipes), dict[Connection, deque[list[Answer]]]()
        order: deque[deque[list[Answer]]] = deque()
        batch = next(batches, None)
        while batch is not None or order:
            while batch is not None and idle and len(order) < _AHEAD * len(self._pipes):
                busy[idle[-1]] = deque()
                order.append(busy[idle[-1]])
                _send(idle.pop(), batch)
                batch = next(batches, None)  # read while they work
            for pipe in wait(list(busy)):
                busy.pop(pipe).append(_received(pipe))
                idle.append(pipe)
            while order and order[0]:
                yield from order.popleft()[0]


def _send(pipe: Connection, batch: list[Passage]) -> None:
    try:
        pipe.send(batch)
    except OSError:
        raise _died() from None


def _received(pipe: Connection) -> list[Answer]:
    try:
        answers = pipe.recv()
    except (EOFError, OSError):
        raise _died() from None
    if isinstance(answers, UserError):
        raise answers
    return answers


def _died() -> UserError:
    mend = "the same command continues; fewer processes need less: --workers 1"
    return UserError("a worker process died, of lack of memory perhaps", mend=mend)


class _Inherited:
    """What processes begun within it get: no interrupts, which are their parent's to handle, and one thread each.

    One that sees to this itself is late: it has imported numpy then. An interrupt waits until all have begun, also one
    that another thread of this process is told of: half begun, they would print what they miss.
    """

    def __enter__(self) -> None:
        self._interrupted = False
        self._handler = None
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._set = [name for name in _THREADS if name not in os.environ]
        os.environ.update(dict.fromkeys(self._set, "1"))

    def __exit__(self, *_: object) -> None:
        for name in self._set:
            del os.environ[name]
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if self._interrupted:
            signal.raise_signal(signal.SIGINT)

    def _interrupt(self, number: int, _frame: object) -> None:
        self._interrupted = True


def _work(pipe: Connection, annotating: Annotating, schema: Schema, out: Path) -> None:
    """Answers batches until the pipe is closed, or whoever has its other end is gone."""
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            annotator = open_annotator(annotating, schema, out)
            while True:
                pipe.send(annotator.annotate(pipe.recv()))
        except UserError as error:
            pipe.send(error)
