"""The directory of a job: begun, locked, continued, and what it was made of.

    OUT/job.json          what the job is, and how the corpus is cut into parts; written when the first pass is over
    OUT/model/, OUT/llm/  the fitted offline annotator; a language model's answers and spending
    OUT/part-00000.jsonl  records with annotations, written whole
    OUT/state/            counts of each finished part
    OUT/failed.jsonl      chunks that failed, with the reason; the same command asks again for them
    OUT/manifest.json     counts, hashes and versions; there when every part is

Nothing that is finished is ever done again, and a part is written at once or not at all, so there is nothing to repair.
"""

import contextlib
import dataclasses
import fcntl
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anchortrain.annotate import annotators
from anchortrain.annotate.chunking import chunks, counter
from anchortrain.annotate.config import Annotating
from anchortrain.annotate.index import Index, Part, Sample, check_unchanged, make_index, records_of
from anchortrain.annotate.parts import FORMATS, State, file_of, read_state
from anchortrain.annotate.records import Names, Parser, Record, parser
from anchortrain.annotate.schema import Schema, load_schema
from anchortrain.data.records import KINDS
from anchortrain.data.sources import JOB, check_name, digest, digest_if_named, expand, prefixed
from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic
from anchortrain.nearest import suggest

FORMAT = 1
BAD_RECORDS = "bad_records.jsonl"
_LOCK = ".lock"
_MAX_SEED = 2**32 - 1
_BAD_RECORDS = ("stop", "set_aside")
DEFAULT_SCHEMAS = {"documents": "web", "instructions": "instructions"}


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that a part needs to be annotated, wherever that is."""

    annotating: Annotating
    schema: Schema
    out: Path
    index: Index

    @property
    def format(self) -> str:
        return self.annotating.annotate.format

    def todo(self) -> list[Part]:
        """The parts that are not finished, or whose file is not what was written."""
        states = [(part, self.state(part)) for part in self.index.parts]
        return [part for part, state in states if state is None or digest(self._file(part)) != state.sha256]

    def broken(self) -> list[Part]:
        """The finished parts with chunks that failed."""
        states = [(part, self.state(part)) for part in self.index.parts]
        return [part for part, state in states if state is not None and state.failed]

    def state(self, part: Part) -> State | None:
        """What a part holds; None when it is not finished, or its file was removed."""
        return read_state(self.out, part.name) if self._file(part).exists() else None

    def _file(self, part: Part) -> Path:
        return file_of(self.out, part.name, self.format)

    def records(self, part: Part, parse: Parser) -> Iterator[Record]:
        """The records of a part."""
        set_aside = self.annotating.annotate.bad_records == "set_aside"
        found = records_of(self.index.sources[part.source], parse, start=part.start, set_aside=set_aside)
        for _, (_, record) in zip(range(part.records), found, strict=False):
            yield record

    def parser(self) -> Parser:
        return make_parser(self.annotating)


def make_parser(annotating: Annotating) -> Parser:
    """What makes records of lines as the configuration says."""
    count = counter(annotating.chunk)
    names = Names(**dataclasses.asdict(annotating.source))
    return parser(annotating.annotate.kind, names, lambda text: chunks(text, annotating.chunk, count))


@contextlib.contextmanager
def opened(inputs: Sequence[str | Path], out: Path, annotating: Annotating) -> Iterator[Job]:
    """The job of a directory, begun now or before; nobody else may work on it meanwhile. Raises UserError."""
    check(annotating)
    schema = load_schema(annotating.annotate.schema or DEFAULT_SCHEMAS[annotating.annotate.kind])
    identity = identity_of(annotating, schema)
    paths = prefixed(_checked(expand(inputs)))
    fresh = not out.exists()
    if not fresh and not (out / JOB).exists() and any(one.name not in (_LOCK,) for one in _listed(out)):
        raise UserError("is not empty and no annotation job", where=str(out), mend="choose another --out")
    with _locked(out, fresh):
        if (out / JOB).exists():
            index = _resumed(out, identity, paths)
        else:
            index = _begun(out, identity, paths, annotating, schema)
        yield Job(annotating, schema, out, index)


def _listed(out: Path) -> list[Path]:
    try:
        # What a start leaves behind that was killed in its first pass.
        left = (f"{BAD_RECORDS}.partial", f"{JOB}.partial", "model", "llm")
        return [one for one in out.iterdir() if one.name not in left]
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(out)) from None


@contextlib.contextmanager
def _locked(out: Path, fresh: bool) -> Iterator[None]:
    """Holds the directory's lock, which ends with the process. A new directory that stays empty is removed again."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / _LOCK, "w")
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=str(out), mend="choose another --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError("another process annotates into it", where=str(out), mend="wait for it") from None
        try:
            yield
        finally:
            if fresh and not (out / JOB).exists():
                with contextlib.suppress(OSError):
                    (out / _LOCK).unlink()
                    out.rmdir()


