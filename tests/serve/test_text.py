"""Text in pieces is the text as a whole, up to the first stop string and never a part of one."""

from hypothesis import given
from hypothesis import strategies as st

from anchortrain.serve.text import Decoding, DrawnToken, StopText

STOPS = st.lists(st.text("ab<", min_size=1, max_size=4), max_size=4)


@given(st.data())
def test_pieces_decode_to_the_whole(vocabulary, data):
    # Any tokens: most of them are bytes that are no characters.
    tokens = data.draw(st.lists(st.integers(len(vocabulary.control_ids), vocabulary.size - 1), max_size=30))
    decoding = Decoding(vocabulary)
    pieces = [decoding.push(token) for token in tokens]
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    assert "".join(pieces) + decoding.rest() == vocabulary.decode(tokens)


def first_stop(text: str, stops: list[str]) -> int | None:
    """Where the text is cut: read character by character, until it ends with a stop string."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return None


@given(st.lists(st.text("ab<>", max_size=3), max_size=12), STOPS)
def test_the_first_stop_string_ends_the_text_however_it_is_cut(parts, stops):
    text = StopText(stops)
    out, told = "", []
    cut = first_stop("".join(parts), stops)
    expected = "".join(parts)[:cut]
    for number, part in enumerate(parts):
        text.push(part, DrawnToken(number, -1.0))
        piece, tokens = text.pop()
        out, told = out + piece, told + tokens
        assert expected.startswith(out)  # at every moment: nothing of the stop string is out
        if text.stopped:
            break
    piece, tokens = text.pop(last=True)
    out, told = out + piece, told + tokens
    assert out == expected and text.stopped == (cut is not None)
    assert [token.token for token in told] == list(range(len(told)))
    assert sum(len(parts[token.token]) for token in told) <= len(out)
    if cut is None:
        assert len(told) == len(parts)
