"""Values read byte by byte agree with `annotation.make_tag`."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anchortrain.annotation import AnnotationError, make_tag
from anchortrain.decode import values
from anchortrain.decode.values import VALUE_START

# What matters to the grammar, and characters whose bytes begin like those.
ALPHABET = "ab :;<>/n\n\t\x7f\x85\xa0\xe9’\u2028\u202f\u1680\u3000\u3042\u205f\uffff\ufffd🦊\U00100000"


def accepted(data: list[bytes]) -> bool:
    state = VALUE_START
    for token in data:
        state = values.advance(state, token)
        if state is None:
            return False
    return values.may_end(state)


def legal(value: str) -> bool:
    try:
        make_tag("key", value)
    except AnnotationError:
        return False
    return True


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % len(data) for place in places} - {0})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(st.text(ALPHABET, max_size=12) | st.text(max_size=8), st.lists(st.integers(0, 60), max_size=12))
@example("a <ann> b", [3, 4, 5])
@example("</ann>", [2, 3, 4, 6])
@example("a<</ann", [3])
@example("a\u2028", [2, 3, 4])
def test_a_value_is_accepted_however_it_is_cut_if_and_only_if_a_tag_may_have_it(value, places):
    try:
        data = f" {value}".encode()
    except UnicodeEncodeError:
        return
    assert accepted(cut(data, places)) == legal(value)


@pytest.mark.parametrize("data", [b" \xff", b" a\xe2\x80b", b" a\xe2", b" \xed\xa0\x80", b" \xc0\xaf", b"a", b"  a"])
def test_broken_characters_and_missing_spaces_are_refused(data):
    assert not accepted([data])
    assert not accepted([data[i : i + 1] for i in range(len(data))])


def test_there_are_few_states():
    singles = [bytes([i]) for i in range(256)]
    found, waiting = {VALUE_START}, [VALUE_START]
    while waiting:
        state = waiting.pop()
        for following in (values.advance(state, data) for data in singles):
            if following and following not in found:
                found.add(following)
                waiting.append(following)
    assert len(found) < 100


def test_bytes_of_tokens_are_those_of_the_text(vocabulary):
    found = values.token_bytes(vocabulary)
    for text in ("hero: fox", "São Paulo’s café 🦊", "\x00\x1f\n\t \x85"):
        assert b"".join(found[token] for token in vocabulary.encode(text)) == text.encode()
    assert all(found[token] is None for token in vocabulary.control_ids)
