"""Keywords: words by which a passage differs from others."""

from anchortrain.annotate.offline.vocabulary import Vocabulary

_FAINT = ("ly", "ed", "ing", "ous", "ful", "ish", "able")  # endings of words that seldom name a thing


def rank_keywords(weights: dict[int, float], vocabulary: Vocabulary, taken: set[str], *, most: int) -> list[str]:
    """The words of the highest weight that are not in `taken` (lower-case words of other tags), best first.

    Args:
      weights: `Vocabulary.weights` of the passage.
      vocabulary: their words.
      taken: words that other tags have said.
      most: how many.
    """
    used = {vocabulary.index.get(word) for word in taken}
    ranked = []
    for i, weight in weights.items():
        word = vocabulary.words[i]
        if i not in used and word not in taken:
            ranked.append((-weight * (0.6 if word.endswith(_FAINT) else 1.0), i))
    return [vocabulary.words[i] for _, i in sorted(ranked)[:most]]
