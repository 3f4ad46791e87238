"""The offline annotator on chunks of about 100 words: how many a second, and how much memory.

    python -m benchmarks.annotate_offline [--data DIR] [--chunks N] [--workers N] [--json FILE]

Real text: Standard Ebooks with the schema `stories`, Wikipedia passages with `web`. Workers are processes of their own,
started as the job starts them. Each annotates its share twice over; memory that grew with the number of chunks would
show as the growth of its peak from the first time to the second.
"""

import argparse
import gzip
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from anchortrain.annotate.chunk_types import chunk_type
from anchortrain.annotate.config import OfflineConfig
from anchortrain.annotate.offline import OfflineAnnotator, fit
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import load_schema
from benchmarks.table import Column, add_arguments, show

CASES = {"stories": "standardebooks_short_fiction", "web": "wikipedia_passages_boolq_train"}
WORDS = 100  # of a chunk
BATCH = 200

COLUMNS = [
    Column("schema", "schema", "{}"),
    Column("chunks", "chunks", "{:,}"),
    Column("workers", "processes", "{}"),
    Column("fit_seconds", "s to fit", "{:.1f}"),
    Column("load_seconds", "s to load", "{:.2f}"),
    Column("milliseconds", "CPU ms/chunk", "{:.2f}"),
    Column("chunks_per_second", "chunks/s", "{:,.0f}"),
    Column("tags", "tags/chunk", "{:.1f}"),
    Column("peak_mb", "peak MB", "{:,.0f}"),
    Column("growth_mb", "MB more later", "{:,.1f}"),
]


def passages(data: Path, schema: str, most: int) -> list[Passage]:
    """The first chunks of `WORDS` words of a corpus that the schema suits."""
    suited, found = load_schema(schema).suits, []
    with gzip.open(data / "corpus" / f"{CASES[schema]}.jsonl.gz", "rt", encoding="utf-8") as file:
        for record in map(json.loads, file):
            pieces = record["text"].split(" ")
            for index in range(0, len(pieces) - WORDS + 1, WORDS):
                text = " ".join(pieces[index : index + WORDS])
                if (kind := chunk_type(text)) in suited:
                    found.append(Passage(text, "", kind, record["id"], index // WORDS, {}))
                if len(found) == most:
                    return found
    return found


def peak_megabytes() -> float:
    """The most memory that this process had so far. `getrusage` would count what its parent had before it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def work(directory: Path, schema: str, given: list[Passage]) -> dict[str, float]:
    """What one worker does, and its figures."""
    begun = time.perf_counter()
    annotator = OfflineAnnotator(directory, load_schema(schema))
    loaded = time.perf_counter() - begun
    annotator.annotate(given[:BATCH])  # loads what is loaded late
    tags, peaks, started, cpu = 0, [], time.perf_counter(), time.process_time()
    for _ in range(2):
        for first in range(0, len(given), BATCH):
            tags += sum(len(one.annotation or ()) for one in annotator.annotate(given[first : first + BATCH]))
        peaks.append(peak_megabytes())
    chunks = 2 * len(given)
    return {
        "load_seconds": loaded,
        "milliseconds": 1000 * (time.process_time() - cpu) / chunks,
        "chunks_per_second": chunks / (time.perf_counter() - started),
        "tags": tags / chunks,
        "peak_mb": peaks[1],
        "growth_mb": peaks[1] - peaks[0],
    }


def measure(schema: str, data: Path, *, chunks: int, workers: int) -> dict[str, Any]:
    """The row of one schema: rates added up over the workers, the largest memory, medians of the rest."""
    given = passages(data, schema, chunks)
    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        fit(given, load_schema(schema), OfflineConfig(), 0, Path(directory))
        fitted = time.perf_counter() - begun
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            shares = [(Path(directory), schema, given[one::workers]) for one in range(workers)]
            rows = pool.starmap(work, shares, chunksize=1)
    ways = {"chunks_per_second": sum, "peak_mb": max, "growth_mb": max}
    figures = {name: ways.get(name, statistics.median)([row[name] for row in rows]) for name in rows[0]}
    return {"schema": schema, "chunks": len(given), "workers": workers, "fit_seconds": fitted} | figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the public data beside the project")
    parser.add_argument("--chunks", type=int, default=20_000, help="at most")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    rows = [measure(schema, args.data, chunks=args.chunks, workers=args.workers) for schema in CASES]
    show("Offline annotator", COLUMNS, rows, args.json)


if __name__ == "__main__":
    main()
