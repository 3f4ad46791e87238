"""A process that takes tasks of a study, one after another, until none is left.

Tasks run inside the process, so that JAX is imported once and programs that were compiled stay. Any number of workers,
on any number of machines, may share a study's directory.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from anchortrain import cli
from anchortrain.errors import UserError
from anchortrain.files import write_text_atomic
from anchortrain.scaling import locks
from anchortrain.scaling.layout import Layout
from anchortrain.scaling.tasks import Task, interpreter, tasks

AGAIN = 3  # exit code of a worker that wants to be replaced: what JAX keeps of old programs adds up
_TASKS_A_PROCESS = 60
_POLL_SECONDS = 2.0


def work(layout: Layout, only: str | None = None) -> int:
    """Takes tasks until all are finished or none can be; returns 0, 1 after a failure, AGAIN or 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    every, taken, parent = tasks(layout), 0, os.getppid()
    while os.getppid() == parent:  # else whoever started us was killed; the study goes on when it is asked to
        done = {task.name for task in every if task.done}
        wanted = [task for task in every if task.name not in done and only in (None, task.name)]
        if not wanted:
            return 0
        ready = [task for task in wanted if done.issuperset(task.needs) and not failure(layout, task).exists()]
        held = take(layout, ready)
        if held is not None:
            with held[1]:
                code = run(layout, held[0])
            taken += 1
            if code == cli.EXIT_INTERRUPTED:
                return code
            if taken >= _TASKS_A_PROCESS:
                return AGAIN
        elif any(locks.holder(lock_of(layout, task)) for task in wanted):
            time.sleep(_POLL_SECONDS)
        else:
            return 1
    return cli.EXIT_INTERRUPTED


def take(layout: Layout, ready: list[Task]) -> tuple[Task, locks.Lock] | None:
    """The first task that nobody else has."""
    for task in ready:
        lock = locks.acquire(lock_of(layout, task))
        if lock is not None:
            if not task.done:
                return task, lock
            lock.release()  # finished since we looked
    return None


def lock_of(layout: Layout, task: Task) -> Path:
    return layout.out / "locks" / task.name.replace("/", "--")


def failure(layout: Layout, task: Task) -> Path:
    """Exists where a task failed since the study was started: its last words."""
    return layout.out / "failed" / task.name.replace("/", "--")


def log_of(layout: Layout, task: Task) -> Path:
    return layout.out / "logs" / f"{task.name.replace('/', '--')}.log"


def run(layout: Layout, task: Task) -> int:
    """Runs a task, with its output in its log; returns its exit code. 0 means that its output exists."""
    started, log = time.time(), log_of(layout, task)
    log.parent.mkdir(parents=True, exist_ok=True)
    task.output.parent.mkdir(parents=True, exist_ok=True)
    with _output_to(log):
        print(f"$ {task.command}", flush=True)
        code = _run(layout, task)
    if code == 0:
        times = layout.out / "times" / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        times.parent.mkdir(exist_ok=True)
        with open(times, "a", encoding="utf-8") as file:
            file.write(json.dumps({"task": task.name, "started": started, "seconds": time.time() - started}) + "\n")
    elif code != cli.EXIT_INTERRUPTED:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        write_text_atomic(failure(layout, task), f"exit code {code}: {lines[-1] if lines else 'no output'}\n")
    return code


def _run(layout: Layout, task: Task) -> int:
    try:
        if task.cell:
            from anchortrain.scaling.measure import measure

            measure(layout, task.cell)
            return 0
        if task.module:
            return _in_process_of_its_own(task)
        return cli.main(task.arguments)
    except KeyboardInterrupt:
        return cli.EXIT_INTERRUPTED
    except UserError as error:
        print(error)
        return cli.EXIT_USER_ERROR
    except Exception:
        # One task's fault must not end the others; the log has all of it.
        traceback.print_exc()
        return 1


def _in_process_of_its_own(task: Task) -> int:
    process = subprocess.Popen(interpreter(task))
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Standard output and error of this process and its children go to a file, at its end."""
    kept = []
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        kept.append(os.dup(stream.fileno()))
    try:
        with open(path, "a", encoding="utf-8") as file:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(file.fileno(), stream.fileno())
        yield
    finally:
        for stream, descriptor in zip((sys.stdout, sys.stderr), kept, strict=True):
            stream.flush()
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)
