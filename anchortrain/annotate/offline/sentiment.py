"""The tone of a passage, by VADER's lexicon and its rules for negation and emphasis."""

import functools
import math
from typing import TYPE_CHECKING

from anchortrain.annotate.offline.lexicons import word_set
from anchortrain.annotate.offline.reading import SENTENCE, Reading

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

_MOST_WORDS = 400
_NEUTRAL = 0.55  # strength, valence per root of the number of words, up to which a text is neutral
_ONE_SIDED = 0.34


class _Window:
    """Five words around one that the lexicon knows, in the form that VADER's rules take."""

    is_cap_diff = False

    def __init__(self, words: list[str]) -> None:
        self.words_and_emoticons = words


def sentiment(reading: Reading) -> list[str]:
    """'positive', 'negative', 'mixed' or 'neutral'; nothing for a text without words."""
    if not reading.words:
        return []
    positive, negative = valences(reading)
    strength = (positive + negative) / math.sqrt(min(len(reading.words), _MOST_WORDS))
    if strength < _NEUTRAL:
        return ["neutral"]
    balance = (positive - negative) / (positive + negative)
    return ["positive" if balance > _ONE_SIDED else "negative" if balance < -_ONE_SIDED else "mixed"]


def valences(reading: Reading) -> tuple[float, float]:
    """Sums of the positive and of the negative valences of the first words, both at least 0."""
    analyzer, ignored = _analyzer(), word_set("tone", "ignored")
    positive = negative = 0.0
    lower = reading.lower[:_MOST_WORDS]
    for i, word in enumerate(lower):
        if word not in analyzer.lexicon or word in ignored:
            continue
        if reading.words[i][0].isupper() and reading.gaps[i] != SENTENCE:
            continue  # a name, such as Justice or Miss
        # VADER's rules look three words back and two ahead; on a whole text they take far longer.
        begin = max(0, i - 3)
        window = _Window(lower[begin : i + 3])
        (valence,) = analyzer.sentiment_valence(0, window, word, i - begin, [])
        positive += max(valence, 0.0)
        negative -= min(valence, 0.0)
    return positive, negative


@functools.cache
def _analyzer() -> "SentimentIntensityAnalyzer":
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
