"""The three annotators behind one name: what decides their answers, how they are fitted, opened and combined."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anchortrain.annotate.config import Annotating
from anchortrain.annotate.passages import Annotator, Answer, Passage
from anchortrain.annotate.schema import Schema
from anchortrain.annotation import Annotation
from anchortrain.data.sources import digest_if_named
from anchortrain.errors import UserError
from anchortrain.nearest import suggest

NAMES = ("offline", "llm", "labels")

_MODEL = "model"  # directory of the fitted offline annotator, in the job's
_LLM = "llm"  # of the language model's cache and spending


def names(annotating: Annotating) -> list[str]:
    """The annotators of a job, in the order in which their tags are joined. Raises UserError."""
    found = annotating.annotate.annotator.split("+")
    for name in found:
        if name not in NAMES:
            raise UserError(f"unknown annotator {name!r}", mend=suggest(name, NAMES))
    if len(set(found)) < len(found):
        raise UserError(f"annotator {annotating.annotate.annotator!r} names one twice")
    return found


def check(annotating: Annotating) -> None:
    """Raises UserError on settings with which no annotator could work."""
    found = names(annotating)
    if "llm" in found:
        from anchortrain.annotate import llm

        llm.check(annotating.llm)
    if "labels" in found:
        from anchortrain.annotate import labels

        labels.check(annotating.labels)


def describe(annotating: Annotating, schema: Schema) -> dict[str, Any]:
    """Everything that decides what the annotations are, as plain JSON values."""
    found: dict[str, Any] = {}
    for name in names(annotating):
        if name == "llm":
            from anchortrain.annotate import llm

            found[name] = llm.describe(annotating.llm, schema)
        else:
            found[name] = dataclasses.asdict(getattr(annotating, name))
    if "labels" in found:
        found["labels"]["sha256"] = digest_if_named(annotating.labels.table)
    return found


def fit(annotating: Annotating, schema: Schema, sample: Sequence[Passage], directory: Path) -> None:
    """Fits what needs fitting, once for a job."""
    if "offline" in names(annotating):
        from anchortrain.annotate import offline

        suited = [passage for passage in sample if schema.keys_for(passage.kind)]
        offline.fit(suited, schema, annotating.offline, annotating.annotate.seed, directory / _MODEL)


def open_annotator(
    annotating: Annotating, schema: Schema, directory: Path, *, llm_directory: Path | None = None
) -> Annotator:
    """The annotator of a job, ready to work; the caller closes it.

    Args:
      annotating, schema: of the job.
      directory: the job's.
      llm_directory: of a language model's cache and spending, elsewhere than in the job's.
    """
    places = {"offline": directory / _MODEL, "llm": llm_directory or directory / _LLM, "labels": directory}
    return _Joined([_open(name, annotating, schema, places[name]) for name in names(annotating)], schema)


def _open(name: str, annotating: Annotating, schema: Schema, place: Path) -> Annotator:
    if name == "offline":
        from anchortrain.annotate.offline import OfflineAnnotator

        return _Suited(OfflineAnnotator(place, schema), schema)
    if name == "llm":
        from anchortrain.annotate.llm import LlmAnnotator

        return _Suited(LlmAnnotator(annotating.llm, schema, place), schema)
    from anchortrain.annotate.labels import LabelsAnnotator

    return LabelsAnnotator(annotating.labels, schema)


class _Suited:
    """Asks an annotator only for what its schema suits."""

    def __init__(self, annotator: Annotator, schema: Schema) -> None:
        self._annotator, self._schema = annotator, schema

    def annotate(self, passages: Sequence[Passage]) -> list[Answer]:
        suits = [bool(self._schema.keys_for(passage.kind)) for passage in passages]
        answers = iter(self._annotator.annotate([one for one, suited in zip(passages, suits, strict=True) if suited]))
        return [next(answers) if suited else Answer(None) for suited in suits]

    def close(self) -> None:
        self._annotator.close()


class _Joined:
    """Several annotators: the tags of all, in the order of the schema, each once."""

    def __init__(self, annotators: Sequence[Annotator], schema: Schema) -> None:
        self._annotators, self._schema = annotators, schema

    def annotate(self, passages: Sequence[Passage]) -> list[Answer]:
        answers = [annotator.annotate(passages) for annotator in self._annotators]
        return [self._join(found) for found in zip(*answers, strict=True)]

    def _join(self, answers: Sequence[Answer]) -> Answer:
        if len(answers) == 1:
            return answers[0]
        failed = next((answer.failed for answer in answers if answer.failed is not None), None)
        if failed is not None:
            return Answer(None, failed)
        given = [answer.annotation for answer in answers if answer.annotation is not None]
        return Answer(self._merged(given) if given else None)

    def _merged(self, annotations: Sequence[Annotation]) -> Annotation:
        order = [key.name for key in self._schema.keys]
        tags = list(dict.fromkeys(tag for annotation in annotations for tag in annotation))
        first = {key: i for i, key in reversed(list(enumerate(tag.key for tag in tags)))}
        # Keys that are not the schema's, such as a label's, come after it. Tags of one key stand together.
        place = {key: (0, order.index(key)) if key in order else (1, i) for key, i in first.items()}
        return tuple(sorted(tags, key=lambda tag: place[tag.key]))

    def close(self) -> None:
        for annotator in self._annotators:
            annotator.close()
