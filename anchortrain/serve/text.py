"""Tokens of a response become text that can be sent: whole characters, and nothing of a stop string."""

from collections.abc import Sequence
from typing import NamedTuple

from anchortrain.data.vocabulary import Vocabulary

_HALF = "\ufffd"  # what bytes decode to that are not (yet) a character


class Decoding:
    """The text of tokens as they come.

    What it returns, put together, is `vocabulary.decode` of all tokens: a piece is given out when it ends with a whole
    character, and what was decoded so far is not decoded again (as in Hugging Face's text-generation-inference).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokens: list[int] = []  # from the last whole piece on; SentencePiece decodes its first one differently
        self._given = 0  # characters of these that were returned
        self._read = 0  # tokens of these that were returned

    def push(self, token: int) -> str:
        """The characters that this token completes, possibly none."""
        self._tokens.append(token)
        text = self._vocabulary.decode(self._tokens)
        if text.endswith(_HALF):
            return ""
        piece = text[self._given :]
        self._tokens = self._tokens[self._read :]
        self._read = len(self._tokens)
        self._given = len(self._vocabulary.decode(self._tokens))
        return piece

    def rest(self) -> str:
        """What is left at the end: bytes that never became a character."""
        text = self._vocabulary.decode(self._tokens)
        piece, self._given = text[self._given :], len(text)
        return piece


class DrawnToken(NamedTuple):
    token: int
    logprob: float


class StopText:
    """Gives out the text and the tokens of a response up to the first stop string, never a part of one.

    Which string is the first does not depend on how the text comes in pieces: the one that is complete first, and of
    several at once the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self._pending: list[tuple[int, DrawnToken]] = []  # with the length of the text up to its end
        self._length = 0  # of all text
        self.stopped = False

    def push(self, text: str, token: DrawnToken | None = None) -> None:
        """Takes a token and the text that it completed."""
        self._held += text
        self._length += len(text)
        if token is not None:
            self._pending.append((self._length, token))
        ends = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            _, at = min(ends)
            self._length -= len(self._held) - at
            self._held, self.stopped = self._held[:at], True

    def pop(self, *, last: bool = False) -> tuple[str, list[DrawnToken]]:
        """What can be sent now; with `last`, or after a stop string, all that ever will be."""
        keep = 0 if last or self.stopped else self._possible()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        sent = self._length - keep
        tokens = [token for end, token in self._pending if end <= sent]
        self._pending = [(end, token) for end, token in self._pending if end > sent]
        return text, tokens

    def _possible(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
