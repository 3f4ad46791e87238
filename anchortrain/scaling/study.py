"""A study's directory, and what the command does with it."""

import json
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
    scaling = load(gin_files, bindings)
    layout = Layout(Path(out).absolute(), Path(gin_files[0]).absolute().parent, scaling)
    tasks(layout)  # finds what is wrong with the gin files before anything is written
    path = layout.out / _SETTINGS
    if path.exists():
        _check_same(json.loads(path.read_text(encoding="utf-8")), _settings(scaling), layout.out)
    elif layout.out.exists() and any(layout.out.iterdir()):
        raise UserError("is not empty and holds no study", where=out, mend="choose another --out")
    elif new:
        write_json_atomic(path, _settings(scaling))
    return layout


def _settings(scaling: Scaling) -> dict[str, Any]:
    """What must not change once a task was run: it would not be seen in the names of tasks."""
    study, source, measure = scaling.study, scaling.source, scaling.measure
    return {
        "StudyConfig.name": study.name,
        "StudyConfig.pretrain_tokens": study.pretrain_tokens,
        "StudyConfig.reference_width": study.reference_width,
        "StudyConfig.pretrain_exponent": study.pretrain_exponent,
        "StudyConfig.posttrain_exponent": study.posttrain_exponent,
        "StudyConfig.replay_share": study.replay_share,
        "SourceConfig.documents": source.documents,
        "SourceConfig.prepared": source.prepared,
        "MeasureConfig.samples": measure.samples,
        "MeasureConfig.draws": measure.draws,
    }


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    for name, value in now.items():
        if name in before and before[name] != value:
            what = f"was started with {name} = {before[name]!r}, now it is {value!r}"
            raise UserError(what, where=str(out), mend="choose another --out, or set it back to continue")


def supervise(
    layout: Layout, gin_files: Sequence[str], bindings: Sequence[str], workers: int, say: Callable[[str], None]
) -> None:
    """Runs what is left, then writes the report."""
    from anchortrain.scaling.supervisor import Supervisor, worker_command

    command = worker_command(gin_files, bindings, str(layout.out))
    try:
        Supervisor(layout, command, workers, say).run()
    finally:
        if (layout.out / RESULTS).exists():
            from anchortrain.scaling.report import write_report

            for path in write_report(layout.out, layout.out / "report"):
                say(f"wrote {path}")


def work(layout: Layout, only: str | None) -> int:
    """Takes tasks; with `only`, that task alone."""
    names = [task.name for task in tasks(layout)]
    if only is not None and only not in names:
        raise UserError(f"no task {only!r}", where="--task", mend=suggest(only, names))
    from anchortrain import compilation_cache
    from anchortrain.memory import keep_freed_memory

    keep_freed_memory()
    compilation_cache.enable()
    code = worker.work(layout, only)
    if only is not None and code == 1:
        failed = worker.failure(layout, next(task for task in tasks(layout) if task.name == only))
        why = failed.read_text(encoding="utf-8").strip() if failed.exists() else "what it needs is not finished"
        raise UserError(f"{only}: {why}", mend=f"see {layout.out / 'logs'}")
    return code


def print_tasks(layout: Layout) -> None:
    """One line a task: state, name, command."""
    every = tasks(layout)
    done = {task.name for task in every if task.done}
    for task in every:
        print(f"{state(layout, task, done):8} {task.name}\t{task.command}")
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
