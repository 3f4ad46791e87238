"""Kept samples as annotated instruction records, and as a prepared data set, without TensorFlow."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anchortrain.annotation import Annotation
from anchortrain.data.manifest import Manifest
from anchortrain.data.prepared import Example, PreparedWriter
from anchortrain.data.rows import Row, RowMaker
from anchortrain.data.sources import Line, digest, read_lines
from anchortrain.data.vocabulary import Vocabulary

_BATCH = 256  # records


def record(id: str, prompt: str, response: str, plan: Annotation, provenance: dict[str, Any]) -> dict[str, Any]:
    """An instruction record as docs/data.md has it; readers ignore its provenance."""
    annotation = [list(tag) for tag in plan]
    return {"id": id, "prompt": prompt, "response": response, "annotation": annotation, "provenance": provenance}


def lengths(records: Sequence[dict[str, Any]], vocabulary: Vocabulary) -> list[int]:
    """Tokens of the example that each record becomes. Text is tokenised anew: it may differ from what was drawn."""
    lines = [Line(json.dumps(one).encode(), "", "") for one in records]
    maker = _maker(vocabulary, None)
    return [len(row.tokens) for batch in _batched(lines) for row in _rows(maker, batch, vocabulary)]


def prepare_records(path: Path, vocabulary: Vocabulary, out: Path, *, length: int) -> Manifest:
    """Writes a prepared data set of the records: token for token what `anchortrain prepare` makes of the same file.

    Args:
      path: instruction records.
      length: most tokens of an example.
    """
    records = sum(1 for _ in read_lines([path]))
    source = {"path": str(path), "sha256": digest(path), "records": records}
    maker = _maker(vocabulary, length)
    described = {"kind": "instructions", "annotated": True, "max_length": length, "sources": [source]}
    with PreparedWriter(out, vocabulary=vocabulary, **described) as writer:
        for lines in _batched(read_lines([path])):
            for row in _rows(maker, lines, vocabulary):
                writer.add(Example(row.tokens, row.roles.astype(np.uint8), row.id), row.keys)
        return writer.finish(**maker.notes)


def _batched(lines: Iterable[Line]) -> Iterator[list[Line]]:
    iterator = iter(lines)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _maker(vocabulary: Vocabulary, length: int | None) -> RowMaker:
    return RowMaker(
        vocabulary, kind="instructions", annotated=True, max_length=length, long="error", unannotated_share=0.0
    )


def _rows(maker: RowMaker, lines: list[Line], vocabulary: Vocabulary) -> list[Row]:
    pieces = maker.pieces(lines)
    tokens = vocabulary.encode_batch([text.decode() for text in pieces.texts_D])
    lengths_D = np.array([len(one) for one in tokens], np.int32)
    flat = np.array([token for one in tokens for token in one], np.int32)
    return maker.rows(flat, lengths_D, pieces, [line.where for line in lines])
