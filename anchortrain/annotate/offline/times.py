"""When a passage plays: years, decades, centuries, seasons, times of day."""

import re
from collections import Counter

from anchortrain.annotate.offline.lexicons import lexicon, word_set
from anchortrain.annotate.offline.reading import Reading

# A year is no price, no part of a longer number, and is not followed by what it would count.
_YEAR = re.compile(r"(?<![\d$£€#.,:/+-])(1[0-9]{3}|20[0-4][0-9])(s?)(?![\d%]|[.,:]\d)(?:[ -]([A-Za-z]+))?")
_CENTURY = re.compile(r"\b(?:(\d{1,2})(?:st|nd|rd|th)|([a-z]+(?:-first)?))[ -]centur", re.IGNORECASE)
_DATED = re.compile(
    r"(?:\b(?:in|since|from|by|until|till|during|of|year|around|circa|before|after|between|early|late|mid)"
    r"|\b(?:January|February|March|April|May|June|July|August|September|October|November|December)(?: \d\d?,)?"
    r"|\()[ -]?$",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_PLAIN_FROM = 1700  # years that are taken for such without a word before them


def period(reading: Reading) -> list[str]:
    """Decades such as '1940s' (from 1800 on) and centuries such as '17th century', the most frequent first."""
    found: Counter[str] = Counter()
    if _DIGIT.search(reading.text) is None and "centur" not in reading.line:
        return []
    units = word_set("times", "units")
    for match in _YEAR.finditer(reading.text):
        year, unit = int(match[1]), match[3]
        if unit and unit.lower() in units:
            continue
        if year < _PLAIN_FROM and not _DATED.search(reading.text[max(0, match.start() - 16) : match.start()]):
            continue
        found[f"{year // 10 * 10}s" if year >= 1800 else _century(year // 100 + 1)] += 1
    ordinals = lexicon("times")["ordinals"]
    for match in _CENTURY.finditer(reading.text):
        number = int(match[1]) if match[1] else ordinals.get(match[2].lower(), 0)
        if 0 < number <= 21:
            found[_century(number)] += 1
    return [value for value, _ in found.most_common()]


def story_time(reading: Reading) -> list[str]:
    """A period, feast, month, season, time of day or 'long ago', in this order of what says most."""
    if found := period(reading):
        return found
    times = lexicon("times")
    if any(f" {phrase.replace(',', '')} " in reading.line for phrase in times["long_ago"]):
        found.append("long ago")
    scores: Counter[str] = Counter()
    for word, value in times["feasts"].items():
        scores[value] += 4 * reading.counts[word]
    for season in times["seasons"]:
        # 'spring' is also water and a leap: as a season it comes after a preposition or an article and a preposition.
        certain = (
            season not in ("spring", "fall") or f" in {season} " in reading.line or " in the spring " in reading.line
        )
        scores[season] += 3 * reading.counts[season] if certain else 0
    for word, value in times["of_day"].items():
        scores[value] += reading.counts[word]
    for month in times["months"]:
        # 'May' and 'March' are words as well.
        certain = month not in ("May", "March") or f" in {month.lower()} " in reading.line
        if month.lower() in reading.counts and month in reading.words and certain:
            scores[month] += 3
    return found + [value for value, score in scores.most_common() if score > 0]


def _century(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if 10 <= number % 100 <= 20 else endings.get(number % 10, "th")
    return f"{number}{ending} century"
