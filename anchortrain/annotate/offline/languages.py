"""The language that a text is written in."""

import functools
from typing import TYPE_CHECKING

from anchortrain.annotate.offline.lexicons import lexicon, word_set
from anchortrain.annotate.offline.reading import Reading

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_CHARACTERS = 240  # enough to tell a language
_LETTERS = 12  # fewer tell nothing
_CONFIDENT = 0.6
_ENGLISH = 0.3  # share of function words that no other language has by chance


def language(reading: Reading) -> list[str]:
    """The English name of the language, or nothing where the text is too short or strange to tell."""
    words = reading.lower[:60]
    english = word_set("stop_words", "english")
    # Most corpora are English, and py3langid takes longer than everything else here.
    if len(words) >= 12 and sum(word in english for word in words) > _ENGLISH * len(words):
        return ["English"]
    sample = " ".join(reading.text[: 2 * _CHARACTERS].split())[:_CHARACTERS]
    if sum(map(str.isalpha, sample)) < _LETTERS:
        return []
    code, confidence = _identifier().classify(sample)
    return [lexicon("languages")["names"][code]] if confidence >= _CONFIDENT else []


@functools.cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # Without the rarest languages and dialects, which few texts are in and many short ones are taken for.
    identifier.set_languages(set(lexicon("languages")["names"]) & set(identifier.labels))
    return identifier
