"""Who and what is named in a passage, and who acts in a story."""

import functools
from collections import Counter
from typing import NamedTuple

from anchortrain.annotate.offline.lexicons import lexicon, stop_words, word_set
from anchortrain.annotate.offline.model_types import CaseKnowledge
from anchortrain.annotate.offline.places import Places
from anchortrain.annotate.offline.reading import JOINED, Reading, Run, cut_possessive

_MOST_FULL = 40  # full names that short forms are sought for: a text of nothing but names must not take long


class Named(NamedTuple):
    """A name with its score (occurrences) and the index of its first word."""

    name: str
    score: float
    first: int


class Entities:
    """Finds names by their capitals, doubtful ones by how the corpus writes them."""

    def __init__(self, case: CaseKnowledge, places: Places) -> None:
        self._case = case
        self._places = places
        self._function_words = word_set("stop_words", "english")
        self._titles = word_set("names", "titles")
        self._no_names = word_set("names", "not_names") - self._titles
        self._no_ends = self._no_names | self._titles
        self._beginnings = word_set("names", "beginnings")
        self._peoples = word_set("places", "nationalities")

    def names(self, reading: Reading) -> list[Named]:
        """The names of a passage, best first; parts of a longer name count for it. Places, dates, peoples are out."""
        if not reading.has_case:
            return []
        candidates = [one for run in reading.runs if (one := self._trim(run, reading)) is not None]
        sure = {word for one in candidates if not one.opens for word in one.words}
        counts: Counter[tuple[str, ...]] = Counter()
        firsts: dict[tuple[str, ...], int] = {}
        for one in candidates:
            if one.opens and len(one.words) == 1 and not self._is_known(one.words[0], sure):
                continue
            if self._places.is_place(one.words):
                continue
            counts[one.words] += 1
            firsts.setdefault(one.words, one.first)
        return _merge(counts, firsts)

    def _is_known(self, word: str, sure: set[str]) -> bool:
        """Whether a word at the beginning of a sentence is a name nevertheless."""
        low = word.lower()
        if word in sure or low in self._case.names:
            return True
        return low in word_set("names", "given") and low not in self._case.plain

    def _trim(self, run: Run, reading: Reading) -> Run | None:
        """The run without words at its ends that are no part of a name; None if nothing is left."""
        words, first, opens = list(run.words), run.first, run.opens
        while words and self._is_no_beginning(words, opens):
            del words[0]
            first, opens = first + 1, False
        while words and (words[-1].lower() in self._no_ends or words[-1] in self._peoples):
            del words[-1]
        if not words or words[0].lower() in self._no_names or len(words) == 1 and self._is_no_name(words[0]):
            return None
        if sum(word.isupper() and len(word) > 3 for word in words) > 1:
            return None  # shouted, or a heading
        return Run(tuple(words), first, opens)

    def _is_no_beginning(self, words: list[str], opens: bool) -> bool:
        """Whether the first word is capital only because a sentence or a heading begins."""
        low = words[0].lower()
        if low in self._function_words or not opens or low in self._titles:
            return low in self._function_words
        kept = len(words) > 1 and low in self._beginnings
        return (low in self._case.plain or low in stop_words()) and not kept

    def _is_no_name(self, word: str) -> bool:
        """Of a word by itself: 'He said No', 'the Committee', 'CHAPTER', an initial, a numeral."""
        low = word.lower()
        return low in self._case.plain or low in stop_words() or len(word) < 2 or _is_numeral(word)

    def characters(self, reading: Reading) -> list[str]:
        """Names, and what actors are called who have none (fox, old woman), the most frequent first."""
        scored = [(-1.5 * one.score, one.first, one.name) for one in self.names(reading) if _acts(one, reading)]
        nouns, firsts = _nouns(reading)
        scored += [(-score, firsts[noun], noun) for noun, score in nouns.items()]
        return [name for _, _, name in sorted(scored)]


def _acts(named: Named, reading: Reading) -> bool:
    """Not so a name that stands after 'in' or 'at', as places do."""
    before = reading.lower[max(0, named.first - 1) : named.first]
    words = named.name.lower().split()
    if not word_set("places", "settings").isdisjoint((words[0], words[-1])):
        return False  # Soria-Moria Castle, Mountain of Glass
    return not (before and before[0] in ("in", "at", "near", "into", "on"))


