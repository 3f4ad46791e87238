"""The JSON of answers, as OpenAI's API has it, whole and in chunks."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.serve.choices import Choice, Piece
from anchortrain.serve.requests import Ask
from anchortrain.serve.text import DrawnToken

DONE = b"data: [DONE]\n\n"


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event. All but ASCII is escaped, so that no character can end a line."""
    return b"data: " + json.dumps(content, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"


class Reply:
    """Writes the answer to one request."""

    def __init__(self, vocabulary: Vocabulary, ask: Ask, *, chat: bool, model: str, fingerprint: str) -> None:
        self._vocabulary, self._ask, self._chat = vocabulary, ask, chat
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}  # characters of a choice whose tokens were told
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, choices: Sequence[Choice], pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """The answer in one; `pieces` has those of each choice."""
        return {
            **self._head,
            "choices": [self._whole(index, of) for index, of in enumerate(pieces)],
            "usage": self.usage(choices),
            "anchortrain": {"seed": self._ask.seed},
        }

    def _whole(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.tokens]
        details = {name: value for piece in pieces for name, value in (piece.details or {}).items()}
        if self._chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": details.get("refusal")}}
        else:
            said = {"text": text}
        return {
            "index": index,
            **said,
            "logprobs": self._logprobs(index, tokens),
            "finish_reason": pieces[-1].finish_reason,
            **({"anchortrain": details} if details else {}),
        }

    def chunks(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """The chunks of a stream that tell a piece; none where it has nothing to tell yet."""
        first = index not in self._begun
        if not (first or piece.text or piece.tokens or piece.details or piece.finish_reason):
            return []
        self._begun.add(index)
        if not self._chat:
            return [self._chunk(index, piece, {"text": piece.text}, piece.finish_reason)]
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if first or piece.text:
            delta["content"] = piece.text
        if piece.details and "refusal" in piece.details:
            delta["refusal"] = piece.details["refusal"]
        return [self._chunk(index, piece, {"delta": delta}, piece.finish_reason)]

    def _chunk(self, index: int, piece: Piece, said: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {
            "index": index,
            **said,
            "logprobs": self._logprobs(index, piece.tokens) if piece.tokens else None,
            "finish_reason": finish_reason,
            **({"anchortrain": piece.details} if piece.details else {}),
        }
        return self._in_stream([choice], None)

    def last_chunk(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The chunk with the counts of tokens."""
        return self._in_stream([], self.usage(choices))

    def _in_stream(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        kind = {"object": "chat.completion.chunk"} if self._chat else {}
        told = {"usage": usage} if self._ask.usage else {}
        return {**self._head, **kind, "choices": choices, **told, "anchortrain": {"seed": self._ask.seed}}

    def usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Annotations count among the tokens of the completion, and are told apart as reasoning."""
        annotation = sum(choice.annotation_tokens for choice in choices)
        drawn = annotation + sum(choice.response_tokens for choice in choices)
        return {
            "prompt_tokens": self._ask.prompt_tokens,
            "completion_tokens": drawn,
            "total_tokens": self._ask.prompt_tokens + drawn,
            "completion_tokens_details": {"reasoning_tokens": annotation},
        }

    def _logprobs(self, index: int, tokens: Sequence[DrawnToken]) -> dict[str, Any] | None:
        if not self._ask.logprobs:
            return None
        texts = [self._vocabulary.token_text(token.token) for token in tokens]
        if self._chat:
            entries = [
                {"token": text, "logprob": token.logprob, "bytes": None, "top_logprobs": []}
                for text, token in zip(texts, tokens, strict=True)
            ]
            return {"content": entries, "refusal": None}
        offsets, at = [], self._offsets.get(index, 0)
        for text in texts:
            offsets.append(at)
            at += len(text)
        self._offsets[index] = at
        logprobs = [token.logprob for token in tokens]
        return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": None, "text_offset": offsets}
