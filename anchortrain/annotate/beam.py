"""The same job on many machines: an Apache Beam pipeline with one element for each part.

Parts are read, annotated and written by the code that does it on one machine, so the result is the same to the byte,
and a job may be begun on one machine and continued on many. Inputs and OUT must be at the same paths on all of them.
What Beam gives is scheduling, retries and the machines: DirectRunner on this one, FlinkRunner, DataflowRunner or
SparkRunner elsewhere.
"""

import contextlib
import dataclasses
import io
import shlex
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners import create_runner

from anchortrain.annotate.annotators import names, open_annotator
from anchortrain.annotate.config import Annotating
from anchortrain.annotate.directory import Job, opened
from anchortrain.annotate.index import Part
from anchortrain.annotate.manifest import finish
from anchortrain.annotate.parts import STATE, PartWriter, annotated, mended
from anchortrain.annotate.workers import serially
from anchortrain.errors import UserError
from anchortrain.files import write_text_atomic
from anchortrain.progress import Progress

_LOOK_SECONDS = 1.0
_MOST_SAID = 400  # characters of what Beam says
_LOCAL = ("DirectRunner", "PrismRunner")  # one machine: what is counted in a file is counted for all


def annotate_on(
    runner: str, options: str, inputs: Sequence[str | Path], out: str | Path, annotating: Annotating
) -> dict[str, Any]:
    """Annotates a corpus with a Beam runner, or continues to; see `job.annotate`.

    Args:
      runner: name of Beam's runner.
      options: its options as on a command line, such as "--direct_num_workers=2".
      inputs, out, annotating: see `job.annotate`.
    """
    settings = _settings(runner, options)
    if "llm" in names(annotating) and runner not in _LOCAL:
        _check_budget(annotating)
    with opened(inputs, Path(out).absolute(), annotating) as job:
        todo = job.todo()
        for part in todo:  # a worker takes what has a state for finished
            (job.out / STATE / f"{part.name}.json").unlink(missing_ok=True)
        parts = [*todo, *(part for part in job.broken() if part not in todo)]
        if parts:
            _forget_errors(job)
            try:
                with _progress(job, parts):
                    _run(settings, job, parts, local=runner in _LOCAL)
            except (ValueError, RuntimeError) as error:  # a runner without what it needs; what is wrong is in the text
                raise UserError(f"{runner} failed: {str(error)[:_MOST_SAID]}", mend="see --runner_options") from None
            _raise_error(job)
        return finish(job)


def _check_budget(annotating: Annotating) -> None:
    for field in ("max_requests", "max_tokens", "max_cost"):
        if getattr(annotating.llm, field):
            mend = "leave it out, or annotate on one machine"
            raise UserError(f"LlmConfig.{field} is counted on one machine and cannot hold over many", mend=mend)


def _settings(runner: str, options: str) -> PipelineOptions:
    """Raises UserError on an unknown runner and on bad options."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            settings = PipelineOptions(shlex.split(options), runner=runner)
            settings.get_all_options()  # Beam reads them late, and ends the program where they are bad
    except ValueError as error:
        raise UserError(f"--runner_options {options!r}: {str(error).lower()}") from None
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(f"--runner_options {options!r}: {reason}") from None
    try:
        create_runner(runner)
    except (ValueError, ImportError) as error:
        raise UserError(f"Beam has no runner {runner!r}: {str(error).splitlines()[0]}") from None
    return settings


def _run(settings: PipelineOptions, job: Job, parts: Sequence[Part], *, local: bool) -> None:
    # Workers have working directories of their own.
    sources = [dataclasses.replace(one, path=str(Path(one.path).absolute())) for one in job.index.sources]
    job = dataclasses.replace(job, index=dataclasses.replace(job.index, sources=sources))
    with beam.Pipeline(options=settings) as pipeline:
        names = pipeline | "parts" >> beam.Create([part.name for part in parts])
        _ = names | beam.Reshuffle() | "annotate" >> beam.ParDo(_AnnotatePart(job, local=local))


class _AnnotatePart(beam.DoFn):
    """Annotates and writes the part of a name."""

    def __init__(self, job: Job, *, local: bool) -> None:
        self._job, self._local = job, local

    def setup(self) -> None:
        # SQLite files cannot be shared by machines: each keeps the answers that it asked for.
        llm = None if self._local else Path(tempfile.gettempdir()) / "anchortrain-llm"
        self._annotator = open_annotator(self._job.annotating, self._job.schema, self._job.out, llm_directory=llm)
        self._parse = self._job.parser()

    def process(self, name: str) -> None:
        job, out = self._job, self._job.out
        part = next(part for part in job.index.parts if part.name == name)
        state = job.state(part)
        try:
            if state is None:
                writer = PartWriter(out, name, job.format)
                for record, answers in annotated(job.records(part, self._parse), self._annotate):
                    writer.add(record, answers)
                writer.finish()
            elif state.failed:
                mended(out, part, job.format, self._annotate)
        except UserError as error:
            # A runner would only try again, and show the user its own stack. On a full disk the missing part tells.
            with contextlib.suppress(UserError):
                write_text_atomic(_error_file(out, name), str(error))

    def _annotate(self, passages: Iterator) -> Iterator:
        return serially(self._annotator, passages)

    def teardown(self) -> None:
        self._annotator.close()


def _error_file(out: Path, name: str) -> Path:
    return out / STATE / f"{name}.error"


def _forget_errors(job: Job) -> None:
    for part in job.index.parts:
        _error_file(job.out, part.name).unlink(missing_ok=True)


def _raise_error(job: Job) -> None:
    """The first thing that a worker could not do, as if it had been done here."""
    for part in job.index.parts:
        with contextlib.suppress(FileNotFoundError):
            error = _error_file(job.out, part.name).read_text(encoding="utf-8")
            _forget_errors(job)
            raise UserError(error)


@contextlib.contextmanager
def _progress(job: Job, parts: Sequence[Part]) -> Iterator[None]:
    """Looks now and then which parts are finished: no runner tells it in the same way."""
    ended = threading.Event()

    def watch(progress: Progress) -> None:
        left = {part.name: part.chunks for part in parts}
        last = False
        while not last:
            last = ended.wait(_LOOK_SECONDS)
            done = [name for name in left if (job.out / STATE / f"{name}.json").exists()]
            progress.update(sum(left.pop(name) for name in done))

    total = sum(part.chunks for part in parts)
    with Progress(total, "chunks", "annotate") as progress:
        thread = threading.Thread(target=watch, args=(progress,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
