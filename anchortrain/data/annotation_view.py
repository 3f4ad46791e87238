"""Prompt and annotation of prepared instructions, without the response: what the KL anchor needs of the data."""

from collections.abc import Sequence

import numpy as np

from anchortrain.data.prepared import Example, PreparedDataset
from anchortrain.errors import UserError
from anchortrain.roles import is_annotation

_SCAN = 4096  # examples read at once


class AnnotationView:
    """A prepared data set in which every example ends right after its last annotation token.

    Examples without annotation are left out. Offers what the loader needs of a data set: `manifest`,
    `directory`, `vocabulary`, `lengths`, `__len__` and `__getitems__`. Opening it reads the data set once.
    """

    def __init__(self, dataset: PreparedDataset) -> None:
        """Raises UserError unless `dataset` holds instructions of which at least one is annotated."""
        if dataset.manifest.kind != "instructions":
            what = f"holds {dataset.manifest.kind}, but annotations are taken from instructions"
            raise UserError(what, where=str(dataset.directory), mend="name prepared instructions")
        self._dataset = dataset
        self.manifest, self.directory = dataset.manifest, dataset.directory
        ends = np.concatenate([_annotation_ends(dataset, start) for start in range(0, len(dataset), _SCAN)])
        self._indices = np.flatnonzero(ends)
        self.lengths = ends[self._indices]  # uint32[examples]
        if not self._indices.size:
            raise UserError(
                "no example has an annotation", where=str(dataset.directory), mend="annotate the data first"
            )

    @property
    def vocabulary(self):
        return self._dataset.vocabulary

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        whole = self._dataset.__getitems__([int(self._indices[i]) for i in indices])
        ends = [int(self.lengths[i]) for i in indices]
        return [Example(one.tokens[:n], one.roles[:n], one.id) for one, n in zip(whole, ends, strict=True)]


def _annotation_ends(dataset: PreparedDataset, start: int) -> np.ndarray:
    """uint32: for each of the next `_SCAN` examples one past its last annotation token, 0 if it has none."""
    stop = min(start + _SCAN, len(dataset))
    roles_T = np.concatenate([example.roles for example in dataset.__getitems__(range(start, stop))])
    lengths = dataset.lengths[start:stop].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    nth_T = np.arange(1, len(roles_T) + 1) - np.repeat(starts, lengths)
    return np.maximum.reduceat(np.where(is_annotation(roles_T), nth_T, 0), starts).astype(np.uint32)
