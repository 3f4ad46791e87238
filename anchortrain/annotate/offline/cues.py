"""Values that words or phrases give away: the extractor of closed lists."""

from collections.abc import Iterable, Mapping

from anchortrain.annotate.offline.lexicons import lexicon
from anchortrain.annotate.offline.reading import Reading

_MOST = 3  # occurrences of one cue that count
_PHRASE = 2.0  # a phrase says more than a word


class Cues:
    """Counts the cues of each value. A word also stands for its plural; signs stand for themselves."""

    def __init__(self, cues: Mapping[str, Iterable[str]], weight: float = 1.0) -> None:
        self._words: dict[str, list[str]] = {}
        self._phrases: list[tuple[str, str]] = []
        self._signs: list[tuple[str, str]] = []
        self._weight = weight
        for value, texts in cues.items():
            for text in texts:
                self._add(value, text.lower())

    def _add(self, value: str, cue: str) -> None:
        words = cue.split()
        if not all(word.replace("-", "").replace("'", "").isalnum() for word in words) or cue != " ".join(words):
            self._signs.append((cue, value))
        elif len(words) > 1:
            self._phrases.append((f" {cue} ", value))
        else:
            for form in (cue, cue + "s"):
                if value not in (values := self._words.setdefault(form, [])):
                    values.append(value)

    def scores(self, reading: Reading) -> dict[str, float]:
        """Value -> weight of its cues in a passage, above 0."""
        found: dict[str, float] = {}

        def add(value: str, count: int, weight: float) -> None:
            found[value] = found.get(value, 0.0) + weight * min(count, _MOST)

        for word, count in reading.counts.items():
            for value in self._words.get(word, ()):
                add(value, count, self._weight)
        for phrase, value in self._phrases:
            if count := reading.line.count(phrase):
                add(value, count, _PHRASE * self._weight)
        text = reading.text.lower() if self._signs else ""
        for sign, value in self._signs:
            if count := text.count(sign):
                add(value, count, self._weight)
        return found

    def rank(self, reading: Reading) -> list[str]:
        """The values with a cue in the passage, best first; equal ones in the schema's order of cues."""
        return best(self.scores(reading))


def best(scores: Mapping[str, float], least: float = 0.0) -> list[str]:
    """Keys by falling score, those below `least` left out."""
    return sorted((key for key, score in scores.items() if score >= least), key=lambda key: (-scores[key], key))


class Domains:
    """The field of a text: two words of its vocabulary, or one and weaker ones."""

    def __init__(self) -> None:
        self._strong = Cues(lexicon("domains")["strong"])
        self._weak = Cues(lexicon("domains")["weak"], 0.4)

    def rank(self, reading: Reading) -> list[str]:
        scores = self._strong.scores(reading)
        for value, score in self._weak.scores(reading).items():
            scores[value] = scores.get(value, 0.0) + score
        # What a long text says once in passing is not its field.
        return best(scores, 1.0 + min(1.0, len(reading.words) / 60))
