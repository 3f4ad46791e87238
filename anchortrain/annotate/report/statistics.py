"""The figures of a report: what `--json` writes, and text and page show.

Entropies are in bits, shares between 0 and 1; every figure is finite or None (nothing to measure).
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anchortrain.annotate.report.counts import MAX_VALUES, Counts
from anchortrain.annotate.report.records import Record, read_annotated
from anchortrain.annotate.report.sample import MAX_CHARACTERS, Sample, SampledChunk, SampledDocument
from anchortrain.annotate.report.tokens import TokenCounter
from anchortrain.progress import Progress

Figures = dict[str, Any]

SAMPLE_CHUNKS = 20_000
EXAMPLES = 8
TOP_VALUES, RAREST_VALUES = 10, 5
MOST_KEYS = 200  # that are listed
_LARGE = 5_000_000  # tags, of which the correction of entropy is nothing
_PROGRESS_AFTER_SECONDS = 3.0


class Example(NamedTuple):
    record: str
    chunk: SampledChunk


class Report(NamedTuple):
    """Figures, and chunks to look at."""

    figures: Figures
    examples: list[Example]


def make_report(
    paths: Sequence[str | Path],
    *,
    tokenizer: str | None = None,
    sample: int = SAMPLE_CHUNKS,
    examples: int = EXAMPLES,
    max_values: int = MAX_VALUES,
) -> Report:
    """Reads annotated records once and measures them.

    Args:
      paths: files or directories of documents or instructions.
      tokenizer: file to count tokens with; None counts words and punctuation marks.
      sample: chunks that information, tokens and examples are taken from, at least one document.
      examples: chunks to show.
      max_values: different values held in memory.

    Raises UserError on bad records, an empty corpus, or a bad tokenizer.
    """
    from anchortrain.annotate.report.calls import calls
    from anchortrain.annotate.report.information import measure

    counter = TokenCounter(tokenizer)
    counts, kept = Counts(max_values), Sample(sample, counter)
    for record in _watched(read_annotated(paths)):
        counts.add(record)
        kept.offer(record)
    documents = kept.documents()
    figures = {
        "sources": [str(path) for path in paths],
        "corpus": _corpus(counts),
        "sample": _sample(documents, counts),
        "tokens": _tokens(documents, counter),
        "keys": key_figures(counts, documents),
        "information": _with_progress(lambda step: measure(documents, step)),
    }
    figures["pays"] = _pays(figures)
    figures["calls"] = calls(figures)
    return Report(figures, choose_examples(documents, examples))


def _watched(records: Iterable[Record]) -> Iterator[Record]:
    """Shows how far reading is, when it takes more than a moment. Nobody knows how much there is to read."""
    start, done, bar = time.monotonic(), 0, None
    try:
        for record in records:
            yield record
            done += len(record.chunks)
            if bar is not None:
                bar.update(len(record.chunks))
            elif time.monotonic() - start > _PROGRESS_AFTER_SECONDS:
                bar = Progress(0, "chunks", "read").__enter__()
                bar.skip(done)
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)


def _with_progress(work: Callable[[Callable[[str], None]], Figures]) -> Figures:
    """Runs `work`, which names its steps."""
    start, done, bar = time.monotonic(), 0, None

    def step(name: str) -> None:
        nonlocal done, bar
        if bar is not None:
            bar.update(1, at=name)
        elif time.monotonic() - start > _PROGRESS_AFTER_SECONDS:
            bar = Progress(0, "steps", "measure").__enter__()
            bar.skip(done)
        done += 1

    try:
        return work(step)
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _corpus(counts: Counts) -> Figures:
    planned = counts.annotated + counts.empty
    return {
        "documents": counts.documents,
        "chunks": counts.chunks,
        "annotated": counts.annotated,
        "empty": counts.empty,
        "failed": counts.failed,
        "unannotated": counts.unannotated,
        "coverage": _share(counts.annotated, counts.chunks),
        "tags": counts.tags,
        "tags_per_annotation": _share(counts.tags, planned),
        "tags_histogram": counts.histogram,
        "different_keys": len(counts.tags_of),
        "tags_of_uncounted_keys": counts.other_keys,
        "failures": [{"reason": reason, "chunks": n} for reason, n in counts.reasons.most_common(10)],
    }


def _sample(documents: Sequence[SampledDocument], counts: Counts) -> Figures:
    chunks = [chunk for document in documents for chunk in document.chunks]
    return {
        "documents": len(documents),
        "chunks": len(chunks),
        "share": _share(len(chunks), counts.chunks),
        "cut": sum(chunk.cut for chunk in chunks),
        "cut_at_characters": MAX_CHARACTERS,
    }


def _tokens(documents: Sequence[SampledDocument], counter: TokenCounter) -> Figures:
    chunks = [chunk for document in documents for chunk in document.chunks]
    planned = [chunk for chunk in chunks if chunk.annotation is not None]
    text, spent = sum(chunk.text_tokens for chunk in chunks), sum(chunk.annotation_tokens for chunk in chunks)
    return {
        "unit": counter.unit,
        "text": text,
        "annotation": spent,
        "share": _share(spent, text + spent),
        "per_annotation": _share(spent, len(planned)),
        "per_text": _share(text, len(chunks)),
        "text_of_annotated": sum(chunk.text_tokens for chunk in planned),
    }


def _pays(figures: Figures) -> Figures | None:
    """What annotations save of the texts' loss, against the tokens that they add; None where it was not measured."""
    tokens, saving = figures["tokens"], figures["information"].get("saving")
    if not saving or not saving["all"] or not tokens["text_of_annotated"]:
        return None
    cost = tokens["annotation"] / tokens["text_of_annotated"]
    shares = {name: saving[name]["share"] if saving[name] else None for name in ("all", "not_spelled")}
    return {
        "tokens_added": cost,
        "loss_saved": shares["all"],
        "loss_saved_not_spelled": shares["not_spelled"],
        "ratio": shares["all"] / cost,
        "ratio_not_spelled": None if shares["not_spelled"] is None else shares["not_spelled"] / cost,
    }


