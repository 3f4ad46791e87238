"""A file of JSON lines that takes long to make: what is there already is kept, and gone on from."""

import contextlib
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
    """Rows come in numbered parts, in any order; until `finish` they lie in a file beside the one to be made.

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
        self.parts: dict[int, list[Row]] = {}  # that are there, by number
        self._head = {"unfinished": dict(identity)}
        try:
            if not str(path) or self.path.is_dir():
                raise UserError("is a directory", where=str(path) or "''", mend="name a file in it")
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
        with contextlib.suppress(OSError):  # what could not be written was said
            self._file.close()
        if not self._passed_on and not self.parts:
            self.unfinished.unlink(missing_ok=True)

    @property
    def rows(self) -> list[Row]:
        """All that are there, in the order of their parts."""
        return [row for number in sorted(self.parts) for row in self.parts[number]]

    def add(self, number: int, part: Sequence[Row]) -> None:
        """Keeps a part: it is safe, however the process ends. Raises UserError when it cannot be written."""
        try:
            self._write(part if self._passed_on else [{"part": number, "rows": part}])
        except OSError as error:
            where = self.path if self._passed_on else self.unfinished
            mend = "make room; the same command goes on from what is kept"
            raise UserError(f"cannot write: {error.strerror}", where=str(where), mend=mend) from None
        self.parts[number] = list(part)

    def finish(self) -> None:
        """Makes the file, of all rows at once."""
        if not self._passed_on:
            write_jsonl_atomic(self.path, self.rows)
            self.unfinished.unlink()
            self.parts = {}

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
            if lines and (head := json.loads(lines[0])) != self._head:
                old, new = _flat(head["unfinished"]), _flat(self._head["unfinished"])
                names = ", ".join(sorted(name for name in old | new if old.get(name) != new.get(name)))
                mend = "give the same options, name another file, or remove it"
                raise UserError(f"holds rows of a request with other {names}", where=str(self.unfinished), mend=mend)
            self.parts = {part["part"]: part["rows"] for part in map(json.loads, lines[1:])}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError("is damaged", where=str(self.unfinished), mend="remove it") from None
        if not lines:
            self._write([self._head])


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Its names and those of the objects in it."""
    found: dict[str, Any] = {}
    for name, value in identity.items():
        found |= value if isinstance(value, dict) else {name: value}
    return found
