"""Annotates a corpus on this machine. `directory` says what a job leaves behind."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anchortrain.annotate.config import Annotating
from anchortrain.annotate.directory import Job, opened
from anchortrain.annotate.index import Part
from anchortrain.annotate.manifest import finish
from anchortrain.annotate.parts import AnnotateAll, PartWriter, annotated, mended
from anchortrain.annotate.records import Record
from anchortrain.annotate.workers import workers
from anchortrain.errors import UserError
from anchortrain.progress import Progress

_HOPELESS = 100  # chunks that fail before any other is annotated: something is wrong with all of them


def annotate(inputs: Sequence[str | Path], out: str | Path, annotating: Annotating) -> dict[str, Any]:
    """Annotates a corpus on this machine, or continues to.

    Args:
      inputs: files and folders, see `data.sources`.
      out: directory of the job; new, empty, or the same job's.
      annotating: the configuration.

    Returns:
      The manifest.

    Raises:
      UserError: on bad input or settings, and when nothing more can be done. What is finished stays.
    """
    with opened(inputs, Path(out), annotating) as job:
        todo = job.todo()
        broken = [part for part in job.broken() if part not in todo]
        if todo or broken:
            with workers(annotating, job.schema, job.out) as annotate_all:
                _annotate_parts(job, todo, annotate_all)
                _mend_parts(job, broken, annotate_all)
        return finish(job)


def _annotate_parts(job: Job, todo: Sequence[Part], annotate_all: AnnotateAll) -> None:
    """All parts through one stream of passages, so that workers never wait at the end of a part."""
    if not todo:
        return
    parse = job.parser()

    def records() -> Iterator[Record]:
        for run in _runs(job.index.parts, todo):
            yield from job.records(_joined(run), parse)

    succeeded = failed = 0
    with Progress(job.index.chunks, "chunks", "annotate") as progress:
        progress.skip(job.index.chunks - sum(part.chunks for part in todo))
        found = annotated(records(), annotate_all)
        for part in todo:
            writer = PartWriter(job.out, part.name, job.format)
            for record, answers in itertools.islice(found, part.records):
                writer.add(record, answers)
                succeeded += sum(answer.annotation is not None for answer in answers)
                reasons = [answer.failed for answer in answers if answer.failed is not None]
                failed += len(reasons)
                if reasons and not succeeded and failed >= _HOPELESS:
                    what = f"the first {failed} chunks all failed, the last one because: {reasons[-1]}"
                    raise UserError(what, mend="what was answered is saved; mend this and give the command again")
                progress.update(len(answers), **({"set aside": failed} if failed else {}))
            if writer.records < part.records:
                where = job.index.sources[part.source].path
                raise UserError("has fewer records than when it was indexed", where=where, mend="choose another --out")
            writer.finish()


def _runs(parts: Sequence[Part], todo: Sequence[Part]) -> list[list[Part]]:
    """Parts to do, joined where they follow each other in one source: it is then read once."""
    place = {part.name: i for i, part in enumerate(parts)}
    runs: list[list[Part]] = []
    for part in todo:
        if runs and runs[-1][-1].source == part.source and place[runs[-1][-1].name] + 1 == place[part.name]:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _joined(run: Sequence[Part]) -> Part:
    return dataclasses.replace(run[0], records=sum(part.records for part in run))


def _mend_parts(job: Job, broken: Sequence[Part], annotate_all: AnnotateAll) -> None:
    if not broken:
        return
    with Progress(len(broken), "parts", "asking again for failed chunks") as progress:
        for part in broken:
            mended(job.out, part, job.format, annotate_all)
            progress.update(1)
