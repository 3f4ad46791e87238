"""Locks of a study's tasks on a file system that several processes or machines share.

A lock is a file made exclusively. Its holder touches it every few seconds; one that was not touched for long, or whose
holder was a process of this machine that is gone, is stale and may be broken.
"""

import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TOUCH_SECONDS = 10.0
STALE_SECONDS = 120.0  # by the file system's clock


class Lock:
    """A lock that is held; context manager, released at its end."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self._token = path, token
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._touch, daemon=True)
        self._thread.start()

    def _touch(self) -> None:
        while not self._released.wait(TOUCH_SECONDS):
            try:
                os.utime(self.path)
            except OSError:
                return  # broken by someone who took us for dead

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        self._released.set()
        if _read(self.path).get("token") == self._token:
            self.path.unlink(missing_ok=True)


def acquire(path: Path) -> Lock | None:
    """The lock, or None when someone else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _break_if_stale(path)
    token = secrets.token_hex(8)
    content = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
    # Written beside and linked: a lock is never seen without its content.
    mine = path.with_name(f"{path.name}.{token}")
    mine.write_text(json.dumps(content), encoding="utf-8")
    try:
        os.link(mine, path)
    except FileExistsError:
        return None
    finally:
        mine.unlink()
    return Lock(path, token)


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lock: `host`, `pid`, `started`; None when nobody does."""
    return _read(path) if path.exists() and not _is_stale(path, _read(path)) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_stale(path: Path, content: dict[str, Any]) -> bool:
    if content.get("host") == socket.gethostname() and isinstance(content.get("pid"), int):
        if not _is_alive(content["pid"]):
            return True
    probe = path.with_name(f".clock-{secrets.token_hex(4)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False  # released in between
    finally:
        probe.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _break_if_stale(path: Path) -> None:
    content = _read(path)
    if not _is_stale(path, content):
        return
    aside = path.with_name(f"{path.name}.stale-{secrets.token_hex(4)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # someone else was first
    if _read(aside).get("token") != content.get("token"):
        # Broken and taken anew between our two looks: give it back.
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
    aside.unlink(missing_ok=True)
