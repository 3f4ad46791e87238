"""Words of a corpus: which are inflections of one another, which are names, which tell texts apart."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from anchortrain.annotate.offline.lexicons import lexicon, stop_words
from anchortrain.annotate.offline.reading import MAX_WORD, SENTENCE, Reading, cut_possessive

_MIN_LETTERS = 3


class CaseCounts(NamedTuple):
    """How often words of the sample are written which way, inside sentences where capitals mean something."""

    lower: Counter[str]
    capital: Counter[str]  # within a sentence
    opening: Counter[str]  # capital, at the beginning of a sentence

    def add(self, reading: Reading) -> None:
        if not reading.has_case:
            return
        for word, gap in zip(reading.words, reading.gaps, strict=True):
            word = cut_possessive(word)
            if not word or len(word) > MAX_WORD:
                continue
            if word[0].islower():
                self.lower[word] += 1
            elif word[0].isupper():
                (self.opening if gap == SENTENCE else self.capital)[word.lower()] += 1

    def names(self) -> set[str]:
        """Words that are hardly ever written small, and not only at the beginning of sentences, as 'Lastly' is."""
        return {
            word
            for word, n in self.capital.items()
            if n > 2 * self.lower[word] and 6 * n > self.opening[word] and len(word) > 1
        }

    def plain(self) -> set[str]:
        """Words that are mostly written small, or capital only where every word is."""
        small = {word for word, n in self.lower.items() if n > self.capital[word]}
        return small | {word for word, n in self.opening.items() if n > 2 and n >= 6 * self.capital[word]}


def is_content(word: str) -> bool:
    """Whether a lower-case word may name a topic or be a keyword."""
    return _MIN_LETTERS <= len(word) <= MAX_WORD and word.replace("-", "").isalpha() and word not in stop_words()


def base_forms(counts: Mapping[str, int]) -> dict[str, str]:
    """word -> the most frequent of its inflections, over words that occur: 'walks', 'walked' -> 'walking', say."""
    roots = {word: _root(word, counts) for word in counts}
    shown: dict[str, str] = {}
    for word in sorted(counts, key=lambda one: (-counts[one], one)):
        shown.setdefault(roots[word], word)
    return {word: shown[root] for word, root in roots.items()}


def _root(word: str, counts: Mapping[str, int]) -> str:
    for _ in range(3):  # 'meetings', 'meeting', 'meet'
        shorter = next((one for one in _shorter(word) if one in counts and len(one) >= _MIN_LETTERS), None)
        if shorter is None:
            break
        word = shorter
    return word


def _shorter(word: str) -> Iterable[str]:
    """What an English word may be inflected from, likeliest first."""
    irregular = lexicon("inflections")["irregular"]
    if word in irregular:
        yield irregular[word]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        if word.endswith("ies"):
            yield word[:-3] + "y"
        yield word[:-1]
        if word.endswith("es"):
            yield word[:-2]
    for ending in ("ed", "ing"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            if word.endswith("ied"):
                yield word[:-3] + "y"
            if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "sl":
                yield stem[:-1]
            yield stem + "e"
            yield stem
