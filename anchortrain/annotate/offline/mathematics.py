"""Operations of a worked problem, and the part of mathematics that it belongs to."""

import re
from collections import Counter

from anchortrain.annotate.offline.reading import Reading

# An operator stands between things that can be reckoned with; a hyphen in a word or a slash in 'and/or' does not.
_OPERATION = re.compile(r"[\d)%.a-z$]\s?([-–−+*/×÷^x])\s?[$(\d]|\\(times|cdot|frac|sqrt|div)\b")
_UNKNOWN = re.compile(r"(?<![\w\\])[a-zA-Z](?:\s*[-+*/]\s*\d+)?\s*=\s*[-\d$(]|\d[a-z]\b\s*[-+=]|=\s*\d*[a-z]\b(?!\w)")
_SIGNS = {
    "addition": ("+",),
    "subtraction": ("-", "–", "−"),
    "multiplication": ("*", "×", "x", "times", "cdot"),
    "division": ("/", "÷", "frac", "div"),
    "powers": ("^", "sqrt"),
}
_NAMES = {sign: name for name, signs in _SIGNS.items() for sign in signs}


def operations(reading: Reading) -> list[str]:
    """The operations that are written out, the most frequent first; 'equations' where an unknown is solved for."""
    found: Counter[str] = Counter()
    # GSM8K writes every calculation a second time in double angles.
    text = re.sub(r"<<[^<>\n]*>>", "", reading.text)
    for match in _OPERATION.finditer(text):
        found[_NAMES[match[1] or match[2]]] += 1
    if (unknowns := len(_UNKNOWN.findall(text))) >= 2:
        found["equations"] = unknowns
    return [value for value, _ in found.most_common()]


def has_unknowns(reading: Reading) -> bool:
    """Whether letters stand for numbers."""
    return len(_UNKNOWN.findall(reading.text)) >= 2
