"""Annotated records as the report sees them: documents of chunks, each with an annotation, none, or a failure."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from anchortrain.annotation import Annotation
from anchortrain.data.records import Document, empty_corpus, load_object, parse_training_record, read_lines


class Chunk(NamedTuple):
    """A chunk of a document, or a whole response. `failed` says why it has no annotation; None: nothing failed."""

    text: str
    annotation: Annotation | None
    failed: str | None = None


class Record(NamedTuple):
    """A document, or an instruction as a document of one chunk, its response."""

    id: str
    chunks: tuple[Chunk, ...]


def read_annotated(paths: Iterable[str | Path]) -> Iterator[Record]:
    """Streams documents and instructions, also mixed. Raises UserError on a bad record, or when there is none."""
    paths, empty = list(paths), True
    for line in read_lines(paths):
        empty = False
        record = parse_training_record(line)
        # Only what an annotator could not do has the field: the others are not parsed twice.
        fields = load_object(line) if b'"failed"' in line.data else {}
        yield (
            _from_document(record, fields)
            if isinstance(record, Document)
            else Record(record.id, (Chunk(record.response, record.annotation, _reason(fields, record.annotation)),))
        )
    if empty:
        raise empty_corpus(paths)


def _from_document(document: Document, fields: dict[str, Any]) -> Record:
    chunks = fields.get("chunks") or [{}] * len(document.chunks)
    return Record(
        document.id,
        tuple(
            Chunk(chunk.text, chunk.annotation, _reason(one, chunk.annotation))
            for chunk, one in zip(document.chunks, chunks, strict=True)
        ),
    )


def _reason(fields: dict[str, Any], annotation: Annotation | None) -> str | None:
    """Why an annotation is missing. Reasons come from anywhere, so they are cut to a line of sensible length."""
    if annotation is not None or fields.get("failed") is None:
        return None
    return " ".join(str(fields["failed"]).split())[:200] or "no reason given"
