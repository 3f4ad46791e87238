"""Which sequences of tokens spell the value of a tag, decided byte by byte.

A tokenizer may cut within a character, and what must not stand in a value (a delimiter, white space at an
end) may be put together from several tokens. So a state remembers the bytes of an unfinished character
and how much of `<ann>` or `</ann>` has been spelt.
"""

import codecs
import functools
import re
from typing import NamedTuple

from anchortrain.annotation import CLOSE, OPEN, AnnotationError, make_tag
from anchortrain.data.vocabulary import Vocabulary


class ValueState(NamedTuple):
    """A position within ` value`."""

    phase: str  # "start": nothing yet; "spaced": the space before the value; "solid"; "loose": after white space
    delimiter: str = ""  # what has been spelt of a delimiter
    pending: bytes = b""  # of an unfinished character


VALUE_START = ValueState("start")

_DELIMITER_BYTES = frozenset((OPEN + CLOSE).encode())


def may_end(state: ValueState) -> bool:
    return state.phase == "solid" and not state.pending


def ends_in_space(state: ValueState) -> bool:
    return state.phase == "loose" and not state.pending


def reserve(state: ValueState) -> int:
    """Characters needed before the value may end, beyond the one that is pending."""
    return 0 if state.phase == "solid" or state.pending else 1


def concerned(state: ValueState, first_byte: int) -> bool:
    """Whether a token with this first byte has to be looked at, to save work in large vocabularies.

    Others break an unfinished character; after part of a delimiter they do what they do within any value.
    """
    if state.pending:
        return 0x80 <= first_byte < 0xC0
    return not state.delimiter or first_byte in _DELIMITER_BYTES


def advance(state: ValueState, data: bytes) -> ValueState | None:
    """The state after a token of these bytes, or None when no value goes on so."""
    try:
        text, used = codecs.utf_8_decode(state.pending + data, "strict", False)
    except UnicodeDecodeError:
        return None
    phase, delimiter = state.phase, state.delimiter
    for character in text:
        step = _step(phase, delimiter, character)
        if step is None:
            return None
        phase, delimiter = step
    pending = (state.pending + data)[used:]
    if pending and (phase == "start" or not _completable(pending)):
        return None
    return ValueState(phase, "" if pending else delimiter, _representative(pending))


def _step(phase: str, delimiter: str, character: str) -> tuple[str, str] | None:
    if _forbidden(character) or (phase == "start" and character != " "):
        return None
    if phase == "start":
        return "spaced", ""
    if character.isspace():
        return None if phase == "spaced" else ("loose", "")
    spelt = delimiter + character
    if spelt in (OPEN, CLOSE):
        return None
    begun = OPEN.startswith(spelt) or CLOSE.startswith(spelt)
    return "solid", spelt if begun else "<" if character == "<" else ""


@functools.cache
def _forbidden(character: str) -> bool:
    try:
        make_tag("key", f"a{character}a")
    except AnnotationError:
        return True
    return False


@functools.cache
def _completable(pending: bytes) -> bool:
    """Whether a character may begin so. The decoder also waits for more after half a surrogate."""
    more = (2 if pending[0] < 0xE0 else 3 if pending[0] < 0xF0 else 4) - len(pending)
    # The range of a continuation byte is cut off at one of its ends only.
    return any((pending + byte * more).decode("utf-8", "ignore") for byte in (b"\x80", b"\xbf"))


@functools.cache
def _telling_prefixes() -> frozenset[bytes]:
    """Incomplete characters that may not be taken for others: what may follow is special."""
    special = [c.encode() for c in map(chr, range(0x80, 0x3100)) if c.isspace() or _forbidden(c)]
    restricted = (b"\xe0", b"\xed", b"\xf0", b"\xf4")  # the second byte has a narrower range
    return frozenset([b"", *restricted, *(code[:n] for code in special for n in range(1, len(code)))])


def _representative(pending: bytes) -> bytes:
    """One of all incomplete characters that go on alike, so that there are few states."""
    if pending in _telling_prefixes():
        return pending
    lead = b"\xc3" if pending[0] < 0xE0 else b"\xe4" if pending[0] < 0xF0 else b"\xf1"
    return lead + b"\x80" * (len(pending) - 1)


def count_characters(data: bytes) -> int:
    """Characters that begin in `data`."""
    return sum(byte & 0xC0 != 0x80 for byte in data)


def token_bytes(vocabulary: Vocabulary) -> list[bytes | None]:
    """What each token adds to a text; None for controls and for tokens without a text of their own."""
    before = vocabulary.encode("a")[-1:]
    prefix = vocabulary.decode(before)
    found: list[bytes | None] = []
    for token in range(vocabulary.size):
        if token in vocabulary.control_ids:
            found.append(None)
            continue
        # After another token, because some tokenizers drop the space at the beginning of a text.
        text = vocabulary.decode([*before, token])
        if text.startswith(prefix) and "\ufffd" not in text:
            found.append(text[len(prefix) :].encode() or None)
        else:
            found.append(_part_of_character(vocabulary.token_text(token)))
    return found


def _part_of_character(name: str) -> bytes | None:
    """Bytes of a token that has no text, from its name: `<0xE2>`, or byte-level BPE's letters for bytes."""
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", name):
        return bytes([int(byte.group(1), 16)])
    letters = _byte_letters()
    return bytes(letters[c] for c in name) if name and all(c in letters for c in name) else None


@functools.cache
def _byte_letters() -> dict[str, int]:
    """Byte-level BPE's letter of each byte (GPT-2): printable Latin-1 for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(rest)}
