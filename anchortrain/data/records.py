"""Readers of documents, instructions and prompts; docs/data.md describes the format.

Everything is streamed, one record at a time, and checked here: whatever a parser returns is complete,
of the right type, and follows the annotation grammar. Errors name FILE:LINE and field.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from anchortrain.annotation import Annotation, AnnotationError, from_json
from anchortrain.data.sources import Line, read_lines
from anchortrain.errors import UserError

KINDS = ("documents", "instructions")

_Record = TypeVar("_Record")

# A line end and the blank lines after it. They stay with the chunk before them.
_SEPARATOR = re.compile(r"\n(?:[^\S\n]*\n)+")


class Chunk(NamedTuple):
    """Part of a document. `annotation` None means that it has none; an empty one is an empty plan."""

    text: str
    annotation: Annotation | None


class Document(NamedTuple):
    id: str
    chunks: tuple[Chunk, ...]
    where: str


class Instruction(NamedTuple):
    id: str
    prompt: str
    response: str
    annotation: Annotation | None
    where: str


class Prompt(NamedTuple):
    id: str
    prompt: str
    where: str


def cut_chunks(text: str) -> list[str]:
    """Cuts at blank lines. Separators stay at the end of the chunk before: joined, the chunks are `text`."""
    solid = text.rstrip()
    indent = len(text) - len(text.lstrip())
    ends = [found.end() for found in _SEPARATOR.finditer(text) if indent < found.end() < len(solid)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def load_object(line: Line) -> dict[str, Any]:
    """The JSON object of a line. Raises UserError."""
    try:
        value = json.loads(line.data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        what = f"invalid UTF-8 at byte {error.start + 1} of the line"
        raise UserError(what, where=line.where, mend="save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        what = f"broken JSON at column {error.colno}: {error.msg}"
        raise UserError(what, where=line.where, mend="every line must be one JSON object") from None
    except RecursionError:
        raise UserError("broken JSON: nested too deeply", where=line.where) from None
    except ValueError:  # Python makes no number of thousands of digits
        raise UserError("broken JSON: a number with too many digits", where=line.where) from None
    if not isinstance(value, dict):
        raise UserError(f"a record must be a JSON object, got {named(value)}", where=line.where)
    return value


def named(value: Any) -> str:
    """The JSON type of a value, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def text_field(value: Any, field: str, where: str, *, empty: bool = False) -> str:
    """`value` as the text of a field. Raises UserError when it is none, or no valid Unicode."""
    if not isinstance(value, str):
        raise UserError(f"field {field!r} must be a string, got {named(value)}", where=where)
    if not value and not empty:
        raise UserError(f"field {field!r} is empty", where=where, mend="fill it or leave the record out")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"field {field!r} has a lone surrogate at character {error.start + 1}"
        raise UserError(what, where=where, mend="replace it: it is no valid Unicode text") from None
    return value


def _annotation(value: Any, field: str, where: str) -> Annotation | None:
    if value is None:
        return None
    try:
        found = from_json(value)
    except AnnotationError as error:
        raise UserError(f"field {field!r}: {error}", where=where, mend="correct the tag or leave it out") from None
    return found


def _require(value: dict[str, Any], fields: Sequence[str], kind: str, where: str) -> None:
    """Raises UserError unless all `fields` are there; names those that are."""
    for field in fields:
        if field not in value:
            there = ", ".join(map(repr, list(value)[:8])) or "nothing"
            raise UserError(f"no field {field!r} (there is {there})", where=where, mend=f"{kind} need it")


def _forbid(value: dict[str, Any], field: str, mend: str, where: str) -> None:
    if field in value:
        raise UserError(f"field {field!r} does not belong here", where=where, mend=mend)


def record_id(value: Any, field: str, line: Line) -> str:
    """The id that a record has in `field`, or else that of its line. Raises UserError when it is no text."""
    if value is None:
        return line.default_id
    # Numbers are common as ids and unmistakable.
    return str(value) if type(value) is int else text_field(value, field, line.where)


