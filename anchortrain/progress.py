"""One line of progress on stderr: share, rate, time left, and a few figures."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

REDRAW_SECONDS = 0.1  # on a terminal, in place
PRINT_SECONDS = 10.0  # elsewhere (a log file), as a line of its own
SMOOTHING_SECONDS = 30.0  # window of the rate, so that compilation at the start is soon forgotten

Field = float | int | str


class Progress:
    """Context manager: `with Progress(total, "tokens", "train") as p: p.update(n, loss=2.3)`."""

    def __init__(self, total: int, unit: str = "tokens", label: str = "", *, stream: TextIO | None = None) -> None:
        """Expects `total` units of work, 0 when nobody knows; writes to `stream` (stderr unless given)."""
        self.total, self.unit, self.label = total, unit, label
        self.done = self._skipped = 0
        self._stream = stream if stream is not None else sys.stderr
        self._tty = self._stream.isatty()
        self._fields: dict[str, Field] = {}
        self._width = 0

    def __enter__(self) -> Self:
        self._start = self._shown = time.monotonic()
        self._marks = [(self._start, 0)]  # (time, done) of the last SMOOTHING_SECONDS
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None or self.done > self._skipped:  # of what failed at once there is nothing to tell
            self._write(time.monotonic(), last=True)

    def update(self, n: int = 0, **fields: Field) -> None:
        """Counts `n` more units; `fields` (such as loss=2.31) are shown until they are replaced."""
        self.done += n
        self._fields.update(fields)
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, self.done))
            while len(self._marks) > 2 and now - self._marks[1][0] > SMOOTHING_SECONDS:
                self._marks.pop(0)
        if now - self._shown >= (REDRAW_SECONDS if self._tty else PRINT_SECONDS):
            self._write(now, last=False)

    def skip(self, n: int) -> None:
        """Counts `n` units as done before the start, as when a run is continued; they do not add to the rate."""
        self.done += n
        self._skipped += n
        self._marks = [(self._start, self.done)]

    def line(self, now: float, *, last: bool) -> str:
        """The text at time `now` (seconds, of `time.monotonic`)."""
        # The last line tells the rate of the whole, the others that of late.
        then, done_then = (self._start, self._skipped) if last else self._marks[0]
        rate = (self.done - done_then) / max(now - then, 1e-9)
        done = _count(self.done)
        if self.total > 0:
            done = f"{100 * self.done / self.total:.0f}% {done}/{_count(self.total)}"
        parts = [f"{done} {self.unit}", f"{_count(rate)} {self.unit}/s"]
        if last:
            parts.append(f"in {duration(now - self._start)}")
        elif rate > 0 and self.total > 0:
            parts.append(f"{duration(max(self.total - self.done, 0) / rate)} left")
        parts += [f"{name} {_value(value)}" for name, value in self._fields.items()]
        return (f"{self.label}: " if self.label else "") + ", ".join(parts)

    def _write(self, now: float, *, last: bool) -> None:
        text = self.line(now, last=last)
        if self._tty:
            # Spaces wipe what is left of a longer line before.
            self._stream.write("\r" + text.ljust(self._width) + ("\n" if last else ""))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()
        self._shown = now


def _count(number: float) -> str:
    """1234567 -> 1.23M, three significant digits from a thousand on."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """12s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _value(value: Field) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
