"""Answers by what was asked: good ones are kept, so that none is paid twice."""

import hashlib
import json
import sqlite3
from typing import Any

from anchortrain.annotate.llm.database import Database
from anchortrain.annotation import Annotation, AnnotationError, from_json

TABLE = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, annotation TEXT NOT NULL) WITHOUT ROWID"


def cache_key(deciding: Any) -> bytes:
    """SHA-256 of plain JSON values: all that decides an answer."""
    text = json.dumps(deciding, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


class Cache:
    """A table of annotations. Processes may share it: the first answer to a question is everyone's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: bytes) -> Annotation | None:
        """What was answered, or None. Raises UserError."""
        return await self._database.run(lambda connection: _read(connection, key))

    async def put(self, key: bytes, annotation: Annotation) -> Annotation:
        """Keeps an answer, durable on return. Returns the one that counts: another process may have been first."""
        text = json.dumps(annotation, ensure_ascii=False)

        def write(connection: sqlite3.Connection) -> Annotation:
            if (first := _read(connection, key)) is not None:
                return first
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))
            return annotation

        return await self._database.run(write)


def _read(connection: sqlite3.Connection, key: bytes) -> Annotation | None:
    found = connection.execute("SELECT annotation FROM answers WHERE key = ?", (key,)).fetchone()
    if found is None:
        return None
    try:
        return from_json(json.loads(found[0]))
    except (ValueError, TypeError, RecursionError, AnnotationError):
        return None  # damaged: asked again
