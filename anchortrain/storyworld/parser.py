"""The exact parser: attributes by spotting, form by matching the whole text against the grammar."""

import functools
import re
from typing import Literal, NamedTuple

from anchortrain.storyworld import render
from anchortrain.storyworld.values import ATTRIBUTES, PHRASES, WORD_VALUES

Form = Literal["document", "assistant"]

_WORD = re.compile(r"[A-Za-z]+")
_ATTRIBUTE_OF_WORD = {value: name for name, values in WORD_VALUES.items() for value in values}
_MEANING_OF_PHRASE = {
    phrase: (name, value) for name, values in PHRASES.items() for value, pair in values.items() for phrase in pair
}
_PHRASE = re.compile(rf"\b(?:{'|'.join(map(re.escape, _MEANING_OF_PHRASE))})\b")


class Story(NamedTuple):
    """What a text says: each attribute's value, and whether the whole text is one that the grammar writes."""

    attributes: dict[str, str | None]  # None: missing, or named with two different values
    form: Form | None


def parse(text: str) -> Story:
    """Reads any text, well-formed or not."""
    found: dict[str, set[str]] = {name: set() for name in ATTRIBUTES}
    for word in _ATTRIBUTE_OF_WORD.keys() & set(_WORD.findall(text)):
        found[_ATTRIBUTE_OF_WORD[word]].add(word)
    for phrase in _PHRASE.findall(text):
        name, value = _MEANING_OF_PHRASE[phrase]
        found[name].add(value)
    attributes = {name: next(iter(values)) if len(values) == 1 else None for name, values in found.items()}
    # The patterns do not compare the mentions of a slot with each other: a text with two heroes is no story.
    form = _form(text) if None not in attributes.values() else None
    return Story(attributes, form)


def _form(text: str) -> Form | None:
    for form, pattern in _patterns():
        if pattern.fullmatch(text):
            return form
    return None


@functools.cache
def _patterns() -> tuple[tuple[Form, re.Pattern[str]], ...]:
    separator = re.escape(render.CHUNK_SEPARATOR)
    opening, heading = (_pattern(template) + separator for template in (render.OPENING, render.HEADING))
    documents = (
        f"(?:{opening})?{_pattern(style.first)}{re.escape(style.joint)}{_pattern(style.second)}"
        f"|{heading}{_pattern(style.first)}{separator}{_pattern(style.second)}"
        for style in render.STYLES
    )
    return (
        ("assistant", re.compile(_pattern(render.ASSISTANT))),
        *(("document", re.compile(pattern)) for pattern in documents),
    )


def _pattern(template: render.Template) -> str:
    choices = ("|".join("".join(map(_piece_pattern, pieces)) for pieces in choice) for choice in template.choices)
    return "".join(f"(?:{choice})" for choice in choices)


def _piece_pattern(piece: str) -> str:
    if not piece.startswith("{"):
        return re.escape(piece)
    name = piece[1:-1]
    words = WORD_VALUES.get(name) or [phrase for pair in PHRASES[name].values() for phrase in pair]
    return f"(?:{'|'.join(map(re.escape, words))})"
