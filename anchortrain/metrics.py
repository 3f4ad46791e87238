"""Metrics of a run: metrics.jsonl, one object a line, and the same as TensorBoard scalars.

A line is `{"step": …, "name": value, …}`. Names that start with "time/" hold seconds and rates; all others are a
pure function of the run's configuration and data, so that a resumed run writes the file of an uninterrupted one.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anchortrain.errors import UserError
from anchortrain.files import write_text_atomic

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"


class MetricsWriter:
    """Appends to the metrics of one run. Each line is handed to the system as it is written."""

    def __init__(self, run_dir: str | Path, *, resume_step: int = 0) -> None:
        """Opens the metrics of `run_dir`, which is made if missing.

        Args:
          run_dir: the run's directory.
          resume_step: the last step that still counts: whatever was written after it is dropped, with a line that a
            killed writer left unfinished.

        Raises:
          UserError: when the file cannot be written, or a line of it is not metrics.
        """
        # It imports torch where that is installed, which takes seconds: only a run that writes pays.
        from tensorboardX import SummaryWriter

        self._path = Path(run_dir) / METRICS_FILE
        write_text_atomic(self._path, _lines_until(self._path, resume_step))
        self._file = open(self._path, "a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(Path(run_dir) / TENSORBOARD_DIR), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line. NaN and infinities become null: JSON has none.

        Args:
          step: optimizer steps done.
          values: name -> number; anything that float() takes.
        """
        numbers = {name: value if isinstance(value, int) else float(value) for name, value in values.items()}
        line = {"step": step} | {n: v if math.isfinite(v) else None for n, v in numbers.items()}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write: {error.strerror}", where=str(self._path), mend="free space") from None
        for name, number in numbers.items():
            self._tensorboard.add_scalar(name, number, step)

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; an unfinished last one is left out.

    Raises UserError when another line is not a JSON object with a step.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    unfinished = lines.pop()  # "" unless the writer was killed within a line
    found = []
    for i, line in enumerate([*lines, unfinished] if _is_metrics(unfinished) else lines, start=1):
        if not _is_metrics(line):
            raise UserError("is not a line of metrics", where=f"{path}:{i}", mend="remove the line")
        found.append(json.loads(line))
    return found


def _lines_until(path: Path, step: int) -> str:
    """The text of the lines up to `step`; empty when there is no file yet."""
    if step <= 0 or not path.exists():
        return ""
    return "".join(json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step)


def _is_metrics(line: str) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("step"), int)
