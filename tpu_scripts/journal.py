"""What this machine has begun: a line on disk before anything is created, so that no kill can hide a machine.

~/.anchortrain/tpu/journal.jsonl     one line before each create, one after each confirmed delete
~/.anchortrain/tpu/RUN.lock          held by the one command of this machine that works on the run
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError


def default_directory() -> Path:
    return Path.home() / ".anchortrain" / "tpu"


class Journal:
    """Lines in the order in which they were written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / "journal.jsonl"

    def write(self, event: str, **fields: Any) -> None:
        """Appends a line and waits until it is on disk."""
        line = json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a full disk or a kill cut the line before off
                        line = "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # one that goes on with other machines must know it
            raise UserError(f"cannot be written: {error.strerror}", where=str(self._path)) from None

    def read(self) -> list[dict[str, Any]]:
        """All lines; one that a kill or a full disk cut off is left out."""
        found = []
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            texts = ("event", "project", "zone", "name", "owner")
            if isinstance(entry, dict) and "event" in entry and all(isinstance(entry.get(t, ""), str) for t in texts):
                found.append(entry)
        return found

    def places(self) -> list[tuple[str, str]]:
        """(project, zone) wherever something was created from here, first come first."""
        lines = [entry for entry in self.read() if entry["event"] == "create"]
        found = dict.fromkeys((entry.get("project", ""), entry.get("zone", "")) for entry in lines)
        return [place for place in found if all(place)]

    def owners(self) -> list[str]:
        """Under whose label something was created from here."""
        lines = [entry for entry in self.read() if entry["event"] == "create"]
        return list(dict.fromkeys(entry["owner"] for entry in lines if entry.get("owner")))

    def open(self) -> dict[tuple[str, str, str], float]:
        """(project, zone, name) of what was to be created and is not known to be gone -> when, seconds since the
        epoch."""
        found: dict[tuple[str, str, str], float] = {}
        for entry in self.read():
            key = tuple(entry.get(name, "") for name in ("project", "zone", "name"))
            if entry["event"] == "create":
                time = entry.get("time")
                found[key] = float(time) if isinstance(time, int | float) else 0.0
            elif entry["event"] == "deleted":
                found.pop(key, None)
        return found

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Raises UserError where another command of this machine holds it; the system frees it with its process."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{name}.lock"
        with open(path, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read().strip() or "another process"
                raise UserError(f"{name} is being worked on by {who}", mend="stop that command first") from None
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            yield
