"""A sample of documents by the hash of their ids: the same for the same corpus, and of bounded size."""

import hashlib
import heapq
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from anchortrain.annotate.report.records import Record
from anchortrain.annotate.report.tokens import TokenCounter
from anchortrain.annotation import Annotation

MAX_CHARACTERS = 4000  # of a chunk's text that are kept
_SHARE_OF_DOCUMENT = 50  # a document gives at most one part in so many of the sample


class SampledChunk(NamedTuple):
    """A chunk, its text cut to `MAX_CHARACTERS`; tokens are those of the whole."""

    text: str
    annotation: Annotation | None
    failed: str | None
    text_tokens: int
    annotation_tokens: int
    cut: bool


class SampledDocument(NamedTuple):
    id: str
    chunks: tuple[SampledChunk, ...]


class Split(NamedTuple):
    """Documents to learn from, to choose settings by, and to measure on. Documents with one id stay together."""

    train: list[SampledDocument]
    valid: list[SampledDocument]
    test: list[SampledDocument]


class Sample:
    """The documents with the smallest hashes, as many as hold `limit` chunks.

    `offer` each document of a stream once; `documents()` has those kept. Their order is that of the hashes.
    """

    def __init__(self, limit: int, counter: TokenCounter) -> None:
        self.limit, self._counter = limit, counter
        self.chunks = 0
        self._most = max(1, limit // _SHARE_OF_DOCUMENT)
        self._serial = itertools.count()
        self._heap: list[tuple[int, int, SampledDocument]] = []  # the largest hash first

    def offer(self, record: Record) -> None:
        """Takes the document in if its hash is small enough, and gives up others."""
        key = -_hash(record.id, "sample")
        if self.chunks >= self.limit and key <= self._heap[0][0]:
            return
        document = self._shorten(record)
        heapq.heappush(self._heap, (key, -next(self._serial), document))
        self.chunks += len(document.chunks)
        while self.chunks - len(self._heap[0][2].chunks) >= self.limit:
            self.chunks -= len(heapq.heappop(self._heap)[2].chunks)

    def _shorten(self, record: Record) -> SampledDocument:
        step = -(-len(record.chunks) // self._most)
        chunks = record.chunks[::step]
        tokens = self._counter.texts([chunk.text for chunk in chunks])
        kept = (
            SampledChunk(
                chunk.text[:MAX_CHARACTERS],
                chunk.annotation,
                chunk.failed,
                count,
                self._counter.annotation(chunk.annotation),
                len(chunk.text) > MAX_CHARACTERS,
            )
            for chunk, count in zip(chunks, tokens, strict=True)
        )
        return SampledDocument(record.id, tuple(kept))

    def documents(self) -> list[SampledDocument]:
        return [document for *_, document in sorted(self._heap, key=lambda one: (-one[0], -one[1]))]


def split(documents: Sequence[SampledDocument]) -> Split:
    """Three fifths, one fifth, one fifth of the chunks, by document.

    A chunk whose very text is also among those learnt from is not measured on.
    """
    groups: dict[str, list[SampledDocument]] = {}
    for document in sorted(documents, key=lambda one: _hash(one.id, "split")):
        groups.setdefault(document.id, []).append(document)
    total = sum(len(document.chunks) for document in documents)
    parts = Split([], [], [])
    done = 0
    for group in groups.values():
        size = sum(len(document.chunks) for document in group)
        middle = (done + size / 2) / total
        parts[0 if middle < 0.6 else 1 if middle < 0.8 else 2].extend(group)
        done += size
    known = {chunk.text for document in parts.train for chunk in document.chunks}
    return Split(parts.train, _without(parts.valid, known), _without(parts.test, known))


def _without(documents: Sequence[SampledDocument], known: set[str]) -> list[SampledDocument]:
    return [
        document._replace(chunks=tuple(chunk for chunk in document.chunks if chunk.text not in known))
        for document in documents
    ]


def _hash(name: str, use: str) -> int:
    """64 bits of a record's id; different for each use, so that a split is independent of the sample."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=use.encode()).digest())
