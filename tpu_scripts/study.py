"""Sizes x methods x seeds as runs on TPUs: what they may cost, in which order they go, and how far they are."""

import dataclasses
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from anchortrain.errors import UserError
from anchortrain.gin_reader import Bound
from tpu_scripts import spec as specs
from tpu_scripts.gcloud import Clock, results
from tpu_scripts.spec import RunSpec, TpuConfig, TpuStudyConfig


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of the study."""

    size: str
    method: str
    seed: int
    spec: RunSpec
    after: str = ""  # name of the run that it starts from


def members(tpu: TpuConfig, study: TpuStudyConfig, bound: dict[str, Bound]) -> list[Member]:
    """All runs, those that others start from first. Raises UserError, also when they may take too many chip-hours."""
    _check(study)
    found = [
        _member(tpu, study, bound, size, m, seed)
        for m in _order(study)
        for size in study.sizes
        for seed in range(study.seeds)
    ]
    runs: dict[str, Member] = {}
    for one in found:
        other = runs.setdefault(one.spec.tpu.run, one)
        if other is not one:
            both = " and ".join(f"({m.size}, {m.method}, seed {m.seed})" for m in (other, one))
            raise UserError(f"{both} would both be the run {one.spec.tpu.run}", mend="rename a size or a method")
    hours = sum(one.spec.chip_hours for one in found)
    if study.max_chip_hours and hours > study.max_chip_hours:
        raise UserError(
            f"{len(found)} runs may take {hours:.0f} chip-hours; max_chip_hours is {study.max_chip_hours:g}",
            mend="lower TpuConfig.max_hours, or raise it",
        )
    return found


def _check(study: TpuStudyConfig) -> None:
    strange = [m for pair in study.starts_from.items() for m in pair if m not in study.methods]
    unknown = [size for size in (*study.accelerators, *study.max_hours) if size not in study.sizes]
    odd = [name for name in (*study.sizes, *study.methods) if not re.fullmatch(r"[A-Za-z0-9_-]+", name)]
    for field, right, what in (
        ("sizes", study.sizes and len(set(study.sizes)) == len(study.sizes), "must name sizes, each once"),
        ("methods", study.methods, "is empty; name methods and their gin files"),
        ("sizes", not odd, f"or methods has {odd[:1]}; they name runs: only letters, digits, '-' and '_'"),
        ("seeds", study.seeds >= 1, f"must be at least 1, got {study.seeds}"),
        ("concurrency", study.concurrency >= 1, f"must be at least 1, got {study.concurrency}"),
        ("starts_from", not strange, f"has {', '.join(strange)}, which TpuStudyConfig.methods lacks"),
        ("accelerators", not unknown, f"or max_hours has {', '.join(unknown)}, which TpuStudyConfig.sizes lacks"),
    ):
        if not right:
            raise UserError(f"TpuStudyConfig.{field} {what}")


def _order(study: TpuStudyConfig) -> list[str]:
    """Methods, each after the one that it starts from."""
    ordered: list[str] = []
    while len(ordered) < len(study.methods):
        ready = [m for m in study.methods if m not in ordered and study.starts_from.get(m, m) in (*ordered, m)]
        ready = [m for m in ready if study.starts_from.get(m) != m]
        if not ready:
            raise UserError("TpuStudyConfig.starts_from goes in a circle")
        ordered += ready
    return ordered


def _member(
    tpu: TpuConfig, study: TpuStudyConfig, bound: dict[str, Bound], size: str, method: str, seed: int
) -> Member:
    def fill(text: str) -> str:
        for name, value in (("size", size), ("method", method), ("seed", str(seed))):
            text = text.replace(f"{{{name}}}", value)
        return text

    def name(method: str) -> str:
        return f"{tpu.run}-{size}-{method}-s{seed}".replace("_", "-").lower()

    start = study.starts_from.get(method, "")
    more = [fill(one) for one in study.gin_bindings]
    if start:
        more.append(f"RunConfig.init_from = {f'{tpu.prefix}/{name(start)}/train'!r}")
    one = dataclasses.replace(
        tpu,
        run=name(method),
        accelerator=study.accelerators.get(size, tpu.accelerator),
        max_hours=study.max_hours.get(size, tpu.max_hours),
        gin_files=(*map(fill, tpu.gin_files), *map(fill, study.methods[method])),
        gin_bindings=(*map(fill, tpu.gin_bindings), *more),
    )
    where = bound.get("TpuConfig.gin_files", bound["TpuStudyConfig.methods"])
    return Member(
        size, method, seed, specs.make(one, bound | {"TpuConfig.gin_files": where}), name(start) if start else ""
    )


def budget(found: Sequence[Member]) -> list[str]:
    """Lines for people: what is paid for at most."""
    width = max(len(one.spec.tpu.run) for one in found)
    lines = [
        f"{one.spec.tpu.run:{width}}  {one.spec.where.name:>12}  {one.spec.chip_hours:10.0f} chip-hours"
        + (f"  after {one.after}" if one.after else "")
        for one in found
    ]
    total = sum(one.spec.chip_hours for one in found)
    return [*lines, f"{len(found)} runs, at most {total:.0f} chip-hours"]


def run(
    found: Sequence[Member],
    concurrency: int,
    submit: Callable[[Member], None],
    say: Callable[[str], None],
    stopping: threading.Event,
) -> dict[str, str]:
    """Submits runs as their turn comes; returns run -> what went wrong. A run whose start failed is left out.

    `submit` returns when a run is finished, and raises UserError. It must heed `stopping` itself.
    """
    failed: dict[str, str] = {}
    done = {one.spec.tpu.run: threading.Event() for one in found}

    def work(one: Member) -> None:
        name = one.spec.tpu.run
        try:
            if one.after:
                done[one.after].wait()  # it comes earlier in the queue, so a thread has it
            if stopping.is_set():
                return
            if one.after in failed:
                raise UserError(f"{one.after} has failed")
            submit(one)
            say(f"{name}: finished")
        except UserError as error:
            failed[name] = str(error)
            say(f"{name}: {error}")
        finally:
            done[name].set()

    with ThreadPoolExecutor(concurrency) as pool:
        results([pool.submit(work, one) for one in found])
    return failed


class StoppingClock(Clock):
    """A clock whose sleeper wakes, with `error`, once the study is to stop."""

    def __init__(self, stopping: threading.Event, error: type[BaseException], clock: Clock) -> None:
        self._stopping, self._error, self._clock = stopping, error, clock

    def time(self) -> float:
        return self._clock.time()

    def sleep(self, seconds: float) -> None:
        end = self.time() + seconds
        while not self._stopping.is_set():
            left = end - self.time()
            if left <= 0:
                return
            self._clock.sleep(min(left, 0.5))
        raise self._error
