"""Where records come from: JSON lines (plain, gzip, zstd), Parquet, folders of texts, or the output of a command.

Everything is streamed as JSON lines, whatever it was: a row of Parquet becomes an object, a text file
one with the field `text`. So there is one format behind this module (docs/data.md), and one way to name a place in it.
"""

import base64
import gzip
import hashlib
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from anchortrain.errors import UserError

TEXTS = (".txt", ".md")
_LINES = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")

# The product of `anchortrain annotate` (see `annotate.job`): a folder with this file is read when it is finished.
JOB = "job.json"
MANIFEST = "manifest.json"
PART = "part-"

MAX_LINE_BYTES = 1 << 28
_ROWS = 256  # of Parquet at a time
_FRAME_BYTES = 1 << 11  # of zstd at a time: they may be 64 MiB, at most


class Line(NamedTuple):
    """One record, not yet parsed."""

    data: bytes
    where: str  # FILE:LINE
    default_id: str  # for a record without one: NAME:LINE, the same in any directory


class Position(NamedTuple):
    """Where a record begins in its file: lines (rows, files) before it, and bytes where they can be skipped."""

    number: int = 0
    offset: int = 0


START = Position()


def read_lines(paths: Iterable[str | Path]) -> Iterator[Line]:
    """The records of files and folders, blank lines left out. Raises UserError on what cannot be read."""
    for path, prefix in prefixed(expand(paths)):
        for _, line in read_from(path, prefix=prefix):
            yield line


