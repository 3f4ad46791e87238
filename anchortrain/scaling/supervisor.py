"""Starts the workers of a study, tells how far it is, and gathers results as they come."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anchortrain.cli import EXIT_INTERRUPTED
from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic, write_text_atomic
from anchortrain.progress import duration
from anchortrain.scaling import locks, worker
from anchortrain.scaling.cells import cells
from anchortrain.scaling.layout import CURVES, RESULTS, STUDY, Layout
from anchortrain.scaling.measure import layer_parameters
from anchortrain.scaling.tasks import Task, tasks
from anchortrain.storyworld.world import World

_STATUS_SECONDS = 30.0


class Supervisor:
    """One `anchortrain scaling` command: its workers and what it says."""

    def __init__(self, layout: Layout, worker_command: Sequence[str], workers: int, say: Callable[[str], None]) -> None:
        self.layout, self.command, self.workers, self.say = layout, list(worker_command), workers, say
        self.tasks = tasks(layout)
        self.processes: list[subprocess.Popen] = []
        self.started = time.time()

    def run(self) -> None:
        """Runs what is left of the study. Raises UserError when a task failed, KeyboardInterrupt when stopped."""
        for path in (self.layout.out / "failed").glob("*"):
            path.unlink()  # to be tried again
        left = [task for task in self.tasks if not task.done]
        self.say(f"{len(self.tasks)} tasks, {len(self.tasks) - len(left)} of them finished; {self.estimate()}")
        if left:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                self._supervise()
            finally:
                self._stop()
        gather(self.layout)
        self._report_failures()

    def _supervise(self) -> None:
        self.processes = [self._start() for _ in range(min(self.workers, len(self.tasks)))]
        told, shown = time.monotonic(), {task.name for task in self.tasks if task.done}
        while self.processes:
            time.sleep(1.0)
            for process in list(self.processes):
                code = process.poll()
                if code is None:
                    continue
                self.processes.remove(process)
                if code == worker.AGAIN:
                    self.processes.append(self._start())
                elif code == EXIT_INTERRUPTED:
                    raise KeyboardInterrupt
                elif code not in (0, 1):
                    raise UserError(
                        f"a worker ended with exit code {code}{self._last_words}", where=str(self._worker_log)
                    )
            done = {task.name for task in self.tasks if task.done}
            if any(name.startswith("measure/") for name in done - shown):
                gather(self.layout)
            shown |= done
            if time.monotonic() - told > _STATUS_SECONDS:
                told = time.monotonic()
                self.say(self.status())

    @property
    def _worker_log(self) -> Path:
        return self.layout.out / "logs" / "workers.log"

    @property
    def _last_words(self) -> str:
        """What the workers' log ends with, if anything."""
        lines = self._worker_log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def _start(self) -> subprocess.Popen:
        self._worker_log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._worker_log, "a", encoding="utf-8") as log:
            # A session of its own: an interrupt at the terminal reaches it through `_stop`, once.
            environment = _environment(self.layout.out) if self.workers > 1 else None
            return subprocess.Popen(self.command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def _stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()

    # -- what is said ----------------------------------------------------------------------------

    def status(self) -> str:
        """How far the study is, and what is running."""
        done = sum(task.done for task in self.tasks)
        running = [task for task in self.tasks if not task.done and locks.holder(worker.lock_of(self.layout, task))]
        lines = [f"{done}/{len(self.tasks)} tasks, {self.estimate()}"]
        return "; ".join([*lines, *(f"{task.name} {self._how_far(task)}".strip() for task in running[:4])])

    def _how_far(self, task: Task) -> str:
        """The share that the last line of its log tells."""
        try:
            last = (
                worker.log_of(self.layout, task).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
            )
        except (OSError, IndexError):
            return ""
        return next((word for word in last.split() if word.endswith("%")), "")

    def estimate(self) -> str:
        """Time left, from what finished tasks took against what was guessed."""
        by_name = {task.name: task for task in self.tasks}
        times = [(by_name[task], seconds) for task, seconds in _times(self.layout) if task in by_name]
        guessed = sum(task.cost for task, _ in times)
        pace = sum(seconds for _, seconds in times) / guessed if guessed else 1.0
        left = sum(task.cost for task in self.tasks if not task.done) * pace
        return f"about {duration(left / self.workers)} left with {self.workers} workers"

    def _report_failures(self) -> None:
        failed = {task.name: worker.failure(self.layout, task) for task in self.tasks}
        failed = {name: path for name, path in failed.items() if path.exists()}
        for name, path in failed.items():
            self.say(f"{name} failed with {path.read_text(encoding='utf-8').strip()}")
        left = sum(not task.done for task in self.tasks)
        if failed:
            logs = self.layout.out / "logs"
            what = f"{len(failed)} tasks failed, {left - len(failed)} others wait for them"
            raise UserError(what, where=str(self.layout.out), mend=f"see {logs}; the same command tries again")
        if left:
            raise UserError(f"{left} tasks are left", where=str(self.layout.out), mend="the same command goes on")


def _times(layout: Layout) -> list[tuple[str, float]]:
    """(task, seconds) of all tasks that were finished."""
    found = []
    for path in sorted((layout.out / "times").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                found.append((entry["task"], float(entry["seconds"])))
            except (ValueError, KeyError, TypeError):
                continue  # of a writer that was killed
    return found


def gather(layout: Layout) -> None:
    """Writes `results.jsonl`, `curves.jsonl` and `study.json` from the results that there are."""
    rows, curves = [], []
    for cell in cells(layout.scaling):
        path = layout.result(cell)
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            rows.append(found["row"])
            curves += found["curves"]
    for name, lines in ((RESULTS, rows), (CURVES, curves)):
        write_text_atomic(layout.out / name, "".join(json.dumps(_rounded(line)) + "\n" for line in lines))
    write_json_atomic(layout.out / STUDY, describe(layout))


def _rounded(value: Any) -> Any:
    """Six significant digits: these files are kept with the code."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def describe(layout: Layout) -> dict[str, Any]:
    """What the report must know of the study."""
    scaling = layout.scaling
    study, source, sweep = scaling.study, scaling.source, scaling.sweep
    worlds = {seed: layout.world(seed) / "world.json" for seed in range(study.seeds)}
    first = next(iter(study.methods))
    return {
        "name": study.name,
        "sizes": {size: layer_parameters(layout, size) for size in study.sizes},
        "methods": list(study.methods),
        "ladder": list(study.ladder or study.methods),
        "seeds": study.seeds,
        "sweep_size": sweep.size or study.sizes[-1],
        "defaults": {
            "narrowness": source.narrowness,
            "examples": source.examples,
            "tokens": layout.experiment(study.sizes[0], first).run.tokens,
            "temperature": 1.0,
        },
        "prior_bits": {str(s): World.load(path).mean_prior_bits for s, path in worlds.items() if path.exists()},
        "base_gate": study.base_gate,
        "cells": len(cells(scaling)),
        "task_seconds": round(sum(seconds for _, seconds in _times(layout)), 1),
        "learning_rates": _learning_rates(layout),
        "command": shlex.join(["anchortrain", "scaling", *(f"--gin_file={file}" for file in layout.files)]),
    }


def _learning_rates(layout: Layout) -> list[dict[str, Any]]:
    """Held-out losses of bases that were trained with other learning rates than the rule's."""
    found = []
    for size in layout.scaling.sweep.learning_rate_sizes:
        for factor in (1.0, *layout.scaling.sweep.learning_rates):
            suffix = "" if factor == 1.0 else f"_lr{factor:g}"
            path = layout.out / "runs" / size / "s0" / f"base{suffix}" / "finished.json"
            if path.exists():
                loss = json.loads(path.read_text(encoding="utf-8"))["heldout"]["heldout/documents/loss"]
                found.append({"size": size, "factor": factor, "document_loss": loss})
    return found


def _environment(out: Path) -> dict[str, str]:
    """One core a process, CPU only, and compiled programs shared between workers."""
    from anchortrain.quickstart.runner import environment

    return environment(out) | {"PYTHONUNBUFFERED": "1"}


def worker_command(gin_files: Sequence[str], bindings: Sequence[str], out: str) -> list[str]:
    """The command of one worker."""
    command = [sys.executable, "-m", "anchortrain", "scaling", "--worker", "--out", out]
    for file in gin_files:
        command += ["--gin_file", os.fspath(file)]
    for binding in bindings:
        command += ["--gin_bindings", binding]
    return command
