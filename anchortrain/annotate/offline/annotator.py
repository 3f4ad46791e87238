"""The annotator that works offline: loads a fitted model, tags passages."""

from collections.abc import Sequence
from pathlib import Path

from anchortrain.annotate.offline.extractors import Extractors
from anchortrain.annotate.offline.model import load
from anchortrain.annotate.offline.reading import Reading
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.schema import Schema


class OfflineAnnotator:
    """`anchortrain.annotate.passages.Annotator` by counting, word lists and the topic model that `fit` made.

    An answer is a function of the passage and the model. Nothing is kept between passages.
    """

    def __init__(self, directory: Path, schema: Schema) -> None:
        """Loads the model below `directory`. Raises UserError when it is absent or damaged."""
        self._schema = schema
        self._extractors = Extractors(schema, load(directory))

    def annotate(self, passages: Sequence[Passage]) -> list[Answer]:
        """One answer for each passage, in order; an empty annotation where nothing was found."""
        return [self._answer(passage) for passage in passages]

    def _answer(self, passage: Passage) -> Answer:
        found = self._extractors.find(Reading(passage))
        return Answer(self._schema.annotation(found, passage.kind))

    def close(self) -> None:
        """Nothing to end."""
