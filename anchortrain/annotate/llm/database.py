"""A SQLite file that several threads, tasks and processes write at once, each write durable when it returns."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from anchortrain.errors import UserError

FORMAT = 1  # of the tables, kept in the file; another one is refused
WAIT_SECONDS = 60.0  # for other processes that write

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]


class Database:
    """One file, opened at once. Operations run on a thread of its own; those that wait share a transaction.

    With many requests in flight a disk that needs milliseconds for a commit would be slower than the server: while
    one transaction is written, the next gathers whatever arrives.
    """

    def __init__(self, path: Path, tables: str) -> None:
        """Opens or makes the file and its `tables` (SQL). Raises UserError."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="annotate-sqlite")
        self._waiting: list[tuple[Operation[Any], asyncio.Future[Any]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the directory: {error.strerror}", where=str(path.parent)) from None
        self._connection = self._thread.submit(self._guarded, lambda: self._open(tables)).result()

    def _open(self, tables: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=WAIT_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")  # a file from elsewhere runs no functions
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # also a power cut loses no paid answer
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found not in (0, FORMAT):
                raise UserError(f"written by another version (format {found})", where=str(self._path))
            connection.executescript(f"BEGIN IMMEDIATE; {tables}; PRAGMA user_version = {FORMAT}; COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    async def run(self, operation: Operation[T]) -> T:
        """The result of `operation`, committed. Operations must not raise. Raises UserError when the disk is full…"""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await future

    def run_now(self, operation: Operation[T]) -> T:
        """Like `run`, for a thread without an event loop."""
        return self._thread.submit(self._commit, [operation]).result()[0]

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            operations = [operation for operation, _ in batch]
            try:
                results = await loop.run_in_executor(self._thread, self._commit, operations)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():  # its task was cancelled
                    future.set_result(result)
        self._flushing = None

    def _commit(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        def transaction() -> list[Any]:
            # Immediate: a transaction that begins by reading cannot wait for another's write.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                results = [operation(self._connection) for operation in operations]
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back already after some errors
                    self._connection.execute("ROLLBACK")
                raise
            return results

        return self._guarded(transaction)

    def _guarded(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except sqlite3.ProgrammingError:  # ours, no user's
            raise
        except sqlite3.Error as error:
            mend = "free space, allow writing there, or choose another directory; what is finished is saved"
            raise UserError(f"cannot keep answers: {error}", where=str(self._path), mend=mend) from None

    async def close(self) -> None:
        """Finishes what was begun and closes the file."""
        while self._flushing is not None:
            await self._flushing
        self.close_now()

    def close_now(self) -> None:
        """Closes the file; for a thread without an event loop. May be called again."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._connection.close).result()
            self._thread.shutdown()
