"""From lines to pieces, and from tokenised pieces to rows of at most `max_length` tokens. Plain numpy.

A batch of lines becomes `Pieces`; something tokenises their texts; `RowMaker.rows` puts the rows together.

Legend: R records, S segments, P pieces, D distinct texts, T tokens, all of one batch; n tokens of one row.
"""

import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from anchortrain.data.interleave import interleave, is_annotated
from anchortrain.data.records import PARSERS, Document, Instruction
from anchortrain.data.sources import Line
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError

LONG = ("split", "error", "drop")

# What is counted, in records but for "windows": the rows that split records became.
NOTES = ("records", "unannotated", "annotation_left_out", "dropped", "split", "windows")

_UNANNOTATED, _LEFT_OUT = NOTES.index("unannotated"), NOTES.index("annotation_left_out")

# The least share of a row that is left to text when a chunk is cut and its annotation repeated.
_MIN_TEXT_SHARE = 0.25


class Row(NamedTuple):
    """One example: what is stored and trained on."""

    tokens: np.ndarray  # int32[n]
    roles: np.ndarray  # int32[n]
    id: str
    keys: tuple[str, ...]  # of its annotations, once for each tag
    notes: tuple[int, ...]  # `NOTES` up to and including this row


class Pieces(NamedTuple):
    """`interleave` of a batch, flattened."""

    texts_D: np.ndarray  # UTF-8; one that occurs often, like a key, is tokenised once
    sources_P: np.ndarray  # int32: index in texts_D, or ~id of a control token
    roles_P: np.ndarray  # int32
    segments_S3: np.ndarray  # int32: index of the record, pieces of the head, pieces of the body
    keys_S: np.ndarray  # keys of the annotation, joined by spaces
    ids_R: np.ndarray
    lacks_R: np.ndarray  # why the record has no annotation: index in NOTES, or 0 if it has or should have none


class _Span(NamedTuple):
    """A segment as bounds in the tokens of the batch."""

    start: int
    body: int  # start of the body, after the annotation
    end: int
    keys: tuple[str, ...]


# A stretch of tokens, start and end, and the keys of the annotation in it.
_Stretch = tuple[int, int, tuple[str, ...]]


