"""Locks between processes: exclusive, released at death, broken when stale and only then."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from anchortrain.scaling import locks

_HOLD = """
import sys, time
from pathlib import Path
from anchortrain.scaling import locks
lock = locks.acquire(Path(sys.argv[1]))
print("held" if lock else "taken", flush=True)
time.sleep(60 if lock else 0)
"""

# Takes the lock, notes that it did, and lets go, many times over: two at once would be seen.
_CONTEND = """
import os, sys
from pathlib import Path
from anchortrain.scaling import locks
directory, done = Path(sys.argv[1]), 0
while done < 20:
    lock = locks.acquire(directory / "lock")
    if lock is None:
        continue
    with lock:
        os.close(os.open(directory / "inside", os.O_CREAT | os.O_EXCL))
        os.unlink(directory / "inside")
        done += 1
"""


def _python(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_a_lock_is_exclusive_and_free_again_when_its_holder_is_killed(tmp_path):
    path = tmp_path / "locks" / "task"
    process = _python(_HOLD, path)
    try:
        assert process.stdout.readline() == "held\n"
        assert locks.acquire(path) is None
        assert locks.holder(path)["pid"] == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert locks.holder(path) is None
        with locks.acquire(path) as lock:
            assert lock is not None and locks.acquire(path) is None
        assert not path.exists() and list(path.parent.iterdir()) == []
    finally:
        process.kill()


def test_many_processes_are_never_inside_at_once(tmp_path):
    processes = [_python(_CONTEND, tmp_path) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4


def test_of_another_host_only_a_lock_that_is_no_longer_touched_is_broken(tmp_path):
    path = tmp_path / "task"
    path.write_text(json.dumps({"token": "theirs", "host": "elsewhere", "pid": 1, "started": 0.0}))
    assert locks.acquire(path) is None
    old = time.time() - locks.STALE_SECONDS - 1
    os.utime(path, (old, old))
    with locks.acquire(path):
        assert locks.holder(path)["pid"] == os.getpid()


def test_a_holder_touches_its_lock_and_leaves_that_of_a_successor(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "TOUCH_SECONDS", 0.05)
    path = tmp_path / "task"
    lock = locks.acquire(path)
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    path.write_text(json.dumps({"token": "another"}))
    lock.release()
    assert json.loads(path.read_text()) == {"token": "another"}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"host": 3}'])
def test_a_damaged_lock_goes_stale_like_any_other(tmp_path, content):
    path = tmp_path / "task"
    path.write_text(content)
    assert locks.acquire(path) is None
    os.utime(path, (0, 0))
    with locks.acquire(path) as lock:
        assert lock is not None
