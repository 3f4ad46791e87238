"""The word lists in `anchortrain/annotate/lexicons`: small, made by hand, read once a process."""

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def lexicon(name: str) -> dict[str, Any]:
    """The content of `NAME.json`: lists of words and tables of them. Not to be changed by the caller."""
    path = resources.files("anchortrain.annotate") / "lexicons" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


@functools.cache
def word_set(name: str, part: str) -> frozenset[str]:
    """One list of a lexicon, or the keys of one table, as a set."""
    return frozenset(lexicon(name)[part])


@functools.cache
def stop_words() -> frozenset[str]:
    """Words that say nothing of what a text is about: function words of several languages, common English verbs."""
    return frozenset(word for words in lexicon("stop_words").values() for word in words)
