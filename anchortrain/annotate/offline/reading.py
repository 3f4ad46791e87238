"""A passage as the extractors read it: words, what stands between them, runs of capitalised words. Made once."""

import functools
import re
from collections import Counter
from typing import NamedTuple

from anchortrain.annotate.offline.lexicons import word_set
from anchortrain.annotate.passages import Passage

# A chunk is a few hundred words. Of what is far longer only the beginning is read, so that time stays bounded.
MAX_CHARACTERS = 20_000
MAX_WORD = 40  # characters; longer ones are no words of a language with spaces

JOINED, BROKEN, SENTENCE = 0, 1, 2  # what lies between a word and the one before it

_WORD = re.compile(r"((?:[A-Z]\.){2,}|[^\W_]+(?:['’\-][^\W_]+)*)")
_STARTS = frozenset('.!?…:\n"“”‘*•#|=_[<>/\\')
_POSSESSIVE = ("'s", "’s", "'S", "’S")
_QUOTED = re.compile(r"“[^“”]*”|\"[^\"]*\"")
MAX_RUN = 5  # words of a name


class Run(NamedTuple):
    """Capitalised words in a row: perhaps a name."""

    words: tuple[str, ...]
    first: int  # index of the first word
    opens: bool  # a sentence, where capitals mean nothing


class Reading:
    """The words of a passage, and what is computed of them on demand."""

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self.text = passage.text[:MAX_CHARACTERS]
        self.weights: dict[int, float] | None = None  # once `Vocabulary.weights` has found them
        parts = _WORD.split(self.text)  # what lies between, word, what lies between, word, …
        self.words = parts[1::2]
        self.gaps = [SENTENCE]  # JOINED, BROKEN or SENTENCE, before each word
        self.gaps += [
            JOINED if between == " " else _gap(between, word)
            for between, word in zip(parts[2:-1:2], self.words, strict=False)
        ]
        # All at once is faster than one by one; no word has a line end.
        self.lower = "\n".join(self.words).lower().split("\n") if self.words else []
        self.gaps = self.gaps[: len(self.words)]

    @functools.cached_property
    def counts(self) -> Counter[str]:
        """How often each word occurs, in lower case, possessives cut."""
        counts = Counter(self.lower)
        for word in [one for one in counts if one.endswith(_POSSESSIVE)]:
            counts[word[:-2]] += counts.pop(word)
        return counts

    @functools.cached_property
    def line(self) -> str:
        """The lower-case words between single spaces, also at both ends: phrases are found as ' old times '."""
        return f" {' '.join(self.lower)} "

    @functools.cached_property
    def has_case(self) -> bool:
        """Whether capitals tell names from other words here: not in headlines, nor in German."""
        inner = [word for word, gap in zip(self.words, self.gaps, strict=True) if gap != SENTENCE and len(word) > 2]
        capitals = sum(word[0].isupper() for word in inner)
        if len(inner) >= 4 and capitals > (0.8 if len(inner) < 12 else 0.6) * len(inner):
            return False
        german = len(self.counts.keys() & word_set("stop_words", "german"))
        return german < 4 or german <= len(self.counts.keys() & word_set("stop_words", "english"))

    @functools.cached_property
    def runs(self) -> list[Run]:
        """Runs of at most `MAX_RUN` capitalised words, connectors such as 'of' between them; longer ones are out."""
        found, i = [], 0
        while i < len(self.words):
            if not _capitalised(self.words[i]):
                i += 1
                continue
            end = self._end_of_run(i)
            words = [*self.words[i : end - 1], cut_possessive(self.words[end - 1])]
            if len(words) <= MAX_RUN:
                found.append(Run(tuple(words), i, self.gaps[i] == SENTENCE))
            i = end
        return found

    def _end_of_run(self, first: int) -> int:
        """Index behind the last word of the run that begins at `first`."""
        connectors = word_set("names", "connectors")
        end = first + 1
        while end < len(self.words) and self.gaps[end] == JOINED and not self.words[end - 1].endswith(_POSSESSIVE):
            ahead = end
            while ahead < len(self.words) and ahead < end + 2 and self.words[ahead] in connectors:
                ahead += 1
            if ahead > end and ahead - first >= MAX_RUN:
                break  # a title after a name, rather than part of it
            joined = all(self.gaps[k] == JOINED for k in range(end, min(ahead + 1, len(self.words))))
            if ahead == len(self.words) or not joined or not _capitalised(self.words[ahead]):
                break
            end = ahead + 1
        return end

    @functools.cached_property
    def narration(self) -> str:
        """The text without what is in double quotation marks."""
        return _QUOTED.sub(" ", self.text)

    @functools.cached_property
    def quoted_share(self) -> float:
        """Characters in double quotation marks, of all."""
        return 1 - len(self.narration) / len(self.text) if self.text else 0.0


def cut_possessive(word: str) -> str:
    """'Mary's' -> 'Mary'."""
    return word[:-2] if word.endswith(_POSSESSIVE) else word


def _capitalised(word: str) -> bool:
    return word[0].isupper() and len(word) <= MAX_WORD and word not in ("I", "O")


def _gap(between: str, last: str) -> int:
    """What lies between the word `last` and the next."""
    if between == "-":
        return JOINED
    if between == ". ":
        short = len(last) == 1 and last.isupper() and last != "I"
        return JOINED if short or last.lower() in word_set("names", "abbreviations") else SENTENCE
    return SENTENCE if not _STARTS.isdisjoint(between) else BROKEN
