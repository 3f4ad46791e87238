"""One part of a corpus: annotated record by record, written whole with its state, read again to mend failures."""

import dataclasses
import gzip
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anchortrain.annotate.index import Part
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.records import FAILED, OTHERS, Record
from anchortrain.annotation import from_json
from anchortrain.data.records import load_object
from anchortrain.data.sources import read_from
from anchortrain.errors import UserError
from anchortrain.files import write_bytes_atomic, write_json_atomic

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
STATE = "state"

# Passages, any number of them, to their answers in order: where batches and processes come in.
AnnotateAll = Callable[[Iterator[Passage]], Iterator[Answer]]


@dataclasses.dataclass
class State:
    """What a finished part holds. A part without it is not finished."""

    records: int
    chunks: int
    annotated: int = 0  # chunks with at least one tag
    empty: int = 0  # nothing was found to say
    unannotated: int = 0  # not annotated: the schema does not suit them, or the corpus has no label
    failed: int = 0
    tags: dict[str, int] = dataclasses.field(default_factory=dict)  # key -> tags
    sha256: str = ""  # of the file

    def count(self, answer: Answer) -> None:
        if answer.failed is not None:
            self.failed += 1
        elif answer.annotation is None:
            self.unannotated += 1
        elif not answer.annotation:
            self.empty += 1
        else:
            self.annotated += 1
            for tag in answer.annotation:
                self.tags[tag.key] = self.tags.get(tag.key, 0) + 1


def file_of(out: Path, name: str, format: str) -> Path:
    return out / f"{name}.{format}"


def read_state(out: Path, name: str) -> State | None:
    """The state of a part; None when it is not finished."""
    path = out / STATE / f"{name}.json"
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot be read: {error}", where=str(path), mend="remove it to annotate this part again"
        ) from None


def annotated(records: Iterable[Record], annotate_all: AnnotateAll) -> Iterator[tuple[Record, list[Answer]]]:
    """Records with the answers to their passages, in order; reads ahead as far as `annotate_all` does."""
    waiting: deque[Record] = deque()

    def passages() -> Iterator[Passage]:
        for record in records:
            waiting.append(record)
            yield from map(record.passage, range(len(record.texts)))

    answers: list[Answer] = []
    for answer in annotate_all(passages()):
        answers.append(answer)
        if len(answers) == len(waiting[0].texts):
            yield waiting.popleft(), answers
            answers = []


class PartWriter:
    """Collects the records of one part and writes them at the end, first the part, then its state."""

    def __init__(self, out: Path, name: str, format: str) -> None:
        self._out, self._name, self._format = out, name, format
        self._products: list[dict[str, Any]] = []
        self._state = State(0, 0)

    def add(self, record: Record, answers: Sequence[Answer]) -> None:
        self._products.append(record.product(answers))
        self._state.records += 1
        self._state.chunks += len(answers)
        for answer in answers:
            self._state.count(answer)

    @property
    def records(self) -> int:
        """How many there are so far."""
        return self._state.records

    def finish(self) -> State:
        """Raises UserError when the system refuses to write; the part is then as it was before."""
        content = encode(self._products, self._format)
        self._state.sha256 = hashlib.sha256(content).hexdigest()
        write_bytes_atomic(file_of(self._out, self._name, self._format), content)
        write_json_atomic(self._out / STATE / f"{self._name}.json", dataclasses.asdict(self._state))
        return self._state


def encode(products: Sequence[dict[str, Any]], format: str) -> bytes:
    """A file of records, the same bytes for the same records."""
    if format == "parquet":
        return _parquet(products)
    content = b"".join(_json(product).encode() + b"\n" for product in products)
    if format == "jsonl.gz":
        return gzip.compress(content, compresslevel=6, mtime=0)
    if format == "jsonl.zst":
        import zstandard

        return zstandard.ZstdCompressor(level=6).compress(content)
    return content


def _json(value: dict[str, Any]) -> str:
    """One line, in plain letters; a lone surrogate, which a source can have escaped and no file can hold, as it was."""
    text = json.dumps(value, ensure_ascii=False)
    return text if _encodes(text) else json.dumps(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(products: Sequence[dict[str, Any]]) -> bytes:
    """Columns of the same types in every part, so that parts can be read as one table: other fields are JSON in one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = pa.list_(pa.list_(pa.string()))
    chunk = pa.struct([("text", pa.string()), ("annotation", pairs), (FAILED, pa.string())])
    documents = "chunks" in products[0]
    columns = [("chunks", pa.list_(chunk))]
    if not documents:
        columns = [("prompt", pa.string()), ("response", pa.string()), ("annotation", pairs), (FAILED, pa.string())]
    names = ["id", *(name for name, _ in columns)]
    rows = []
    for product in products:
        row = {name: product.get(name) for name in names}
        for one in row["chunks"] if documents else [row]:
            one["annotation"] = None if one["annotation"] is None else [list(t) for t in from_json(one["annotation"])]
        others = {name: value for name, value in product.items() if name not in names}
        rows.append(row | {OTHERS: _json(others)})
    schema = pa.schema([("id", pa.string()), *columns, (OTHERS, pa.string())])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def mended(out: Path, part: Part, format: str, annotate_all: AnnotateAll) -> State:
    """Asks again for the chunks of a part that failed, and writes it anew."""
    path = file_of(out, part.name, format)
    rows = [_read_product(load_object(line)) for _, line in read_from(path)]
    again = [record.passage(i) for record, answers in rows for i, one in enumerate(answers) if one.failed is not None]
    found = annotate_all(iter(again))
    writer = PartWriter(out, part.name, format)
    for record, answers in rows:
        writer.add(record, [next(found) if one.failed is not None else one for one in answers])
    return writer.finish()


def _read_product(product: dict[str, Any]) -> tuple[Record, list[Answer]]:
    """A record and its answers, of what `Record.product` made."""
    others = json.loads(product[OTHERS]) if OTHERS in product else None
    documents = "chunks" in product
    parts = product["chunks"] if documents else [product]
    answers = [
        Answer(None if part["annotation"] is None else from_json(part["annotation"]), part.get(FAILED))
        for part in parts
    ]
    if others is None:
        ours = {"id", "chunks"} if documents else {"id", "prompt", "response", "annotation", FAILED}
        others = {name: value for name, value in product.items() if name not in ours}
    texts = tuple(part["text"] for part in parts) if documents else (product["response"],)
    return Record(product["id"], "", texts, product.get("prompt"), others), answers


def failures(out: Path, part: Part, format: str) -> Iterator[dict[str, Any]]:
    """The failed chunks of a part: record, chunk, reason and the beginning of the text."""
    path = file_of(out, part.name, format)
    for _, line in read_from(path):
        record, answers = _read_product(load_object(line))
        for i, answer in enumerate(answers):
            if answer.failed is not None:
                shown = record.texts[i][:120]
                yield {"part": path.name, "id": record.id, "chunk": i, "failed": answer.failed, "text": shown}
