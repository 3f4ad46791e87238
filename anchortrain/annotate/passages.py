"""What an annotator is given and what it gives back: the one protocol of `anchortrain.annotate`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from anchortrain.annotation import Annotation


class Passage(NamedTuple):
    """A chunk of a document, or a whole response, with what is known around it."""

    text: str
    before: str  # the chunk before it, or the prompt that it answers; "" when there is none
    kind: str  # of text, one of `chunk_types.TYPES`
    record: str  # id of the record
    index: int  # of the chunk in its record, from 0
    fields: Mapping[str, Any]  # the record's other fields, such as title, author, source


class Answer(NamedTuple):
    """What became of a passage: an annotation, none (`annotation` None: there is nothing to say), or a failure."""

    annotation: Annotation | None
    failed: str | None = None  # why, in one line; a later run asks again


class Annotator(Protocol):
    """Passages in, answers out, in batches.

    An answer depends on its passage alone, never on the others of its batch, so that batches may be cut anywhere and
    run on any machine. Implementations are made in each worker by `annotators.open_annotator`.
    """

    def annotate(self, passages: Sequence[Passage]) -> list[Answer]:
        """One answer for each passage, in order. Raises UserError when no later passage can succeed either."""
        ...

    def close(self) -> None:
        """Ends whatever was begun: connections, threads, files."""
        ...
