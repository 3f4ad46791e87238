"""The first pass over a corpus: what is in it, how it is cut into parts, and a sample to fit on.

A part is a run of records of one file, the unit that is annotated, written whole and resumed by. Memory is bounded but
for 8 bytes a record, which find duplicate ids.
"""

import array
import dataclasses
import hashlib
import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from anchortrain.annotate.passages import Passage
from anchortrain.annotate.records import Parser, Record
from anchortrain.data.sources import START, Position, digest, read_from
from anchortrain.errors import UserError
from anchortrain.progress import Progress

_SAMPLED_CHARACTERS = 10_000  # of a passage


@dataclasses.dataclass(frozen=True)
class Source:
    """A file, or a folder of texts, as it was when it was indexed."""

    path: str
    prefix: str  # of the ids of records that have none
    sha256: str
    bytes: int
    modified: int  # nanoseconds


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    source: int  # index of its source
    start: Position
    records: int
    chunks: int


@dataclasses.dataclass(frozen=True)
class Index:
    sources: list[Source]
    parts: list[Part]
    records: int
    chunks: int
    bad_records: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Index":
        sources = [Source(**one) for one in value["sources"]]
        parts = [Part(**{**one, "start": Position(*one["start"])}) for one in value["parts"]]
        return cls(sources, parts, value["records"], value["chunks"], value["bad_records"])


class Sample:
    """Up to `size` passages, drawn evenly by a hash of record, chunk and seed: in any order the same ones."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, str(seed).encode()
        self._kept: list[tuple[int, str, int, Passage]] = []  # a heap with the largest hash (negated) first

    def add(self, record: Record) -> None:
        for i in range(len(record.texts) if self._size else 0):
            key = hashlib.blake2b(f"{record.id}\0{i}".encode(), digest_size=8, key=self._seed).digest()
            rank = -int.from_bytes(key)
            if len(self._kept) == self._size and rank <= self._kept[0][0]:
                continue
            passage = record.passage(i)
            text, before = passage.text[:_SAMPLED_CHARACTERS], passage.before[:_SAMPLED_CHARACTERS]
            entry = (rank, record.id, i, passage._replace(text=text, before=before, fields={}))
            if len(self._kept) < self._size:
                heapq.heappush(self._kept, entry)
            else:
                heapq.heapreplace(self._kept, entry)

    def passages(self) -> list[Passage]:
        """In a fixed order."""
        return [passage for *_, passage in sorted(self._kept, key=lambda entry: entry[:3])]


def stat(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change (ns) of a file, or of all texts in a folder."""
    if path.is_dir():
        stats = [one.stat() for one in sorted(path.rglob("*")) if one.is_file()]
        return sum(one.st_size for one in stats), max(one.st_mtime_ns for one in stats)
    one = path.stat()
    return one.st_size, one.st_mtime_ns


def check_unchanged(sources: Sequence[Source]) -> None:
    """Raises UserError when a source is not what it was when it was indexed."""
    for source in sources:
        path = Path(source.path)
        try:
            same = stat(path) == (source.bytes, source.modified) or digest(path) == source.sha256
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=source.path) from None
        if not same:
            mend = "choose another --out, or give the file back as it was to continue"
            raise UserError("has changed since this annotation was begun", where=source.path, mend=mend)


def records_of(
    source: Source,
    parse: Parser,
    *,
    start: Position,
    set_aside: bool,
    bad: TextIO | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[Position, Record]]:
    """The records of a source from a position on.

    Args:
      source: where to read.
      parse: what makes records.
      start: position of the first.
      set_aside: leave out bad records in place of raising UserError at the first.
      bad: file that gets a line of JSON for each record left out.
      seen: told how many bytes of the source have been read.
    """
    for position, line in read_from(Path(source.path), start, prefix=source.prefix, seen=seen):
        try:
            yield position, parse(line)
        except UserError as error:
            if not set_aside:
                raise
            if bad is not None:
                bad.write(json.dumps({"where": line.where, "error": str(error)}, ensure_ascii=False) + "\n")


def make_index(
    paths: Sequence[tuple[Path, str]],
    parse: Parser,
    *,
    part_chunks: int,
    sample: Sample,
    set_aside: bool = False,
    bad: TextIO | None = None,
) -> Index:
    """Reads everything once.

    Args:
      paths: files or folders of texts, with the prefix of ids in them.
      parse: see `records.parser`.
      part_chunks: a part ends when it has so many chunks.
      sample: gets every record.
      set_aside, bad: see `records_of`.

    Raises:
      UserError: on what cannot be read, on an empty corpus, and on ids that occur twice.
    """
    sources, parts, hashes = [], [], array.array("Q")
    skipped = _Counter(bad)
    for path, prefix in paths:
        sources.append(_source(path, prefix))
    with Progress(sum(source.bytes for source in sources), "bytes", "index") as progress:
        total = 0
        for number, source in enumerate(sources):
            begin, start, records, chunks = progress.done, None, 0, 0

            def seen(read: int, begin: int = begin) -> None:
                progress.update(begin + read - progress.done)

            options = {"start": START, "set_aside": set_aside, "bad": skipped, "seen": seen}
            for position, record in records_of(source, parse, **options):
                hashes.append(_hash(record.id))
                sample.add(record)
                start = position if start is None else start
                records, chunks, total = records + 1, chunks + len(record.texts), total + len(record.texts)
                progress.update(chunks=total)
                if chunks >= part_chunks:
                    parts.append(Part(f"part-{len(parts):05d}", number, start, records, chunks))
                    start, records, chunks = None, 0, 0
            if start is not None:
                parts.append(Part(f"part-{len(parts):05d}", number, start, records, chunks))
            seen(source.bytes)
    if not parts:
        where = ", ".join(source.path for source in sources)
        what = "every record is bad" if skipped.lines else "empty corpus: no records"
        raise UserError(what, where=where, mend=f"the first: {skipped.first}" if skipped.first else None)
    _check_ids(hashes, sources, parse, set_aside)
    return Index(sources, parts, len(hashes), total, skipped.lines)


def _source(path: Path, prefix: str) -> Source:
    try:
        size, modified = stat(path)
        if not path.is_file() and not path.is_dir():
            mend = "write it to a file first: annotating reads it more than once"
            raise UserError("is no regular file", where=str(path), mend=mend)
        return Source(str(path), prefix, digest(path), size, modified)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(error.filename or path)) from None


class _Counter:
    """A text file that counts its lines; the file may be missing."""

    def __init__(self, file: TextIO | None) -> None:
        self._file, self.lines, self.first = file, 0, ""

    def write(self, line: str) -> int:
        self.lines += 1
        self.first = self.first or json.loads(line)["error"]
        return self._file.write(line) if self._file is not None else 0


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")


def _check_ids(hashes: array.array, sources: Sequence[Source], parse: Parser, set_aside: bool) -> None:
    ordered = np.sort(np.frombuffer(hashes, np.uint64))
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not twice:
        return
    # Only now are the ids themselves looked at: the hashes do not know them.
    seen: dict[str, str] = {}
    for source in sources:
        for _, record in records_of(source, parse, start=START, set_aside=set_aside):
            if _hash(record.id) in twice:
                if record.id in seen:
                    mend = "make ids unique, or ignore them: --id_field ''"
                    what = f"the id {record.id!r} occurs twice, first at {seen[record.id]}"
                    raise UserError(what, where=record.where, mend=mend)
                seen[record.id] = record.where