def _merge(counts: Counter[tuple[str, ...]], firsts: dict[tuple[str, ...], int]) -> list[Named]:
    """Adds short forms to the full name: 'Holmes' to 'Sherlock Holmes'."""
    titles = word_set("names", "titles")
    # 'Sherlock Holmes' before 'Mr. Holmes'
    ranks = {one: (one[0].lower() in titles, -counts[one], firsts[one]) for one in counts if len(one) > 1}
    full = sorted(ranks, key=lambda one: ranks[one])[:_MOST_FULL]
    scores: dict[tuple[str, ...], float] = {}
    for words in sorted(counts, key=lambda one: firsts[one]):
        singular = (words[0][:-1],) if len(words) == 1 and words[0].endswith("s") else words
        if singular != words and singular in counts:
            scores[singular] = scores.get(singular, 0.0) + counts[words]
            continue
        rest = words[1:] if words[0].lower() in titles else words
        longer = next((one for one in full if one != words and set(rest) < set(one)), None) if rest else None
        if longer is not None and _root(longer, full) == longer:
            scores[longer] = scores.get(longer, 0.0) + counts[words]
            firsts[longer] = min(firsts[longer], firsts[words])
        else:
            scores[words] = scores.get(words, 0.0) + counts[words] + 0.25 * (len(words) > 1)
    ranked = sorted(scores, key=lambda one: (-scores[one], firsts[one]))
    return [Named(_written(words), scores[words], firsts[words]) for words in ranked]


def _written(words: tuple[str, ...]) -> str:
    """With full stops after initials and such titles as 'Mr.'."""
    short = word_set("names", "abbreviations")
    return " ".join(word + "." if len(word) == 1 or word.lower() in short else word for word in words)


def _root(words: tuple[str, ...], full: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The name that `words` themselves count for."""
    return next((one for one in full if set(words) < set(one)), words)


def _is_numeral(word: str) -> bool:
    return all(letter in "IVXLC" for letter in word)


def character_nouns() -> frozenset[str]:
    """The common nouns that `Entities.characters` may give, also in the plural."""
    return frozenset(_lemmas())


@functools.cache
def _lemmas() -> dict[str, str]:
    """Singular and plural of the lexicon's characters -> singular."""
    characters = lexicon("characters")
    nouns = [*characters["people"], *characters["animals"]]
    plurals = {many: one for many, one in lexicon("inflections")["irregular"].items() if one in nouns}
    return {noun + "s": noun for noun in nouns} | {noun: noun for noun in nouns} | plurals


def _is_title(i: int, reading: Reading) -> bool:
    """Whether the noun at `i` belongs to the name after it, as in 'Father Brown'."""
    following = reading.words[i + 1 : i + 2]
    joined = bool(following) and reading.gaps[i + 1] == JOINED
    return joined and reading.words[i][0].isupper() and following[0][0].isupper()


def _nouns(reading: Reading) -> tuple[Counter[str], dict[str, int]]:
    """Occurrences and first positions of common nouns for actors; one mention of an animal makes no actor."""
    lemmas, determiners, verbs = _lemmas(), word_set("names", "determiners"), word_set("characters", "ambiguous")
    generic, qualifiers = word_set("characters", "generic"), word_set("characters", "qualifiers")
    counts: Counter[str] = Counter()
    firsts: dict[str, int] = {}
    qualified: dict[str, Counter[str]] = {}
    for i, word in enumerate(reading.lower):
        noun = lemmas.get(cut_possessive(word))
        if noun is None or _is_title(i, reading):
            continue
        before = reading.lower[i - 1] if i else ""
        if noun in verbs and not {before, reading.lower[max(0, i - 2)]} & determiners:
            continue
        counts[noun] += 1
        firsts.setdefault(noun, i)
        if noun in generic and before in qualifiers and word == noun:
            qualified.setdefault(noun, Counter())[before] += 1
    for noun, before in qualified.items():
        name, n = before.most_common(1)[0]
        if 2 * n >= min(counts[noun], 4):
            whole = f"{name} {noun}"
            counts[whole], firsts[whole] = counts.pop(noun), firsts[noun]
    animals = word_set("characters", "animals")
    for noun in [
        one for one, n in counts.items() if n < 2 and (one in animals or one in ("man", "woman", "god", "child"))
    ]:
        del counts[noun]
    return counts, firsts
