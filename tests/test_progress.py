"""The progress line: what it says, and how often."""

import io

import pytest

from anchortrain import progress
from anchortrain.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def run(stream: io.StringIO, clock: Clock, seconds: int) -> str:
    with Progress(60_000, "tokens", "base", stream=stream) as bar:
        for _ in range(seconds):
            clock.now += 1
            bar.update(1000, loss=2.5)
    return stream.getvalue()


def test_log_file_gets_a_line_every_ten_seconds_and_a_last_one(clock):
    lines = run(io.StringIO(), clock, 25).splitlines()
    assert len(lines) == 3
    assert lines[0] == "base: 17% 10k/60k tokens, 1k tokens/s, 50s left, loss 2.5"
    assert lines[-1] == "base: 42% 25k/60k tokens, 1k tokens/s, in 25s, loss 2.5"


def test_terminal_redraws_one_line(clock):
    text = run(Terminal(), clock, 60)
    assert text.count("\n") == 1 and text.endswith("\n")
    assert text.count("\r") == 61
    assert "100% 60k/60k tokens" in text.rpartition("\r")[2]


def test_a_shorter_line_wipes_the_longer_one(clock):
    stream = Terminal()
    with Progress(10, "tokens", stream=stream) as bar:
        clock.now += 1
        bar.update(1, note="a long remark")
        clock.now += 1
        bar.update(1, note="x")
    lines = stream.getvalue().split("\r")
    assert len(lines[2]) == len(lines[1])


def test_skipped_work_counts_as_done_but_not_as_rate(clock):
    stream = io.StringIO()
    with Progress(100, "steps", stream=stream) as bar:
        bar.skip(50)
        for _ in range(10):
            clock.now += 1
            bar.update(1)
    first, last = stream.getvalue().splitlines()
    assert first == "60% 60/100 steps, 1 steps/s, 40s left"
    assert last == "60% 60/100 steps, 1 steps/s, in 10s"


def test_the_rate_forgets_a_slow_start(clock):
    with Progress(100_000, "tokens", stream=io.StringIO()) as bar:
        clock.now += 120  # compilation
        bar.update(10)
        for _ in range(60):
            clock.now += 1
            bar.update(100)
        assert ", 100 tokens/s, " in bar.line(clock.now, last=False)


def test_nothing_to_do_divides_by_nothing(clock):
    stream = io.StringIO()
    with Progress(0, stream=stream):
        pass
    assert stream.getvalue().startswith("0 tokens")
