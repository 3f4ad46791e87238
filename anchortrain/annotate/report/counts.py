"""Counters over all chunks of a corpus, in bounded memory however long it is."""

from collections import Counter

from anchortrain.annotate.report.records import Record
from anchortrain.annotation import Annotation

MAX_VALUES = 400_000  # pairs of key and value held at once, some 100 MB
MAX_KEYS = 10_000
MAX_REASONS = 1000
MOST_TAGS = 12  # the histogram's last bar: so many or more


class ValueCounts:
    """How often each value of each key occurs.

    When too many are held, the rarer half is given up. What is left of the frequent ones stays nearly exact; `pruned`
    has the keys whose rare values, and with them entropy and number of values, are no longer known.
    """

    def __init__(self, limit: int = MAX_VALUES) -> None:
        self.limit = limit
        self.pruned: set[str] = set()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, annotation: Annotation) -> None:
        self._counts.update((tag.key, tag.value) for tag in annotation)
        if len(self._counts) > self.limit:
            self._prune()

    def _prune(self) -> None:
        threshold = sorted(self._counts.values())[len(self._counts) // 2]
        self.pruned |= {key for (key, _), count in self._counts.items() if count <= threshold}
        self._counts = Counter({pair: count for pair, count in self._counts.items() if count > threshold})

    def by_key(self) -> dict[str, Counter[str]]:
        """Key -> value -> occurrences."""
        found: dict[str, Counter[str]] = {}
        for (key, value), count in self._counts.items():
            found.setdefault(key, Counter())[value] = count
        return found


class Counts:
    """Everything that is counted over all chunks.

    Attributes:
      documents, chunks: how many there are.
      annotated, empty, failed, unannotated: chunks with tags, with an annotation without tags, with a failure, without
        an annotation (nothing to say about them).
      tags: all tags. `histogram[n]`: annotations with n tags; the last counts `MOST_TAGS` or more.
      tags_of, chunks_of: key -> tags, and chunks that have one. `other_keys`: tags of keys beyond the first `MAX_KEYS`.
      values: occurrences of values.
      reasons: failures by reason.
    """

    def __init__(self, max_values: int = MAX_VALUES) -> None:
        self.documents = self.chunks = self.annotated = self.empty = self.failed = self.unannotated = 0
        self.tags = self.other_keys = 0
        self.histogram = [0] * (MOST_TAGS + 1)
        self.tags_of: Counter[str] = Counter()
        self.chunks_of: Counter[str] = Counter()
        self.values = ValueCounts(max_values)
        self.reasons: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        """Counts a document."""
        self.documents += 1
        self.chunks += len(record.chunks)
        for chunk in record.chunks:
            if chunk.annotation is not None:
                self._add_annotation(chunk.annotation)
            elif chunk.failed is not None:
                self.failed += 1
                full = len(self.reasons) >= MAX_REASONS and chunk.failed not in self.reasons
                self.reasons["other reasons" if full else chunk.failed] += 1
            else:
                self.unannotated += 1

    def _add_annotation(self, annotation: Annotation) -> None:
        self.histogram[min(len(annotation), MOST_TAGS)] += 1
        if not annotation:
            self.empty += 1
            return
        self.annotated += 1
        self.tags += len(annotation)
        known = tuple(tag for tag in annotation if tag.key in self.tags_of or len(self.tags_of) < MAX_KEYS)
        self.other_keys += len(annotation) - len(known)
        self.tags_of.update(tag.key for tag in known)
        self.chunks_of.update({tag.key for tag in known})
        self.values.add(known)
