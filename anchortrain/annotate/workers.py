"""Passages through an annotator in batches: in this process, in threads, or in processes, always in order."""

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anchortrain.annotate.annotators import names, open_annotator
from anchortrain.annotate.config import Annotating
from anchortrain.annotate.parts import AnnotateAll
from anchortrain.annotate.passages import Annotator, Answer, Passage
from anchortrain.annotate.processes import Processes
from anchortrain.annotate.schema import Schema

_BATCH = 256  # passages
_ASKING = 4  # batches at once against a server: the slow end of one does not leave the connection idle


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def workers(annotating: Annotating, schema: Schema, out: Path) -> Iterator[AnnotateAll]:
    """What annotates any number of passages; raises UserError when a worker dies."""
    if "llm" in names(annotating):
        size = max(16, annotating.llm.concurrency)
        with _threads(open_annotator(annotating, schema, out)) as (pool, annotate):
            yield lambda passages: _ordered(pool, annotate, _batches(passages, size))
        return
    count = annotating.annotate.workers or cores()
    if "offline" not in names(annotating) or count == 1:
        with contextlib.closing(open_annotator(annotating, schema, out)) as annotator:
            yield lambda passages: serially(annotator, passages)
        return
    with Processes(count, annotating, schema, out) as processes:
        yield lambda passages: processes.annotate(_batches(passages, _BATCH))


def serially(annotator: Annotator, passages: Iterator[Passage]) -> Iterator[Answer]:
    """Answers in this process."""
    for batch in _batches(passages, _BATCH):
        yield from annotator.annotate(batch)


def _batches(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    while batch := list(itertools.islice(passages, size)):
        yield batch


def _ordered(
    pool: ThreadPoolExecutor,
    annotate: Callable[[list[Passage]], list[Answer]],
    batches: Iterator[list[Passage]],
) -> Iterator[Answer]:
    """Answers in order, with at most `_ASKING` batches begun and not yet given back."""
    begun: deque = deque()
    for batch in batches:
        begun.append(pool.submit(annotate, batch))
        if len(begun) >= _ASKING:
            yield from begun.popleft().result()
    while begun:
        yield from begun.popleft().result()


@contextlib.contextmanager
def _threads(annotator: Annotator) -> Iterator[tuple[ThreadPoolExecutor, Callable[[list[Passage]], list[Answer]]]]:
    """Threads for an annotator that waits more than it works; they end at once after an error."""
    pool = ThreadPoolExecutor(_ASKING)
    try:
        yield pool, annotator.annotate
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        annotator.close()
        raise
    pool.shutdown()
    annotator.close()
