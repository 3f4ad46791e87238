"""Where the time of a run goes: by interval in the metrics, and over all its starts as goodput.

Steps are dispatched before they run, so the time of one cannot be taken around its call. It is taken between the
moments at which earlier steps were seen to be complete, when their metrics are read, which the loop does anyway.
What the host does in between is measured where it happens; what is left over is the steps.

    RUN/goodput.jsonl   one line at each logged step and each checkpoint:
                        {"started": …, "time": …, "step": …, "seconds": {"init": …, "step": …, …}}

`started` names the attempt, `seconds` add up from there. The file is never cut, so that what was lost stays known.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError
from anchortrain.files import write_text_atomic

GOODPUT_FILE = "goodput.jsonl"

# init: until the first step, without the restore; compile: the first step's call; data: waiting for a batch.
KINDS = ("init", "restore", "compile", "data", "step", "checkpoint", "evaluate")
_INTERVAL = ("data", "checkpoint", "evaluate", "step")


class Clock:
    """The time of one attempt at a run."""

    def __init__(
        self,
        run_dir: Path,
        *,
        started: float | None = None,
        tokens_per_step: int,
        flops_per_step: float = 0.0,
        peak: float | None = None,
        write: bool = True,
    ) -> None:
        """Args:
        started: `time.time()` when the command began; now by default.
        flops_per_step, peak: operations of one step, and what all devices together could do a second, if known.
        write: whether this process keeps the file.
        """
        self._path, self._write = run_dir / GOODPUT_FILE, write
        self._started = time.time() if started is None else started
        self._offset = time.time() - time.perf_counter()
        self._tokens, self._flops, self._peak = tokens_per_step, flops_per_step, peak
        self._spent = dict.fromkeys(KINDS, 0.0)

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Counts the time of the body as of this kind."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[kind] += time.perf_counter() - began

    def begin(self, step: int) -> None:
        """The loop begins after `step`; all time before it that was not counted is "init"."""
        now = self._now()
        self._spent["init"] = max(0.0, now - self._started - sum(self._spent.values()))
        self._step, self._at, self._then = step, now, dict(self._spent)
        first = {"started": self._started, "time": now, "step": step, "seconds": self._then}
        earlier = read_goodput(self._path)
        self._total = account([*earlier, first])  # of which `_then` is this attempt's part
        self._first = self._then
        if self._write:
            write_text_atomic(self._path, "".join(json.dumps(line) + "\n" for line in [*earlier, first]))

    def mark(self, step: int) -> dict[str, float]:
        """`step` is complete: the metrics of the time since the last call, seconds and shares."""
        self.note(step)
        now, spent = self._now(), dict(self._spent)
        seconds = {kind: spent[kind] - self._then[kind] for kind in KINDS}
        steps, whole = step - self._step, now - self._at
        self._step, self._at, self._then = step, now, spent
        found = {f"time/{kind}": seconds[kind] for kind in _INTERVAL}
        found["time/data_share"] = seconds["data"] / max(whole, 1e-9)
        # A step that waited for its batch took that long, too; what compiles, saves or evaluates is no step.
        training = max(seconds["step"] + seconds["data"], 1e-9)
        found["time/seconds_per_step"] = training / max(steps, 1)
        found["time/tokens_per_second"] = steps * self._tokens / training
        if self._peak and self._flops:
            found["time/mfu"] = steps * self._flops / training / self._peak
        return found | {"time/goodput": self.goodput()}

    def note(self, step: int) -> None:
        """Writes down what was spent up to `step`, which is complete."""
        now = self._now()
        others = sum(value for kind, value in self._spent.items() if kind != "step")
        self._spent["step"] = max(0.0, now - self._started - others)
        if self._write:
            line = {"started": self._started, "time": now, "step": step, "seconds": self._spent}
            try:
                with open(self._path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                raise UserError(f"cannot write: {error.strerror}", where=str(self._path), mend="free space") from None

    def total(self) -> dict[str, float]:
        """Seconds since the run's first start, by kind; see `account`."""
        return {k: v + self._spent.get(k, 0.0) - self._first.get(k, 0.0) for k, v in self._total.items()}

    def goodput(self) -> float:
        """The share of all time since the run's first start that was spent on steps that it still has."""
        total = self.total()
        return total["step"] / max(sum(total.values()), 1e-9)

    def _now(self) -> float:
        """As `time.time()`, but never set back while the process runs."""
        return self._offset + time.perf_counter()


def account(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds by kind over all attempts.

    Beside `KINDS`: "lost" was spent, on whatever, after the checkpoint from which the next attempt went on, "down"
    passed between attempts.
    """
    attempts: dict[float, list[dict[str, Any]]] = {}
    for line in lines:
        attempts.setdefault(line["started"], []).append(line)
    ordered = list(attempts.values())
    total = dict.fromkeys((*KINDS, "lost", "down"), 0.0)
    for own, following in zip(ordered, [*ordered[1:], None], strict=True):
        kept = last = own[-1]
        if following:
            kept = max((line for line in own if line["step"] <= following[0]["step"]), key=_time, default=own[0])
            total["lost"] += sum(last["seconds"].values()) - sum(kept["seconds"].values())
            total["down"] += max(0.0, following[0]["started"] - last["time"])
        for kind, value in kept["seconds"].items():
            total[kind] += value
    return total


def _time(line: dict[str, Any]) -> float:
    return line["time"]


def read_goodput(path: Path) -> list[dict[str, Any]]:
    """The lines of a goodput.jsonl; what a killed writer left unfinished is left out."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and line.keys() >= {"started", "time", "step", "seconds"}:
                found.append(line)
    return found