def _checked(paths: Sequence[Path]) -> Sequence[Path]:
    """Raises UserError on a path that is given twice, or whose name is no text."""
    for path in paths:
        check_name(path)
    twice = [path for path, n in Counter(paths).items() if n > 1]
    if twice:
        raise UserError("is given twice", where=str(twice[0]), mend="name each input once")
    return paths


def identity_of(annotating: Annotating, schema: Schema) -> dict[str, Any]:
    """What may not change while a job goes on: everything that decides what is written."""
    annotate = dataclasses.asdict(annotating.annotate)
    del annotate["workers"]
    found = {
        "source": dataclasses.asdict(annotating.source),
        "chunk": dataclasses.asdict(annotating.chunk) | {"sha256": digest_if_named(annotating.chunk.tokenizer)},
        "annotate": annotate,
        "schema": schema.to_json(),
        "annotators": annotators.describe(annotating, schema),
    }
    return json.loads(json.dumps(found))


def _resumed(out: Path, identity: dict[str, Any], paths: Sequence[tuple[Path, str]]) -> Index:
    where = str(out / JOB)
    try:
        job = json.loads((out / JOB).read_text(encoding="utf-8"))
        found, index = job["identity"], Index.from_json(job["index"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot be read: {error}", where=where, mend="choose another --out") from None
    if job.get("format") != FORMAT:
        raise UserError(f"field 'format' must be {FORMAT}, got {job.get('format')!r}", where=where)
    if difference := _difference(found, identity):
        name, old, new = difference
        what = f"was begun with {name} = {old!r}, now it is {new!r}"
        raise UserError(what, where=str(out), mend="choose another --out, or set it back to continue")
    if [(source.path, source.prefix) for source in index.sources] != [(str(path), prefix) for path, prefix in paths]:
        raise UserError("was begun with other inputs", where=str(out), mend="choose another --out")
    check_unchanged(index.sources)
    return index


def _difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first field in which two trees of plain values differ: its name and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if found := _difference(old.get(key), new.get(key), f"{name}.{key}" if name else key):
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return next((found for i, (a, b) in pairs if (found := _difference(a, b, f"{name}[{i}]"))), None)
    return None if old == new else (name, old, new)


def _begun(
    out: Path,
    identity: dict[str, Any],
    paths: Sequence[tuple[Path, str]],
    annotating: Annotating,
    schema: Schema,
) -> Index:
    """The first pass. Only when all of it has succeeded is there a job."""
    settings = annotating.annotate
    fits = "offline" in annotators.names(annotating)
    sample = Sample(annotating.offline.sample_chunks if fits else 0, settings.seed)
    partial = out / f"{BAD_RECORDS}.partial"
    with contextlib.ExitStack() as stack:
        stack.callback(partial.unlink, missing_ok=True)
        bad = stack.enter_context(open(partial, "w", encoding="utf-8"))
        index = make_index(
            paths,
            make_parser(annotating),
            part_chunks=settings.part_chunks,
            sample=sample,
            set_aside=settings.bad_records == "set_aside",
            bad=bad,
        )
        if index.bad_records:
            bad.flush()
            partial.replace(out / BAD_RECORDS)
    annotators.fit(annotating, schema, sample.passages(), out)
    write_json_atomic(out / JOB, {"format": FORMAT, "identity": identity, "index": index.to_json()})
    return index


def check(annotating: Annotating) -> None:
    """Raises UserError on a value that no job could have."""
    settings, chunk = annotating.annotate, annotating.chunk
    choices = {"kind": KINDS, "format": FORMATS, "bad_records": _BAD_RECORDS}
    for field, allowed in choices.items():
        value = getattr(settings, field)
        if value not in allowed:
            raise UserError(f"AnnotateConfig.{field}: {value!r} is not allowed", mend=suggest(value, allowed))
    least = {
        "AnnotateConfig.part_chunks": (settings.part_chunks, 1),
        "AnnotateConfig.workers": (settings.workers, 0),
        "AnnotateConfig.seed": (settings.seed, 0),
        "ChunkConfig.min_tokens": (chunk.min_tokens, 0),
        "ChunkConfig.max_tokens": (chunk.max_tokens, 2),
        "OfflineConfig.topics": (annotating.offline.topics, 0),
        "OfflineConfig.sample_chunks": (annotating.offline.sample_chunks, 1),
        "OfflineConfig.features": (annotating.offline.features, 1),
    }
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"{name} must be at least {smallest}, got {value}")
    if settings.seed > _MAX_SEED:
        raise UserError(f"AnnotateConfig.seed must be at most {_MAX_SEED}, got {settings.seed}")
    if chunk.min_tokens > chunk.max_tokens:
        what = f"ChunkConfig.min_tokens ({chunk.min_tokens}) is above ChunkConfig.max_tokens ({chunk.max_tokens})"
        raise UserError(what)
    annotators.check(annotating)
