"""A world for real text: what a response says is what the annotator of the training data reads from it."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

from anchortrain.annotate.annotators import open_annotator
from anchortrain.annotate.chunk_types import chunk_type
from anchortrain.annotate.config import AnnotateConfig, Annotating
from anchortrain.annotate.directory import DEFAULT_SCHEMAS
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import load_schema
from anchortrain.config_reader import build
from anchortrain.data.sources import JOB
from anchortrain.errors import UserError
from anchortrain.evaluate.samples import canonical


class Reading(NamedTuple):
    """What was read: key -> values (several are joined, in order), and a form for whatever holds text at all."""

    attributes: dict[str, str]
    form: str | None


class AnnotatedText:
    """Reads responses with the offline annotator that an `anchortrain annotate` job fitted (`semantic.World`).

    What an annotator overlooks or invents counts as the response's: entropies and agreement are those of the
    annotator's reading, and compare only with others made by the same job.
    """

    several_values = True  # such as two characters

    def __init__(self, job: str | Path) -> None:
        """Raises UserError when `job` is no job of the offline annotator."""
        path = Path(job) / JOB
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))["identity"]["annotate"]
            annotate = AnnotateConfig(**{name: settings[name] for name in ("kind", "annotator", "schema")})
        except OSError as error:
            raise UserError(
                f"cannot be read: {error.strerror}", where=str(path), mend="name a job's directory"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"is no annotation job: {error}", where=str(path)) from None
        if annotate.annotator != "offline":
            mend = "annotate with --annotator offline, which can read new text"
            raise UserError(f"was made by the annotator {annotate.annotator!r}", where=str(job), mend=mend)
        annotating = dataclasses.replace(build(Annotating, {}), annotate=annotate)
        schema = load_schema(annotate.schema or DEFAULT_SCHEMAS[annotate.kind])
        self._annotator = open_annotator(annotating, schema, Path(job))

    def parse(self, text: str) -> Reading:
        """The tags of a text, read as one passage."""
        if not text.strip():
            return Reading({}, None)
        (answer,) = self._annotator.annotate([Passage(text, "", chunk_type(text), "", 0, {})])
        found: dict[str, set[str]] = {}
        for tag in answer.annotation or ():
            found.setdefault(tag.key, set()).add(canonical(tag.value))
        return Reading({key: " | ".join(sorted(values)) for key, values in found.items()}, "text")
