"""The words that topics and keywords are made of, with their inverse document frequencies."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from anchortrain.annotate.offline.reading import Reading
from anchortrain.annotate.offline.words import base_forms, is_content

_COMMON = 0.15  # share of the sample's passages from which on a word no longer tells them apart
_RARE = 0.0005  # fewer are slips, or known to one document only

_TELLING = 0.002


class Vocabulary(NamedTuple):
    """Words by index. `index` has every surface form that occurred in the sample, lower case."""

    words: tuple[str, ...]
    idf: tuple[float, ...]
    index: Mapping[str, int]

    def weights(self, reading: Reading) -> dict[int, float]:
        """Index -> (1 + ln count) · idf of the words of a passage, in the order in which they first occur."""
        if reading.weights is not None:
            return reading.weights
        counts: dict[int, int] = {}
        for word, count in reading.counts.items():
            if (i := self.index.get(word)) is not None:
                counts[i] = counts.get(i, 0) + count
        reading.weights = {i: (1 + math.log(count)) * self.idf[i] for i, count in counts.items()}
        return reading.weights


def make_vocabulary(readings: Sequence[Reading], names: set[str], *, most: int) -> Vocabulary:
    """The `most` frequent words that are neither names, nor in almost all passages, nor in hardly any."""
    total: Counter[str] = Counter()
    for reading in readings:
        total.update({word: n for word, n in reading.counts.items() if is_content(word) and word not in names})
    base = base_forms(total)
    passages: Counter[str] = Counter()
    for reading in readings:
        passages.update({base[word] for word in reading.counts if word in base})
    n = len(readings)
    least = max(1 if n < 20 else 2 if n < 1000 else 3, math.ceil(_RARE * n))
    highest = max(_COMMON * n, min(n, 20))
    fit = [word for word, df in passages.items() if least <= df <= highest]
    words = tuple(sorted(fit, key=lambda word: (-passages[word], word))[:most])
    place = {word: i for i, word in enumerate(words)}
    index = {word: place[shown] for word, shown in sorted(base.items()) if shown in place}
    # From some rarity on, being rarer does not make a word more telling.
    frequencies = [max(passages[word], _TELLING * n) for word in words]
    return Vocabulary(words, tuple(round(math.log((1 + n) / (1 + df)) + 1, 4) for df in frequencies), index)