def prefixed(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Each path with the prefix of ids of records without one: its name, or where two are called alike, all of it."""
    names = Counter(path.name for path in paths)
    return [(path, path.name if names[path.name] == 1 else str(path)) for path in paths]


def expand(paths: Iterable[str | Path]) -> list[Path]:
    """Files and folders of texts: other folders are replaced by the files in them. Raises UserError on empty ones."""
    found = []
    for path in map(Path, paths):
        try:
            found += _files_of(path) if path.is_dir() else [path]
        except OSError as error:
            raise _unreadable(error, path) from None
    return found


def _files_of(folder: Path) -> list[Path]:
    names = sorted(one.name for one in folder.iterdir())
    if JOB in names:
        if MANIFEST not in names:
            mend = "give the command that made it again"
            raise UserError("the annotation of this corpus is not finished", where=str(folder), mend=mend)
        return _parts_of(folder)
    files = [folder / name for name in names if name.endswith(_LINES)]
    if files:
        texts = sum(name.endswith(TEXTS) for name in names)
        if texts:
            print(f"warning: {folder}: {texts} texts beside the files of records are not read", file=sys.stderr)
        return files
    if next(_texts_of(folder), None) is None:
        mend = f"it needs files {', '.join(f'*{suffix}' for suffix in (*_LINES[:1], '.parquet', *TEXTS))}"
        raise UserError("no records in this folder", where=str(folder), mend=mend)
    return [folder]


def _parts_of(folder: Path) -> list[Path]:
    """The parts of a finished job. Raises UserError when one is missing."""
    where = folder / MANIFEST
    try:
        parts = [folder / one["file"] for one in json.loads(where.read_text(encoding="utf-8"))["parts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"damaged manifest: {error}", where=str(where), mend="annotate again") from None
    for part in parts:
        if not part.exists():
            raise UserError("this part of the annotation is missing", where=str(part), mend="annotate again")
    return parts


def read_from(
    path: Path, start: Position = START, *, prefix: str | None = None, seen: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Position, Line]]:
    """The records of one file, or of a folder of texts, from a position on, each with its own.

    Args:
      path: one that `expand` returned.
      start: a position that this function gave before.
      prefix: of the ids of records without one; default the file's name.
      seen: told how many bytes of the source have been read, before each record.
    """
    prefix = path.name if prefix is None else prefix
    number = start.number
    try:
        if path.is_dir():
            read = _read_texts(_texts_of(path), start, seen)
        elif path.suffix == ".parquet":
            read = _read_parquet(path, start, prefix, seen)
        elif path.suffix in TEXTS:
            read = _read_texts([(path, prefix)], start, seen)
        else:
            read = _read_json_lines(path, start, prefix, seen)
        for position, line in read:
            number = position.number + 1
            yield position, line
    except (EOFError, zlib.error, gzip.BadGzipFile, _Damaged) as error:
        what = f"damaged {'zstd' if path.suffix == '.zst' else 'gzip'} file: {error}"
        raise UserError(what, where=f"{path}:{number + 1}", mend="compress it again") from None
    except OSError as error:
        raise _unreadable(error, path) from None


def _unreadable(error: OSError, path: Path) -> UserError:
    return UserError(f"cannot be read: {error.strerror or error}", where=str(error.filename or path))


def _read_json_lines(
    path: Path, start: Position, prefix: str, seen: Callable[[int], None]
) -> Iterator[tuple[Position, Line]]:
    with open(path, "rb") as stored, _decompressed(stored, path.suffix) as file:
        seekable = stored.seekable()  # a pipe does not say how far it was read
        number, offset = start if start.offset else START
        if offset:
            file.seek(offset)
        while data := file.readline(MAX_LINE_BYTES + 1):
            if len(data) > MAX_LINE_BYTES:
                what = f"a line of more than {MAX_LINE_BYTES >> 20} MiB"
                raise UserError(what, where=f"{path}:{number + 1}", mend="put one record on each line")
            if number >= start.number and data.strip():
                line = Line(data, f"{path}:{number + 1}", f"{prefix}:{number + 1}")
                seen(stored.tell() if seekable else offset + len(data))
                yield Position(number, offset if _is_plain(path) else 0), line
            number += 1
            offset += len(data)


def _is_plain(path: Path) -> bool:
    return path.suffix not in (".gz", ".zst")


class _Damaged(Exception):
    """A compressed file that cannot be read to its end."""


class _Zstandard(io.RawIOBase):
    """The content of a zstd file. The library's own reader takes a frame that is cut short for the end of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._blocks = self._read_frames()
        self._block = memoryview(b"")

    def _read_frames(self) -> Iterator[bytes]:
        import zstandard

        library = zstandard.ZstdDecompressor()
        frame, data = None, b""
        try:
            while data := data or self._file.read(_FRAME_BYTES):
                frame = frame or library.decompressobj()
                yield frame.decompress(data)
                data = frame.unused_data  # frames may follow each other
                frame = None if frame.eof else frame
        except zstandard.ZstdError as error:
            raise _Damaged(str(error)) from None
        if frame is not None:
            raise _Damaged("it ends within a frame")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._block = memoryview(block)
        size = min(len(buffer), len(self._block))
        buffer[:size], self._block = self._block[:size], self._block[size:]
        return size


def _decompressed(file: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".zst":
        return io.BufferedReader(_Zstandard(file), 1 << 20)
    return gzip.GzipFile(fileobj=file) if suffix == ".gz" else file


def _read_parquet(
    path: Path, start: Position, prefix: str, seen: Callable[[int], None]
) -> Iterator[tuple[Position, Line]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number, groups = 0, list(range(file.num_row_groups))
            while groups and number + file.metadata.row_group(groups[0]).num_rows <= start.number:
                number += file.metadata.row_group(groups.pop(0)).num_rows
            size, rows = path.stat().st_size, file.metadata.num_rows
            for batch in file.iter_batches(batch_size=_ROWS, row_groups=groups):
                seen(size * number // rows)
                for row in batch.to_pylist():
                    if number >= start.number:
                        where = f"{path}:{number + 1}"
                        data = json.dumps(row, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")
                        yield Position(number), Line(data, where, f"{prefix}:{number + 1}")
                    number += 1
    except pa.ArrowException as error:
        what = f"not a Parquet file, or damaged: {str(error).splitlines()[0]}"
        raise UserError(what, where=str(path)) from None


def _plain(value: Any) -> str | dict[str, str]:
    """What JSON has no type for: times and decimals as text, bytes as the text that they hold, or in base64."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        # An image, perhaps, in a field that nobody asked for. Where a text is expected an object is refused.
        return {"base64": base64.b64encode(value).decode()}


def _texts_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """The text files below a folder, with their names in it, in a fixed order."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXTS and path.is_file():
            yield path, path.relative_to(folder).as_posix()


def _read_texts(
    files: Iterable[tuple[Path, str]], start: Position, seen: Callable[[int], None]
) -> Iterator[tuple[Position, Line]]:
    """One record for each file: its name is the id, and empty files are left out as blank lines are."""
    read = 0
    for number, (path, name) in enumerate(files):
        if number < start.number:
            continue
        size = path.stat().st_size
        if size > MAX_LINE_BYTES:
            what = f"a text of more than {MAX_LINE_BYTES >> 20} MiB"
            raise UserError(what, where=str(path), mend="cut it into several files")
        content = path.read_bytes()
        if not content.strip():
            continue
        check_name(path)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            what = f"invalid UTF-8 at byte {error.start + 1}"
            raise UserError(what, where=str(path), mend="save the file as UTF-8, or remove it") from None
        if "\0" in text:
            raise UserError("it has NUL characters: this is no text", where=str(path), mend="remove the file")
        read += size
        seen(read)
        yield Position(number), Line(json.dumps({"text": text}).encode(), str(path), name)


def check_name(path: Path) -> None:
    """Raises UserError when the name is no text: it would become the id of a record."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError("its name is not UTF-8", where=ascii(str(path)), mend="rename it") from None


def digest_if_named(path: str) -> str:
    """`digest` of a file that a configuration names; "" for "". Raises UserError when it cannot be read."""
    try:
        return digest(Path(path)) if path else ""
    except OSError as error:
        raise _unreadable(error, Path(path)) from None


def digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder of texts."""
    if not path.is_dir():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for one, name in _texts_of(path):
        total.update(f"{digest(one)} {name}\n".encode())
    return total.hexdigest()


def check_apart(out: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raises UserError when the file `out` is a folder, one of the inputs, or a part of a job among them."""
    place = Path(out).resolve()
    if place.is_dir():
        raise UserError("is a folder", where=str(out), mend="name a file")
    of_a_job = place.name.startswith(PART) or place.name in (JOB, MANIFEST)
    for source in (Path(one).resolve() for one in inputs):
        if place == source or of_a_job and place.parent == source:
            raise UserError("would overwrite what is read", where=str(out), mend="choose another place")
