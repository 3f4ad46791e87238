"""What a person at the terminal is told, and what the signals of a terminal do."""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tpu_scripts.gcloud import Interrupted

_NOBODY = (errno.EPIPE, errno.EIO)  # a pipe without a reader, a terminal that is gone


def say(line: str) -> None:
    """Progress goes to stderr, results to stdout."""
    tell(f"[{time.strftime('%H:%M:%S')}] {line}")


def tell(line: str) -> None:
    """Machines are deleted whether somebody listens or not: the terminal may be closed, `| tee` be ended by the same
    Ctrl-C. RuntimeError is Python's for a signal's line that comes into the middle of another."""
    try:
        print(line, file=sys.stderr, flush=True)
    except RuntimeError:
        pass
    except OSError as error:
        if error.errno in _NOBODY:  # what is still buffered must not fail again at the end: Python would exit with 120
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextlib.contextmanager
def handling(handle: Callable[[int, object], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP meanwhile: a terminal that closes and a `kill` are as an interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A signal raises Interrupted, so that what is paid for is deleted on the way out."""
    count = 0

    def handle(number: int, _frame: object) -> None:
        nonlocal count
        count += 1
        if count == 1 or count > 3:  # several come at once where a session ends: the way out is not cut off by them
            raise Interrupted

    with handling(handle):
        yield


@contextlib.contextmanager
def deaf(name: str) -> Iterator[None]:
    """While a machine is deleted, the first further signals only say so; a third ends the command."""
    count = 0

    def handle(number: int, _frame: object) -> None:
        nonlocal count
        count += 1
        if count > 2:
            raise Interrupted
        say(f"deleting {name}; if this is cut off, `down` or `reap` must do it")

    with handling(handle):
        yield
