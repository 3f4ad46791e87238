"""The grammar of annotations: `key: value; key: value` between two delimiters.

An annotation z is a short, variable list of tags in plain language (paper, section 3). Delimiters
are control tokens that no text can produce: they are inserted by id, never by tokenising a string.
Inside, a tag is `key: value` and tags are separated by `; `.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from anchortrain.roles import Role

OPEN = "<ann>"
CLOSE = "</ann>"

MAX_VALUE_CHARACTERS = 200
_SHOWN = 60  # characters of a value in a message

_KEY = re.compile(r"[a-z][a-z0-9_-]*")
_FORBIDDEN_IN_VALUE = re.compile(r"[;\x00-\x1f\x7f\x85\u2028\u2029]|</?ann>")


class Tag(NamedTuple):
    """One `key: value` pair."""

    key: str
    value: str


Annotation = tuple[Tag, ...]


class AnnotationError(ValueError):
    """An annotation that does not follow the grammar."""


def make_tag(key: str, value: str) -> Tag:
    """A checked tag. Raises AnnotationError, naming key and value, when either breaks the grammar."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise AnnotationError(f"annotation key {key!r} must be lower-case letters, digits, '-' or '_'")
    if not isinstance(value, str) or not value:
        raise AnnotationError(f"annotation value of {key!r} must be a non-empty string, got {value!r}")
    shown = repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…")
    if value != value.strip():
        raise AnnotationError(f"annotation value of {key!r} has white space at its ends: {shown}")
    if len(value) > MAX_VALUE_CHARACTERS:
        raise AnnotationError(
            f"annotation value of {key!r} has {len(value)} characters, at most {MAX_VALUE_CHARACTERS}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise AnnotationError(f"annotation value of {key!r} is no valid Unicode text: {shown}") from None
    if found := _FORBIDDEN_IN_VALUE.search(value):
        raise AnnotationError(f"annotation value of {key!r} contains the delimiter {found.group()!r}: {shown}")
    return Tag(key, value)


def from_json(value: Mapping[str, str | Sequence[str]] | Sequence[Sequence[str]]) -> Annotation:
    """The annotation of a record: `{key: value or [values]}`, or `[[key, value], …]`.

    Raises AnnotationError when the shape or a tag breaks the grammar.
    """
    if isinstance(value, Mapping):
        pairs = []
        for key, values in value.items():
            many = [values] if isinstance(values, str) else values
            if not isinstance(many, list | tuple):
                raise AnnotationError(
                    f"annotation value of {key!r} must be a string or a list of strings, got {many!r}"
                )
            pairs.extend((key, one) for one in many)
    elif isinstance(value, list | tuple):
        pairs = list(value)
    else:
        raise AnnotationError(f"an annotation must be an object or a list of pairs, got {value!r}")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise AnnotationError(f"a tag must be a pair [key, value], got {pair!r}")
    return tuple(make_tag(key, one) for key, one in pairs)


def render(annotation: Annotation) -> str:
    """`hero: fox; place: mill`, without delimiters."""
    return "".join(text for text, _ in pieces(annotation))


def pieces(annotation: Annotation) -> list[tuple[str, Role]]:
    """The text of an annotation cut where its role changes.

    The space stays with the value, as it stays with a word in running text, so that value and word
    share their tokens and a small model can copy one to the other.
    """
    cut = []
    for i, tag in enumerate(annotation):
        cut.append((f"{'; ' if i else ''}{tag.key}:", Role.ANNOTATION_KEY))
        cut.append((f" {tag.value}", Role.ANNOTATION_VALUE))
    return cut


def parse(text: str) -> Annotation:
    """The inverse of `render`. Raises AnnotationError on anything that `render` cannot have made."""
    if not text:
        return ()
    tags = []
    for part in text.split("; "):
        key, colon, value = part.partition(": ")
        if not colon:
            raise AnnotationError(f"a tag must read 'key: value', got {part!r}")
        tags.append(make_tag(key, value))
    return tuple(tags)
