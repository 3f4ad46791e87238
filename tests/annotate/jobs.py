"""What the tests of whole jobs share: a corpus of tales, the command as a process, what it leaves behind, its death."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anchortrain.annotate.config import Annotating
from anchortrain.config_reader import build
from anchortrain.gin_reader import Bound
from tests.conftest import ROOT

_MARK = "ANCHORTRAIN_TEST_MARK"
_PLACES = ("mill", "forest", "castle", "harbour", "village", "river", "garden", "tower")
_NAMES = ("Anna", "Peter", "Martha", "Tom", "Greta", "Hans")
_WEATHER = ("dark and cold", "bright and happy", "calm", "full of snow", "terrible", "lovely")


def tales(n: int, *, paragraphs: int = 3) -> Iterator[dict[str, Any]]:
    """Records with a text of a few paragraphs, all different, and a label; most have no id."""
    for i in range(n):
        rng = random.Random(i)
        told = [
            f"{rng.choice(_NAMES)} met the fox number {i} near the {rng.choice(_PLACES)}, where it was "
            f"{rng.choice(_WEATHER)}. They walked to the {rng.choice(_PLACES)} and talked of {rng.choice(_NAMES)}, "
            f"who had lost {rng.randrange(1000)} coins in the {rng.choice(_PLACES)}; part {k} of the tale ended there."
            for k in range(1 + i % paragraphs)
        ]
        yield ({"id": f"tale/{i}"} if i % 5 == 0 else {}) | {"text": "\n\n".join(told), "genre": f"kind {i % 7}"}


def write(path: Path, records: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def annotating(**bindings: Any) -> Annotating:
    """A configuration: `AnnotateConfig` by field; `Section__field` for the others. Labels unless told otherwise."""
    usual = {"annotator": "labels", "LabelsConfig__fields": {"genre": "genre"}, "part_chunks": 20}
    bound = usual | {"ChunkConfig__min_tokens": 24} | bindings
    names = {name: name.replace("__", ".") if "__" in name else f"AnnotateConfig.{name}" for name in bound}
    return build(Annotating, {names[name]: Bound(value, "test") for name, value in bound.items()})


def command(inputs: Path, out: Path, *options: str, annotator: str = "labels", part_chunks: int = 20) -> list[str]:
    """`anchortrain annotate` as a process would be started."""
    labels = ["--labels", "genre"] if "labels" in annotator else []
    gin = ["--gin_bindings", f"AnnotateConfig.part_chunks = {part_chunks}", "--min_tokens", "24"]
    argv = ["annotate", "--inputs", str(inputs), "--out", str(out), "--annotator", annotator, *labels, *gin, *options]
    return [sys.executable, "-m", "anchortrain", *argv]


def run(argv: Sequence[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """The command until its end."""
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=120, **kwargs)


def error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command failed; asserts that it is one, and no traceback."""
    assert done.returncode == 2, done.stderr
    *progress, last = done.stderr.splitlines()
    assert last.startswith("anchortrain: error: ") and "Traceback" not in done.stderr, done.stderr
    assert all(line.startswith(("index: ", "annotate: ", "asking again")) for line in progress), done.stderr
    return last.removeprefix("anchortrain: error: ")


def product(out: Path) -> dict[str, bytes]:
    """What a job is for: its parts, manifest and lists, by name."""
    names = [path.name for path in out.iterdir() if path.is_file() and path.name not in (".lock", "job.json")]
    return {name: (out / name).read_bytes() for name in sorted(names)}


class Started:
    """Context manager around a process in a session of its own, whose descendants can be found after its death."""

    def __init__(self, argv: Sequence[str], **environment: str) -> None:
        self._mark = uuid.uuid4().hex
        environment = os.environ | environment | {_MARK: self._mark}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(argv, cwd=ROOT, env=environment, start_new_session=True, **pipes)

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: Any) -> None:
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def alive(self) -> list[int]:
        """Processes of this command that have not ended, whoever their parent is."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                ended = (path.parent / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if not ended and f"{_MARK}={self._mark}".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:  # it has ended meanwhile
                continue
        return found

    def kill(self) -> None:
        """SIGKILL to the command itself, as the kernel does where memory is short."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def gone(self, seconds: float = 10.0) -> bool:
        """Whether all its processes end within some time."""
        limit = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > limit:
                return False
            time.sleep(0.05)
        return True


def until(condition: Any, seconds: float = 60.0) -> None:
    """Waits for something to come true."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def finished(out: Path) -> int:
    """Parts of a job that are finished."""
    return len(list((out / "state").glob("*.json")))
