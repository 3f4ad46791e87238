"""A study's directory, and what the command does with it."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic
from anchortrain.nearest import suggest
from anchortrain.scaling import locks, worker
from anchortrain.scaling.config import Scaling, load
from anchortrain.scaling.layout import RESULTS, Layout
from anchortrain.scaling.tasks import Task, tasks

_SETTINGS = "settings.json"


def open_study(gin_files: Sequence[str], bindings: Sequence[str], out: str, *, new: bool = True) -> Layout:
    """The layout of a study. Raises UserError when `out` holds another one, or something else.

    What an earlier call made may be added to (more seeds, sizes, methods, sweeps), but not made otherwise.
    """
    if not out:
        raise UserError("names no directory", where="--out")
    scaling = load(gin_files, bindings)
    layout = Layout(Path(out).absolute(), Path(gin_files[0]).absolute().parent, scaling, tuple(map(str, gin_files)))
    every = tasks(layout)  # finds what is wrong with the gin files before anything is written
    # As it is read again: JSON knows no tuples.
    path, now = layout.out / _SETTINGS, json.loads(json.dumps(_settings(scaling) | _trainings(every)))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        begun = {task.name for task in every if task.settings and task.output.parent.exists()}
        _check_same({k: v for k, v in before.items() if not k.startswith("train/") or k in begun}, now, layout.out)
        now = before | now
        new = new and now != before
    elif layout.out.exists() and any(layout.out.iterdir()):
        raise UserError("is not empty and holds no study", where=out, mend="choose another --out")
    # Where another command writes it just now, it writes the same.
    if new and (lock := locks.acquire(layout.out / "locks" / "settings")):
        with lock:
            write_json_atomic(path, now)
    return layout


def _trainings(every: list[Task]) -> dict[str, Any]:
    """What each training would be, by its task: gin files may change between two starts, finished runs do not."""
    return {task.name: task.settings for task in every if task.settings}


def _settings(scaling: Scaling) -> dict[str, Any]:
    """What must not change once a task was run, beside the trainings: it would not be seen in the names of tasks."""
    study, source = scaling.study, scaling.source
    measure = dataclasses.asdict(scaling.measure)
    del measure["batch_size"]  # samples do not depend on it
    return {
        "StudyConfig.name": study.name,
        "StudyConfig.replay_share": study.replay_share,
        "SourceConfig.documents": source.documents,
        "SourceConfig.prepared": source.prepared,
        **{f"MeasureConfig.{name}": value for name, value in measure.items()},
    }


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    mend = "choose another --out, or set it back to continue"
    for name, value in now.items():
        old = before.get(name, value)
        if isinstance(value, dict) and name.startswith("train/"):
            changed = [field for field in {**old, **value} if old.get(field) != value.get(field)]
            if changed:
                was, is_now = (one.get(changed[0], "its default") for one in (old, value))
                what = f"{name} was begun with {changed[0]} = {was!r}, now it is {is_now!r}"
                raise UserError(what, where=str(out), mend=f"{mend}, or remove its run")
        elif old != value:
            raise UserError(f"was started with {name} = {old!r}, now it is {value!r}", where=str(out), mend=mend)


def supervise(
    layout: Layout, gin_files: Sequence[str], bindings: Sequence[str], workers: int, say: Callable[[str], None]
) -> None:
    """Runs what is left, then writes the report."""
    from anchortrain.scaling.supervisor import Supervisor, worker_command

    command = worker_command(gin_files, bindings, str(layout.out))
    try:
        Supervisor(layout, command, workers, say).run()
    finally:
        if (layout.out / RESULTS).exists() and (layout.out / RESULTS).stat().st_size:
            from anchortrain.scaling.report import write_report

            for path in write_report(layout.out, layout.out / "report"):
                say(f"wrote {path}")


def work(layout: Layout, only: str | None) -> int:
    """Takes tasks; with `only`, that task alone."""
    names = [task.name for task in tasks(layout)]
    if only is not None and only not in names:
        near = suggest(only, names)
        mend = near if near.startswith("did you mean") else "see --list"
        raise UserError(f"no task {only!r}", where="--task", mend=mend)
    from anchortrain import compilation_cache
    from anchortrain.memory import keep_freed_memory

    keep_freed_memory()
    compilation_cache.enable()
    code = worker.work(layout, only)
    if only is not None and code == 1:
        failed = worker.failure(layout, next(task for task in tasks(layout) if task.name == only))
        if failed.exists():
            raise UserError(f"{only}: {failed.read_text(encoding='utf-8').strip()}", mend=f"see {layout.out / 'logs'}")
        raise UserError(f"{only}: what it needs is not finished", mend="see --list")
    return code


def print_tasks(layout: Layout) -> None:
    """One line a task: state, name, command."""
    every = tasks(layout)
    done = {task.name for task in every if task.done}
    for task in every:
        command = task.command
        if task.cell:
            files = [part for file in layout.files for part in ("--gin_file", file)]
            command = shlex.join(["anchortrain", "scaling", *files, "--out", str(layout.out), "--task", task.name])
        print(f"{state(layout, task, done):8} {task.name}\t{command}")
    print(f"{len(done)} of {len(every)} tasks are finished", file=sys.stderr)


def state(layout: Layout, task: Task, done: set[str]) -> str:
    """finished, failed, running, ready or waiting."""
    if task.name in done:
        return "finished"
    if worker.failure(layout, task).exists():
        return "failed"
    if locks.holder(worker.lock_of(layout, task)):
        return "running"
    return "ready" if done.issuperset(task.needs) else "waiting"