def parse_document(line: Line) -> Document:
    """A document: `text` with optional `annotations`, or `chunks`. Raises UserError."""
    value, where = load_object(line), line.where
    _forbid(value, "annotation", "a document takes 'annotations', one for each chunk, or 'chunks'", where)
    if "chunks" in value:
        for field in ("text", "annotations"):
            _forbid(value, field, "give either 'chunks' or 'text' with 'annotations'", where)
        return Document(record_id(value.get("id"), "id", line), _parse_chunks(value["chunks"], where), where)
    if "text" not in value and "response" in value:
        mend = "these are instructions: --kind instructions"
        raise UserError("no field 'text' or 'chunks', but a 'response'", where=where, mend=mend)
    _require(value, ["text"], "documents", where)
    texts = cut_chunks(text_field(value["text"], "text", where))
    annotations = value.get("annotations")
    if annotations is None:
        annotations = [None] * len(texts)
    if not isinstance(annotations, list):
        raise UserError(f"field 'annotations' must be a list, got {named(annotations)}", where=where)
    if len(annotations) != len(texts):
        what = f"{len(annotations)} annotations for {len(texts)} chunks"
        mend = "chunks are cut at blank lines; give one annotation or null for each, or use 'chunks'"
        raise UserError(what, where=where, mend=mend)
    pairs = zip(texts, annotations, strict=True)
    chunks = (Chunk(text, _annotation(one, f"annotations[{i}]", where)) for i, (text, one) in enumerate(pairs))
    return Document(record_id(value.get("id"), "id", line), tuple(chunks), where)


def _parse_chunks(value: Any, where: str) -> tuple[Chunk, ...]:
    if not isinstance(value, list) or not value:
        raise UserError("field 'chunks' must be a list with at least one chunk", where=where)
    chunks = []
    for i, one in enumerate(value):
        field = f"chunks[{i}]"
        if not isinstance(one, dict):
            raise UserError(f"field '{field}' must be an object, got {named(one)}", where=where)
        _require(one, ["text"], f"{field} and all other chunks", where)
        _forbid(one, "annotations", f"{field} takes 'annotation'", where)
        text = text_field(one["text"], f"{field}.text", where)
        chunks.append(Chunk(text, _annotation(one.get("annotation"), f"{field}.annotation", where)))
    return tuple(chunks)


def parse_instruction(line: Line) -> Instruction:
    """An instruction: `prompt`, `response`, optional `annotation`. Raises UserError."""
    value, where = load_object(line), line.where
    if "response" not in value and ("text" in value or "chunks" in value):
        mend = "these are documents: --kind documents"
        raise UserError("no field 'response', but 'text' or 'chunks'", where=where, mend=mend)
    _require(value, ["prompt", "response"], "instructions", where)
    _forbid(value, "annotations", "an instruction takes one 'annotation'", where)
    return Instruction(
        record_id(value.get("id"), "id", line),
        text_field(value["prompt"], "prompt", where, empty=True),
        text_field(value["response"], "response", where),
        _annotation(value.get("annotation"), "annotation", where),
        where,
    )


def parse_prompt(line: Line) -> Prompt:
    """A prompt; other fields are ignored, so that instructions can be read as prompts. Raises UserError."""
    value = load_object(line)
    _require(value, ["prompt"], "prompts", line.where)
    return Prompt(
        record_id(value.get("id"), "id", line),
        text_field(value["prompt"], "prompt", line.where, empty=True),
        line.where,
    )


def parse_training_record(line: Line) -> Document | Instruction:
    """A document or an instruction, told apart by its fields. Raises UserError."""
    return parse_instruction(line) if "response" in load_object(line) else parse_document(line)


PARSERS: dict[str, Callable[[Line], Document | Instruction]] = {
    "documents": parse_document,
    "instructions": parse_instruction,
}


def _read(paths: Sequence[str | Path], parse: Callable[[Line], _Record]) -> Iterator[_Record]:
    empty = True
    for line in read_lines(paths):
        empty = False
        yield parse(line)
    if empty:
        raise empty_corpus(paths)


def empty_corpus(paths: Iterable[str | Path]) -> UserError:
    """The error for files without a single record."""
    return UserError("empty corpus: no records", where=", ".join(map(str, paths)) or "no files")


def read_documents(paths: Sequence[str | Path]) -> Iterator[Document]:
    """Streams the documents of some files. Raises UserError on the first bad one, or when there is none."""
    return _read(paths, parse_document)


def read_instructions(paths: Sequence[str | Path]) -> Iterator[Instruction]:
    """Streams instructions; see `read_documents`."""
    return _read(paths, parse_instruction)


def read_prompts(paths: Sequence[str | Path]) -> Iterator[Prompt]:
    """Streams prompts; see `read_documents`."""
    return _read(paths, parse_prompt)


def read_training_records(paths: Sequence[str | Path]) -> Iterator[Document | Instruction]:
    """Streams documents and instructions, also mixed; see `read_documents`."""
    return _read(paths, parse_training_record)
