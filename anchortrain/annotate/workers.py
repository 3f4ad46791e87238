"""Passages through an annotator in batches: in this process, in threads, or in processes, always in order."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

from anchortrain.annotate.annotators import names, open_annotator
from anchortrain.annotate.config import Annotating
from anchortrain.annotate.parts import AnnotateAll
from anchortrain.annotate.passages import Annotator, Answer, Passage
from anchortrain.annotate.schema import Schema
from anchortrain.errors import UserError

_BATCH = 256  # passages
_IN_FLIGHT = 4  # batches for each worker
_ASKING = 4  # batches at once against a server: the slow end of one does not leave the connection idle

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_here: Annotator | UserError | None = None  # of a worker process


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def workers(annotating: Annotating, schema: Schema, out: Path) -> Iterator[AnnotateAll]:
    """What annotates any number of passages; raises UserError when a worker dies."""
    if "llm" in names(annotating):
        annotator = open_annotator(annotating, schema, out)
        pool: Executor = ThreadPoolExecutor(_ASKING)
        batch = max(16, annotating.llm.concurrency)
        with _closing(pool, annotator.close):
            yield lambda passages: _ordered(pool, annotator.annotate, passages, batch, _ASKING)
        return
    count = annotating.annotate.workers or cores()
    if "offline" not in names(annotating) or count == 1:
        with contextlib.closing(open_annotator(annotating, schema, out)) as annotator:
            yield lambda passages: serially(annotator, passages)
        return
    # Spawned, because this process may have threads, and forked ones would keep its memory alive.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(annotating, schema, out))
    with _closing(pool, lambda: None):
        yield lambda passages: _ordered(pool, _annotate_here, passages, _BATCH, _IN_FLIGHT * count)


def serially(annotator: Annotator, passages: Iterator[Passage]) -> Iterator[Answer]:
    """Answers in this process."""
    for batch in _batches(passages, _BATCH):
        yield from annotator.annotate(batch)


def _batches(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    while batch := list(itertools.islice(passages, size)):
        yield batch


def _ordered(
    pool: Executor,
    annotate: Callable[[list[Passage]], list[Answer]],
    passages: Iterator[Passage],
    size: int,
    in_flight: int,
) -> Iterator[Answer]:
    """Answers in order, with at most `in_flight` batches begun and not yet given back."""
    begun: deque = deque()
    try:
        for batch in _batches(passages, size):
            with _as_inherited():
                begun.append(pool.submit(annotate, batch))
            if len(begun) >= in_flight:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()
    except BrokenProcessPool:
        mend = "the same command continues; fewer processes need less: --workers 1"
        raise UserError("a worker process died, of lack of memory perhaps", mend=mend) from None


@contextlib.contextmanager
def _closing(pool: Executor, close: Callable[[], None]) -> Iterator[None]:
    """Ends the workers; at once after an error, without waiting for what they are at."""
    try:
        yield
    except BaseException:
        processes = list((getattr(pool, "_processes", None) or {}).values())
        for process in processes:
            process.terminate()
        # A pool whose processes have ended fails what is left. It hangs when it meets a future that was cancelled.
        pool.shutdown(wait=bool(processes), cancel_futures=not processes)
        close()
        raise
    pool.shutdown()
    close()


@contextlib.contextmanager
def _as_inherited() -> Iterator[None]:
    """Processes begun here get no interrupts, which are this one's to handle, and have one thread each.

    One that sees to this itself is late: it has imported numpy then.
    """
    threads = [name for name in _THREADS if name not in os.environ]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        os.environ.update(dict.fromkeys(threads, "1"))
        yield
    finally:
        for name in threads:
            del os.environ[name]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(annotating: Annotating, schema: Schema, out: Path) -> None:
    """Makes the annotator of this worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _here
    try:
        _here = open_annotator(annotating, schema, out)
    except UserError as error:
        _here = error  # for whoever asks: a pool only tells that a process is gone


def _end_with_parent() -> None:
    """A parent that is killed closes nothing: workers would wait for their next batch for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _annotate_here(passages: list[Passage]) -> list[Answer]:
    if isinstance(_here, UserError):
        raise _here
    assert _here is not None
    return _here.annotate(passages)