def key_figures(counts: Counts, documents: Sequence[SampledDocument]) -> list[Figures]:
    """One entry for each key, by the number of chunks that have it; the rarer ones beyond `MOST_KEYS` are left out."""
    values = counts.values.by_key()
    if counts.values.pruned:
        sampled: dict[str, Counter[str]] = {}
        for tag in (tag for one in documents for chunk in one.chunks for tag in chunk.annotation or ()):
            sampled.setdefault(tag.key, Counter())[tag.value] += 1
    found = []
    for key, chunks in sorted(counts.chunks_of.items(), key=lambda one: (-one[1], one[0]))[:MOST_KEYS]:
        frequent = exact = values.get(key, Counter())
        over = "all"
        if key in counts.values.pruned:
            exact, over = sampled.get(key, Counter()), "sample"
        entry = {"key": key, "chunks": chunks, "share": _share(chunks, counts.chunks), "tags": counts.tags_of[key]}
        entry |= {"share_of_annotated": _share(chunks, counts.annotated), "values_over": over}
        found.append(entry | _distribution(exact) | _values(frequent or exact, exact, counts.tags_of[key]))
    return found


def _distribution(values: Counter[str]) -> Figures:
    """Entropy and the effective number of values that follows from it.

    Where too many values were seen once, no estimator can be trusted: the figures are those of the values as counted,
    which are too low (`at_least`). Elsewhere they are corrected (Chao-Wang-Jost).
    """
    import numpy as np

    from anchortrain.evaluate.entropy import LOW_COVERAGE, bits, chao_wang_jost, coverage, plug_in

    occurrences = np.array(list(values.values()), dtype=np.int64)
    total = int(occurrences.sum())
    if not total:
        return {"occurrences": 0, "distinct": 0, "entropy_bits": None, "effective": None, "at_least": True}
    at_least = coverage(occurrences) < LOW_COVERAGE
    nats = plug_in(occurrences) if at_least or total > _LARGE else max(0.0, chao_wang_jost(occurrences))
    return {
        "occurrences": total,
        "distinct": len(values),
        "entropy_bits": bits(nats),
        "effective": math.exp(nats),
        "at_least": at_least,
    }


def _values(frequent: Counter[str], exact: Counter[str], tags: int) -> Figures:
    def listed(pairs: Iterable[tuple[str, int]]) -> list[Figures]:
        return [{"value": value, "count": n} for value, n in pairs]

    by_count = sorted(frequent.items(), key=lambda one: (-one[1], one[0]))
    rarest = sorted(exact.items(), key=lambda one: (one[1], one[0]))
    return {
        "top_share": _share(by_count[0][1], tags) if by_count else 0.0,
        "top": listed(by_count[:TOP_VALUES]),
        # Of few values the rarest are already among the most frequent.
        "rarest": listed(rarest[:RAREST_VALUES]) if len(by_count) > TOP_VALUES else [],
        "seen_once": sum(n == 1 for n in exact.values()),
    }


def choose_examples(documents: Sequence[SampledDocument], n: int) -> list[Example]:
    """Chunks with tags, one from each of the first documents, in turn from its beginning, middle and end."""
    found = []
    for document in documents:
        annotated = [chunk for chunk in document.chunks if chunk.annotation]
        if annotated and len(found) < n:
            place = len(found) % 3 * (len(annotated) - 1) // 2
            found.append(Example(document.id, annotated[place]))
    return found
