"""What extractors ask of a fitted model."""

from typing import Protocol


class CaseKnowledge(Protocol):
    """How the corpus writes words: `anchortrain.annotate.offline.model.Model` has it."""

    @property
    def names(self) -> frozenset[str]: ...

    @property
    def plain(self) -> frozenset[str]: ...