class RowMaker:
    """Makes rows and counts in `notes` what happened.

    Args:
      vocabulary: gives the ids of the controls.
      kind: "documents" or "instructions".
      annotated: False leaves all annotations out.
      max_length: most tokens of a row; None for no limit.
      long: what becomes of a longer record: "split" (documents only), "error" or "drop".
      unannotated_share: share of records whose annotation is left out, chosen by a hash of their id.

    Attributes:
      notes: counts of `NOTES` so far.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        kind: str,
        annotated: bool,
        max_length: int | None,
        long: str,
        unannotated_share: float,
    ) -> None:
        self._controls, self._parse, self._annotated = vocabulary.controls, PARSERS[kind], annotated
        self._max_length, self._long, self._share = max_length, long, unannotated_share
        self.notes: Counter[str] = Counter(dict.fromkeys(NOTES, 0))

    def limited(self, max_length: int | None) -> "RowMaker":
        """The same, with the smaller of two limits; `notes` are shared."""
        other = copy.copy(self)
        other._max_length = min((limit for limit in (self._max_length, max_length) if limit), default=None)
        return other

    def pieces(self, lines: Iterable[Line]) -> Pieces:
        """Parses and interleaves a batch. Raises UserError on a bad record."""
        index_of: dict[str, int] = {}
        sources, roles, segments, keys, ids, lacks = [], [], [], [], [], []
        for i, line in enumerate(lines):
            record = self._parse(line)
            ids.append(record.id.encode())
            lacks.append(self._lack(record))
            annotated = self._annotated and lacks[-1] != _LEFT_OUT
            for segment in interleave(record, annotated=annotated):
                segments.append((i, len(segment.head), len(segment.body)))
                keys.append(" ".join(segment.keys).encode())
                for text, role, control in segment.head + segment.body:
                    sources.append(~self._controls[text] if control else index_of.setdefault(text, len(index_of)))
                    roles.append(role)
        texts, keys, ids = (np.array(one, object) for one in ([text.encode() for text in index_of], keys, ids))
        ints = (np.array(one, np.int32) for one in (sources, roles, segments))
        return Pieces(texts, *ints, keys, ids, np.array(lacks, np.int32))

    def _lack(self, record: Document | Instruction) -> int:
        if not self._annotated:
            return 0
        if not is_annotated(record):
            return _UNANNOTATED
        return _LEFT_OUT if self._share and _hashed_below(record.id, self._share) else 0

    def rows(self, tokens_flat: np.ndarray, lengths_D: np.ndarray, pieces: Pieces, wheres: Sequence[str]) -> list[Row]:
        """The rows of a batch, in order.

        Args:
          tokens_flat: int32, the tokens of texts_D one after another.
          lengths_D: how many tokens each text has.
          pieces: of the same batch.
          wheres: FILE:LINE of each record, for errors.
        """
        tokens_T, bounds = _gather(tokens_flat, lengths_D, pieces.sources_P)
        roles_T = np.repeat(pieces.roles_P, np.diff(bounds))
        spans: list[list[_Span]] = [[] for _ in pieces.ids_R]
        piece = 0
        for (record, head, body), names in zip(pieces.segments_S3.tolist(), pieces.keys_S, strict=True):
            start, middle, end = bounds[[piece, piece + head, piece + head + body]].tolist()
            spans[record].append(_Span(start, middle, end, tuple(names.decode().split())))
            piece += head + body
        rows = []
        for id, lack, where, one in zip(pieces.ids_R, pieces.lacks_R, wheres, spans, strict=True):
            self.notes["records"] += 1
            if lack:
                self.notes[NOTES[lack]] += 1
            for name, stretches in self._fit(id.decode(), where, one):
                at = np.concatenate([np.arange(start, end) for start, end, _ in stretches])
                keys = tuple(key for stretch in stretches for key in stretch[2])
                notes = tuple(self.notes[note] for note in NOTES)
                rows.append(Row(tokens_T[at], roles_T[at], name, keys, notes))
        return rows

    def _fit(self, id: str, where: str, spans: Sequence[_Span]) -> Iterator[tuple[str, list[_Stretch]]]:
        """Id and stretches of each row of one record. Raises UserError when it is too long to be taken."""
        length = spans[-1].end - spans[0].start
        if self._max_length is None or length <= self._max_length:
            yield id, [(span.start, span.end, span.keys) for span in spans]
        elif self._long == "drop":
            self.notes["dropped"] += 1
        elif self._long == "error":
            what = f"example {id!r} has {length} tokens, the limit is {self._max_length}"
            raise UserError(what, where=where, mend="raise --length, shorten it, or choose another --long")
        else:
            self.notes["split"] += 1
            for i, window in enumerate(self._windows(id, where, spans)):
                self.notes["windows"] += 1
                yield f"{id}#{i}", window

    def _windows(self, id: str, where: str, spans: Sequence[_Span]) -> Iterator[list[_Stretch]]:
        """As many whole segments to a window as fit."""
        window: list[_Stretch] = []
        used = 0
        for span in spans:
            for part in self._parts(id, where, span):
                length = sum(end - start for start, end, _ in part)
                if window and used + length > self._max_length:
                    yield window
                    window, used = [], 0
                window += part
                used += length
        yield window

    def _parts(self, id: str, where: str, span: _Span) -> Iterator[list[_Stretch]]:
        """The segment, or if it is too long: parts of about equal length, each with the annotation in front."""
        head, body = span.body - span.start, span.end - span.body
        room = self._max_length - head
        if body <= room:
            yield [(span.start, span.end, span.keys)]
            return
        if room < max(1, _MIN_TEXT_SHARE * self._max_length):
            what = f"an annotation of {id!r} takes {head} of {self._max_length} tokens"
            raise UserError(what, where=where, mend="shorten it or raise --length")
        count = -(-body // room)
        step = -(-body // count)
        for start in range(span.body, span.end, step):
            stretch: _Stretch = (start, min(start + step, span.end), ())
            yield [(span.start, span.body, span.keys), stretch] if head else [stretch]


def _hashed_below(id: str, share: float) -> bool:
    """Whether the hash of `id`, uniform in [0, 1), is below `share`."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") < share * 2**64


def _gather(tokens_flat: np.ndarray, lengths_D: np.ndarray, sources_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens [T] of all pieces, and the bounds [P + 1] of each in them."""
    is_control_P = sources_P < 0
    texts_P = np.where(is_control_P, 0, sources_P)
    lengths_P = np.where(is_control_P, 1, lengths_D[texts_P])
    bounds = np.concatenate([[0], np.cumsum(lengths_P)])
    starts_D = np.concatenate([[0], np.cumsum(lengths_D)])
    # A control reads past the end when there are no tokens after its stand-in: clip, then overwrite.
    from_T = np.repeat(starts_D[texts_P] - bounds[:-1], lengths_P) + np.arange(bounds[-1])
    tokens_T = tokens_flat[np.minimum(from_T, len(tokens_flat) - 1)]
    tokens_T[bounds[:-1][is_control_P]] = ~sources_P[is_control_P]
    return tokens_T, bounds
