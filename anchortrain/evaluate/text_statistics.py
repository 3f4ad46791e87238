"""Surface statistics of texts, for real text that no parser can read.

They count words, not meanings: a model can vary its wording while always telling the same story. Distinct-n falls
with the number and length of texts, so compare it only between sets alike in both.
"""

import re
from collections.abc import Sequence
from typing import Any

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def text_statistics(texts: Sequence[str]) -> dict[str, Any]:
    """Distinct-1..3 (distinct n-grams of words over all n-grams, pooled), lengths in words, shares of repeats."""
    words = [_WORD.findall(text.casefold()) for text in texts]
    lengths = sorted(map(len, words))
    return {
        **{f"distinct_{n}": _distinct(words, n) for n in (1, 2, 3)},
        "mean_words": sum(lengths) / len(lengths) if lengths else None,
        "median_words": lengths[len(lengths) // 2] if lengths else None,
        "empty": _share(sum(not one for one in words), len(texts)),
        "exact_repeats": _share(len(texts) - len(set(texts)), len(texts)),
    }


def _distinct(words: Sequence[Sequence[str]], n: int) -> float | None:
    grams = [tuple(one[i : i + n]) for one in words for i in range(len(one) - n + 1)]
    return _share(len(set(grams)), len(grams))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
