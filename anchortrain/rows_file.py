"""A file of JSON lines that takes long to make: what is there already is kept, and gone on from."""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from anchortrain.errors import UserError
from anchortrain.files import is_stream, write_jsonl_atomic

Row = dict[str, Any]

UNFINISHED = ".unfinished"


class RowsFile:
    """Rows come in parts, in a fixed order; until `finish` they lie in a file of their own beside the one to be made.

    A device or a pipe gets each part at once, and nothing is kept.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        """Opens what is unfinished, or begins it.

        Args:
          path: to be made. Parent directories are made; a link stays one.
          identity: JSON that says what the rows follow from: only what has the same is gone on from.

        Raises:
          UserError: when nothing can be written there, or something else is unfinished there.
        """
        self.path = Path(os.path.realpath(path))
        self.unfinished = self.path.with_name(self.path.name + UNFINISHED)
        self.parts: list[list[Row]] = []  # that are there
        self._head = {"unfinished": dict(identity)}
        try:
            if self.path.is_dir():
                raise UserError("is a directory", where=str(path), mend="name a file in it")
            self._passed_on = is_stream(path)
            if self._passed_on:
                self._file: IO[bytes] = open(path, "wb")
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.unfinished, "a+b")
        except OSError as error:
            mend = "choose another place"
            raise UserError(f"cannot write: {error.strerror}", where=str(path), mend=mend) from None
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        if not self._passed_on and not self.parts:
            self.unfinished.unlink(missing_ok=True)

    def add(self, part: Sequence[Row]) -> None:
        """Keeps the next part. It is safe, however the process ends."""
        self.parts.append(list(part))
        self._write(part if self._passed_on else [{"rows": part}])

    def finish(self) -> None:
        """Makes the file, of all rows at once."""
        if not self._passed_on:
            write_jsonl_atomic(self.path, [row for part in self.parts for row in part])
            self.unfinished.unlink()
            self.parts = []

    def _write(self, values: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())
        self._file.flush()

    def _take_up(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError("another command is writing it", where=str(self.path), mend="name another file") from None
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may have been cut off
        self._file.truncate(len(whole))
        lines = whole.split(b"\n")[:-1]
        try:
            if lines and json.loads(lines[0]) != self._head:
                what = "holds rows of another request"
                mend = "remove it, give the same options, or name another file"
                raise UserError(what, where=str(self.unfinished), mend=mend)
            self.parts = [json.loads(line)["rows"] for line in lines[1:]]
        except (ValueError, TypeError, KeyError):
            raise UserError("is damaged", where=str(self.unfinished), mend="remove it") from None
        if not lines:
            self._write([self._head])
