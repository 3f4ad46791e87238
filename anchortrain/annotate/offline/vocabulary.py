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
        if reading.weights is None:
            reading.weights = self.weigh(reading.counts)
        return reading.weights

    def weigh(self, words: Mapping[str, int]) -> dict[int, float]:
        """`weights`, given how often each word occurs."""
        counts: dict[int, int] = {}
        for word, count in words.items():
            if (i := self.index.get(word)) is not None:
                counts[i] = counts.get(i, 0) + count
        return {i: (1 + math.log(count)) * self.idf[i] for i, count in counts.items()}


def make_vocabulary(texts: Sequence[Mapping[str, int]], names: set[str], *, most: int) -> Vocabulary:
    """The `most` frequent words that are neither names, nor in almost all texts, nor in hardly any.

    Args:
      texts: lower-case word -> occurrences, of each passage of the sample.
      names: words to leave out.
      most: how many words.
    """
    total: Counter[str] = Counter()
    for counts in texts:
        total.update({word: n for word, n in counts.items() if is_content(word) and word not in names})
    base = base_forms(total)
    passages: Counter[str] = Counter()
    for counts in texts:
        passages.update({base[word] for word in counts if word in base})
    n = len(texts)
    least = max(1 if n < 20 else 2 if n < 1000 else 3, math.ceil(_RARE * n))
    highest = max(_COMMON * n, min(n, 20))
    fit = [word for word, df in passages.items() if least <= df <= highest]
    words = tuple(sorted(fit, key=lambda word: (-passages[word], word))[:most])
    place = {word: i for i, word in enumerate(words)}
    index = {word: place[shown] for word, shown in sorted(base.items()) if shown in place}
    # From some rarity on, being rarer does not make a word more telling.
    frequencies = [max(passages[word], _TELLING * n) for word in words]
    return Vocabulary(words, tuple(round(math.log((1 + n) / (1 + df)) + 1, 4) for df in frequencies), index)
